"""Where RadioMapSeer has its files: 701 city maps of 256x256 m, 80 transmitters each.

    root/gain/{simulation}/{map}_{tx}.png       path gain, gray
    root/gain/{simulation}_k2_neg_norm/...      RadioDiff's k^2 mask, of the truth
    root/png/buildings_complete/{map}.png       255 = building
    root/png/cars/{map}.png                     255 = car
    root/png/antennas/{map}_{tx}.png            255 = the transmitter's pixel

Source: Yapar et al. 2022 (arXiv:2212.11777), radiomapseer.github.io.
"""

import os
import pathlib
import re

from radiovae_jax.data import radiomap

SIMULATIONS = ("DPM", "IRT2", "IRT4", "carsDPM", "carsIRT2", "carsIRT4")
MAPS = 701
TRANSMITTERS = 80
# Ray tracing with four interactions is costly: IRT4 is public for two of the 80.
IRT4_TRANSMITTERS = 2

FIELDS = ("gray", "buildings", "cars", "antenna", "k2_neg_norm", *SIMULATIONS)

WHERE_TO_GET_IT = (
    "get it from radiomapseer.github.io (IEEE DataPort, doi 10.21227/0gtx-6v30) and "
    "point data.root at the folder that holds gain/ and png/, or train on a "
    "procedural city with data.source=synthetic"
)

PER_MAP = ("buildings", "cars")  # fields of a map, whatever its transmitter

# (map, tx), or (map,) of PER_MAP -> the name of its file.
FileNames = dict[tuple[int, ...], str]


def folder(root: pathlib.Path, simulation: str, field: str) -> pathlib.Path:
    """Returns the folder of a field's images."""
    gain = root / "gain"
    if field in ("gray", *SIMULATIONS):
        return gain / (simulation if field == "gray" else field)
    if field == "k2_neg_norm":
        # The released script writes carsDPM_k2_neg_norm; its reader wants DPMCAR_...
        other = gain / f"{simulation.removeprefix('cars')}CAR_{field}"
        ours = gain / f"{simulation}_{field}"
        cars_alone = simulation.startswith("cars") and not ours.is_dir()
        return other if cars_alone and other.is_dir() else ours
    folders = {"buildings": "buildings_complete", "antenna": "antennas"}
    return root / "png" / folders.get(field, field)


def has_k2(root: radiomap.Path, simulation: str) -> bool:
    """Says whether the k^2 masks of a simulation are stored under root."""
    return folder(pathlib.Path(root), simulation, "k2_neg_norm").is_dir()


def gain_images(root: pathlib.Path, simulation: str) -> FileNames:
    """Returns the images of a simulation: (map, tx) -> name of the file."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: {WHERE_TO_GET_IT}")
    images, gain = folder(root, simulation, "gray"), root / "gain"
    if not images.is_dir():
        others = sorted(path.name for path in gain.iterdir()) if gain.is_dir() else []
        there = f"gain/ holds {', '.join(others)}" if others else "there is no gain/"
        for inner in root.glob("*/gain"):
            there += f", but {inner}"
        raise FileNotFoundError(
            f"no folder {images} ({there}): choose a simulation that is there, or "
            f"{WHERE_TO_GET_IT}"
        )
    found = file_names(images, per_map=False)
    if not found:
        raise FileNotFoundError(
            f"{images} holds no file named {{map}}_{{tx}}.png: {WHERE_TO_GET_IT}"
        )
    return found


def file_names(folder: pathlib.Path, *, per_map: bool) -> FileNames:
    """Returns the files of a folder by map and transmitter: 7_3.png, 007_03.PNG."""
    pattern = re.compile(r"(\d+)\.png" if per_map else r"(\d+)_(\d+)\.png", re.I)
    found: FileNames = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        match = pattern.fullmatch(name)
        if not match:
            continue
        key = tuple(map(int, match.groups()))
        if key in found:
            raise ValueError(
                f"{folder} has two files of one map, {found[key]} and {name}; remove "
                "one of them"
            )
        found[key] = name
    return found
