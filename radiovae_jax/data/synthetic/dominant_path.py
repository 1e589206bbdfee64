"""Path gain of the dominant path over a city block, on the pixel grid.

The dominant path is the strongest of the paths that go straight through the streets
and turn at corners of buildings. Its gain falls with the logarithm of its length and
with every turn. A straight path through the buildings, much weaker, lights closed
courts a little.

Lengths are pixels of 1 m, points are (row, column), and directions are numbered:
direction k of n points at the angle 2 pi k / n from the columns' axis to the rows'.

Source: the idea is Wahl et al. 2005, "Dominant path prediction model for urban
scenarios" (WinProp), RadioMapSeer's DPM. The distance law is a fit to the line of
sight of RadioMapSeer's DPM maps (410_49, 483_23, 489_8, 245_64: -46.8 dB and 25.3 dB
a decade). The losses of turns and walls are ours, chosen so that the quartiles of gray
over the street, 64, 88 and 115 on 24 synthetic maps, come near the 63, 86 and 121 of
32 real ones.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from radiovae_jax.data import radiomap

GAIN_AT_1M_DB = -46.8
DB_PER_DECADE = 25.3
# A turn by the angle a costs TURN_DB + TURN_DB_PER_RADIAN a: the edge of a shadow is
# a step, and the shadow deepens away from it.
TURN_DB = 3.0
TURN_DB_PER_RADIAN = 9.0
# Straight on through a building, by the metre, so that no single pixel of a slanted
# wall decides.
BUILDING_DB_PER_METRE = 4.0
# The same of a parked car, on the last leg of a path, up to its turn or its end. That a
# car might change where a path turns is left out.
CAR_DB_PER_METRE = 2.0

DIRECTIONS = 1024
ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
# Rays are rounded to a direction and a pixel; without some slack, pixels that touch
# a wall would flicker between light and shadow.
SLACK = 0.75


class Sight(NamedTuple):
    """How far one sees from each of n points, and through how much of cars."""

    points: Int[np.ndarray, "n 2"]
    reach: Float32[np.ndarray, "n directions"]  # pixels to the wall, or out of the map
    cars: UInt8[np.ndarray, "n directions radii"] | None  # metres; None: no car


class Arrival(NamedTuple):
    """The best path from the transmitter to each corner so far."""

    length: Float32[np.ndarray, "n"]
    turns_db: Float32[np.ndarray, "n"]
    direction: Int[np.ndarray, "n"]
    loss_db: Float32[np.ndarray, "n"]  # inf where no path is known


def gain_gray(
    buildings: Bool[np.ndarray, "h w"],
    sight: Sight,
    transmitter: Int[np.ndarray, "2"],
    *,
    max_turns: int,
    through_buildings: bool,
    cars: Bool[np.ndarray, "h w"] | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """Returns the gain map of one transmitter, 0 under buildings and cars.

    Args:
      buildings: True under a building.
      sight: of the corners at which a path may turn.
      transmitter: row and column of a street pixel; becomes 255, f at 1 m.
      max_turns: of a path.
      through_buildings: whether a straight path may cross buildings; every street
        pixel is then at least 1.
      cars: True under a car; the corners' sight must have them too.
    """
    offsets = _Offsets(*buildings.shape)
    own = sight_from(transmitter[None], buildings, cars)
    still = np.zeros(DIRECTIONS, np.float32)
    gain_db = np.full(buildings.shape, -np.inf, np.float32)
    _shine(gain_db, own, 0, offsets, length=0.0, loss_db=still)
    for arrival, corners in _arrivals(own, sight, max_turns):
        for corner in corners:
            turns = _turn_db(np.arange(DIRECTIONS) - arrival.direction[corner])
            onward, length = arrival.turns_db[corner] + turns, arrival.length[corner]
            _shine(gain_db, sight, corner, offsets, length=length, loss_db=onward)
    if through_buildings:
        distance, direction = offsets.around(transmitter)
        (inside,) = _metres_inside(buildings, transmitter[None])
        place = direction, np.rint(distance).astype(np.int32)
        straight = _law_db(distance) - np.float32(BUILDING_DB_PER_METRE) * inside[place]
        if own.cars is not None:
            straight -= np.float32(CAR_DB_PER_METRE) * own.cars[0][place]
        np.maximum(gain_db, straight, out=gain_db)
    gray = np.rint(255 * radiomap.db_to_f(gain_db)).clip(int(through_buildings), 255)
    covered = buildings if cars is None else buildings | cars
    return np.where(covered, 0, gray).astype(np.uint8)


class _Offsets:
    """Distance and direction of every pixel from any pixel, looked up, not computed."""

    def __init__(self, height: int, width: int):
        self._height, self._width = height, width
        rows = np.arange(1 - height, height, dtype=np.float32)[:, None]
        columns = np.arange(1 - width, width, dtype=np.float32)[None]
        self._distance = np.hypot(rows, columns)
        self._direction = _direction(rows, columns)

    def around(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        top, left = self._height - 1 - point[0], self._width - 1 - point[1]
        window = np.s_[top : top + self._height, left : left + self._width]
        return self._distance[window], self._direction[window]


def _direction(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    turns = np.arctan2(rows, columns) / (2 * np.pi)
    return np.rint(turns * DIRECTIONS).astype(np.int16) % DIRECTIONS


def _turn_db(directions: np.ndarray) -> np.ndarray:
    """Returns the loss of a turn by a number of directions, of either sign."""
    around = np.abs((directions + DIRECTIONS // 2) % DIRECTIONS - DIRECTIONS // 2)
    radians = around.astype(np.float32) * np.float32(2 * np.pi / DIRECTIONS)
    return np.float32(TURN_DB) + np.float32(TURN_DB_PER_RADIAN) * radians


def _law_db(length: np.ndarray) -> np.ndarray:
    decades = np.log10(np.maximum(length, np.float32(1)))
    return np.float32(GAIN_AT_1M_DB) - np.float32(DB_PER_DECADE) * decades


def _shine(
    gain_db: np.ndarray,
    sight: Sight,
    at: int | np.integer,
    offsets: _Offsets,
    *,
    length: float | np.floating,
    loss_db: np.ndarray,
) -> None:
    """Raises gain_db where the path over a point is the strongest yet.

    Args:
      gain_db: of every pixel so far; changed in place.
      at: which point of `sight`: the transmitter, or a corner.
      length: of the path up to the point.
      loss_db: of all turns when going on in each direction.
    """
    distance, direction = offsets.around(sight.points[at])
    here = _law_db(distance + np.float32(length)) - loss_db[direction]
    if sight.cars is not None:
        under = sight.cars[at][direction, np.rint(distance).astype(np.int32)]
        here -= np.float32(CAR_DB_PER_METRE) * under
    in_sight = distance <= sight.reach[at][direction] + np.float32(SLACK)
    np.maximum(gain_db, here, out=gain_db, where=in_sight)


def _arrivals(
    own: Sight, sight: Sight, max_turns: int
) -> Iterator[tuple[Arrival, np.ndarray]]:
    """Yields, for one turn more each time, the best paths and the corners they reach.

    Only corners whose path is new are named. Each keeps its strongest path, though a
    weaker one might have led on with less of a turn: it is a relaxation, not a search.
    """
    if max_turns == 0:
        return
    length, direction, visible = _between(own, sight.points)
    best = Arrival(
        length=length[0],
        turns_db=np.zeros(len(sight.points), np.float32),
        direction=direction[0],
        loss_db=np.where(visible[0], -_law_db(length[0]), np.float32(np.inf)),
    )
    yield best, np.flatnonzero(visible[0])
    length, direction, visible = _between(sight, sight.points)
    columns = np.arange(len(sight.points))
    for _ in range(max_turns - 1):
        turns_db = best.turns_db[:, None] + _turn_db(
            direction - best.direction[:, None]
        )
        total = best.length[:, None] + length
        loss_db = turns_db - _law_db(total)
        loss_db[~visible | np.isinf(best.loss_db)[:, None]] = np.inf
        via = loss_db.argmin(axis=0) if len(columns) else columns
        better = loss_db[via, columns] < best.loss_db
        if not better.any():
            return
        onward = Arrival(
            *(table[via, columns] for table in (total, turns_db, direction, loss_db))
        )
        best = Arrival(
            *(np.where(better, *pair) for pair in zip(onward, best, strict=True))
        )
        yield best, np.flatnonzero(better)


def _between(sight: Sight, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns length, direction and visibility from sight's points to others."""
    rows, columns = np.moveaxis(points[None] - sight.points[:, None], -1, 0)
    length = np.hypot(rows, columns).astype(np.float32)
    direction = _direction(rows, columns).astype(np.int64)
    reach = np.take_along_axis(sight.reach, direction, axis=1)
    return length, direction, length <= reach + SLACK


