"""Streets and buildings of a procedural city map.

Two families of parallel streets of varying width, turned by some angle, leave blocks
between them, and a block holds rows of houses, slabs, an L shape, a court, or nothing.
Lengths are pixels of 1 m.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

PLACE, CAR_LENGTH, CAR_WIDTH = 6.0, 4.5, 1.8  # along the kerb, for each car


class Rectangle(NamedTuple):
    """A building, or a part of one, in the frame of the streets."""

    left: float
    top: float
    right: float
    bottom: float


class City(NamedTuple):
    """One map and where transmitters may stand in it."""

    buildings: Bool[np.ndarray, "h w"]
    roads: Bool[np.ndarray, "h w"]
    corners: Int[np.ndarray, "n 2"]
    sites: Int[np.ndarray, "m 2"]  # street pixels in random order
    streets: list[list[tuple[float, float]]]  # (middle, width) of both families
    turn: float  # of the streets, in radians


def draw_city(size: int, generator: np.random.Generator) -> City:
    """Returns a random map.

    Small maps get smaller blocks, though less than in proportion: they would else
    show one street at most.
    """
    scale = np.sqrt(size / 256)
    turn = generator.choice([0.0, generator.uniform(-np.pi / 4, np.pi / 4)])
    cosine, sine = np.cos(turn), np.sin(turn)
    streets = [_streets(size, scale, generator) for _ in range(2)]
    rectangles = [
        building
        for top, bottom in _gaps(streets[1])
        for left, right in _gaps(streets[0])
        for building in _block(Rectangle(left, top, right, bottom), scale, generator)
    ]
    # Pixel centres in the frame of the streets, whose origin is the map's centre.
    u, v = _frame(size, turn)
    buildings = np.zeros((size, size), bool)
    for left, top, right, bottom in rectangles:
        buildings |= (u >= left) & (u < right) & (v >= top) & (v < bottom)
    roads = _roads(u, streets[0]) | _roads(v, streets[1])
    corners = _corners(rectangles, cosine, sine, buildings)
    sites = generator.permutation(_sites(buildings), axis=0)
    return City(buildings, roads & ~buildings, corners, sites, streets, turn)


def draw_cars(
    city: City, taken: Int[np.ndarray, "m 2"], generator: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
    """Returns where cars are parked: along both sides of the roads, in places of 6 m.

    Args:
      taken: pixels that no car stands on: those of the transmitters.
    """
    size = len(city.buildings)
    frame, cars = _frame(size, city.turn), np.zeros((size, size), bool)
    for family in (0, 1):
        across, along = frame[family], frame[1 - family]
        free = ~city.buildings & ~_roads(along, city.streets[1 - family])
        free[tuple(taken.T)] = False
        for middle, width in city.streets[family]:
            for side in (-1, 1):
                first, share = generator.uniform(0, PLACE), generator.uniform(0.2, 0.9)
                place = np.int64((along + first + size) // PLACE)
                parked = generator.random(place.max() + 1) < share
                shift = generator.uniform(-0.4, 0.4, len(parked))[place]
                middle_of = (along + first + size) % PLACE - PLACE / 2 - shift
                at_kerb = across - middle - side * (0.3 * width - CAR_WIDTH / 2)
                here = np.abs(at_kerb) < CAR_WIDTH / 2
                here &= np.abs(middle_of) < CAR_LENGTH / 2
                parked[place[here & ~free]] = False
                cars |= here & parked[place]
    return cars


def _frame(size: int, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns u and v of the pixels' centres: across each family of the streets."""
    cosine, sine = np.cos(turn), np.sin(turn)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return cosine * columns + sine * rows, cosine * rows - sine * columns


def _roads(across: np.ndarray, streets: list[tuple[float, float]]) -> np.ndarray:
    """Returns where the roads of one family of streets are."""
    roads = np.zeros(across.shape, bool)
    for middle, width in streets:
        roads |= np.abs(across - middle) < 0.3 * width
    return roads


