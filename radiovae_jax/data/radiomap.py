"""Radio maps as numbers and as files.

Three scales are in use, and every function here says which one it takes:

    gray    uint8, 0 to 255, as stored in a PNG
    f       gray / 255, in [0, 1]; path gain in dB = -147 + 100 f
    model   2 f - 1, in [-1, 1], what the autoencoder sees

Source: Yapar et al. 2022 (arXiv:2212.11777) for the dB range, Levie et al. 2021
(RadioUNet, arXiv:1911.09002) for the threshold.
"""

import io
import math
import os
import pathlib
import zlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from radiovae_jax import files, inputs, physics

Numbers = np.ndarray | jnp.ndarray
Path = str | os.PathLike[str]

DbRange, NO_DB = physics.DbRange, physics.NO_DB
RADIOMAPSEER_DB = physics.RADIOMAPSEER_DB
DB_FLOOR, DB_SPAN = RADIOMAPSEER_DB
f_to_db, db_to_f = physics.gain_to_db, physics.db_to_gain

UNITS = ("f", "db")  # of arrays of maps
MAP_SUFFIXES = (".png", ".npy")
MOST_PIXELS = 2**26  # of a map: 8192x8192; resized to that it takes 5 GB
FEW = 4  # a first axis of so many is channels, not rows, if the last one is longer

_REMEDY = "copy it again from the source, or leave its map out"
_MOST_BYTES = 16 * MOST_PIXELS  # of a PNG

_COLOURS = (
    "Colours of a colour map are not gains: export the gray values instead (if its "
    "channels are equal, Image.open(path).convert('L') is exact)"
)
_CONVERT = "Save it with Image.open(path).convert('L')"
_DEEP = "Divide by 257 and save as 8 bits, or save f in [0, 1] as a float .npy"
_REMEDIES = {
    "P": _COLOURS,
    "RGB": _COLOURS,
    "RGBA": _COLOURS,
    "I": _DEEP,
    "I;16": _DEEP,
}
_DAMAGED = (OSError, SyntaxError, EOFError, ValueError, IndexError, zlib.error)


