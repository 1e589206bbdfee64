"""Radio maps as numbers and as files.

Three scales are in use, and every function here says which one it takes:

    gray    uint8, 0 to 255, as stored in a PNG
    f       gray / 255, in [0, 1]; path gain in dB = -147 + 100 f
    model   2 f - 1, in [-1, 1], what the autoencoder sees

Source: Yapar et al. 2022 (arXiv:2212.11777) for the dB range, Levie et al. 2021
(RadioUNet, arXiv:1911.09002) for the threshold.
"""

import os
import pathlib
import zlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from radiovae_jax import whole_files

Numbers = np.ndarray | jnp.ndarray
Path = str | os.PathLike[str]


class DbRange(NamedTuple):
    """What f is in dB: floor + span * f. A span of 0: f has no unit."""

    floor: float
    span: float


RADIOMAPSEER_DB = DbRange(-147.0, 100.0)
NO_DB = DbRange(0.0, 0.0)
DB_FLOOR, DB_SPAN = RADIOMAPSEER_DB

MAP_SUFFIXES = (".png", ".npy")

_MODES = {
    "1": "1-bit black and white",
    "LA": "gray with transparency",
    "P": "palette",
    "RGB": "RGB colour",
    "RGBA": "RGB colour with transparency",
    "I": "32-bit gray",
    "I;16": "16-bit gray",
}
_DAMAGED = (OSError, SyntaxError, EOFError, ValueError, zlib.error)


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


def f_to_db(f: Float[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns the path gain in dB, -147 + 100 f."""
    return DB_FLOOR + DB_SPAN * f


def db_to_f(gain_db: Float[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns f = (dB + 147) / 100, unclipped."""
    return (gain_db - DB_FLOOR) / DB_SPAN


def f_to_model(f: Float[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns the autoencoder's range, 2 f - 1."""
    return 2 * f - 1


def model_to_f(x: Float[Numbers, "*shape"]) -> Float[Numbers, "*shape"]:
    """Returns f = (x + 1) / 2, unclipped."""
    return (x + 1) / 2


def threshold(f: Float[Numbers, "*shape"], t: float) -> Float[Numbers, "*shape"]:
    """Returns (max(f, t) - t) / (1 - t): what lies under the noise floor t is 0.

    Raises:
      ValueError: t outside [0, 1).

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
      FileNotFoundError: no such file.
      ValueError: not a gray map, damaged, non-finite, or outside [0, 1].
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".png":
        return _read_png(path)
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    raise ValueError(
        f"{path}: a map is a .png or an .npy file, not {path.suffix or 'suffixless'!r}"
    )


def read_shape(path: Path) -> tuple[int, int, int]:
    """Returns (h, w, c) of a map from the file's header, without decoding it.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a map, or damaged.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".npy":
        return _channels_last(_load_npy(path, mmap_mode="r"), path).shape
    with _open_png(path) as image:
        return (image.height, image.width, 1)


def check_shape(
    found: tuple[int, ...], expected: tuple[int, ...], path: Path, first: Path
) -> None:
    """Checks that a map has the size of the first one of its set.

    Raises:
      ValueError: it has not; names both files and both sizes.
    """
    if tuple(found) != tuple(expected):
        raise ValueError(
            f"{path} is {_by(found)}, expected {_by(expected)} like {first}; resize "
            "it, or keep maps of different sizes in different folders (data.image_size "
            "resizes batches, whose maps have one size)"
        )


def write_png(path: Path, gray: UInt8[np.ndarray, "..."]) -> None:
    """Writes [h, w] or [h, w, 1] gray values as an 8-bit PNG.

    The file appears under its name only once it is whole, so that an interrupted
    run leaves no torn map behind.

    Raises:
      ValueError: any other number of axes or channels.
      OSError: it cannot be written; a folder of its name is there, say.
    """
    path = pathlib.Path(path)
    if gray.ndim == 3 and gray.shape[-1] == 1:
        gray = gray[..., 0]
    if gray.ndim != 2:
        raise ValueError(f"{path}: expected [h, w] or [h, w, 1], got {gray.shape}")
    with whole_files.written(path) as partial:
        Image.fromarray(gray).save(partial, format="PNG")


def _read_png(path: pathlib.Path) -> UInt8[np.ndarray, "h w 1"]:
    with _open_png(path) as image:
        if image.mode != "L":
            raise ValueError(
                f"{path} is a {_MODES.get(image.mode, image.mode)} PNG (mode "
                f"{image.mode}), expected 8-bit gray (mode L). "
                + _mode_remedy(image.mode)
            )
        try:
            return np.array(image)[..., None]  # asarray would be read-only
        except _DAMAGED as error:
            raise _damaged(path, error) from error


def _open_png(path: pathlib.Path) -> Image.Image:
    try:
        return Image.open(path, formats=("PNG",))
    except FileNotFoundError:
        raise _absent(path) from None
    except (UnidentifiedImageError, *_DAMAGED) as error:
        raise _damaged(path, error) from error


def _mode_remedy(mode: str) -> str:
    if mode.startswith("I"):
        return "Divide by 257 and save as 8 bits, or save f in [0, 1] as a float .npy"
    if mode in ("P", "RGB", "RGBA"):
        return (
            "Colours of a colour map are not gains: export the gray values instead "
            "(if its channels are equal, Image.open(path).convert('L') is exact)"
        )
    return "Save it with Image.open(path).convert('L')"


def _read_npy(
    path: pathlib.Path,
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    array = _channels_last(_load_npy(path), path)
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{path} holds {array.dtype}, expected uint8 gray values or floats f in "
            "[0, 1]; convert it, since the scale of other types is unknown"
        )
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise ValueError(
            f"{path} holds {count} non-finite values (nan or inf); write 0 where "
            "there is no signal"
        )
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"{path} spans [{array.min():g}, {array.max():g}], expected f in [0, 1]; "
            "convert dB with radiovae_jax.data.radiomap.db_to_f and clip"
        )
    return array.astype(np.float32)


def _load_npy(path: pathlib.Path, mmap_mode: str = "") -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mmap_mode or None, allow_pickle=False)
    except FileNotFoundError:
        raise _absent(path) from None
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _channels_last(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(
            f"{path} has shape {array.shape}, expected [h, w] or [h, w, c]: one map a "
            "file"
        )
    return array


def _absent(path: pathlib.Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{path} does not exist; copy it from the source, or leave its map out"
    )


def _damaged(path: pathlib.Path, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:
        return error  # the system's own (no permission, a directory), not the file's
    return ValueError(
        f"{path} is truncated or not the {path.suffix[1:].upper()} file its name says "
        f"({error}); copy it again from the source"
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
