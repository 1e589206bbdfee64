"""Files of radio maps, read and written in one form: PNG, NPY, Sionna RT's npz.

.png   8-bit gray, f in steps of 1/255: 0.39 dB
.npy   floats, f in [0, 1] or path gain in dB, [h, w] or [h, w, c]
.npz   linear path gain of every transmitter, as data/sionna.py describes
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from radiovae_jax import files, inputs
from radiovae_jax.data import gains, radiomap, sionna
from radiovae_jax.data.radiomap import RADIOMAPSEER_DB, DbRange

SUFFIXES = (*radiomap.MAP_SUFFIXES, ".npz")


class MapFile(NamedTuple):
    """What a file holds."""

    path: pathlib.Path
    names: list[str]  # of its maps: the stem, and the transmitter's number of an npz
    f: Float32[np.ndarray, "n h w c"]  # in [0, 1]
    clipped: gains.Clipped  # of dB that lay outside the range of f


def find(paths: Sequence[radiomap.Path]) -> list[pathlib.Path]:
    """Returns the files, with every folder replaced by the map files in it."""
    map_files: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
            # Hidden files are what editors and interrupted copies leave behind.
            inside = sorted(p for p in inside if not p.name.startswith("."))
            if not inside:
                raise ValueError(f"{path} holds no {', '.join(SUFFIXES)} file")
            map_files += inside
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give map files or folders")
        elif path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{path} is no map file; expected one of {', '.join(SUFFIXES)}"
            )
        else:
            map_files.append(path)
    return map_files


def names(path: pathlib.Path) -> list[str]:
    """Returns the names of a file's maps: the stem, with a number in an npz."""
    if path.suffix.lower() != ".npz":
        return [path.stem]
    return [f"{path.stem}_{tx}" for tx in range(sionna.count_maps(path))]


def read(path: pathlib.Path, *, unit: str, db: DbRange = RADIOMAPSEER_DB) -> MapFile:
    """Reads a file whose maps are within the range of f for the most part.

    Args:
      unit: of an NPY of floats, "f" or "db".
    """
    suffix, clipped = path.suffix.lower(), []
    if suffix == ".npz":
        scene = sionna.read_scene(path, db=db, fields=("gray",))
        f, clipped = scene.f, scene.clipped
    elif suffix == ".npy" and unit == "db":
        f, clipped = gains.to_f(_read_db(path)[None], db)
        gains.check({str(path): clipped[0]}, db)
    else:
        f = radiomap.gray_to_f(radiomap.read_map(path))[None]
    if not f.size:
        raise ValueError(f"{path} holds an array of {f.shape[1:]}: a map has pixels")
    return MapFile(path, names(path), f, gains.pooled(clipped))


def _read_db(path: pathlib.Path) -> Float32[np.ndarray, "h w c"]:
    gain_db = radiomap.read_array(path)
    if not np.issubdtype(gain_db.dtype, np.floating):
        raise ValueError(f"{path} holds {gain_db.dtype}; expected floats in dB")
    bad = np.count_nonzero(np.isnan(gain_db) | np.isposinf(gain_db))
    if bad:
        raise ValueError(
            f"{path} holds {bad} non-finite values (nan or +inf); write -inf where "
            "there is no path"
        )
    return gain_db.astype(np.float32)


def write_map(
    path: pathlib.Path,
    f: Float[np.ndarray, "h w c"],
    *,
    unit: str,
    db: DbRange = RADIOMAPSEER_DB,
) -> None:
    """Writes one map as PNG or NPY, by the path's suffix, all of it or nothing.

    Args:
      f: in [0, 1].
      unit: of an NPY, "f" or "db"; a PNG holds f, of one channel.
    """
    if path.suffix == ".png":
        if f.shape[-1] != 1:
            raise ValueError(
                f"{path}: a gray PNG cannot hold {f.shape[-1]} channels; write .npy"
            )
        radiomap.write_png(path, np.round(255 * f).astype(np.uint8))
        return
    values = radiomap.f_to_db(f, db) if unit == "db" else f
    if f.shape[-1] == 1:
        values = values[..., 0]
    write_array(path, values.astype(np.float32))


def write_array(path: pathlib.Path, values: Float[np.ndarray, "..."]) -> None:
    """Writes an NPY, all of it or nothing."""
    with files.written(path) as partial, partial.open("wb") as file:
        np.save(file, values)


def write_predictions(
    path: pathlib.Path,
    f: Float[np.ndarray, "tx h w 1"],
    *,
    deviation_f: Float[np.ndarray, "tx h w 1"] | None,
    buildings: Bool[np.ndarray, "h w"],
    tx: Float[np.ndarray, "_ 2"],
    pixel_metres: float,
    db: DbRange = RADIOMAPSEER_DB,
) -> None:
    """Writes maps of one place as a scene that `sionna.read_scene` reads.

    Args:
      deviation_f: of samples; stored in dB as "deviation_db", row 0 the lowest.
      tx: (x, y) of the transmitters, column and row from the top; or none.
    """
    arrays = {
        "path_gain": _linear(f, db),
        "cell_size": np.full(2, pixel_metres),
        "buildings": buildings[::-1],
    }
    if len(tx):
        column, row = np.int64(np.floor(tx)).T
        cells = np.stack([column, f.shape[1] - 1 - row], axis=1)
        arrays["tx_cell_indices"] = cells
    if deviation_f is not None:
        arrays["deviation_db"] = db.span * deviation_f[:, ::-1, :, 0]
    with files.written(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _linear(f: Float[np.ndarray, "tx h w 1"], db: DbRange) -> np.ndarray:
    """Returns path gains, row 0 the lowest; f = 0 is a gain of 0, "no path"."""
    gain_db = radiomap.f_to_db(f.astype(np.float64), db)
    gain = np.where(f > 0, 10.0 ** (gain_db / 10), 0.0)
    return gain[:, ::-1, :, 0].astype(np.float32)


def write_scene(
    path: pathlib.Path,
    f: Float[np.ndarray, "tx h w 1"],
    like: pathlib.Path,
    *,
    db: DbRange = RADIOMAPSEER_DB,
) -> None:
    """Writes path gains with the cells and the transmitters of another scene.

    f = 0 becomes a gain of 0, "no path", as `sionna.read_scene` reads it.
    """
    cells = inputs.read_npz(like, sionna.KEYS[1:], remedy="export it again")
    with files.written(path) as partial, partial.open("wb") as file:
        np.savez(file, path_gain=_linear(f, db), **cells)
