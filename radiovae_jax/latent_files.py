"""Latents of a few maps in one npz, for `apply encode` and `apply decode`.

    mean, logvar   float32 [n, p, q, z]   the posterior of each map
    names          str [n]                of the maps
    scale          float32 [z]            1 / std of each channel over what is in here
    stored, seen   int32 [2]              size of the maps, and before padding of what
                                          the network saw
    run            str                    whose latents these are

mean and logvar are the network's own, not multiplied by the scale. A shard of
tools/export_latents.py can be read too.
"""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from radiovae_jax import latents


class LatentFile(NamedTuple):
    """What `decode` needs of a file."""

    names: list[str]
    z: Float[np.ndarray, "n p q z"]
    stored: tuple[int, ...]  # (height, width); empty if the file does not say
    seen: tuple[int, ...]


def write(
    path: pathlib.Path,
    names: Sequence[str],
    mean: Float[np.ndarray, "n p q z"],
    logvar: Float[np.ndarray, "n p q z"],
    *,
    stored: tuple[int, int],
    seen: tuple[int, int],
    run: str,
) -> None:
    """Writes the file, all of it or nothing."""
    numbers = latents.statistics(latents.of_posterior(mean, logvar))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            mean=mean,
            logvar=logvar,
            names=np.array(names),
            scale=np.float32(numbers["scale_factor"]),
            stored=np.int32(stored),
            seen=np.int32(seen),
            run=np.array(run),
        )
    partial.replace(path)


def read(path: pathlib.Path) -> LatentFile:
    """Reads latents: z if the file has samples, else the means.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no npz, or none with latents in it.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; `encode` makes one") from None
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as e:
        raise ValueError(
            f"{path} is truncated or no npz archive ({e}); encode its maps again"
        ) from e
    z = arrays.get("z", arrays.get("mean"))
    if z is None or z.ndim != 4 or not np.issubdtype(z.dtype, np.floating):
        raise ValueError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected mean or z, "
            "floats [n, h/f, w/f, channels], as `encode` writes them"
        )
    if not np.isfinite(z).all():
        raise ValueError(f"{path} holds latents that are not finite")
    unnamed = [f"{path.stem}_{i}" for i in range(len(z))]
    names = arrays.get("names", arrays.get("name", unnamed))
    nothing = np.zeros(0, np.int32)
    stored, seen = (
        tuple(arrays.get(key, nothing).tolist()) for key in ("stored", "seen")
    )
    return LatentFile([str(name) for name in names], z, stored, seen)
