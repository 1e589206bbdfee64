"""A procedural city, written as RadioMapSeer is, so that one reader serves both.

It is for tests, demonstrations and the first hour with the code; numbers measured on
it say nothing about real cities.
"""

import errno
import glob
import json
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from radiovae_jax import files, inputs
from radiovae_jax.data import radiomap, radiomapseer, splits
from radiovae_jax.data.synthetic import city, dominant_path
from radiovae_jax.progress import Bar

RECORD, ANTENNAS = "synthetic.json", "png/antennas"
# Changed with every change of what is drawn, so that old cities are not mixed in.
VERSION = 1
MIN_SIZE = 16

# Turns of a path, and whether it may cross buildings: stand-ins for the simulations.
_PATHS = {"DPM": (6, True), "IRT2": (2, False), "IRT4": (4, False)}
_SIMULATIONS = (*_PATHS, *(f"cars{name}" for name in _PATHS))
_CARS_STREAM = 1  # of the generator: cars change nothing of a city without them


class SyntheticCity(radiomapseer.RadioMapSeer):
    """A synthetic city: written when it is not there, then read as RadioMapSeer."""

    def __init__(
        self,
        root: radiomap.Path,
        *,
        simulation: str = "DPM",
        split: str = "train",
        split_scheme: str = "radiounet",
        fields: Sequence[str] = ("gray",),
        **numbers: int,
    ):
        """Writes what is not there yet and indexes it.

        Args:
          **numbers: maps, transmitters, size and seed of write_city.
        """
        cars = "cars" in fields
        write_city(root, simulation=simulation, cars=cars, **numbers)
        reader = dict(split=split, split_scheme=split_scheme, fields=fields)
        super().__init__(root, simulation=simulation, **reader)

    def summary(self) -> str:
        """Returns how many images the split has, and where they are."""
        cities = len({number for number, _ in self.names})
        return (
            f"synthetic city {self.simulation}, split {self.split}: {len(self)} images "
            f"of {cities} maps of {radiomap.by(self.shape)}, in {self.root}"
        )


def write_city(
    root: radiomap.Path,
    *,
    maps: int,
    transmitters: int,
    size: int = 256,
    seed: int,
    simulation: str = "DPM",
    cars: bool = False,
) -> pathlib.Path:
    """Writes a city in RadioMapSeer's layout, or what is missing of one there.

    The maps are numbered so that the train, val and test splits hold about 80, 10 and
    10 percent of them, and at least one each. The folder appears only once it is
    whole; an interrupted or a concurrent call does no harm.

    Args:
      maps: their number, 3 to 700.
      transmitters: of each map.
      size: height and width in pixels of 1 m.
      simulation: "DPM"; or "IRT2", "IRT4", which turn at most 2 or 4 times and do not
        cross buildings, so that some street pixels are 0; "carsDPM" and so on: parked
        cars shade the streets.
      cars: whether their masks are wanted, which older cities lack.

    Raises:
      ValueError: impossible numbers, or root holds something else.
    """
    root = pathlib.Path(root)
    record = dict(version=VERSION, maps=maps, transmitters=transmitters)
    record |= dict(size=size, seed=seed, simulation=simulation)
    splits.check_choice("simulation", simulation, _SIMULATIONS)
    if not 3 <= maps <= 700 or transmitters < 1 or size < MIN_SIZE:
        raise ValueError(
            f"maps={maps}, transmitters={transmitters}, size={size}; expected 3 (one "
            "for each split) to 700 (the maps in RadioMapSeer's order), 1 or more, and "
            f"{MIN_SIZE} pixels or more"
        )
    wanted = [f"gain/{simulation}", *["png/cars"] * (cars or "cars" in simulation)]
    if not _is_written(root, record):
        masks = (f"png/{name}" for name in ("buildings_complete", "roads", "cars"))
        partial = _draw(root, record, {f"gain/{simulation}", ANTENNAS, *masks})
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        _appear(partial, root)
        _is_written(root, record)  # another process may have been faster
    if missing := [folder for folder in wanted if not (root / folder).is_dir()]:
        partial = _draw(root / "layers", record, {*missing})
        for folder in missing:
            _appear(partial / folder, root / folder)
        shutil.rmtree(partial)
    return root


