"""Validation of the second stage: one call from noise, decoded, with the average.

Numbers of validation are thus those of maps, not of latents, and compare between
processes and with the first stage's own.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from radiovae_jax.data import radiomap
from radiovae_jax.diffusion import sampler, train_step
from radiovae_jax.diffusion.state import Built, Frozen, TrainState
from radiovae_jax.evaluation import evaluator
from radiovae_jax.reporting import plots
from radiovae_jax.training import validation
from radiovae_jax.training.task import Raw
from radiovae_jax.training.validation import Totals
from radiovae_jax.types import Image

SEED = 0  # the same noise in every validation, so that their numbers compare


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
    drawn = train_step.examples(built, frozen, raw, key, planes)
    losses = train_step.losses(built, state.ema, drawn)
    return validation.totals(target, recon, losses, mask)


def numbers(
    totals: Totals, samples: Mapping[str, Any], *, db: radiomap.DbRange
) -> dict[str, float]:
    """Returns every number of the set by its name, losses as means over images."""
    return validation.means(totals, db)


def figures(
    examples: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    samples: Mapping[str, Any],
    *,
    db: radiomap.DbRange,
    max_rows: int,
) -> dict[str, Any]:
    """Draws maps with their predictions."""
    shown = plots.validated(examples, raw, max_rows=max_rows, db=db, what="prediction")
    return {"predictions": shown}
