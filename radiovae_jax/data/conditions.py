"""Conditions of the second stage: what is known of a place, as planes of its size.

buildings     0 or 1
transmitter   its pixel
distance      from the transmitter, in units of 100 m
log_distance  log10 of 1 + the metres from the transmitter
cars          0 or 1
measurements  two planes: f where it was measured, and where that was
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from radiovae_jax.data import batch, splits
from radiovae_jax.types import Array, Image, PRNGKey

Plane = Float[Array, "b h w 1"]
# Name -> (planes, the field of the raw batch that it is made of).
KINDS = {
    "buildings": (1, "buildings"),
    "transmitter": (1, "antenna"),
    "distance": (1, "antenna"),
    "log_distance": (1, "antenna"),
    "cars": (1, "cars"),
    "measurements": (2, ""),
}
FRAMES = ("image", "seer", "metres")


class Measurements(NamedTuple):
    """Path gain known at some pixels: 0 where `known` is 0."""

    f: Plane
    known: Plane


def channels(names: Sequence[str]) -> int:
    """Returns how many planes these are."""
    return sum(KINDS[name][0] for name in names)


def fields(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the fields of the raw batch that they need."""
    for name in names:
        splits.check_choice("condition.planes", name, tuple(KINDS))
    return tuple(dict.fromkeys(filter(None, (KINDS[name][1] for name in names))))


def planes(
    raw: Mapping[str, Shaped[Array, "b ..."]],
    names: Sequence[str],
    *,
    size: int,
    pixel_metres: float,
    measurements: Measurements | None = None,
) -> Float[Array, "b _ _ k"]:
    """Returns the planes of a raw batch, in the order of the names.

    Args:
      raw: with uint8 "buildings", "antenna", "cars" [b, h, w, 1] as `fields` says.
      names: of KINDS.
      size: side to resize to; 0 keeps the stored one.
      pixel_metres: side of a stored pixel.
      measurements: at that size; where they are asked for and None, there are none.
    """

    def made(name: str) -> list[Plane]:
        if name == "measurements":
            return list(measurements or no_measurements(raw, size))
        gray = raw[KINDS[name][1]]
        if name == "transmitter":
            return [batch.transmitter_mask(gray, size)]
        if name in ("buildings", "cars"):
            return [batch.binary_mask(gray, size)]
        metres = distance(gray, size, pixel_metres=pixel_metres)
        return [metres / 100 if name == "distance" else jnp.log10(1 + metres)]

    return jnp.concatenate([plane for name in names for plane in made(name)], axis=-1)