def _draw(root: pathlib.Path, record: dict, folders: set[str]) -> pathlib.Path:
    """Returns a folder of this process that holds some layers of all maps."""
    partial = files.partial(root)
    shutil.rmtree(partial, ignore_errors=True)
    files.sweep(root.parent, glob.escape(root.name))
    for folder in folders:
        (partial / folder).mkdir(parents=True)
    if ANTENNAS in folders:
        (partial / "antenna").mkdir()
    for number in Bar(map_numbers(record["maps"]), desc="drawing the city", unit="map"):
        _write_map(partial, number, record, folders)
    return partial


def _appear(partial: pathlib.Path, place: pathlib.Path) -> None:
    """Gives a whole folder its name, unless another process was faster."""
    try:
        partial.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(partial)


def map_numbers(maps: int) -> list[int]:
    """Returns the maps' numbers: of the train split, then val, then test."""
    aside = max(1, round(maps / 10))
    train = min(maps - 2 * aside, 501)
    test = min((maps - train) // 2, 99)
    order = splits.order()
    val = maps - train - test
    return [*order[:train], *order[501 : 501 + val], *order[601 : 601 + test]]


def _write_map(
    root: pathlib.Path, number: int, record: dict, folders: set[str]
) -> None:
    """Writes the layers of one map."""
    size, count, seed = record["size"], record["transmitters"], record["seed"]
    drawn = city.draw_city(size, np.random.default_rng([seed, number]))
    if len(drawn.sites) < count:
        raise ValueError(
            f"map {number} of {size}x{size} has room for {len(drawn.sites)} "
            f"transmitters, {count} were asked for; ask for fewer, or for larger maps"
        )
    sites, simulation = drawn.sites[:count], record["simulation"]
    own = np.random.default_rng([seed, number, _CARS_STREAM])
    cars = city.draw_cars(drawn, sites, own)
    masks = dict(buildings_complete=drawn.buildings, roads=drawn.roads, cars=cars)
    for name, mask in masks.items():
        if f"png/{name}" in folders:
            _write_mask(root / "png" / name / f"{number}.png", mask)
    names = [f"{number}_{tx}.png" for tx in range(count)]
    if ANTENNAS in folders:
        for name, site in zip(names, sites, strict=True):
            antenna = np.zeros((size, size), bool)
            antenna[tuple(site)] = True
            _write_mask(root / ANTENNAS / name, antenna)
        # RadioMapSeer's [x, y]: x is the column, y counts rows from the bottom.
        places = [[int(x), int(size - 1 - row)] for row, x in sites]
        (root / "antenna" / f"{number}.json").write_text(json.dumps(places))
    if f"gain/{simulation}" not in folders:
        return
    turns, through = _PATHS[simulation.removeprefix("cars")]
    parked = cars if "cars" in simulation else None
    sight = dominant_path.sight_from(drawn.corners, drawn.buildings, parked)
    for name, site in zip(names, sites, strict=True):
        gain = dominant_path.gain_gray(
            drawn.buildings,
            sight,
            site,
            max_turns=turns,
            through_buildings=through,
            cars=parked,
        )
        radiomap.write_png(root / "gain" / simulation / name, gain)


def _write_mask(path: pathlib.Path, mask: np.ndarray) -> None:
    radiomap.write_png(path, np.where(mask, 255, 0).astype(np.uint8))


def _is_written(root: pathlib.Path, record: dict) -> bool:
    """Says whether root is this city; False where nothing is there yet.

    Whatever its simulation: those that are missing are added.

    Raises:
      ValueError: something else is.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    path = root / RECORD
    if not path.is_file():
        raise ValueError(
            f"{root} exists and holds no {RECORD}: it is no synthetic city; give an "
            "empty or a new folder, or read it with data.source=radiomapseer"
        )
    remedy = "give another folder, or remove it"
    found = inputs.read_json(path, remedy=remedy)
    differ = [
        f"{key}={found.get(key)} there, {record.get(key)} asked for"
        for key in sorted((found.keys() | record.keys()) - {"simulation"})
        if found.get(key) != record.get(key)
    ]
    if differ:
        raise ValueError(
            f"{root} holds another synthetic city ({'; '.join(differ)}); {remedy}"
        )
    return True
