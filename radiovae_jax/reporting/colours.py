"""Maps of several channels as colours that a person can look at.

Three channels are red, green and blue. Any other number (bands of a spectrum, classes
of a segmentation) is mixed into three by a fixed random projection: it keeps apart
what differs, and says nothing about which channel it is.
"""

import numpy as np
from jaxtyping import Float

from radiovae_jax.types import Array

PROJECTION_SEED = 0  # pictures of all runs, steps and versions compare
BROKEN = (1.0, 0.0, 1.0)  # magenta: what is not finite


def to_rgb(
    f: Float[Array, "b h w c"], reference: Float[Array, "_ _ _ c"]
) -> Float[np.ndarray, "b h w 3"]:
    """Returns colours in [0, 1], clipped; magenta where a channel is not finite.

    Args:
      f: the maps.
      reference: maps whose projection spans the colours, so that a reconstruction is
        coloured as its map is.
    """
    f, reference = (np.asarray(maps, np.float64) for maps in (f, reference))
    channels = f.shape[-1]
    if channels == 3:
        colours = f
    else:
        mixed = reference.reshape(-1, channels) @ projection(channels)
        mixed = mixed[np.isfinite(mixed).all(axis=1)]
        low, high = (mixed.min(0), mixed.max(0)) if len(mixed) else (0.0, 1.0)
        span = np.where(high > low, high - low, 1.0)
        colours = (f @ projection(channels) - low) / span
    fine = np.isfinite(f).all(axis=-1, keepdims=True)
    return np.where(fine, np.clip(colours, 0, 1), np.array(BROKEN))


def projection(channels: int) -> Float[np.ndarray, "c 3"]:
    """Returns the weights of every channel in red, green and blue: N(0, 1), seeded.

    Source: the idea is taming-transformers', which shows segmentations so (VQModel,
    vqgan.py at 3ba01b2), with a projection drawn anew for each run.
    """
    return np.random.default_rng(PROJECTION_SEED).standard_normal((channels, 3))


def words(channels: int) -> str:
    """Returns what a picture of so many channels has to say about itself."""
    if channels == 1:
        return ""
    if channels == 3:
        return "3 channels as RGB"
    return f"{channels} channels, mixed"
