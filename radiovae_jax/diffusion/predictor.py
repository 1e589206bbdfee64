"""Predictor: from buildings and transmitters to radio maps, with a trained run.

`radiovae_jax.load_predictor(workdir)` gives one.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from radiovae_jax.data import batch, conditions, radiomap
from radiovae_jax.data.conditions import Measurements
from radiovae_jax.diffusion import sampler
from radiovae_jax.diffusion.state import Built
from radiovae_jax.types import Array, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A trained second stage with its first, frozen.

    Attributes:
      built: process, network, first stage.
      params: of the network.
      db: what f is in dB.
      step, description: which weights these are.
    """

    built: Built
    params: PyTree
    db: radiomap.DbRange
    step: int
    description: str

    def predict(
        self,
        buildings: Any,  # this and the next come from users: checked here
        tx: Any,
        key: PRNGKey | None = None,
        *,
        calls: int = 1,
        samples: int = 1,
        cars: Any = None,
        measurements: tuple[Any, Any] | None = None,
        unit: str = "db",
    ) -> Float[np.ndarray, "samples n h w"]:
        """Returns maps of path gain in dB, one for each sample and transmitter.

        Args:
          buildings: mask of the place, uint8 with 255 (or bool with True) inside.
          tx: (x, y) of a transmitter, or several: column and row from the top.
          key: of the noise; fixed if not given.
          calls: of the network for each sample; 1 is the mean where the process has it.
          samples: of each map; their mean and deviation are over the first axis.
          cars: mask, for a model that was trained with them.
          measurements: ((n, 2) points, (n,) dB or f in `unit`), for a model that was
            trained with them.
          unit: "db" or "f" in [0, 1].

        Raises:
          ValueError: a transmitter in a building or off the map, sizes that the
            networks do not divide, something the model does not know.
        """
        if calls < 1 or samples < 1:
            raise ValueError(
                f"calls={calls}, samples={samples}: give 1 or more of both"
            )
        self.check_unit(unit)
        mask = to_mask(buildings, "buildings")
        places = check_transmitters(mask, tx)
        self.check_size(mask.shape)
        measured = self._measured(measurements, mask, unit)
        planes = self._planes(mask, places, cars, measured)
        key = jax.random.key(0) if key is None else key
        f = self.sample(planes, key, calls=calls, samples=samples)
        f = np.stack([np.asarray(batch.resize_back(one, *mask.shape)) for one in f])
        f = np.clip(f[..., 0], 0, 1)
        return radiomap.f_to_db(f, self.db) if unit == "db" else f

    def sample(
        self, planes: sampler.Planes, key: PRNGKey, *, calls: int, samples: int
    ) -> Float[Array, "samples n _ _ c"]:
        """Returns maps f for planes, at the network's size; compiled once a size."""
        weights = self.built.first.frozen, self.params
        return _predict(self, weights, planes, key, calls, samples)

    def check_size(self, shape: tuple[int, int]) -> None:
        """Raises a ValueError for maps that the networks cannot take."""
        sides = batch.resized(*shape, self.built.first.image_size)
        multiple = self.built.multiple
        if any(side % multiple for side in sides):
            raise ValueError(
                f"maps of {shape[0]}x{shape[1]} are no multiple of {multiple}, by "
                f"which {self.description} reduces them; crop or pad them"
            )

    def check_unit(self, unit: str) -> None:
        """Raises a ValueError for an unknown unit, or dB of a run that has none."""
        radiomap.check_unit(unit, self.db, self.description)

    def _measured(self, given, mask, unit: str) -> Measurements | None:
        if given is None:
            return None
        if "measurements" not in self.built.condition.planes:
            raise ValueError(
                f"{self.description} was trained without measurements "
                "(condition.planes); train with them"
            )
        points, values = (np.asarray(part, np.float64) for part in given)
        if not len(points):
            return None
        f = radiomap.db_to_f(values, self.db) if unit == "db" else values
        return conditions.at_points(points.reshape(-1, 2), f, mask.shape)

    def _planes(self, mask, places, cars, measured: Measurements | None):
        """Returns the condition of every transmitter, each a map of its own."""
        names, count = self.built.condition.planes, len(places)
        antenna = np.zeros((count, *mask.shape, 1), np.uint8)
        antenna[np.arange(count), places[:, 1], places[:, 0]] = 255
        raw = {"antenna": antenna, "buildings": np.stack([mask[..., None]] * count)}
        if "cars" in names:
            if cars is None:
                raise ValueError(f"{self.description} was trained with cars: give them")
            raw["cars"] = np.stack([to_mask(cars, "cars")[..., None]] * count)
        if measured is not None:
            measured = Measurements(*(np.repeat(p, count, axis=0) for p in measured))
            measured = conditions.resized(measured, self.built.first.image_size)
        return conditions.planes(
            raw,
            names,
            size=self.built.first.image_size,
            pixel_metres=self.built.condition.pixel_metres,
            measurements=measured,
        )


# One program for all calls of a predictor at a size.
@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _predict(predictor, weights, planes, key, calls: int, samples: int):
    with jax.default_matmul_precision("highest"):
        index = jnp.arange(len(planes))
        return sampler.predict_maps(
            predictor.built,
            *weights,
            planes,
            key,
            index,
            calls=calls,
            samples=samples,
        )


def to_mask(given: Any, what: str) -> np.ndarray:
    """Returns a mask [h, w] as uint8 of 0 and 255.

    Raises:
      ValueError: another shape, or grays between that are neither.
    """
    mask = np.asarray(given)
    if mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.ndim != 2:
        raise ValueError(f"{what} have shape {mask.shape}, expected [h, w]")
    values = np.unique(mask)
    if not set(values.tolist()) <= {0, 1, 255} or {1, 255} <= set(values.tolist()):
        raise ValueError(
            f"{what} hold {len(values)} different values ({values[:4].tolist()} ...), "
            "expected a mask: 255 inside and 0 outside, or True and False"
        )
    return np.where(mask > 0, 255, 0).astype(np.uint8)


def check_transmitters(mask: np.ndarray, tx: Any) -> np.ndarray:
    """Returns (x, y) of the pixels of transmitters, [n, 2].

    Raises:
      ValueError: none, off the map, or inside a building.
    """
    places = np.asarray(tx, np.float64)
    if places.size == 0 or places.shape[-1:] != (2,) or places.ndim > 2:
        raise ValueError(f"tx has shape {places.shape}, expected (x, y) or several")
    places = places.reshape(-1, 2)
    height, width = mask.shape
    inside = ((places >= 0) & (places < (width, height))).all(axis=1)
    if not inside.all():
        x, y = places[~inside][0]
        raise ValueError(
            f"transmitter at ({x:g}, {y:g}) is off the map of {width}x{height}; x "
            "counts columns from the left, y rows from the top"
        )
    pixels = np.floor(places).astype(int)
    within = mask[pixels[:, 1], pixels[:, 0]] > 0
    if within.any():
        x, y = pixels[within][0]
        share = (mask > 0).mean()
        inverted = "; is the mask inverted? 255 is a building" if share > 0.5 else ""
        raise ValueError(
            f"transmitter at ({x}, {y}) is inside a building, and they cover "
            f"{share:.0%} of the map{inverted}"
        )
    return pixels
