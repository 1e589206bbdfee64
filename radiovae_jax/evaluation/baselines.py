"""What a first stage must beat: linear coding of patches with as many numbers."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.moments import RunningMoments
from radiovae_jax.types import Array, Image


class Pca(NamedTuple):
    """The mean patch and the directions that hold most of the variance."""

    mean: Float[Array, "d"]
    directions: Float[Array, "z d"]


def fit_pca(
    maps: Iterable[Float[Array, "_ h w c"]], *, patch: int, components: int
) -> Pca:
    """Fits on batches of maps f, one pass, in float64.

    Args:
      maps: batches, the last one smaller or not; sides divisible by the patch.
      patch: side of a patch, the autoencoder's down-sampling for the same latent size.
      components: numbers kept of a patch.

    Raises:
      ValueError: sides that are not divisible by the patch.

    Source: Pearson 1901; the covariance's leading eigenvectors.
    """
    total = RunningMoments()
    for batch in maps:
        rows = np.asarray(to_patches(batch, patch))
        rows = rows.reshape(-1, rows.shape[-1])
        total = total.merge(RunningMoments.of(rows, pairs=True))
    _, vectors = np.linalg.eigh(total.scatter)
    leading = vectors[:, ::-1][:, :components].T  # eigh sorts upwards
    return Pca(total.mean.astype(np.float32), leading.astype(np.float32))


def reconstruct(pca: Pca, f: Image) -> Image:
    """Returns every patch projected on the mean and the kept directions."""
    patch = math.isqrt(pca.mean.size // f.shape[-1])
    patches = to_patches(f, patch)
    centred = patches - pca.mean.reshape(1, 1, 1, -1)
    coded = jnp.einsum("bijd,zd->bijz", centred, pca.directions, precision="highest")
    back = jnp.einsum("bijz,zd->bijd", coded, pca.directions, precision="highest")
    return from_patches(back + pca.mean.reshape(1, 1, 1, -1), patch)


def to_patches(f: Image, patch: int) -> Float[Array, "b i j d"]:
    b, height, width, c = f.shape
    if height % patch or width % patch:
        raise ValueError(
            f"maps of {height}x{width} cannot be cut into patches of {patch}x{patch}, "
            f"the down-sampling; resize them to a multiple of {patch} (data.image_size)"
        )
    i, j = height // patch, width // patch
    split = f.reshape(b, i, patch, j, patch, c)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(b, i, j, patch * patch * c)


def from_patches(patches: Float[Array, "b i j d"], patch: int) -> Image:
    b, i, j, d = patches.shape
    c = d // patch**2
    split = patches.reshape(b, i, j, patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(b, i * patch, j * patch, c)
