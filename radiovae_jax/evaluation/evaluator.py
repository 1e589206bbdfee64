"""The evaluator: metrics of reconstructions against their maps, over a whole set.

`evaluate_batch` and the functions under it are pure and run on the devices;
`Accumulator` adds their sums up on the host, in float64; `evaluate` goes over a source
once. A row of the table is one way to encode and decode a map; all rows get the same
maps. Validation during training makes `metrics.measure`, `target_f` and `in_f`, which
all rows here go through, of its one row.

What is stored of a map is its name and at most 94 numbers in float32: to the memory of
one batch comes less than half a kB a map.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from radiovae_jax import metrics, sharding
from radiovae_jax.data import pipeline, radiomap, sources
from radiovae_jax.data.batch import (
    binary_mask,
    resize_back,
    to_batch,
    transmitter_mask,
)
from radiovae_jax.evaluation import calibration, latent_statistics
from radiovae_jax.moments import RunningMoments
from radiovae_jax.nn import lpips
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.progress import Bar
from radiovae_jax.types import Array, Image, PerImage

# Name -> (threshold on f, share of the dB that the whole scale spans).
SCALES = {"raw": (0.0, 1.0), "thresholded_0.2": (0.2, 0.8)}
REGIONS = ("all", "street", "building")
FEATURES = {
    "vgg16_relu5_3": "the channels of VGG16's relu5_3, averaged over the map",
    "pixels_8x8": "the map itself, reduced to 8x8 pixels",
}
PRIOR = "prior_samples"  # maps that are decoded from N(0, 1): no row, no errors

Numbers = dict[str, float]
Table = dict[str, dict[str, dict[str, Numbers]]]  # row -> scale -> region -> numbers
Masks = Float[Array, "r b h w 1"]  # 1 where a pixel counts, for each region


class EvalSpec(NamedTuple):
    """What is measured.

    Attributes:
      rows: of the table; the first is the one that is ranked and shown.
      regions: of REGIONS; all but "all" need the buildings.
      image_size: side that the networks get; 0 is as stored.
      stored: whether to compare at the stored size rather than at the networks'.
      perceptual: whether LPIPS is measured.
      features: of FEATURES, for the Fréchet distance.
      db: what f is in dB; without a span RMSE and MAE are of f.
      floor: deviation in f that is there besides that of samples, for calibration.
    """

    rows: tuple[str, ...]
    regions: tuple[str, ...]
    image_size: int
    stored: bool
    perceptual: bool
    features: str
    db: radiomap.DbRange = radiomap.RADIOMAPSEER_DB
    floor: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers of each map."""
        return columns(self.db.suffix)

    def places(self) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
        """Yields (indices, names) of every row, scale and region."""
        names = self.rows, tuple(SCALES), self.regions
        return zip(np.ndindex(*map(len, names)), itertools.product(*names), strict=True)


def columns(suffix: str) -> tuple[str, ...]:
    """Returns the names of the numbers of a map; `suffix` is that of RMSE and MAE."""
    in_unit = {name: name + suffix for name in metrics.IN_UNIT}
    return tuple(in_unit.get(name, name) for name in metrics.PER_IMAGE)


def pooled_columns(suffix: str) -> tuple[str, ...]:
    """Returns the names of the numbers over all pixels that tables show."""
    return ("nmse_pooled", f"rmse{suffix}_pooled", "psnr_pooled")


class Reconstructed(NamedTuple):
    """What is computed of a batch of images: for each row its image in [-1, 1]."""

    recons: dict[str, Image]
    posterior: DiagonalGaussian | None
    prior: Image | None = None  # decoded from N(0, 1), as many as maps
    deviation: tuple[str, Image] | None = None  # of samples, in f, and their mean's row


# (weights, image in [-1, 1], raw batch with the number of each map as "index")
Reconstruct = Callable[[PyTree, Image, Mapping[str, Array]], Reconstructed]


class BatchResult(NamedTuple):
    """What is known of one batch. Leading axes: rows, then scales, then regions."""

    sums: metrics.Sums
    each: dict[str, Float[Array, "_ _ _ b"]]  # the spec's columns
    power: Float[Array, "_ _ b"]  # mean f^2 by scale and region; NaN without a pixel
    lpips: Float[Array, "_ b"] | None
    features: Float[Array, "_ b _"]
    target_features: Float[Array, "b _"]
    prior_features: Float[Array, "b _"] | None
    posterior: DiagonalGaussian | None
    kl: PerImage | None
    shown: dict[str, Float[Array, "b h w _"]]  # of each map, for pictures
    calibrated: calibration.Sums | None = None  # on the streets


