"""Validation of the second stage: one call from noise, decoded, with the average.

Numbers of validation are thus those of maps, not of latents, and compare between
processes and with the first stage's own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax import metrics
from radiovae_jax.data import radiomap
from radiovae_jax.diffusion import sampler, train_step
from radiovae_jax.diffusion.state import Built, Frozen, TrainState
from radiovae_jax.evaluation import evaluator
from radiovae_jax.reporting import plots
from radiovae_jax.training import validation
from radiovae_jax.training.task import Raw
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Image

SEED = 0  # the same noise in every validation, so that their numbers compare


class Totals(NamedTuple):
    """Sums over a set: of metrics, of losses over images, and the images."""

    metrics: metrics.Sums
    losses: Logs
    images: Float[Array, ""]


def sums(
    built: Built,
    frozen: Frozen,
    state: TrainState,
    raw: Raw,
    phase: str,
    *,
    metrics_size: str,
) -> tuple[Totals, dict[str, Image]]:
    """Returns the sums of a batch, and its maps and their predictions as f.

    A model that was trained with measurements and without is validated without.

    Args:
      raw: with "mask", 0 for images that only fill up the batch.
      metrics_size: "stored" compares at the size of the files, "seen" at the model's.
    """
    mask, key = raw["mask"], jax.random.key(SEED)
    condition = built.condition
    count = 0 if condition.measurements_none else condition.measurements
    planes = train_step.draw_planes(built, raw, key, count=count)
    predicted = sampler.predict_maps(
        built, frozen, state.ema, planes, key, jnp.arange(len(mask)), calls=1
    )[0]
    seen = radiomap.f_to_model(built.first.target(raw))
    target = evaluator.target_f(raw, seen, stored=metrics_size == "stored")
    recon = evaluator.in_f(radiomap.f_to_model(predicted), target)
    measured, _ = metrics.measure(target, recon, mask > 0)
    drawn = train_step.examples(built, frozen, raw, key)._replace(planes=planes)
    totals = {
        name: jnp.sum(jnp.where(mask > 0, values, 0.0))
        for name, values in train_step.losses(built, state.ema, drawn).items()
    }
    return Totals(measured, totals, mask.sum()), {"target": target, "recon": recon}


def numbers(
    totals: Totals, samples: Mapping[str, Any], *, db: radiomap.DbRange
) -> dict[str, float]:
    """Returns every number of the set by its name, losses as means over images."""
    means = {
        name: float(value / totals.images) for name, value in totals.losses.items()
    }
    return means | metrics.result(totals.metrics, db_per_unit=db.span)


def figures(
    examples: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    samples: Mapping[str, Any],
    *,
    db: radiomap.DbRange,
    max_rows: int,
) -> dict[str, Any]:
    """Draws maps with their predictions."""
    target = examples["target"]
    return {
        "predictions": plots.reconstructions(
            target,
            examples["recon"],
            names=[str(name) for name in raw["name"]],
            buildings=validation.building_mask(raw, target.shape[1]),
            max_rows=max_rows,
            db=db,
            what="prediction",
        )
    }
