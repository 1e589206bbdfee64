"""When a run ends before its last step: verdicts on its numbers, without side effects.

The numbers are in `metrics.jsonl`, so a resumed run ends where the unbroken one does.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from radiovae_jax import metrics
from radiovae_jax.training import distributed
from radiovae_jax.training.task import Limit

LOWER_RATES = (
    "Lower optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir "
)


class TooManySkippedError(FloatingPointError):
    """Nothing was learned for too many steps; `good` is the step to go back to."""

    def __init__(self, message: str, *, good: int):
        super().__init__(message)
        self.good = good


class Limits(NamedTuple):
    """When a run ends early; 0 is never, but for max_skipped."""

    max_skipped: int  # updates in a row that are left out as not finite
    plateau_steps: int  # without a better validation
    plateau_since: int  # validations up to this step do not count for it
    divergence: float  # times the best validation
    of_stage: tuple[Limit, ...] = ()


class Problem(NamedTuple):
    what: str
    remedy: str


class Validation(NamedTuple):
    step: int
    nmse: float  # its deciding number; inf where not finite


def history(lines: Iterable[Mapping[str, Any]], *, until: int) -> list[Validation]:
    """Returns the validations up to a step among the lines of a metrics.jsonl."""
    return [
        validation(line["step"], line, "val/")
        for line in lines
        if validated(line) and line["step"] <= until
    ]


def validated(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl holds a validation."""
    return any(f"val/{name}" in line for name in ("best", "nmse"))


def validation(step: int, numbers: Mapping[str, Any], prefix: str = "") -> Validation:
    """Makes an order of the numbers: JSON's null and NaN are the worst of them."""
    value = metrics.deciding(numbers, prefix)
    finite = value is not None and math.isfinite(value)
    return Validation(step, float(value) if finite else math.inf)


def powerless(numbers: Mapping[str, Any], prefix: str = "") -> bool:
    """Whether no map of a validation has power: no NMSE, and finite outputs."""
    pooled = numbers.get(f"{prefix}rmse_pooled", math.nan)
    return math.isfinite(pooled) and math.isinf(validation(0, numbers, prefix).nmse)


def enough(validations: Sequence[Validation], limits: Limits) -> str:
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
    values: Mapping[str, float], validations: Sequence[Validation], limits: Limits
) -> Problem | None:
    """Says what is past hope in the logged numbers of a step, and what helps."""
    for limit in limits.of_stage:
        for name in limit.names:
            value = values.get(name, math.nan)
            if value < limit.below:  # never for NaN
                what = limit.what.format(name=name, value=value)
                return Problem(what, limit.remedy)
    if not validated(values) or powerless(values, "val/"):
        return None
    best, last = min(one.nmse for one in validations), validations[-1].nmse
    if math.isinf(last):
        what = "the validation NMSE is not finite"
    elif limits.divergence and last > limits.divergence * best:
        what = (
            f"the validation NMSE is {last:.4g}, more than {limits.divergence:g} times "
            f"the best one, {best:.4g} (train.stop_on_divergence)"
        )
    else:
        return None
    remedy = "with --config.train.init_from=THIS_FOLDER to start from its best weights"
    return Problem(what, LOWER_RATES + remedy)


def too_many(step: int, in_row: int, *, good: int, rollbacks: int) -> Problem:
    """Says that nothing is learned any more, and what helps.

    Args:
      good: the checkpoint to go back to; 0 for none.
      rollbacks: how often the run went back already.
    """
    remedy = "(train.rollback has no checkpoint to go back to)"
    if good:
        remedy = (
            "with --config.train.init_from=THIS_FOLDER; or have the rates lowered by "
            f"itself, with train.rollback={rollbacks + 3}"
        )
    what = f"{in_row} updates in a row were not finite, up to step {step}"
    return Problem(f"{what} (train.max_skipped)", LOWER_RATES + remedy)


def settled(
    pending: Sequence[tuple[int, Any, Any]],
) -> list[tuple[int, list[str], int]]:
    """Waits; returns the steps that were skipped. All processes call it together.

    Args:
      pending: (step, names of its maps, updates skipped in a row up to it: an array on
        the device, read only here, where the loop waits for the device anyway).
    """
    counts = jax.device_get([in_row for *_, in_row in pending])
    return [
        (step, of_all_processes(names), int(count))
        for (step, names, _), count in zip(pending, counts, strict=True)
        if count
    ]


def of_all_processes(names: Any) -> list[str]:
    """Returns the names that the processes have, in their order."""
    texts = distributed.gathered(json.dumps([str(name) for name in names]))
    return [name for text in texts for name in json.loads(text)]