def distance(
    antenna: Shaped[Array, "b h w 1"], size: int, *, pixel_metres: float
) -> Float[Array, "b _ _ 1"]:
    """Returns the metres of every pixel from the brightest one.

    Args:
      antenna: the transmitter's pixel, as stored.
      size: side of the result; 0 is the stored one.
      pixel_metres: side of a stored pixel.
    """
    b, height, width, _ = antenna.shape
    rows, columns = batch.resized(height, width, size)
    at = jnp.argmax(antenna.reshape(b, -1), axis=1)

    def offsets(count: int, stored: int, place: Int[Array, "b"]) -> Float[Array, "b n"]:
        # Centres of the resized pixels, in stored ones.
        centres = (jnp.arange(count, dtype=jnp.float32) + 0.5) * (stored / count) - 0.5
        return centres[None] - place[:, None]

    down = offsets(rows, height, at // width)[:, :, None]
    across = offsets(columns, width, at % width)[:, None]
    return pixel_metres * jnp.hypot(down, across)[..., None]


def without_some(
    key: PRNGKey, mask: Shaped[Array, "b h w 1"], share: float
) -> Shaped[Array, "b h w 1"]:
    """Returns a mask of buildings without some of them, as an old map has it.

    Args:
      mask: above 0 inside; pixels that share a side are of one building.
      share: probability of each building to be missing.
    """
    b, height, width, _ = mask.shape
    inside = mask[..., 0] > 0
    numbers = 1 + jnp.arange(height * width).reshape(1, height, width)

    def spread(labels):
        # The largest number of a building reaches all its pixels.
        rows = jnp.pad(labels, ((0, 0), (1, 1), (0, 0)))
        columns = jnp.pad(labels, ((0, 0), (0, 0), (1, 1)))
        sides = rows[:, 2:], rows[:, :-2], columns[..., 2:], columns[..., :-2]
        return jnp.where(inside, functools.reduce(jnp.maximum, sides, labels), 0)

    def go_on(state):
        labels, before = state
        return (labels != before).any()

    first = jnp.where(inside, numbers, 0)
    labels, _ = jax.lax.while_loop(
        go_on, lambda state: (spread(state[0]), state[0]), (first, -first - 1)
    )
    drawn = jax.random.uniform(key, (b, height * width + 1))
    missing = jnp.take_along_axis(drawn, labels.reshape(b, -1), axis=1) < share
    return jnp.where(missing.reshape(mask.shape), 0, mask)


def no_measurements(raw: Mapping[str, Array], size: int) -> Measurements:
    """Returns the measurements of someone who took none."""
    b, height, width, _ = next(iter(raw.values())).shape
    nothing = jnp.zeros((b, *batch.resized(height, width, size), 1))
    return Measurements(nothing, nothing)


def measure(
    key: PRNGKey, f: Image, allowed: Plane, *, count: Int[Array, "b"], most: int
) -> Measurements:
    """Returns f at random pixels of each map.

    Args:
      f: the maps, of one channel.
      allowed: above 0 where one may measure: streets.
      count: of each map; fewer where fewer pixels are allowed.
      most: bound of the counts, fixed when this is compiled.
    """
    b, height, width, _ = f.shape
    rank = jax.random.uniform(key, (b, height * width))
    rank = jnp.where(allowed.reshape(b, -1) > 0, rank, -1.0)
    values, places = jax.lax.top_k(rank, min(most, height * width))
    taken = (values >= 0) & (jnp.arange(values.shape[1])[None] < count[:, None])
    known = jnp.zeros((b, height * width)).at[jnp.arange(b)[:, None], places]
    known = known.set(taken.astype(jnp.float32)).reshape(f.shape)
    return Measurements(f * known, known)


def draw_counts(key: PRNGKey, maps: int, *, most: int, none: float) -> Int[Array, "b"]:
    """Returns how many measurements each map has: 1 to `most`, or 0.

    Args:
      none: probability of 0.
    """
    which, number = jax.random.split(key)
    count = jax.random.randint(number, (maps,), 1, most + 1)
    return jnp.where(jax.random.uniform(which, (maps,)) < none, 0, count)


def to_pixels(
    points: Any,  # [n, 2], of users
    frame: str,
    *,
    height: int,
    pixel_metres: float,
) -> Float[np.ndarray, "n 2"]:
    """Returns (x, y) of points as column and row from the top.

    Args:
      frame: of FRAMES: "image" is that already; "seer", of RadioMapSeer's JSON files,
        counts y from the bottom; "metres" too, from the map's lower left corner.
    """
    splits.check_choice("frame", frame, FRAMES)
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T
    if frame == "metres":
        x, y = np.floor(x / pixel_metres), np.floor(y / pixel_metres)
    return np.stack([x, y if frame == "image" else height - 1 - y], axis=1)


def resized(measured: Measurements, size: int) -> Measurements:
    """Returns measurements at another size: means, where several share a pixel."""
    f, known = (batch.resize(jnp.asarray(plane), size) for plane in measured)
    seen = jnp.float32(known > 0)
    return Measurements(seen * f / jnp.maximum(known, 1e-6), seen)


def at_points(
    points: Float[np.ndarray, "n 2"],
    f: Float[np.ndarray, "n"],
    shape: tuple[int, int],
) -> Measurements:
    """Returns the planes of measurements at points of one map.

    Args:
      points: (x, y) each: column, and row from the top.
      f: measured there; of several in one pixel the mean counts.
      shape: (h, w) of the map.

    Raises:
      ValueError: a point that is not on the map, or f outside [0, 1].
    """
    points, f = np.asarray(points), np.asarray(f, np.float64)
    sides = np.array(shape[::-1])
    outside = ~((points >= 0) & (points < sides)).all(axis=1)
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {len(points)} points lie outside the map of "
            f"{shape[1]}x{shape[0]} pixels, the first at {tuple(points[outside][0])}; "
            "x counts columns from the left, y rows from the top"
        )
    if (wrong := ~((f >= 0) & (f <= 1))).any():
        raise ValueError(
            f"{wrong.sum()} of {len(f)} values lie outside the range of the maps, the "
            f"first, f = {f[wrong][0]:.4g}, at {tuple(points[wrong][0])}; give dB of "
            "the range that the model was trained on"
        )
    columns, rows = points.astype(int).T
    total, number = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (rows, columns), f)
    np.add.at(number, (rows, columns), 1)
    mean = total / np.maximum(number, 1)
    known = number > 0
    return Measurements(*(np.float32(a)[None, ..., None] for a in (mean, known)))
