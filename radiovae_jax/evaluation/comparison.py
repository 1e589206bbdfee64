"""Compares reconstructions with their maps: one batch, on the devices."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PyTree

from radiovae_jax import metrics
from radiovae_jax.data import radiomap
from radiovae_jax.data.batch import resize, resize_back, to_batch
from radiovae_jax.nn import lpips
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.types import Array, Image, PerImage

# Name -> (threshold on f, share of the dB that the whole scale spans).
SCALES = {"raw": (0.0, 1.0), "thresholded_0.2": (0.2, 0.8)}
REGIONS = ("all", "street", "building")
COLUMNS = ("nmse", "rmse_db", "mae_db", "psnr", "ssim")
POOLED = ("nmse_pooled", "rmse_db_pooled", "psnr_pooled")  # what tables show of them
# Both, of maps without a unit.
COLUMNS_F, POOLED_F = (
    tuple(name.replace("_db", "") for name in names) for names in (COLUMNS, POOLED)
)
FEATURES = {
    "vgg16_relu5_3": "the channels of VGG16's relu5_3, averaged over the map",
    "pixels_8x8": "the map itself, reduced to 8x8 pixels",
}


class Coded(NamedTuple):
    """What is made of a batch: a reconstruction in [-1, 1] for each row."""

    recons: dict[str, Image]
    posterior: DiagonalGaussian | None
    prior: Image | None = None  # decoded from N(0, 1), as many as maps


# (weights, image in [-1, 1], number of each map in the set) -> Coded
Code = Callable[[PyTree, Image, Array], Coded]


class Judge(NamedTuple):
    """How reconstructions are compared with their maps.

    Attributes:
      rows: what a coder makes; the first is the one that is ranked and shown.
      regions: of REGIONS; all but "all" need the buildings.
      image_size: side that the networks see; 0 is as stored.
      stored: whether to compare at the stored size rather than at the seen one.
      perceptual: whether LPIPS is measured.
      features: of FEATURES, for the Fréchet distance.
      db: what f is in dB; without a span RMSE and MAE are of f.
    """

    rows: tuple[str, ...]
    regions: tuple[str, ...]
    image_size: int
    stored: bool
    perceptual: bool
    features: str
    db: radiomap.DbRange = radiomap.RADIOMAPSEER_DB

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers of each map."""
        return COLUMNS if self.db.span else COLUMNS_F


class Compared(NamedTuple):
    """What is known of one batch. Leading axes: rows, then scales, then regions."""

    sums: metrics.Sums
    each: dict[str, Float[Array, "_ _ _ b"]]  # the judge's columns
    power: Float[Array, "_ _ b"]  # mean f^2 by scale and region; NaN without a pixel
    lpips: Float[Array, "_ b"] | None
    features: Float[Array, "_ b _"]
    target_features: Float[Array, "b _"]
    prior_features: Float[Array, "b _"] | None
    posterior: DiagonalGaussian | None
    kl: PerImage | None
    shown: tuple[Image, Image, Float[Array, "b h w 1"]]  # map, first row, buildings


def compare(
    code: Code,
    judge: Judge,
    weights: PyTree,
    lpips_weights: PyTree,
    raw: Mapping[str, Array],
) -> Compared:
    """Returns the sums of one batch, and what is known of each of its maps.

    Args:
      raw: of `pipeline.eval_batches`, with the number of each map as "index".
    """
    batch = to_batch(
        raw, image_size=judge.image_size, pixel_weights="none", conditional=False
    )
    coded = code(weights, batch.image, raw["index"])
    seen = radiomap.model_to_f(batch.target)
    target = radiomap.gray_to_f(raw["gray"]) if judge.stored else seen

    def finished(x: Image) -> Image:
        f = resize_back(radiomap.model_to_f(x), *target.shape[1:3])
        return jnp.clip(f, 0, 1)

    # All rows, scales and regions are one program that is mapped, not one for each.
    recons = jnp.stack([finished(coded.recons[row]) for row in judge.rows])
    masks = region_masks(raw, judge, target)
    regions = jnp.stack([masks[name] for name in judge.regions])
    measure = functools.partial(numbers, raw["mask"] > 0, regions, judge, target)
    sums, each = jax.vmap(measure)(recons)
    distances = None
    if judge.perceptual:
        distance = functools.partial(
            lpips.distance, lpips_weights, radiomap.f_to_model(target)
        )
        distances = jax.vmap(distance)(radiomap.f_to_model(recons))
    features = functools.partial(features_of, judge.features, lpips_weights)
    return Compared(
        sums=sums,
        each=each,
        power=power(regions, target),
        lpips=distances,
        features=jax.vmap(features)(recons),
        target_features=features(target),
        prior_features=None if coded.prior is None else features(finished(coded.prior)),
        posterior=coded.posterior,
        kl=None if coded.posterior is None else coded.posterior.kl(),
        shown=(target, recons[0], masks["building"]),
    )


def numbers(
    mask: Bool[Array, "b"],
    regions: Float[Array, "r b h w 1"],
    judge: Judge,
    target: Image,
    recon: Image,
) -> tuple[metrics.Sums, dict[str, Float[Array, "_ r b"]]]:
    """Returns the sums and the numbers of each map, by scale and region."""
    scaled = [
        (
            radiomap.threshold(target, t),
            radiomap.threshold(recon, t),
            jnp.float32(share * judge.db.span or 1.0),
        )
        for t, share in SCALES.values()
    ]

    def at_scale(target, recon, span):
        return jax.vmap(functools.partial(in_region, target, recon, span))(regions)

    def in_region(target, recon, span, region):
        values = (
            metrics.nmse(target, recon, region),
            span * metrics.rmse(target, recon, region),
            span * metrics.mae(target, recon, region),
            metrics.psnr(target, recon, region),
            metrics.ssim(target, recon, region),
        )
        each = dict(zip(judge.columns, values, strict=True))
        return metrics.update(metrics.init(), target, recon, mask, region), each

    return jax.vmap(at_scale)(*map(jnp.stack, zip(*scaled, strict=True)))


def power(regions: Float[Array, "r b h w 1"], target: Image) -> Float[Array, "_ r b"]:
    """Returns the mean of f^2 of each map, by scale and region."""
    scaled = [radiomap.threshold(target, t) for t, _ in SCALES.values()]
    return jnp.stack(
        [
            jnp.stack([metrics.mse(f, jnp.zeros_like(f), region) for region in regions])
            for f in scaled
        ]
    )


def region_masks(
    raw: Mapping[str, Array], judge: Judge, target: Image
) -> dict[str, Float[Array, "b h w 1"]]:
    """Returns 1 where a pixel counts; without buildings all is street."""
    everywhere = jnp.ones((*target.shape[:3], 1))
    inside = jnp.zeros_like(everywhere)
    if "buildings" in raw:
        size = 0 if judge.stored else judge.image_size
        there = resize(radiomap.gray_to_f(raw["buildings"]), size)
        inside = (there >= 0.5).astype(jnp.float32)
    return {"all": everywhere, "street": 1.0 - inside, "building": inside}


def features_of(name: str, weights: PyTree, f: Image) -> Float[Array, "b d"]:
    """Returns the numbers whose distributions the Fréchet distance compares."""
    if name == "vgg16_relu5_3":
        return lpips.features(weights, radiomap.f_to_model(f))[-1].mean(axis=(1, 2))
    small = jax.image.resize(f, (len(f), 8, 8, f.shape[-1]), "linear")
    return small.reshape(len(f), -1)