def evaluate_batch(
    reconstruct: Reconstruct,
    spec: EvalSpec,
    weights: PyTree,
    lpips_weights: PyTree,
    raw: Mapping[str, Array],
) -> BatchResult:
    """Returns the sums of one batch, and what is known of each of its maps.

    Args:
      raw: of `pipeline.eval_batches`, with the number of each map as "index".
    """
    batch = to_batch(
        raw, image_size=spec.image_size, pixel_weights="none", conditional=False
    )
    result = reconstruct(weights, batch.image, raw)
    target = target_f(raw, batch.target, stored=spec.stored)
    masks = region_masks(raw, spec, target)
    regions = jnp.stack([masks[name] for name in spec.regions])
    recons = jnp.stack([in_f(result.recons[row], target) for row in spec.rows])
    sums, each = compare(spec, target, recons, raw["mask"] > 0, regions)
    distances = None
    if spec.perceptual:
        distance = functools.partial(
            lpips.distance, lpips_weights, radiomap.f_to_model(target)
        )
        distances = jax.vmap(distance)(radiomap.f_to_model(recons))
    features = functools.partial(features_of, spec.features, lpips_weights)
    prior, posterior = result.prior, result.posterior
    shown = {"target": target, "recon": recons[0], "buildings": masks["building"]}
    if "antenna" in raw:
        size = 0 if spec.stored else spec.image_size
        shown["antenna"] = transmitter_mask(raw["antenna"], size)
    calibrated = None
    if result.deviation is not None:
        row, deviation = result.deviation
        shown["mean"] = recons[spec.rows.index(row)]
        shown["deviation"] = resize_back(deviation, *target.shape[1:3])
        calibrated = calibration.measure(
            target,
            shown["mean"],
            shown["deviation"],
            (masks["street"] > 0) & (raw["mask"] > 0)[:, None, None, None],
            floor=spec.floor,
        )
    return BatchResult(
        sums=sums,
        each=each,
        power=power(spec, regions, target),
        lpips=distances,
        features=jax.vmap(features)(recons),
        target_features=features(target),
        prior_features=None if prior is None else features(in_f(prior, target)),
        posterior=posterior,
        kl=None if posterior is None else posterior.kl(),
        shown=shown,
        calibrated=calibrated,
    )


def target_f(
    raw: Mapping[str, Array], x: Image, *, stored: bool
) -> Float[Array, "b _ _ c"]:
    """Returns a batch's maps as f, as stored or at the size x that networks get."""
    return radiomap.gray_to_f(raw["gray"]) if stored else radiomap.model_to_f(x)


def in_f(
    x: Image, target: Float[Array, "b height width c"]
) -> Float[Array, "b height width c"]:
    """Returns a network's image as f, clipped to [0, 1], at the target's size."""
    f = resize_back(radiomap.model_to_f(x), *target.shape[1:3])
    return jnp.clip(f, 0, 1)


def compare(
    spec: EvalSpec,
    target: Image,
    recons: Float[Array, "rows b h w c"],
    mask: Bool[Array, "b"],
    regions: Masks,
) -> tuple[metrics.Sums, dict[str, Float[Array, "rows scales r b"]]]:
    """Returns sums and the numbers of each map, [rows, scales, regions] of each.

    Args:
      target: f in [0, 1].
      recons: the same, for each row.
      mask: False for maps that only fill up the batch.
      regions: for each of the spec's.
    """
    thresholds, shares = zip(*SCALES.values(), strict=True)
    spans = jnp.float32([share * spec.db.span or 1.0 for share in shares])

    def at_scales(f: Image) -> Float[Array, "scales b h w c"]:
        return jnp.stack([radiomap.threshold(f, t) for t in thresholds])

    def numbers(target, recon, span, region):
        sums, each = metrics.measure(target, recon, mask, region)
        each |= {name: span * each[name] for name in metrics.IN_UNIT}
        return sums, dict(zip(spec.columns, each.values(), strict=True))

    # All rows, scales and regions are one program that is mapped, not one for each.
    def of_region(target, recon, span):
        return jax.vmap(functools.partial(numbers, target, recon, span))(regions)

    def of_row(recon):
        return jax.vmap(of_region)(at_scales(target), at_scales(recon), spans)

    return jax.vmap(of_row)(recons)