def _streets(
    size: int, scale: float, generator: np.random.Generator
) -> list[tuple[float, float]]:
    """Returns (middle, width) of parallel streets, one of them near the centre."""
    reach = 0.75 * size  # half the diagonal, and some
    middle, width = generator.uniform(-size / 8, size / 8), generator.uniform(10, 26)
    streets = [(middle, width * scale)]
    for side in (1, -1):
        at, wide = streets[0]
        while abs(at) < reach:
            block, width = generator.uniform(34, 90), generator.uniform(8, 22)
            at += side * (wide / 2 + (block + width / 2) * scale)
            wide = width * scale
            streets.append((at, wide))
    return sorted(streets)


def _gaps(streets: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns where the blocks between the streets start and end."""
    return [
        (middle + width / 2, after - wide / 2)
        for (middle, width), (after, wide) in itertools.pairwise(streets)
    ]


def _block(
    block: Rectangle, scale: float, generator: np.random.Generator
) -> list[Rectangle]:
    """Returns the buildings of one block."""
    left, top, right, bottom = block
    kinds = {"rows": 0.54, "slabs": 0.16, "court": 0.1, "ell": 0.12, "park": 0.08}
    kind = generator.choice(list(kinds), p=list(kinds.values()))
    # At most 0.4 of the block: two of them leave a yard between.
    deep = min(generator.uniform(12, 21) * scale, 0.4 * min(right - left, bottom - top))
    if kind == "rows":
        upper = _row(block._replace(bottom=top + deep), scale, generator)
        return upper + _row(block._replace(top=bottom - deep), scale, generator)
    if kind == "slabs":
        between = (bottom - top) / generator.integers(2, 4)
        thick = deep * 2 / 3
        starts = np.arange(top, bottom - thick, between)
        return [Rectangle(left, at, right, at + thick) for at in starts]
    ell = [
        Rectangle(left, top, right, top + deep),
        Rectangle(left, top, left + deep, bottom),
    ]
    if kind == "ell":
        return ell
    if kind == "court":
        gate = generator.uniform(left + deep, right - deep)
        half = generator.choice([0.0, 2.5, 2.5]) * scale  # a third are closed
        return [
            *ell,
            Rectangle(right - deep, top, right, bottom),
            Rectangle(left, bottom - deep, gate - half, bottom),
            Rectangle(gate + half, bottom - deep, right, bottom),
        ]
    return []


def _row(
    row: Rectangle, scale: float, generator: np.random.Generator
) -> list[Rectangle]:
    """Returns houses side by side, not quite aligned, with gaps between them."""
    houses, left = [], row.left
    while left + 8 * scale < row.right:
        end = min(left + generator.uniform(10, 26) * scale, row.right)
        back, front = generator.uniform(0, 2.5 * scale, 2)
        houses.append(Rectangle(left, row.top + back, end, row.bottom - front))
        left = end + generator.uniform(3, 7) * scale
    return houses


def _corners(
    rectangles: list[Rectangle], cosine: float, sine: float, buildings: np.ndarray
) -> np.ndarray:
    """Returns the street pixels just off the rectangles' corners."""
    size = len(buildings)
    off = 1.2  # pixels: clear of the wall along both sides, even if it is slanted
    boxes = np.array(rectangles).reshape(-1, 4) + np.array([-off, -off, off, off])
    u = boxes[:, [0, 0, 2, 2]].ravel()
    v = boxes[:, [1, 3, 1, 3]].ravel()
    points = np.stack([sine * u + cosine * v, cosine * u - sine * v], axis=-1)
    points = np.rint(points + (size - 1) / 2).astype(np.int64)
    points = points[((points >= 0) & (points < size)).all(axis=1)]
    points = points[~buildings[points[:, 0], points[:, 1]]]
    return np.unique(points, axis=0)


def _sites(buildings: np.ndarray) -> np.ndarray:
    """Returns the street pixels, off the walls and the rim, for transmitters."""
    size = len(buildings)
    free = ~buildings
    for axis in (0, 1):
        free = free & np.roll(free, 1, axis) & np.roll(free, -1, axis)
    rim = size // 8
    free[:rim] = free[size - rim :] = free[:, :rim] = free[:, size - rim :] = False
    return np.argwhere(free)