def _clearance(wall: np.ndarray) -> np.ndarray:
    """Returns how many pixels a ray may go on before it can meet a wall."""
    grown = np.pad(wall, 1)
    clearance = np.zeros(wall.shape, np.float32)
    for _ in range(24):  # longer steps would hardly save any
        across = grown[:, 1:-1] | grown[:, :-2] | grown[:, 2:]
        grown = np.pad(across[:-2] | across[1:-1] | across[2:], 1)
        clearance += ~grown[1:-1, 1:-1]
    return np.maximum(clearance, 0.5)


def sight_from(
    points: Int[np.ndarray, "n 2"],
    buildings: Bool[np.ndarray, "h w"],
    cars: Bool[np.ndarray, "h w"] | None = None,
) -> Sight:
    """Returns how long the rays from the points in all directions are."""
    # The rim around the map stops rays as a wall does.
    wall = np.pad(buildings, 1, constant_values=True)
    step, angles = _clearance(wall), ANGLES.astype(np.float32)
    # Half a pixel for rounding, one for the rim.
    row0 = np.repeat(points[:, 0].astype(np.float32) + 1.5, DIRECTIONS)
    column0 = np.repeat(points[:, 1].astype(np.float32) + 1.5, DIRECTIONS)
    sine = np.tile(np.sin(angles), len(points))
    cosine = np.tile(np.cos(angles), len(points))
    reach = np.zeros(row0.shape, np.float32)
    alive = np.arange(len(reach))
    gone = np.zeros(len(reach), np.float32)
    while len(alive):
        row = (row0 + gone * sine).astype(np.int32)
        column = (column0 + gone * cosine).astype(np.int32)
        hit = wall[row, column]
        reach[alive[hit]] = gone[hit]
        gone = gone + step[row, column]
        rays = (alive, gone, row0, column0, sine, cosine)
        alive, gone, row0, column0, sine, cosine = (ray[~hit] for ray in rays)
    under = None if cars is None else _metres_inside(cars, points)
    return Sight(points, reach.reshape(len(points), DIRECTIONS), under)


def _metres_inside(
    mask: np.ndarray, points: np.ndarray
) -> UInt8[np.ndarray, "n directions radii"]:
    """Returns how much of the ray from each point, up to a radius, lies in a mask.

    At most 255: 1,020 dB of a wall.
    """
    height, width = mask.shape
    radii = np.arange(int(np.hypot(height, width)) + 2, dtype=np.float32)
    angles = ANGLES.astype(np.float32)[:, None]
    down, across = radii * np.sin(angles) + 0.5, radii * np.cos(angles) + 0.5
    inside = np.empty((len(points), *down.shape), np.uint8)
    for at, (row, column) in enumerate(points):
        rows, columns = (
            (row + down).astype(np.int32),
            (column + across).astype(np.int32),
        )
        on_ray = mask[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        inside[at] = np.cumsum(on_ray, axis=1, dtype=np.int16).clip(max=255)
    return inside
