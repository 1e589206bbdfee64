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

import collections
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from radiovae_jax import files, inputs
from radiovae_jax.data import radiomap
from radiovae_jax.evaluation import latent_statistics

LARGEST = 1e6  # of a latent; far beyond it float32 overflows inside GroupNorm


class LatentFile(NamedTuple):
    """What `decode` needs of a file."""

    names: list[str]
    z: Float[np.ndarray, "n p q z"]
    stored: tuple[int, ...]  # (height, width); empty if the file does not say
    network: tuple[int, ...]  # (height, width) that the network saw; or empty


def write(
    path: pathlib.Path,
    names: Sequence[str],
    mean: Float[np.ndarray, "n p q z"],
    logvar: Float[np.ndarray, "n p q z"],
    *,
    stored: tuple[int, int],
    network: tuple[int, int],
    run: str,
) -> None:
    """Writes the file, all of it or nothing."""
    numbers = latent_statistics.statistics(latent_statistics.moments(mean, logvar))
    with files.written(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            mean=mean,
            logvar=logvar,
            names=np.array(names),
            scale=np.float32(numbers["scale_factor"]),
            stored=np.int32(stored),
            seen=np.int32(network),
            run=np.array(run),
        )


def read(path: pathlib.Path) -> LatentFile:
    """Reads latents: z if the file has samples, else the means.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no npz, none with latents in it, or of parts that do not fit.
    """
    arrays = inputs.read_npz(path, remedy="encode its maps again")
    z = arrays.get("z", arrays.get("mean"))
    floats = z is not None and np.issubdtype(z.dtype, np.floating)
    if not floats or z.ndim != 4 or not z.size:
        raise ValueError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected mean or z, "
            "floats [n, h/f, w/f, channels], as `encode` writes them"
        )
    if not np.abs(z).max() <= LARGEST:  # NaN is neither
        raise ValueError(
            f"{path} holds latents of up to {np.abs(z).max():.3g}, and no map's are "
            f"beyond {LARGEST:g}; encode a map again"
        )
    unnamed = [f"{path.stem}_{i}" for i in range(len(z))]
    names = list(map(str, np.ravel(arrays.get("names", arrays.get("name", unnamed)))))
    if len(names) != len(z):
        raise ValueError(f"{path} has {len(names)} names for {len(z)} latents")
    # They become the names of files.
    for name, count in collections.Counter(names).items():
        if pathlib.PurePath(name).name != name or "\0" in name:
            raise ValueError(
                f"{path} names a map {name!r}; a name has no folder and no NUL in it"
            )
        if count > 1:
            raise ValueError(
                f"{path} has {count} maps named {name!r}, which would be one file; "
                "encode them in several commands, each with its own --out"
            )
    stored, network = (_sides(arrays, key, path) for key in ("stored", "seen"))
    return LatentFile(names, z, stored, network)


def _sides(
    arrays: dict[str, np.ndarray], key: str, path: pathlib.Path
) -> tuple[int, ...]:
    if key not in arrays:
        return ()
    sides = np.ravel(arrays[key]).tolist()
    if len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise ValueError(f"{path}: {key} is {sides}, expected height and width")
    radiomap.check_size(sides, f"{path}: {key}")
    return tuple(sides)
