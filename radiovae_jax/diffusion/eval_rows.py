"""The rows of a second stage's evaluation: calls, mean of samples, floor, baselines."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Float, PyTree

from radiovae_jax.data import pipeline, radiomap
from radiovae_jax.data.batch import resize
from radiovae_jax.data.sources import Source
from radiovae_jax.diffusion import sampler, train_step
from radiovae_jax.diffusion.predictor import Predictor
from radiovae_jax.diffusion.state import Built, Frozen
from radiovae_jax.diffusion.train_step import Raw
from radiovae_jax.evaluation.baselines import PREDICTORS
from radiovae_jax.evaluation.evaluator import Reconstruct, Reconstructed
from radiovae_jax.types import Array

FLOOR = "first_stage"  # its own reconstruction of the true map
SAMPLE_SEED, MEASURE_SEED = 0, 1
TIMES = 3  # the fastest of so many counts


class Weights(NamedTuple):
    """What `reconstruct` gets: the first stage, the average, the fitted baselines."""

    frozen: Frozen
    params: PyTree
    baselines: Mapping[str, PyTree]


def timed(
    run: Predictor, source: Source, *, calls: tuple[int, ...], batch_size: int
) -> dict[str, Any]:
    """Returns the milliseconds that a map takes, from planes to f, and where."""
    records = [source[i % len(source)] for i in range(batch_size)]
    raw = pipeline.stack(records)
    raw.pop("name")
    planes = train_step.draw_planes(run.built, raw, jax.random.key(0), count=0)
    key, found = jax.random.key(SAMPLE_SEED), {}
    for n in calls:
        seconds = []
        for _ in range(1 + TIMES):  # the first compiles
            start = time.perf_counter()
            run.sample(planes, key, calls=n, samples=1).block_until_ready()
            seconds.append(time.perf_counter() - start)
        found[f"calls_{n}"] = 1e3 * min(seconds[1:]) / batch_size
    device = jax.devices()[0].device_kind
    return {"ms_a_map": found, "timed_on": f"{device}, {batch_size} at a time"}


def rows(
    calls: tuple[int, ...], samples: int, baselines: tuple[str, ...]
) -> tuple[str, ...]:
    """Returns the names of the rows; the first is the one that maps are ranked by."""
    named = [f"calls_{n}" for n in calls]
    mean = [mean_of(samples)] if samples > 1 else []
    return (*named, *mean, FLOOR, *baselines)


def mean_of(samples: int) -> str:
    return f"mean_of_{samples}"


def reconstruct(
    built: Built, *, calls: tuple[int, ...], samples: int, measurements: int
) -> Reconstruct:
    """Returns what computes `rows`: (Weights, image, raw) -> rows.

    Args:
      calls: of the network, a row each, from one sample.
      samples: with the most of these calls, for their mean and deviation.
      measurements: of each map that the network sees.
    """

    def compute(weights: Weights, image, raw) -> Reconstructed:
        frozen, params, fitted = weights

        def condition(one: Raw) -> Float[Array, "h w k"]:
            # By the map's number, so that the batch does not change what is drawn.
            key = jax.random.fold_in(jax.random.key(MEASURE_SEED), one["index"])
            alone = {name: array[None] for name, array in one.items()}
            return train_step.draw_planes(built, alone, key, count=measurements)[0]

        planes = jax.vmap(condition)(raw)

        def predict(n, k):
            return sampler.predict_maps(
                built,
                frozen,
                params,
                planes,
                jax.random.key(SAMPLE_SEED),
                raw["index"],
                calls=n,
                samples=k,
            )

        found = {f"calls_{n}": predict(n, 1)[0] for n in calls}
        deviation = None
        if samples > 1:
            several = predict(max(calls), samples)
            found[mean_of(samples)] = several.mean(axis=0)
            deviation = mean_of(samples), several.std(axis=0, ddof=1)
        known = {name: array for name, array in raw.items() if name != "gray"}
        for name, fit in fitted.items():
            f = PREDICTORS[name].predict(fit, known)
            found[name] = resize(f, built.first.image_size)
        recons = {name: radiomap.f_to_model(f) for name, f in found.items()}
        mode = built.first.posterior(frozen.params, image).mode()
        recons[FLOOR] = built.first.image(frozen.params, mode)
        return Reconstructed(recons, None, deviation=deviation)

    return compute