def power(spec: EvalSpec, regions: Masks, target: Image) -> Float[Array, "_ r b"]:
    """Returns the mean of f^2 of each map, by scale and region."""
    scaled = [radiomap.threshold(target, t) for t, _ in SCALES.values()]
    return jnp.stack(
        [
            jnp.stack([metrics.mse(f, jnp.zeros_like(f), region) for region in regions])
            for f in scaled
        ]
    )


def region_masks(
    raw: Mapping[str, Array], spec: EvalSpec, target: Image
) -> dict[str, Float[Array, "b h w 1"]]:
    """Returns 1 where a pixel counts; without buildings all is street."""
    everywhere = jnp.ones((*target.shape[:3], 1))
    building = jnp.zeros_like(everywhere)
    if "buildings" in raw:
        size = 0 if spec.stored else spec.image_size
        building = binary_mask(raw["buildings"], size)
    return {"all": everywhere, "street": 1.0 - building, "building": building}


def features_of(name: str, weights: PyTree, f: Image) -> Float[Array, "b d"]:
    """Returns the numbers whose distributions the Fréchet distance compares."""
    if name == "vgg16_relu5_3":
        return lpips.features(weights, radiomap.f_to_model(f))[-1].mean(axis=(1, 2))
    small = jax.image.resize(f, (len(f), 8, 8, f.shape[-1]), "linear")
    return small.reshape(len(f), -1)


class PerMap(NamedTuple):
    """The numbers of every map."""

    names: list[str]
    columns: tuple[str, ...]  # "kl", "row/lpips", "row/scale/region/metric"
    values: Float[np.ndarray, "n k"]

    def mean(self, column: str) -> float:
        values = self.values[:, self.columns.index(column)]
        return float(np.mean(values, dtype=np.float64))


class Powered(NamedTuple):
    """Of the maps with a pixel in a region: how many, and those without power there."""

    images: int
    without: list[str]


class Shown(NamedTuple):
    """One map of a picture: its images by their names in BatchResult.shown."""

    nmse: float
    name: str
    images: dict[str, np.ndarray]


class Evaluation(NamedTuple):
    """The numbers of a set."""

    table: Table
    maps: PerMap
    powered: dict[str, dict[str, Powered]]  # scale -> region: which have an NMSE
    perceptual: Numbers  # row -> LPIPS, mean over maps
    frechet: Numbers  # row (or PRIOR) -> distance of its features to the maps'
    feature_count: int
    latent: RunningMoments | None
    latent_shape: tuple[int, ...]
    kl: float  # nats per image, mean over maps
    calibrated: calibration.Sums | None
    best: list[Shown]
    worst: list[Shown]


