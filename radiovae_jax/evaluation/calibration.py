"""Calibration: whether the deviation of samples says how far their mean is off.

`measure` is pure and runs on the devices; its sums add up over batches. From them come
the error within each bin of deviation, and the coverage of intervals at any scale of
the deviation, so that one factor can be fitted on another split.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from radiovae_jax.types import Array, Image

# Bounds of the bins of deviation, in f (RadioMapSeer: 0.1 to 100 dB).
DEVIATIONS = np.float32(np.geomspace(1e-3, 1, 16))
RATIOS = np.float32(np.linspace(0, 20, 801))  # of error to deviation
INTERVAL = 0.9  # share of a normal distribution within +-QUANTILE deviations
QUANTILE = 1.6448536


class Sums(NamedTuple):
    """By bin of deviation: pixels, sums of squares; by bin of ratio: pixels."""

    pixels: Float[Array, "n"]
    deviation: Float[Array, "n"]
    error: Float[Array, "n"]
    ratios: Float[Array, "m"]


def measure(
    target: Image,
    mean: Image,
    deviation: Image,
    counted: Bool[Array, "b h w 1"],
    *,
    floor: float = 0.0,
) -> Sums:
    """Returns the sums of a batch.

    Args:
      target: maps f in [0, 1].
      mean, deviation: of samples for each of them.
      counted: pixels that count.
      floor: deviation that is there besides (in quadrature): the RMSE of the first
        stage, which samples of latents do not show.
    """
    deviation = jnp.sqrt(jnp.square(deviation) + floor**2)
    error = jnp.abs(mean - target)
    weights = jnp.broadcast_to(counted, target.shape).astype(jnp.float32).ravel()
    # The clip keeps exact zeros from dividing; such pixels are buildings, or empty.
    ratio = error / jnp.maximum(deviation, 1e-6)
    by = jnp.clip(jnp.digitize(deviation, DEVIATIONS), 0, len(DEVIATIONS)).ravel()
    nothing = jnp.zeros(len(DEVIATIONS) + 1)
    bins = jnp.clip(jnp.digitize(ratio, RATIOS) - 1, 0, len(RATIOS) - 1).ravel()
    return Sums(
        pixels=nothing.at[by].add(weights),
        deviation=nothing.at[by].add(weights * jnp.square(deviation).ravel()),
        error=nothing.at[by].add(weights * jnp.square(error).ravel()),
        ratios=jnp.zeros(len(RATIOS)).at[bins].add(weights),
    )


def coverage(sums: Sums, *, scale: float = 1.0) -> float:
    """Returns the share of pixels within the 90% interval of scale * deviation."""
    ratios = np.float64(sums.ratios)
    # The bin that the bound falls into counts in proportion.
    cumulated = np.concatenate([[0.0], np.cumsum(ratios)]) / ratios.sum()
    bounds = np.append(RATIOS, np.inf)[: len(cumulated)]
    return float(np.interp(scale * QUANTILE, bounds, cumulated))


def fitted_scale(sums: Sums) -> float:
    """Returns the factor of the deviation with which the interval covers 90%."""
    ratios = np.float64(sums.ratios)
    share = np.cumsum(ratios) / ratios.sum()
    return float(np.interp(INTERVAL, share[:-1], RATIOS[1:]) / QUANTILE)


def result(sums: Sums, *, scale: float | None = None) -> dict[str, object]:
    """Returns what a record holds: coverage, and RMSE by deviation, in f.

    Args:
      scale: fitted on another split; None: not given.
    """
    pixels = np.float64(sums.pixels)
    some = pixels > 0
    bins = [
        {
            "pixels": int(count),
            "deviation": float(np.sqrt(deviation / count)),
            "rmse": float(np.sqrt(error / count)),
        }
        for count, deviation, error in zip(
            pixels[some],
            np.float64(sums.deviation)[some],
            np.float64(sums.error)[some],
            strict=True,
        )
    ]
    found: dict[str, object] = {
        "interval": INTERVAL,
        "coverage": coverage(sums),
        "fitted_scale": fitted_scale(sums),
        "bins": bins,
    }
    if scale is not None:
        found |= {"scale": scale, "scaled_coverage": coverage(sums, scale=scale)}
    return found
