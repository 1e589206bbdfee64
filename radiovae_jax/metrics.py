"""How close a reconstruction is to its map: per image, and over a whole set.

Every function takes maps f = gray/255 in [0, 1] and counts, in float32, the pixels of
`region`: 1 counts, 0 does not, and `ALL` counts every pixel. Nothing is clipped: what
a model gives beyond [0, 1] is an error like any other. Published tables mix the raw
and the thresholded scale, so write scale, region and split beside every number.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from radiovae_jax.types import Image, PerImage

ALL = 1.0
DB_PER_UNIT = 100.0  # RadioMapSeer: dB = -147 + 100 f; 80 on the scale cut at f = 0.2
SSIM_TAPS, SSIM_SIGMA = 11, 1.5
IN_UNIT = ("rmse", "mae")  # those that are also given in dB

Region = Float[Array, "b h w 1"] | float
Sum = Float[Array, ""]


class Sums(NamedTuple):
    """What is added up over a set; `result` makes metrics of it.

    The first four are sums over counted pixels, the next over counted images: those
    with a pixel in the region, for NMSE with power there, and for SSIM with a window
    centred in the region.
    """

    pixels: Sum
    squared_error: Sum
    absolute_error: Sum
    power: Sum
    images: Sum
    nmse_images: Sum
    nmse: Sum
    rmse: Sum
    mae: Sum
    psnr: Sum
    ssim_images: Sum
    ssim: Sum


def mse(target: Image, recon: Image, region: Region = ALL) -> PerImage:
    """Returns the mean squared error; NaN where an image has no pixel in the region."""
    return _mean(jnp.square(_error(target, recon)), region)


def nmse(target: Image, recon: Image, region: Region = ALL) -> PerImage:
    """Returns MSE / mean(target^2): 0 if exact, inf if only the target is all zero."""
    error = mse(target, recon, region)
    power = _mean(jnp.square(_float32(target)), region)
    return jnp.where(error == 0, 0, error / power)


def rmse(target: Image, recon: Image, region: Region = ALL) -> PerImage:
    """Returns the root of the mean squared error, in units of f."""
    return jnp.sqrt(mse(target, recon, region))


def mae(target: Image, recon: Image, region: Region = ALL) -> PerImage:
    """Returns the mean absolute error, in units of f."""
    return _mean(jnp.abs(_error(target, recon)), region)


def rmse_db(
    target: Image,
    recon: Image,
    region: Region = ALL,
    *,
    db_per_unit: float = DB_PER_UNIT,
) -> PerImage:
    """Returns the root of the mean squared error in dB."""
    return db_per_unit * rmse(target, recon, region)


def mae_db(
    target: Image,
    recon: Image,
    region: Region = ALL,
    *,
    db_per_unit: float = DB_PER_UNIT,
) -> PerImage:
    """Returns the mean absolute error in dB."""
    return db_per_unit * mae(target, recon, region)


def psnr(target: Image, recon: Image, region: Region = ALL) -> PerImage:
    """Returns -10 log10(MSE), the data range being 1; inf for an exact image."""
    return -10 * jnp.log10(mse(target, recon, region))


def ssim(target: Image, recon: Image, region: Region = ALL) -> PerImage:
    """Returns the structural similarity, the data range being 1.

    The mean runs over the windows that lie within the image and are centred in the
    region; NaN if there are none. Channels are averaged.

    Raises:
      ValueError: an image smaller than the window.

    Source: Wang et al. 2004 (IEEE TIP 13(4)), Gaussian window; computed by dm-pix.
    """
    import dm_pix  # not in the core's dependencies

    height, width = target.shape[1:3]
    if min(height, width) < SSIM_TAPS:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_TAPS}x{SSIM_TAPS} pixels, got "
            f"{height}x{width}; give larger maps, or measure at the size that the "
            "model sees if that is larger (train.metrics_size='seen')"
        )
    values = dm_pix.ssim(
        _float32(target),
        _float32(recon),
        filter_size=SSIM_TAPS,
        filter_sigma=SSIM_SIGMA,
        return_map=True,
    )
    return _mean(values, _window_centres(region))


# Name -> what gives the number of each image; `Sums` has a sum of each.
PER_IMAGE = {"nmse": nmse, "rmse": rmse, "mae": mae, "psnr": psnr, "ssim": ssim}


def diversity_db(
    samples: Image, *, db_per_unit: float = DB_PER_UNIT
) -> Float[Array, ""]:
    """Returns the mean over all pairs of samples of their RMSE, in dB.

    0 means that all are one image. NaN for a single sample.
    """
    one, other = jnp.triu_indices(samples.shape[0], k=1)
    return rmse_db(samples[one], samples[other], db_per_unit=db_per_unit).mean()


def init() -> Sums:
    """Returns the sums of the empty set."""
    return Sums(*(jnp.zeros((), jnp.float32) for _ in Sums._fields))


def update(
    sums: Sums,
    target: Image,
    recon: Image,
    mask: Bool[Array, "b"],
    region: Region = ALL,
) -> Sums:
    """Returns the sums with a batch added; `measure` has the other arguments."""
    return merge(sums, measure(target, recon, mask, region)[0])


def measure(
    target: Image, recon: Image, mask: Bool[Array, "b"], region: Region = ALL
) -> tuple[Sums, dict[str, PerImage]]:
    """Returns the sums of a batch, and the numbers of each image: PER_IMAGE.

    Args:
      target: the maps.
      recon: their reconstructions.
      mask: False for the images that only fill up the batch; they may hold anything.
      region: which pixels count.
    """
    weights = _weights(region, target.shape) * mask[:, None, None, None]
    windows = _window_centres(weights[..., :1])
    pixels = jnp.sum(weights, axis=(1, 2, 3))
    counted = pixels > 0
    power = jnp.square(_float32(target))
    powered = jnp.sum(jnp.where(weights > 0, power * weights, 0), axis=(1, 2, 3)) > 0
    ssim_counted = jnp.sum(windows, axis=(1, 2, 3)) > 0
    error = _error(target, recon)

    def over_pixels(values: Image) -> Sum:
        return jnp.sum(jnp.where(weights > 0, values * weights, 0))

    def over_images(values: PerImage) -> Sum:
        return jnp.sum(jnp.where(counted, values, 0))

    each = {name: of(target, recon, region) for name, of in PER_IMAGE.items()}
    sums = Sums(
        pixels=jnp.sum(pixels),
        squared_error=over_pixels(jnp.square(error)),
        absolute_error=over_pixels(jnp.abs(error)),
        power=over_pixels(power),
        images=over_images(jnp.ones_like(pixels)),
        nmse_images=jnp.sum(powered, dtype=jnp.float32),
        nmse=jnp.sum(jnp.where(powered, each["nmse"], 0)),
        rmse=over_images(each["rmse"]),
        mae=over_images(each["mae"]),
        psnr=over_images(each["psnr"]),
        ssim_images=jnp.sum(ssim_counted, dtype=jnp.float32),
        ssim=jnp.sum(jnp.where(ssim_counted, each["ssim"], 0)),
    )
    return sums, each


def merge(one: Sums, other: Sums) -> Sums:
    """Returns the sums of two disjoint sets taken together."""
    return jax.tree.map(jnp.add, one, other)


def result(sums: Sums, *, db_per_unit: float | int = DB_PER_UNIT) -> dict[str, float]:
    """Returns the metrics of the set, by name.

    A plain name is the mean over images of the per-image number; `_pooled` takes all
    pixels of the set as one image. NMSE is the mean over the images that have power:
    of one without any it has no value. One exact image makes the mean PSNR infinite;
    without an image in the set, or in its region, every number is NaN.

    Args:
      db_per_unit: dB that one unit of f spans; 0, of maps that have no unit, leaves
        the numbers in dB out.
    """
    total = Sums(*(np.float64(value) for value in sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        mse_pooled = total.squared_error / total.pixels
        metrics = {
            "nmse": total.nmse / total.nmse_images,
            "nmse_pooled": total.squared_error / total.power,
            "rmse": total.rmse / total.images,
            "rmse_pooled": np.sqrt(mse_pooled),
            "mae": total.mae / total.images,
            "mae_pooled": total.absolute_error / total.pixels,
            "psnr": total.psnr / total.images,
            "psnr_pooled": -10 * np.log10(mse_pooled),
            "ssim": total.ssim / total.ssim_images,
        }
    if db_per_unit:
        metrics |= {
            name.replace(error, f"{error}_db"): db_per_unit * metrics[name]
            for error in IN_UNIT
            for name in (error, f"{error}_pooled")
        }
    return {name: float(value) for name, value in metrics.items()}


def deciding(numbers: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns the number that `best` and early stops go by, the lowest being best.

    The pooled NMSE, which a map without power does not decide; the mean one of runs
    that logged no other; or what a stage calls "best". None where there is none.
    """
    names = ("best", "nmse_pooled", "nmse")
    found = (numbers[prefix + name] for name in names if prefix + name in numbers)
    return next(found, None)


