"""When a run ends before its last step: verdicts on its numbers, without side effects.

What they judge is in `metrics.jsonl`, so a resumed run judges as the unbroken one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from radiovae_jax import metrics

NAME_BYTES = 1024  # of a map, as processes tell them each other


class StoppedError(FloatingPointError):
    """The numbers of the run say that going on is of no use."""


class TooManySkippedError(StoppedError):
    """Nothing was learned for too many steps; `good` is the step to go back to."""

    def __init__(self, message: str, *, good: int):
        super().__init__(message)
        self.good = good


class Limits(NamedTuple):
    """What a run bears; 0 is without limit, but for max_skipped."""

    max_skipped: int  # updates in a row that are left out as not finite
    plateau_steps: int  # without a better validation NMSE
    plateau_since: int  # validations up to this step do not count for it
    kl_below: float  # nats an image
    divergence: float  # times the best validation NMSE


class Problem(NamedTuple):
    what: str
    remedy: str


class Judged(NamedTuple):
    """A validation: its step, and its pooled NMSE (inf where it was not finite)."""

    step: int
    nmse: float


def history(lines: Iterable[Mapping[str, Any]], *, until: int) -> list[Judged]:
    """Returns the validations up to a step among the lines of a metrics.jsonl."""
    return [
        judged(line["step"], metrics.deciding(line, "val/"))
        for line in lines
        if "val/nmse" in line and line["step"] <= until
    ]


def judged(step: int, nmse: float | None) -> Judged:
    """Makes an order of the numbers: JSON's null and NaN are the worst of them."""
    finite = nmse is not None and math.isfinite(nmse)
    return Judged(step, float(nmse) if finite else math.inf)


def enough(validations: Sequence[Judged], limits: Limits) -> str:
    """Says why more steps are not worth it; "" where they are.

    Only validations after `plateau_since` count: a new phase of the training (the
    discriminator's) begins at a worse NMSE than the last one ended with.
    """
    counted = [one for one in validations if one.step > limits.plateau_since]
    if not limits.plateau_steps or not counted:
        return ""
    best, last = min(counted, key=lambda one: one.nmse), counted[-1].step
    if math.isinf(best.nmse) or last - best.step < limits.plateau_steps:
        return ""  # none finite: maps without power, where nothing can get better
    return (
        f"early stop at step {last}: the validation NMSE has not got better since "
        f"step {best.step} (train.stop_on_plateau_steps={limits.plateau_steps})"
    )


def problem(
    values: Mapping[str, float], validations: Sequence[Judged], limits: Limits
) -> Problem | None:
    """Says what is past hope in the numbers of a step, and what helps.

    Args:
      values: of the step, by their logged names.
      validations: all so far; the last counts where `values` has a validation.
    """
    for name in ("train/kl_loss", "val/kl_loss"):
        kl = values.get(name, math.nan)
        if kl < limits.kl_below:  # never for NaN
            return Problem(
                f"KL collapse: {name} is {kl:.3g} nats an image, so the latents say "
                "nothing about the map",
                "Lower loss.kl_weight or set loss.free_bits, in a new --workdir; "
                "train.stop_on_kl_below=0 goes on regardless",
            )
    if "val/nmse" not in values:
        return None
    best, last = min(one.nmse for one in validations), validations[-1].nmse
    if math.isinf(last) and math.isfinite(values.get("val/rmse_pooled", math.nan)):
        return None  # the maps have no power; the reconstructions are numbers
    if math.isinf(last):
        what = "the validation NMSE is not finite"
    elif limits.divergence and last > limits.divergence * best:
        what = (
            f"the validation NMSE is {last:.4g}, more than {limits.divergence:g} times "
            f"the best one, {best:.4g} (train.stop_on_divergence)"
        )
    else:
        return None
    return Problem(
        what,
        "Lower optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir "
        "with --config.train.init_from=THIS_FOLDER to start from its best weights",
    )


class Skipped(NamedTuple):
    """A batch whose update was left out because it was not finite."""

    step: int  # the number of steps done with it
    names: list[str]  # of its maps
    in_row: int  # how many were left out up to this one, without one between


def too_many(skipped: Skipped, *, good: int, rollbacks: int) -> Problem:
    """Says that nothing is learned any more, and what helps.

    Args:
      good: the checkpoint to go back to; 0 for none.
      rollbacks: how often the run went back already.
    """
    remedy = (
        "Lower optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir "
    )
    if good:
        remedy += (
            "with --config.train.init_from=THIS_FOLDER; or have the rates lowered by "
            f"itself, with train.rollback={rollbacks + 3}"
        )
    else:
        remedy += "(train.rollback has no checkpoint to go back to)"
    return Problem(
        f"{skipped.in_row} updates in a row were not finite, up to step "
        f"{skipped.step} (train.max_skipped)",
        remedy,
    )


class SkipLedger:
    """Remembers the maps of the last batches until it is known which were skipped.

    The counter of a step is an array on the device: those of many steps are read
    together, where the loop waits for the device anyway.
    """

    def __init__(self):
        self._pending: list[tuple[int, Any, Any]] = []

    def add(self, step: int, names: Any, in_row: Any) -> None:
        """Notes a step without waiting for it.

        Args:
          step: the number of steps done with this one.
          names: of the maps in its batch.
          in_row: updates skipped in a row up to this step, on the device.
        """
        self._pending.append((step, names, in_row))

    def settle(self) -> list[Skipped]:
        """Waits; returns the skipped ones among the noted steps and forgets all.

        All processes must call it together.
        """
        counts = jax.device_get([in_row for *_, in_row in self._pending])
        skipped = [
            Skipped(step, of_all_processes(names), int(count))
            for (step, names, _), count in zip(self._pending, counts, strict=True)
            if count
        ]
        self._pending = []
        return skipped


def of_all_processes(names: Any) -> list[str]:
    """Returns the names that every process has, each as many, in their order."""
    if jax.process_count() == 1:
        return [str(name) for name in names]
    # Bytes that are no UTF-8 pass as they are.
    text = np.char.encode(np.asarray(names, np.str_), "utf-8", "surrogateescape")
    text = text.astype(f"S{NAME_BYTES}")
    rows = multihost_utils.process_allgather(text.view(np.uint8), tiled=True)
    return [name.decode(errors="surrogateescape") for name in rows.view(text.dtype)]
