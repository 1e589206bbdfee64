"""Goes over a set of maps once and measures every row of a table on it.

A row is one way to code a map and decode it again; all rows see the same maps. Sums
are taken on the devices, batch by batch, and added up on the host in float64. What is
kept of a map is its name and at most 94 numbers in float32: to the memory of one batch
comes less than half a kB a map.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from radiovae_jax import metrics, moments, sharding
from radiovae_jax.data import pipeline, sources
from radiovae_jax.evaluation import comparison
from radiovae_jax.evaluation.comparison import SCALES, Code, Compared, Judge
from radiovae_jax.moments import Moments
from radiovae_jax.progress import Bar
from radiovae_jax.vae import latents

Numbers = dict[str, float]
Table = dict[str, dict[str, dict[str, Numbers]]]  # row -> scale -> region -> numbers
PRIOR = "prior_samples"  # maps that are decoded from N(0, 1): no row, no errors


class Lines(NamedTuple):
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
    """One map of a picture."""

    nmse: float
    name: str
    target: np.ndarray
    recon: np.ndarray
    buildings: np.ndarray


class Measured(NamedTuple):
    """What is known of a set after it was gone over."""

    table: Table
    maps: Lines
    powered: dict[str, dict[str, Powered]]  # scale -> region: which have an NMSE
    perceptual: Numbers  # row -> LPIPS, mean over maps
    frechet: Numbers  # row (or PRIOR) -> distance of its features to the maps'
    feature_count: int
    latent: Moments | None
    latent_shape: tuple[int, ...]
    kl: float  # nats per image, mean over maps
    best: list[Shown]
    worst: list[Shown]


def measure(
    code: Code,
    weights: PyTree,
    source: sources.Source,
    judge: Judge,
    *,
    batch_size: int,
    lpips_weights: PyTree = (),
    show: int = 3,
) -> Measured:
    """Goes over every map of the source.

    Args:
      code: what is measured.
      weights: its weights.
      batch_size: maps at a time over all devices; rounded to a multiple of them.
      lpips_weights: where the judge wants LPIPS or features of VGG16.
      show: how many of the best and of the worst maps to return.
    """
    mesh = sharding.make_mesh(jax.device_count())
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)
    compiled = jax.jit(
        functools.partial(comparison.compare, code, judge),
        in_shardings=(whole, whole, split),
    )
    weights = jax.device_put((weights, lpips_weights), whole)
    batch_size = sharding.nearest(batch_size, mesh.size)
    seen, numbered = Seen(judge, show), latents.Numbered(source, 0, len(source))
    for raw in Bar(
        pipeline.eval_batches(numbered, batch_size=batch_size),
        total=-(-len(source) // batch_size),
        unit="batch",
    ):
        # The same numbers on every kind of device: no TF32, no bfloat16 passes.
        with jax.default_matmul_precision("highest"):
            made = compiled(*weights, sharding.to_devices(raw, mesh))
        seen.add(jax.device_get(made), raw["name"], raw["mask"] > 0)
    return seen.result()


class Seen:
    """Adds up batches on the host."""

    def __init__(self, judge: Judge, show: int):
        self._judge, self._show, self._sums = judge, show, None
        self._names: list[str] = []
        self._power: list[Float[np.ndarray, "_ _ _"]] = []  # of each batch
        self._columns: tuple[str, ...] = ()
        self._values: list[Float[np.ndarray, "_ k"]] = []  # of each batch
        self._features: dict[str, Moments] = {}
        self._latent: Moments | None = None
        self._latent_shape: tuple[int, ...] = ()
        self._best: list[Shown] = []
        self._worst: list[Shown] = []

    def add(self, made: Compared, names: np.ndarray, real: np.ndarray) -> None:
        """Adds one batch, on the host.

        Args:
          real: False for what only fills up the batch.
        """
        rows = self._judge.rows
        sums = jax.tree.map(np.float64, made.sums)
        old = self._sums
        self._sums = sums if old is None else jax.tree.map(np.add, old, sums)
        columns = {} if made.kl is None else {"kl": made.kl}
        if made.lpips is not None:
            pairs = zip(rows, made.lpips, strict=True)
            columns |= {f"{row}/lpips": values for row, values in pairs}
        for where, (row, scale, region) in self._places():
            columns |= {
                f"{row}/{scale}/{region}/{name}": made.each[name][where]
                for name in self._judge.columns
            }
        self._power.append(made.power[..., real])
        self._names += [str(name) for name in names[real]]
        self._columns = tuple(columns)
        values = np.stack([values[real] for values in columns.values()], axis=1)
        self._values.append(values.astype(np.float32))
        for i in np.flatnonzero(real):
            nmse = float(columns[f"{rows[0]}/raw/all/nmse"][i])
            images = (array[i] for array in made.shown)
            self._rank(Shown(nmse, str(names[i]), *images))
        features_of = dict(zip(rows, made.features, strict=True))
        features_of[""] = made.target_features
        if made.prior_features is not None:
            features_of[PRIOR] = made.prior_features
        for row, features in features_of.items():
            one = moments.of(features[real], pairs=True)
            old = self._features.get(row)
            self._features[row] = one if old is None else moments.merge(old, one)
        if made.posterior is not None:
            one = latents.of_posterior(*(part[real] for part in made.posterior))
            old, self._latent_shape = self._latent, made.posterior.mean.shape[1:]
            self._latent = one if old is None else moments.merge(old, one)

    def _places(self) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
        """Yields (indices, names) of every row, scale and region."""
        names = self._judge.rows, tuple(SCALES), self._judge.regions
        return zip(np.ndindex(*map(len, names)), itertools.product(*names), strict=True)

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
                for region, of in zip(self._judge.regions, by_region, strict=True)
            }
            for scale, by_region in zip(SCALES, power, strict=True)
        }

    def result(self) -> Measured:
        """Returns the numbers of all that was added."""
        rows, half = self._judge.rows, len(self._names) // 2
        maps = Lines(self._names, self._columns, np.concatenate(self._values))
        table: Table = {row: {scale: {} for scale in SCALES} for row in rows}
        for where, (row, scale, region) in self._places():
            sums = metrics.Sums(*(value[where] for value in self._sums))
            db_per_unit = SCALES[scale][1] * self._judge.db.span
            numbers = metrics.result(sums, db_per_unit=db_per_unit)
            table[row][scale][region] = numbers
        target = self._features[""]
        return Measured(
            table=table,
            maps=maps,
            powered=self._powered(),
            perceptual={
                row: maps.mean(f"{row}/lpips")
                for row in rows
                if f"{row}/lpips" in maps.columns
            },
            frechet={
                row: metrics.frechet(
                    target.mean, target.covariance, one.mean, one.covariance
                )
                for row, one in self._features.items()
                if row
            },
            feature_count=len(target.mean),
            latent=self._latent,
            latent_shape=self._latent_shape,
            kl=maps.mean("kl") if "kl" in maps.columns else float("nan"),
            best=self._best[: len(self._names) - half],
            worst=self._worst[::-1][:half],
        )
