"""What a stage must beat: a linear coder of patches; predictions without a network.

`PREDICTORS` are to the second stage what PCA is to the first: each is fitted on batches
of the training split and predicts f from buildings and transmitter.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, UInt8

from radiovae_jax.data import conditions, radiomap
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


# A batch as stored: "gray" and, uint8 [b, h, w, 1], "buildings" and "antenna".
Raw = Mapping[str, Array]


class Baseline(NamedTuple):
    """fit(batches) -> weights; predict(weights, batch without "gray") -> f."""

    fit: Callable[[Iterable[Raw]], PyTree]
    predict: Callable[[PyTree, Raw], Image]


def fit_mean_map(batches: Iterable[Raw]) -> Float[np.ndarray, "h w c"]:
    """Returns the mean of all maps, pixel by pixel."""
    total, count = 0.0, 0
    for raw in batches:
        f = np.asarray(radiomap.gray_to_f(raw["gray"]), np.float64)
        total, count = total + f.sum(axis=0), count + len(f)
    return np.float32(total / count)


def predict_mean_map(mean: Float[Array, "h w c"], raw: Raw) -> Image:
    return jnp.broadcast_to(mean[None], (len(raw["buildings"]), *mean.shape))


def fit_log_distance(batches: Iterable[Raw]) -> Float[np.ndarray, "3"]:
    """Returns the least squares of f = street or building offset + slope log10(1 + d).

    The distance d is in pixels; the slope is one for both.

    Source: the log-distance path-loss model (Rappaport, Wireless Communications, 4.9),
    with an offset for indoor pixels in place of a loss of walls.
    """
    products, sums = np.zeros((3, 3)), np.zeros(3)
    for raw in batches:
        terms = np.asarray(_log_distance_terms(raw), np.float64).reshape(-1, 3)
        f = np.asarray(radiomap.gray_to_f(raw["gray"]), np.float64).ravel()
        products, sums = products + terms.T @ terms, sums + terms.T @ f
    return np.float32(np.linalg.lstsq(products, sums, rcond=None)[0])


def predict_log_distance(weights: Float[Array, "3"], raw: Raw) -> Image:
    f = _log_distance_terms(raw) @ weights
    return jnp.clip(f, 0, 1)[..., None]


def _log_distance_terms(raw: Raw) -> Float[Array, "b h w 3"]:
    building = jnp.float32(raw["buildings"] >= 128)
    metres = conditions.distance(raw["antenna"], 0, pixel_metres=1.0)
    return jnp.concatenate([1 - building, building, jnp.log10(1 + metres)], axis=-1)


SKETCH = 16  # side to which conditions are reduced to find the nearest
MOST_NEAREST = 4000  # training maps that are kept


class Nearest(NamedTuple):
    """Training maps and the sketches of their conditions."""

    maps: UInt8[Array, "n h w c"] | Float[Array, "n h w c"]
    sketches: Float[Array, "n d"]


def fit_nearest(batches: Iterable[Raw]) -> Nearest:
    """Returns the training maps, the first MOST_NEAREST of them."""
    maps, sketches, count = [], [], 0
    for raw in batches:
        maps.append(np.asarray(raw["gray"]))
        sketches.append(np.asarray(_sketch(raw)))
        if (count := count + len(maps[-1])) >= MOST_NEAREST:
            break
    return Nearest(np.concatenate(maps), np.concatenate(sketches))


def predict_nearest(weights: Nearest, raw: Raw) -> Image:
    """Returns the training map whose buildings and distances are the most alike."""
    sketch = _sketch(raw)
    square = jnp.square(weights.sketches).sum(axis=-1)
    # |a - b|^2 but for |a|^2, which is the same for all.
    apart = square[None] - 2 * jnp.matmul(
        sketch, weights.sketches.T, precision="highest"
    )
    return radiomap.gray_to_f(weights.maps[jnp.argmin(apart, axis=-1)])


@jax.jit
def _sketch(raw: Raw) -> Float[Array, "b d"]:
    known = {name: raw[name] for name in ("buildings", "antenna")}
    planes = conditions.planes(
        known, ("buildings", "log_distance"), size=0, pixel_metres=1.0
    )
    b, _, _, k = planes.shape
    small = jax.image.resize(planes, (b, SKETCH, SKETCH, k), "linear")
    return small.reshape(b, -1)


PREDICTORS = {
    "mean_map": Baseline(fit_mean_map, predict_mean_map),
    "log_distance": Baseline(fit_log_distance, predict_log_distance),
    "nearest": Baseline(fit_nearest, predict_nearest),
}