def frechet(
    mean: Float[np.ndarray, "d"],
    covariance: Float[np.ndarray, "d d"],
    other_mean: Float[np.ndarray, "d"],
    other_covariance: Float[np.ndarray, "d d"],
) -> float:
    """Returns the squared Fréchet distance of two Gaussians, in float64.

    |m - n|^2 + tr(C + D - 2 (C D)^(1/2)); the last trace is the sum of the singular
    values of C^(1/2) D^(1/2), which is symmetric in C and D and stays accurate where
    they are singular, as those of fewer images than features are. NaN for covariances
    that are not finite.

    Source: Dowson and Landau 1982 (J. Multivariate Analysis 12), eq. 4; Heusel et al.
    2017 (arXiv:1706.08500) for features of images.
    """
    covariances = [np.float64(covariance), np.float64(other_covariance)]
    if not all(np.isfinite(values).all() for values in covariances):
        return float("nan")
    one, other = map(_root, covariances)
    shared = np.linalg.svd(one @ other, compute_uv=False).sum()
    spread = sum(map(np.trace, covariances)) - 2 * shared
    apart = np.sum(np.square(np.float64(mean) - np.float64(other_mean)))
    return float(max(apart + spread, 0))  # equal sets: 0, not -1e-16


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _float32(x: Image) -> Image:
    return x.astype(jnp.float32)


def _error(target: Image, recon: Image) -> Image:
    return _float32(recon) - _float32(target)


def _weights(region: Region, shape: tuple[int, ...]) -> Image:
    return jnp.broadcast_to(jnp.asarray(region, jnp.float32), shape)


def _window_centres(region: Region) -> Float[Array, "b _ _ 1"] | float:
    """Returns the region where a whole SSIM window fits around the pixel."""
    if isinstance(region, float):
        return region
    margin = SSIM_TAPS // 2
    return region[:, margin:-margin, margin:-margin]


def _mean(values: Image, region: Region) -> PerImage:
    weights = _weights(region, values.shape)
    # Not a plain product: NaN outside the region must not count, 0 * NaN would.
    weighted = jnp.where(weights > 0, values * weights, 0)
    return jnp.sum(weighted, axis=(1, 2, 3)) / jnp.sum(weights, axis=(1, 2, 3))
