"""What the numbers of a run warn of, and what helps.

A check looks at columns of metrics.jsonl by name, and is silent where a run has none.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from radiovae_jax.reporting import curves
from radiovae_jax.reporting.curves import Run

COLLAPSE_NATS = 1e-8  # of KL an image
RECENT = 0.25  # share of a phase's lines that "now" means
CHANCE = (0.45, 0.55)  # share of logits on the right side
CHANCE_GAP = 0.05  # between mean logits, for runs that log no accuracy
# A posterior's log-variance is clipped to this (nn/posterior.py).
LOGVAR_CLIP = (-30.0, 20.0)
# Reconstructions in [-1, 1]; so far beyond it is 25 dB off the scale.
RECON_BOUND = 1.5
NMSE = ("val/nmse", "val/nmse_pooled")
WORSE = 1.05  # times the best validation NMSE
MOST_NAMES = 8


class Warned(NamedTuple):
    what: str
    why: str  # the numbers, and what helps


def warnings(run: Run) -> list[Warned]:
    """Returns what stands out in the numbers, the worst first."""
    checks = (_not_finite, _skipped, _collapse, _worse, _ranges, _clamp, _chance)
    return [warned for check in checks for warned in check(run)]


def _not_finite(run: Run) -> Iterator[Warned]:
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


def _skipped(run: Run) -> Iterator[Warned]:
    skipped = curves.curve(run, "train/skipped").values
    if len(skipped) and skipped.max() > 0:
        yield Warned(
            "Skipped updates",
            f"{skipped.max():,.0f} updates were left out because they were not finite; "
            "skipped.jsonl names the maps of their batches.",
        )


def _collapse(run: Run) -> Iterator[Warned]:
    for name in ("train/kl_loss", "val/kl_loss"):
        kl = curves.curve(run, name)
        below = kl.values < COLLAPSE_NATS
        if below.any():
            yield Warned(
                "KL collapse",
                f"{name} fell to {kl.values.min():.3g} nats an image at step "
                f"{kl.steps[below][0]:,.0f}: the latents say nothing about the map. "
                "Lower loss.kl_weight, or set loss.free_bits.",
            )


def _worse(run: Run) -> Iterator[Warned]:
    steps, nmse = curves.deciding(run)
    best = int(nmse.argmin()) if len(nmse) else 0
    since = nmse[best + 1 :]
    if len(since) >= 3 and since.min() > WORSE * nmse[best]:
        advice = (
            "If train/rec_loss still falls, the model learns the training maps by "
            "heart: more maps, data.augment, or fewer steps."
        )
        if math.isfinite(run.switch):
            advice += " If it jumped with the discriminator, lower loss.disc_weight."
        yield Warned(
            "Validation is getting worse",
            f"The best NMSE, {nmse[best]:.4g}, was at step {steps[best]:,.0f}; none of "
            f"the {len(since)} validations since came within 5% of it (the last: "
            f"{nmse[-1]:.4g}). {advice}",
        )


def _ranges(run: Run) -> Iterator[Warned]:
    low, high = LOGVAR_CLIP
    clipped = "at its clip, where it has no gradient: lower the learning rate"
    unlimited = ", or raise loss.kl_weight: nothing limits the latents' scale"
    outside = "far outside [-1, 1]: lower the learning rate"
    for name, bound, is_beyond, advice in (
        ("posterior_logvar_min", low, np.less_equal, clipped + unlimited),
        ("posterior_logvar_max", high, np.greater_equal, clipped),
        ("recon_min", -RECON_BOUND, np.less, outside),
        ("recon_max", RECON_BOUND, np.greater, outside),
    ):
        values = _recent(curves.curve(run, f"train/{name}").values)
        share = float(np.mean(is_beyond(values, bound))) if len(values) else 0.0
        if share >= 0.5:
            yield Warned(
                f"{name} out of range",
                f"At or beyond {bound:g} in {100 * share:.0f}% of the latest lines, "
                f"{advice}.",
            )


def _clamp(run: Run) -> Iterator[Warned]:
    share = clamped(run)
    if share > 0.5:
        count = len(curves.curve(run, "train/d_weight").values)
        yield Warned(
            "d_weight is at its clamp",
            f"In {100 * share:.3g}% of {count} lines it is at {run.d_weight_clamp:g}: "
            "nothing is balanced, and the weight is a constant, which loss.disc_weight "
            "sets. Usual, and harmless while validation improves (98.5% of the lines "
            "of the documented run). If validation fell at the switch, lower "
            "loss.disc_weight.",
        )


def clamped(run: Run) -> float:
    """Returns the share of lines in which d_weight is at its clamp."""
    values = curves.curve(run, "train/d_weight").values
    if not len(values) or not run.d_weight_clamp:
        return 0.0
    return float(np.mean(values >= 0.999 * run.d_weight_clamp))


def _chance(run: Run) -> Iterator[Warned]:
    accuracy = _recent(curves.curve(run, "train/disc_accuracy").values)
    _, logits = curves.columns(run, "train/logits_real", "train/logits_fake")
    gap = _recent(logits[:, 0] - logits[:, 1])
    at_chance = False
    if len(accuracy):
        middle = float(np.median(accuracy))
        at_chance = CHANCE[0] <= middle <= CHANCE[1]
        measured = f"{100 * middle:.0f}% of its logits are on the right side"
    elif len(gap):
        middle = float(np.median(gap))
        at_chance = abs(middle) < CHANCE_GAP
        measured = f"its mean logits of maps and reconstructions are {middle:.2g} apart"
    if at_chance:
        yield Warned(
            "The discriminator is at chance",
            f"In the latest lines {measured}: it teaches next to nothing. In the first "
            "hundreds of steps after loss.disc_start that is usual and harmless. Where "
            "it lasts for thousands, try more width (loss.disc_ndf), or leave it out "
            "(loss.disc_factor=0); not many times the optimizer.disc_learning_rate, "
            "which keeps it there.",
        )


def _recent(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
    return values[len(values) - math.ceil(RECENT * len(values)) :]
