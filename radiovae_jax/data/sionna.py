"""Radio maps exported from Sionna RT, without importing Sionna.

    radio_map = RadioMapSolver()(scene, ...)
    np.savez(
        "scene.npz",
        path_gain=radio_map.path_gain.numpy(),
        cell_size=radio_map.cell_size.numpy(),
        tx_cell_indices=radio_map.tx_cell_indices.numpy().T,
        buildings=buildings,  # bool [ny, nx], of a second stage's condition
    )

Sionna RT's own `tx_cell_indices` is a Point2u, all columns and then all rows; stored
here is a (column, row) pair of each transmitter. Where the map alone is asked for,
path_gain alone will do. A cell is of a building where a ray from above its centre,

    ray = mitsuba.Ray3f(centre + [0, 0, 1e3], [0, 0, -1])
    height = 1e3 - scene.mi_scene.ray_intersect(ray).t

meets something `height` above the plane of the receivers.
"""

import functools
import operator
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from radiovae_jax import inputs
from radiovae_jax.data import gains, radiomap, splits
from radiovae_jax.data.radiomap import DbRange

KEYS = ("path_gain", "cell_size", "tx_cell_indices")
FIELDS = ("gray", "antenna", "buildings")
REMEDY = "export it again, or copy it again from the source"
SCENES_IN_MEMORY = 8


class Scene(NamedTuple):
    """The maps of one scene; row 0 is the highest y, as in an image."""

    f: Float32[np.ndarray, "tx h w 1"]
    antenna: UInt8[np.ndarray, "tx h w 1"]  # 255 at the transmitter's pixel
    buildings: UInt8[np.ndarray, "h w 1"]  # 255 inside
    cell_size: Float[np.ndarray, "2"]  # metres along x and y
    clipped: list[gains.Clipped]  # of each map


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
        fields: Sequence[str] = ("gray",),
        db: DbRange = radiomap.RADIOMAPSEER_DB,
        split_by: str = "group",
    ):
        """Reads every scene of the split: what is wrong is said before the training.

        Args:
          split, split_by: see splits.split_files.
          fields: of FIELDS.
          db: what f is in dB.
        """
        splits.check_fields(fields, FIELDS)
        self.root, self.split, self.fields = pathlib.Path(root), split, tuple(fields)
        self.files, names, self._where = splits.split_files(
            self.root, (".npz",), split=split, split_by=split_by
        )
        self._name = dict(zip(self.files, names, strict=True))
        # An npz is read whole or not at all.
        self._scene = functools.lru_cache(SCENES_IN_MEMORY)(
            lambda path: _read(path, db, self.fields)
        )
        clipped = {
            (path, tx): of
            for path in self.files
            for tx, of in enumerate(self._scene(path).clipped)
        }
        self.names = list(clipped)
        gains.check({f"{path}: map {tx}": of for (path, tx), of in clipped.items()}, db)
        self._clipped = gains.pooled(clipped.values()).words(db)
        self.shape = self._scene(self.files[0]).f.shape[1:]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": "scene_0", "gray": [h, w, 1] float32, ...}."""
        path, tx = self.names[operator.index(index)]
        scene = self._scene(path)
        radiomap.check_shape(scene.f.shape[1:], self.shape, path, self.files[0])
        images = {"gray": scene.f[tx], "antenna": scene.antenna[tx]}
        images["buildings"] = scene.buildings
        record = {field: images[field] for field in self.fields}
        return {"name": np.str_(f"{self._name[path]}_{tx}"), **record}

    def summary(self) -> str:
        """Returns how many maps and scenes the split has, and what was clipped."""
        return (
            f"Sionna, split {self.split}: {len(self)} maps of {len(self.files)} scenes "
            f"of {radiomap.by(self.shape)}, in {self._where}"
            + (self._clipped and f"; {self._clipped}")
        )


def read_scene(
    path: radiomap.Path,
    *,
    db: DbRange = radiomap.RADIOMAPSEER_DB,
    fields: Sequence[str] = FIELDS[:2],
) -> Scene:
    """Reads one exported scene.

    Args:
      db: what f is in dB.
      fields: of FIELDS; without "antenna" and "buildings" path_gain alone is read.

    Raises:
      ValueError: damaged, a key missing, a shape or a value that cannot be, or a map
        that is mostly outside the range of f.
    """
    path = pathlib.Path(path)
    scene = _read(path, db, tuple(fields))
    gains.check({f"{path}: map {i}": of for i, of in enumerate(scene.clipped)}, db)
    return scene


def count_maps(path: pathlib.Path) -> int:
    """Returns the number of a scene's transmitters, from its header."""
    return _gain_shape(path, KEYS[:1])[0]


