"""Files of radio maps, read and written in one form: PNG, NPY, Sionna RT's npz.

.png   8-bit gray, f in steps of 1/255: 0.39 dB
.npy   floats, f in [0, 1] or path gain in dB, [h, w] or [h, w, c]
.npz   linear path gain of every transmitter, as data/sionna.py describes
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from radiovae_jax.data import radiomap, sionna

SUFFIXES = (*radiomap.MAP_SUFFIXES, ".npz")
UNITS = ("f", "db")  # of the numbers in an NPY


class MapFile(NamedTuple):
    """What a file holds."""

    path: pathlib.Path
    names: list[str]  # of its maps: the stem, and the transmitter's number of an npz
    f: Float32[np.ndarray, "n h w c"]  # in [0, 1]
    clipped: int  # values that lay outside the range of f


def find(paths: Sequence[radiomap.Path]) -> list[pathlib.Path]:
    """Returns the files, with every folder replaced by the map files in it.

    Raises:
      FileNotFoundError: one does not exist.
      ValueError: not a map file, or a folder without any.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
            # Hidden files are what editors and interrupted copies leave behind.
            inside = sorted(p for p in inside if not p.name.startswith("."))
            if not inside:
                raise ValueError(f"{path} holds no {', '.join(SUFFIXES)} file")
            found += inside
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give map files or folders")
        elif path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{path} is no map file; expected one of {', '.join(SUFFIXES)}"
            )
        else:
            found.append(path)
    return found


def names(path: pathlib.Path) -> list[str]:
    """Returns the names of a file's maps: the stem, with a number in an npz.

    Raises:
      FileNotFoundError, ValueError: an npz that cannot be read.
    """
    if path.suffix.lower() != ".npz":
        return [path.stem]
    return [f"{path.stem}_{tx}" for tx in range(len(sionna.read_scene(path).f))]


def read(path: pathlib.Path, *, unit: str) -> MapFile:
    """Reads a file.

    Args:
      unit: of an NPY of floats, "f" or "db".

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, or not in its format (see data/radiomap.py, data/sionna.py).
    """
    suffix, clipped = path.suffix.lower(), 0
    if suffix == ".npz":
        f = sionna.read_scene(path).f
    elif suffix == ".npy" and unit == "db":
        one, clipped = _read_db(path)
        f = one[None]
    else:
        try:
            f = radiomap.gray_to_f(radiomap.read_map(path))[None]
        except ValueError as error:
            # What lies outside [0, 1] may be dB; what is damaged is not.
            outside = "expected f in [0, 1]" in str(error)
            hint = "; an NPY of dB is read with --unit db" if outside else ""
            raise ValueError(f"{error}{hint}") from error
    if not f.size:
        raise ValueError(f"{path} holds an array of {f.shape[1:]}: a map has pixels")
    return MapFile(path, names(path), f, clipped)


def _read_db(path: pathlib.Path) -> tuple[Float32[np.ndarray, "h w c"], int]:
    """Returns f of an NPY of dB, and how many values were clipped to its range."""
    shape = radiomap.read_shape(path)  # raises what can be wrong with the file
    gain_db = np.load(path, allow_pickle=False).reshape(shape)
    if not np.issubdtype(gain_db.dtype, np.floating) or not np.isfinite(gain_db).all():
        raise ValueError(
            f"{path} holds {gain_db.dtype}, or values that are not finite; expected "
            "floats in dB, and -147 where there is no signal"
        )
    f = radiomap.db_to_f(gain_db.astype(np.float32))
    # Rounding alone takes -47 dB a little beyond 1.
    outside = int(np.sum((f < -1e-6) | (f > 1 + 1e-6)))
    return f.clip(0, 1), outside


def write_map(path: pathlib.Path, f: Float[np.ndarray, "h w c"], *, unit: str) -> None:
    """Writes one map as PNG or NPY, by the path's suffix, all of it or nothing.

    Args:
      f: in [0, 1].
      unit: of an NPY, "f" or "db"; a PNG holds f.

    Raises:
      ValueError: a PNG of several channels.
    """
    if path.suffix == ".png":
        if f.shape[-1] != 1:
            raise ValueError(
                f"{path}: a gray PNG cannot hold {f.shape[-1]} channels; write .npy"
            )
        radiomap.write_png(path, np.round(255 * f).astype(np.uint8))
        return
    values = radiomap.f_to_db(f) if unit == "db" else f
    if f.shape[-1] == 1:
        values = values[..., 0]
    write_array(path, values.astype(np.float32))


def write_array(path: pathlib.Path, values: Float[np.ndarray, "..."]) -> None:
    """Writes an NPY, all of it or nothing."""
    with _whole(path) as file:
        np.save(file, values)


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Gives a file to write, which takes the path's place once nothing failed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_scene(
    path: pathlib.Path, f: Float[np.ndarray, "tx h w 1"], like: pathlib.Path
) -> None:
    """Writes path gains with the cells and the transmitters of another scene.

    f = 0 becomes a gain of 0, "no path", as `sionna.path_gain_to_f` reads it.

    Raises:
      FileNotFoundError, ValueError: `like` is no scene.
    """
    gain = np.where(f > 0, 10.0 ** (radiomap.f_to_db(f.astype(np.float64)) / 10), 0.0)
    with np.load(like, allow_pickle=False) as scene:
        kept = {name: scene[name] for name in ("cell_size", "tx_cell_indices")}
    with _whole(path) as file:
        np.savez(file, path_gain=gain[:, ::-1, :, 0].astype(np.float32), **kept)