def evaluate(
    reconstruct: Reconstruct,
    weights: PyTree,
    source: sources.Source,
    spec: EvalSpec,
    *,
    batch_size: int,
    lpips_weights: PyTree = (),
    show: int = 3,
) -> Evaluation:
    """Goes over every map of the source once and measures every row of the table.

    Args:
      reconstruct: what is measured.
      weights: its weights.
      batch_size: maps at a time over all devices; rounded to a multiple of them.
      lpips_weights: where the spec wants LPIPS or features of VGG16.
      show: how many of the best and of the worst maps to return.
    """
    mesh = sharding.make_mesh(jax.device_count())
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)
    compiled = jax.jit(
        functools.partial(evaluate_batch, reconstruct, spec),
        in_shardings=(whole, whole, split),
    )
    weights = jax.device_put((weights, lpips_weights), whole)
    batch_size = sharding.nearest(batch_size, mesh.size)
    accumulator = Accumulator(spec, show)
    numbered = sources.Numbered(source, 0, len(source))
    for raw in Bar(
        pipeline.eval_batches(numbered, batch_size=batch_size),
        total=-(-len(source) // batch_size),
        unit="batch",
    ):
        # The same numbers on every kind of device: no TF32, no bfloat16 passes.
        with jax.default_matmul_precision("highest"):
            result = compiled(*weights, sharding.to_devices(raw, mesh))
        accumulator.add(jax.device_get(result), raw["name"], raw["mask"] > 0)
    return accumulator.result()


class Accumulator:
    """Adds up the results of batches on the host."""

    def __init__(self, spec: EvalSpec, show: int):
        self._spec, self._show = spec, show
        self._sums: Any = None  # of metrics and of calibration
        self._names: list[str] = []
        self._power: list[Float[np.ndarray, "_ _ _"]] = []  # of each batch
        self._columns: tuple[str, ...] = ()
        self._values: list[Float[np.ndarray, "_ k"]] = []  # of each batch
        self._features: dict[str, RunningMoments] = {}
        self._latent = RunningMoments()
        self._latent_shape: tuple[int, ...] = ()
        self._best: list[Shown] = []
        self._worst: list[Shown] = []

    def add(self, batch: BatchResult, names: np.ndarray, real: np.ndarray) -> None:
        """Adds one batch, on the host.

        Args:
          real: False for what only fills up the batch.
        """
        rows = self._spec.rows
        sums = jax.tree.map(np.float64, (batch.sums, batch.calibrated))
        old = self._sums
        self._sums = sums if old is None else jax.tree.map(np.add, old, sums)
        columns = {} if batch.kl is None else {"kl": batch.kl}
        if batch.lpips is not None:
            pairs = zip(rows, batch.lpips, strict=True)
            columns |= {f"{row}/lpips": values for row, values in pairs}
        for where, place in self._spec.places():
            for name in self._spec.columns:
                columns["/".join((*place, name))] = batch.each[name][where]
        self._power.append(batch.power[..., real])
        self._names += [str(name) for name in names[real]]
        self._columns = tuple(columns)
        values = np.stack([values[real] for values in columns.values()], axis=1)
        self._values.append(values.astype(np.float32))
        for i in np.flatnonzero(real):
            nmse = float(columns[f"{rows[0]}/raw/all/nmse"][i])
            images = {name: array[i] for name, array in batch.shown.items()}
            self._rank(Shown(nmse, str(names[i]), images))
        features_of = dict(zip(rows, batch.features, strict=True))
        features_of[""] = batch.target_features
        if batch.prior_features is not None:
            features_of[PRIOR] = batch.prior_features
        for row, features in features_of.items():
            moments = RunningMoments.of(features[real], pairs=True)
            so_far = self._features.get(row, RunningMoments())
            self._features[row] = so_far.merge(moments)
        if batch.posterior is not None:
            parts = (part[real] for part in batch.posterior)
            self._latent = self._latent.merge(latent_statistics.moments(*parts))
            self._latent_shape = batch.posterior.mean.shape[1:]

    def _rank(self, shown: Shown) -> None:
        def error(one: Shown) -> float:
            return np.inf if np.isnan(one.nmse) else one.nmse

        self._best = sorted([*self._best, shown], key=error)[: self._show]
        self._worst = sorted([*self._worst, shown], key=error)[-self._show :]

    def _powered(self) -> dict[str, dict[str, Powered]]:
        """Returns, by scale and region, which maps have an NMSE there."""
        names, power = np.asarray(self._names), np.concatenate(self._power, axis=-1)
        return {
            scale: {
                region: Powered(int((of >= 0).sum()), names[of == 0].tolist())
                for region, of in zip(self._spec.regions, by_region, strict=True)
            }
            for scale, by_region in zip(SCALES, power, strict=True)
        }

    def result(self) -> Evaluation:
        """Returns the numbers of all that was added."""
        spec, half = self._spec, len(self._names) // 2
        maps = PerMap(self._names, self._columns, np.concatenate(self._values))
        sums, calibrated = self._sums
        table: Table = {row: {scale: {} for scale in SCALES} for row in spec.rows}
        for where, (row, scale, region) in spec.places():
            table[row][scale][region] = metrics.result(
                metrics.Sums(*(value[where] for value in sums)),
                db_per_unit=SCALES[scale][1] * spec.db.span,
            )
        target = self._features.pop("")
        return Evaluation(
            table=table,
            maps=maps,
            powered=self._powered(),
            perceptual={row: maps.mean(f"{row}/lpips") for row in spec.rows}
            if spec.perceptual
            else {},
            frechet={
                row: metrics.frechet(
                    target.mean, target.covariance, one.mean, one.covariance
                )
                for row, one in self._features.items()
            },
            feature_count=len(target.mean),
            latent=self._latent if self._latent.count else None,
            latent_shape=self._latent_shape,
            calibrated=calibrated,
            kl=maps.mean("kl") if "kl" in maps.columns else float("nan"),
            best=self._best[: len(self._names) - half],
            worst=self._worst[::-1][:half],
        )