def _read(path: pathlib.Path, db: DbRange, fields: tuple[str, ...]) -> Scene:
    keys = KEYS if "antenna" in fields else KEYS[:1]
    keys += ("buildings",) * ("buildings" in fields)
    _gain_shape(path, keys)
    arrays = inputs.read_npz(path, keys, remedy=REMEDY)
    gain = arrays["path_gain"]
    _check_gain(gain, path)
    count, ny, nx = gain.shape
    with np.errstate(divide="ignore"):  # no gain is -inf dB
        gain_db = 10 * np.log10(gain.astype(np.float64))
    f, clipped = gains.to_f(gain_db[:, ::-1, :, None], db)
    f = np.ascontiguousarray(f)
    buildings = np.zeros((0, 0, 1), np.uint8)
    if "buildings" in fields:
        buildings = _buildings(arrays["buildings"], f, path)
    if "antenna" not in fields:
        nothing = np.zeros((count, 0, 0, 1), np.uint8)
        return Scene(f, nothing, buildings, np.full(2, np.nan), clipped)
    column, row = _cells(arrays["tx_cell_indices"], gain, path).T
    antenna = np.zeros((count, ny, nx, 1), np.uint8)
    antenna[np.arange(count), ny - 1 - row, column] = 255
    cell_size = np.asarray(arrays["cell_size"], np.float64).ravel()
    if len(cell_size) not in (1, 2) or not (cell_size > 0).all():
        raise ValueError(
            f"{path}: cell_size is {cell_size.tolist()}, expected metres, one positive "
            "number or two"
        )
    return Scene(f, antenna, buildings, np.broadcast_to(cell_size, (2,)), clipped)


def _buildings(
    mask: np.ndarray, f: Float32[np.ndarray, "tx h w 1"], path: pathlib.Path
) -> UInt8[np.ndarray, "h w 1"]:
    """Returns 255 inside, row 0 the highest y."""
    if mask.shape != f.shape[1:3] or not {*np.unique(mask).tolist()} <= {0, 1}:
        raise ValueError(
            f"{path}: buildings is {mask.dtype} of shape {mask.shape}, expected a mask "
            f"of {f.shape[1:3]} cells as path_gain has them, True inside"
        )
    buildings = np.where(mask[::-1, :, None], 255, 0).astype(np.uint8)
    gray = np.uint8(np.round(255 * f.mean(axis=0)))
    radiomap.check_mask(buildings, gray, path)
    return buildings


def _gain_shape(path: pathlib.Path, keys: Sequence[str]) -> tuple[int, ...]:
    """Returns the shape of path_gain from its header, if all keys are there."""
    shapes = inputs.npz_shapes(path, keys, remedy=REMEDY)
    missing = [key for key in keys if key not in shapes]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; export it as the top of "
            "radiovae_jax/data/sionna.py shows"
        )
    gain = shapes["path_gain"]
    if len(gain) != 3 or not all(gain):
        raise ValueError(
            f"{path}: path_gain has shape {gain}, so the scene has no transmitter's "
            "map; expected [tx, ny, nx]"
        )
    radiomap.check_size(gain[1:], str(path))
    return gain


def _check_gain(gain: np.ndarray, path: pathlib.Path) -> None:
    if not np.issubdtype(gain.dtype, np.floating):
        raise ValueError(f"{path}: path_gain is {gain.dtype}, expected floats")
    finite = gain[np.isfinite(gain)]
    # First, since 0 instead of the -inf in dB would become the strongest gain.
    if (finite < 0).any():
        raise ValueError(
            f"{path}: path_gain goes down to {finite.min():g}, expected a linear gain, "
            "0 or more; undo the dB with 10 ** (dB / 10), which is 0 for -inf"
        )
    if finite.size != gain.size:
        raise ValueError(
            f"{path}: path_gain holds nan or inf; write 0 where there is no path"
        )


def _cells(
    cells: np.ndarray, gain: Float[np.ndarray, "tx ny nx"], path: pathlib.Path
) -> Int64[np.ndarray, "tx 2"]:
    """Returns (column, row) of each transmitter, out of [tx, 2] or Sionna's [2, tx].

    Raises:
      ValueError: other shapes, no integers, cells outside the map; or two transmitters
        whose gains do not say which of both it is.
    """
    count, ny, nx = gain.shape
    ways = [way for way in (cells, cells.T) if way.shape == (count, 2)]
    if not ways or not np.issubdtype(cells.dtype, np.integer):
        raise ValueError(
            f"{path}: tx_cell_indices has {cells.dtype} of shape {cells.shape}, "
            f"expected integers of ({count}, 2), column and row of each transmitter, "
            f"or as Sionna RT has it (2, {count})"
        )
    inside = [
        way.astype(np.int64)  # Sionna's are unsigned
        for way in ways
        if ((way >= 0) & (way < (nx, ny))).all()
    ]
    if not inside:
        raise ValueError(
            f"{path}: tx_cell_indices {cells.tolist()} leave the {nx} columns and {ny} "
            "rows of path_gain; they are (column, row), row 0 the lowest y; leave out "
            "transmitters that stand outside the map"
        )
    if len(ways) == 1 or np.array_equal(*ways):
        return inside[0]
    for reach in (0, 1):  # the peak may be a cell beside the transmitter's
        fitting = [way for way in inside if _peaks_at(gain, way, reach)]
        if len(fitting) == 1:
            return fitting[0]
    raise ValueError(
        f"{path}: tx_cell_indices {cells.tolist()} may be (column, row) of each of the "
        "two transmitters, or all columns and then all rows, and the gains do not say "
        "which; export a file for each transmitter (path_gain[i : i + 1], "
        "tx_cell_indices of shape (1, 2)), or leave out what asks for the antenna"
    )


def _peaks_at(
    gain: Float[np.ndarray, "tx ny nx"], cells: Int64[np.ndarray, "tx 2"], reach: int
) -> bool:
    """Says whether each transmitter's gain is largest within `reach` of its cell."""

    def around(at: int) -> slice:
        return slice(max(at - reach, 0), at + reach + 1)

    return all(
        one[around(row), around(column)].max() == one.max()
        for one, (column, row) in zip(gain, cells.tolist(), strict=True)
    )
