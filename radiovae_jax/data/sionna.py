"""Radio maps exported from Sionna RT, without importing Sionna.

    radio_map = RadioMapSolver()(scene, ...)
    np.savez(
        "scene.npz",
        path_gain=radio_map.path_gain.numpy(),
        cell_size=radio_map.cell_size.numpy(),
        tx_cell_indices=radio_map.tx_cell_indices.numpy().T,
    )

Sionna RT's own `tx_cell_indices` is a Point2u, all columns and then all rows; stored
here is a (column, row) pair of each transmitter.
"""

import functools
import operator
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float, Float32, UInt8

from radiovae_jax.data import folder_splits, radiomap, splits

KEYS = ("path_gain", "cell_size", "tx_cell_indices")
FIELDS = ("gray", "antenna")


class Scene(NamedTuple):
    """The maps of one scene; row 0 is the highest y, as in an image."""

    f: Float32[np.ndarray, "tx h w 1"]
    antenna: UInt8[np.ndarray, "tx h w 1"]  # 255 at the transmitter's pixel
    cell_size: Float[np.ndarray, "2"]  # metres along x and y


def path_gain_to_f(
    path_gain: Float[np.ndarray, "tx ny nx"],
) -> Float32[np.ndarray, "tx ny nx 1"]:
    """Returns f = clip((10 log10 gain + 147) / 100, 0, 1), rows flipped.

    No gain at all (0) is f = 0.
    """
    floor = 10 ** (radiomap.DB_FLOOR / 10)  # f = 0; keeps the logarithm finite
    gain_db = 10 * np.log10(np.maximum(path_gain.astype(np.float64), floor))
    f = radiomap.db_to_f(gain_db).clip(0, 1).astype(np.float32)
    return np.ascontiguousarray(f[:, ::-1, :, None])


def read_scene(path: radiomap.Path) -> Scene:
    """Reads one exported scene.

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, a key missing, a shape or a value that cannot be.
    """
    path = pathlib.Path(path)
    arrays = _load(path)
    gain, cells = arrays["path_gain"], arrays["tx_cell_indices"]
    _check_gain(gain, path)
    count, ny, nx = gain.shape
    _check_cells(cells, gain.shape, path)
    cell_size = np.asarray(arrays["cell_size"], np.float64).ravel()
    if len(cell_size) not in (1, 2) or not (cell_size > 0).all():
        raise ValueError(
            f"{path}: cell_size is {cell_size.tolist()}, expected metres, one positive "
            "number or two"
        )
    antenna = np.zeros((count, ny, nx, 1), np.uint8)
    column, row = cells.astype(np.int64).T  # Sionna's are unsigned
    antenna[np.arange(count), ny - 1 - row, column] = 255
    return Scene(path_gain_to_f(gain), antenna, np.broadcast_to(cell_size, (2,)))


class SionnaFolder:
    """The maps of a folder of exported scenes; a record is one transmitter of one.

    Splits are by scene. "gray" is float32 f here; "antenna" marks the transmitter.

    Attributes:
      names: (file, transmitter) of every record.
      shape: (h, w, c) that all maps must have, the first one's.
    """

    def __init__(
        self,
        root: radiomap.Path,
        *,
        split: str = "train",
        split_by: str = "group",
        seed: int = 42,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        fields: Sequence[str] = ("gray",),
        scenes_in_memory: int = 8,
    ):
        """Counts the transmitters of every scene of the split.

        Args:
          root: the folder; its splits are those of folder.MapFolder.
          split: "train", "val", "test", or "all" for every scene found.
          split_by: "group", scenes whose names begin alike together, or "file".
          seed: of the random split, where there are no subfolders.
          val_fraction: of the groups or scenes, for that split.
          test_fraction: of the groups or scenes, for that split.
          fields: of "gray" and "antenna".
          scenes_in_memory: scenes kept decoded; an npz is read whole or not at all.

        Raises:
          FileNotFoundError: root is missing.
          ValueError: an unknown field or split, an empty split, an unreadable scene.
        """
        splits.check_fields(fields, FIELDS)
        self.root = pathlib.Path(root)
        self.split = split
        self.fields = tuple(fields)
        self.files, names, self._where = folder_splits.split_files(
            self.root,
            (".npz",),
            split=split,
            split_by=split_by,
            seed=seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )
        self._name = dict(zip(self.files, names, strict=True))
        self._scene = functools.lru_cache(scenes_in_memory)(read_scene)
        self.names = [
            (path, tx) for path in self.files for tx in range(_transmitters(path))
        ]
        self.shape = self._scene(self.files[0]).f.shape[1:]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": "scene_0", "gray": [h, w, 1] float32, ...}.

        Raises:
          FileNotFoundError: the scene has gone.
          ValueError: an unreadable scene, or one unlike the first in size.
        """
        path, tx = self.names[operator.index(index)]
        scene = self._scene(path)
        radiomap.check_shape(scene.f.shape[1:], self.shape, path, self.files[0])
        images = {"gray": scene.f[tx], "antenna": scene.antenna[tx]}
        record = {field: images[field] for field in self.fields}
        return {"name": np.str_(f"{self._name[path]}_{tx}"), **record}

    def summary(self) -> str:
        """Returns how many maps and scenes the split has, and where they are."""
        size = "x".join(str(side) for side in self.shape)
        return (
            f"Sionna, split {self.split}: {len(self)} maps of {len(self.files)} scenes "
            f"of {size}, in {self._where}"
        )


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive.files]
            if not missing:
                return {key: archive[key] for key in KEYS}
            found = ", ".join(archive.files) or "nothing"
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; export it again") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is truncated or no npz archive ({error}); copy it again from the "
            "source"
        ) from error
    raise ValueError(
        f"{path} lacks {', '.join(missing)} (it holds {found}); export it as the top "
        "of radiovae_jax/data/sionna.py shows"
    )


def _transmitters(path: pathlib.Path) -> int:
    return len(_load(path)["path_gain"])


def _check_gain(gain: np.ndarray, path: pathlib.Path) -> None:
    if gain.ndim != 3 or not np.issubdtype(gain.dtype, np.floating):
        raise ValueError(
            f"{path}: path_gain is {gain.dtype} of shape {gain.shape}, expected "
            "floats [tx, ny, nx]"
        )
    if not np.isfinite(gain).all():
        raise ValueError(
            f"{path}: path_gain holds nan or inf; write 0 where there is no path"
        )
    if (gain < 0).any():
        raise ValueError(
            f"{path}: path_gain goes down to {gain.min():g}, expected a linear gain, 0 "
            "or more; undo the dB with 10 ** (dB / 10)"
        )


def _check_cells(
    cells: np.ndarray, shape: tuple[int, int, int], path: pathlib.Path
) -> None:
    count, ny, nx = shape
    if cells.shape != (count, 2):
        raise ValueError(
            f"{path}: tx_cell_indices has shape {cells.shape}, expected ({count}, 2), "
            "column and row of each transmitter; Sionna RT has it the other way round, "
            "so store .numpy().T"
        )
    if not np.issubdtype(cells.dtype, np.integer):
        raise ValueError(
            f"{path}: tx_cell_indices is {cells.dtype}, expected integers: indices of "
            "cells, not positions in metres"
        )
    if (cells < 0).any() or (cells >= (nx, ny)).any():
        raise ValueError(
            f"{path}: tx_cell_indices {cells.tolist()} leave the {nx} columns and {ny} "
            "rows of path_gain; they are (column, row), row 0 the lowest y; leave out "
            "transmitters that stand outside the map"
        )
