"""What the numbers of a run warn of, and what helps.

A check looks at columns of metrics.jsonl by name, and is silent where a run has none.
Those of a stage's own numbers are in its `Charts`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from radiovae_jax.reporting import curves
from radiovae_jax.reporting.curves import Run

RECENT = 0.25  # share of a phase's lines that "now" means
NMSE = ("val/nmse", "val/nmse_pooled")
WORSE = 1.05  # times the best validation NMSE
MOST_NAMES = 8


class Warned(NamedTuple):
    what: str
    why: str  # the numbers, and what helps


def warnings(run: Run) -> list[Warned]:
    """Returns what stands out in the numbers, the worst first."""
    checks = (not_finite, skipped, worse, *run.stage.checks)
    return [warned for check in checks for warned in check(run)]


def not_finite(run: Run) -> Iterator[Warned]:
    # JSON has null for NaN and inf.
    steps = {
        name: [line["step"] for line in run.lines if _is_bad(line, name)]
        for name in sorted({name for line in run.lines for name in line})
        if name.startswith(("train/", "val/"))
    }
    counts = [f"{name} ({len(bad)})" for name, bad in steps.items() if bad]
    if counts:
        first = min(bad[0] for bad in steps.values() if bad)
        more = f" and {len(counts) - MOST_NAMES} more" if counts[MOST_NAMES:] else ""
        yield Warned(
            "Numbers that are not finite",
            f"First at step {first:,}: {', '.join(counts[:MOST_NAMES])}{more}. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm, starting from the "
            "last good checkpoint (train.init_from).",
        )


def _is_bad(line: curves.Line, name: str) -> bool:
    if name in NMSE and curves.is_number(line.get("val/rmse_pooled")):
        return False  # the maps have no power; the network's numbers are finite
    return name in line and not curves.is_number(line[name])


def skipped(run: Run) -> Iterator[Warned]:
    skipped = curves.curve(run, "train/skipped").values
    if len(skipped) and skipped.max() > 0:
        yield Warned(
            "Skipped updates",
            f"{skipped.max():,.0f} updates were left out because they were not finite; "
            "skipped.jsonl names the maps of their batches.",
        )


def worse(run: Run) -> Iterator[Warned]:
    steps, nmse = curves.deciding(run)
    best = int(nmse.argmin()) if len(nmse) else 0
    since = nmse[best + 1 :]
    if len(since) >= 3 and since.min() > WORSE * nmse[best]:
        advice = (
            "If the loss of training still falls, the model learns the training maps "
            "by heart: more maps, data.augment, or fewer steps."
        )
        if math.isfinite(run.switch):
            later = run.stage.later
            advice += f" If it jumped with the {later}, lower its weight in the loss."
        yield Warned(
            "Validation is getting worse",
            f"The best NMSE, {nmse[best]:.4g}, was at step {steps[best]:,.0f}; none of "
            f"the {len(since)} validations since came within 5% of it (the last: "
            f"{nmse[-1]:.4g}). {advice}",
        )


def recent(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
    return values[len(values) - math.ceil(RECENT * len(values)) :]