def gray_to_f(gray: Shaped[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns f = gray / 255 in float32; a floating array is f already.

    Raises:
      ValueError: an integer type other than uint8, whose scale is unknown.
    """
    if gray.dtype == np.uint8:
        return gray.astype(np.float32) / np.float32(255)
    if jnp.issubdtype(gray.dtype, jnp.floating):
        return gray
    raise ValueError(
        f"a map of dtype {gray.dtype} has no known scale; expected uint8 gray values "
        "or a floating f in [0, 1]"
    )


def f_to_model(f: Float[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns the autoencoder's range, 2 f - 1."""
    return 2 * f - 1


def model_to_f(x: Float[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns f = (x + 1) / 2, unclipped."""
    return (x + 1) / 2


def threshold(f: Float[Numbers, "*shape"], t: float) -> Float[Numbers, "*shape"]:
    """Returns (max(f, t) - t) / (1 - t): what lies under the noise floor t is 0.

    Source: RadioUNet, which uses t = 0.2; RadioDiff uses none (t = 0).
    """
    if not 0 <= t < 1:
        raise ValueError(f"threshold {t} is outside [0, 1); RadioUNet's is 0.2")
    return (f.clip(min=t) - t) / (1 - t)


def read_map(path: Path) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """Reads one map: an 8-bit gray PNG, or an NPY of [h, w] or [h, w, c].

    Returns:
      uint8 gray values as stored, or float32 f in [0, 1] from a floating NPY.

    Raises:
      ValueError: not a gray map, damaged, non-finite, or outside [0, 1].
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".png":
        return _read_png(path)
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    raise ValueError(f"{path}: a map is a .png or an .npy file")


def by(shape: Sequence[int]) -> str:
    """Returns a size as text: 256x256x1."""
    return "x".join(map(str, shape))


def check_shape(
    found: tuple[int, ...], expected: tuple[int, ...], path: Path, first: Path
) -> None:
    """Raises a ValueError if a map has another size than the first one of its set."""
    if found != expected:
        raise ValueError(
            f"{path} is {by(found)}, expected {by(expected)} like {first}; resize it, "
            "or keep it in another folder (data.image_size resizes whole batches)"
        )


def check_size(sides: Sequence[int], what: str) -> None:
    """Raises a ValueError, before the memory gives out, if a map would be too large."""
    if math.prod(sides) > MOST_PIXELS:
        raise ValueError(
            f"{what} is {by(sides)}, and maps of at most {MOST_PIXELS} pixels "
            "(8192x8192) are read, encoded and decoded; cut it into several"
        )


def write_png(path: Path, gray: UInt8[np.ndarray, "..."]) -> None:
    """Writes [h, w] or [h, w, 1] gray values as an 8-bit PNG, whole or not at all.

    Raises:
      ValueError: any other number of axes or channels.
      OSError: it cannot be written; a folder of its name is there, say.
    """
    path = pathlib.Path(path)
    if gray.ndim == 3 and gray.shape[-1] == 1:
        gray = gray[..., 0]
    if gray.ndim != 2:
        raise ValueError(f"{path}: expected [h, w] or [h, w, 1], got {gray.shape}")
    with files.written(path) as partial:
        Image.fromarray(gray).save(partial, format="PNG")


def _read_png(path: pathlib.Path) -> UInt8[np.ndarray, "h w 1"]:
    inputs.check_file(path, remedy=_REMEDY)
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES)
    if content.startswith(b"\x89PNG"):
        # IHDR's width and height; a small file can hold gigapixels of one colour.
        sides = [int.from_bytes(content[i : i + 4]) for i in (20, 16)]
        check_size(sides, str(path))
    try:
        PngImageFile(io.BytesIO(content)).verify()  # the checksums of all chunks
        image = PngImageFile(io.BytesIO(content))
        gray = np.array(image)  # asarray would be read-only
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is truncated or not the PNG file its name says ({error}); copy it "
            "again from the source"
        ) from error
    if image.mode != "L":
        raise ValueError(
            f"{path} is a PNG of mode {image.mode}, expected 8-bit gray (mode L). "
            f"{_REMEDIES.get(image.mode, _CONVERT)}"
        )
    return gray[..., None]


def _read_npy(
    path: pathlib.Path,
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    array = read_array(path)
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{path} holds {array.dtype}, expected uint8 gray values or floats f in "
            "[0, 1]; convert it, since the scale of other types is unknown"
        )
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        finite = array[np.isfinite(array)]
        spans = f"{finite.min():g} to {finite.max():g}" if finite.size else "nothing"
        raise ValueError(
            f"{path} spans {spans} and holds {array.size - finite.size} non-finite "
            "values (nan or inf), expected f in [0, 1], 0 where there is no signal. Of "
            "dB save f = clip((dB - floor) / span, 0, 1), radiomap.db_to_f, or read "
            "them by apply --unit db"
        )
    return array.astype(np.float32)


def read_shape(path: Path) -> tuple[int, int, int]:
    """Returns (h, w, c) of a map; raises as `read_map`."""
    return read_map(path).shape


def read_array(path: pathlib.Path) -> Shaped[np.ndarray, "h w c"]:
    """Reads an NPY of one map as it is stored, with an axis of channels at the end.

    Raises:
      ValueError: damaged, too large, other axes, or channels that come first.
    """
    shape = inputs.npy_shape(path, remedy=_REMEDY)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"{path} has shape {shape}, expected [h, w] or [h, w, c]: one map a file"
        )
    check_size(sorted(shape)[-2:], str(path))
    array = inputs.read_npy(path, remedy=_REMEDY)
    if array.ndim == 2:
        return array[..., None]
    if shape[0] == 1 < shape[2]:
        return np.moveaxis(array, 0, -1)  # [1, h, w], as PyTorch has one channel
    first, second, last = shape
    # Others are refused for the number of their channels, which the config states.
    if first < last and (first <= FEW or second == last):
        raise ValueError(
            f"{path} has shape {shape}, and its channels seem to come first, [c, h, w];"
            " expected [h, w, c]: save np.moveaxis(array, 0, -1)"
        )
    return array


def check_unit(unit: str, db: DbRange, of: str) -> None:
    """Raises a ValueError for an unknown unit, or dB of maps that have none."""
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is not 'f' or 'db'")
    if unit == "db" and not db.span:
        raise ValueError(
            f"what f is in dB is not known of the maps of {of}: set data.db_floor and "
            "data.db_span in its config.json (dB at f = 0, and over the whole scale)"
        )


def check_mask(
    buildings: UInt8[np.ndarray, "h w 1"],
    gain: UInt8[np.ndarray, "h w 1"],
    path: Path,
) -> None:
    """Checks that 255 marks the buildings, where the gain is (all but) zero.

    All but: in the real data the outermost pixels of a building carry some gain.
    """
    inside = buildings == 255
    if not np.array_equal(inside, buildings != 0):
        values = np.unique(buildings)[:4].tolist()
        raise ValueError(
            f"{path} holds values such as {values}, expected 0 (street) and 255 "
            "(building) only; save it with lossless scaling and no smoothing"
        )
    under, outside = (
        gain[mask].sum(dtype=np.int64) / max(np.count_nonzero(mask), 1)
        for mask in (inside, ~inside)
    )
    if under > outside:
        raise ValueError(
            f"{path} is inverted: the mean gain is {under:.1f} of 255 under its "
            f"buildings (255) and {outside:.1f} outside; store 255 - mask"
        )
