"""Shards of records on disk: written whole, listed with their checksums.

What is in a record, and how to read it, is in vae/latents.py.
"""

import hashlib
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from radiovae_jax import files, inputs
from radiovae_jax.data import pipeline

Record = dict[str, np.ndarray]
FORMATS = ("array_record", "npz")
MANIFEST, PROGRESS = "manifest.json", "progress.json"
STEM = "latents"  # of the names of shards


def write(path: pathlib.Path, records: list[Record]) -> None:
    """Writes X.npz or X.array_record; under its name it is whole.

    Raises:
      OSError: it cannot be written, for want of space, say.
    """
    with files.written(path) as partial:
        if path.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez_compressed(file, **pipeline.stack(records))
        else:
            _write_array_record(partial, records)


def _write_array_record(path: pathlib.Path, records: list[Record]) -> None:
    # In Grain's dependencies, and of no use to who wants npz alone.
    from array_record.python import array_record_module

    try:
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            buffer = io.BytesIO()
            np.savez(buffer, **record)
            writer.write(buffer.getvalue())
        writer.close()
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def describe(paths: list[pathlib.Path], records: list[Record]) -> dict[str, Any]:
    """Returns what manifest and progress say of a shard."""
    return dict(
        count=len(records),
        files={path.name: sha256(path) for path in paths},
        fields={
            name: dict(shape=list(np.shape(value)), dtype=_kind(np.asarray(value)))
            for name, value in records[0].items()
        },
    )


def _kind(value: np.ndarray) -> str:
    return "str" if value.dtype.kind == "U" else value.dtype.name


def whole(folder: pathlib.Path, shard: Mapping[str, Any]) -> bool:
    """Says whether the files of a shard are there as they were written."""
    return all(
        (folder / name).is_file() and sha256(folder / name) == digest
        for name, digest in shard["files"].items()
    )


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> dict[int, dict]:
    """Returns the shards that are there already, by number.

    A list is there before the first shard, so no shard is ever of unknown origin.

    Raises:
      ValueError: they are the latents of something else, or the list is damaged or
        lacking.
    """
    files.sweep(folder)
    file = folder / (MANIFEST if (folder / MANIFEST).exists() else PROGRESS)
    remedy = f"remove {folder} or give another --out"
    if not file.exists():
        for path in folder.glob(f"{STEM}-*"):
            raise ValueError(
                f"{folder} holds {path.name} and no list that says of what; {remedy}"
            )
        files.write_json(file, dict(identity=identity, shards=[]))
        return {}
    saved = inputs.read_json(file, remedy=remedy)
    there, shards = saved.get("identity"), saved.get("shards")
    listed = isinstance(shards, list) and all(
        isinstance(shard, dict) and isinstance(shard.get("files"), dict)
        for shard in shards
    )
    if not isinstance(there, dict) or not listed:
        raise ValueError(f"{file} is damaged: no list of shards; {remedy}")
    differing = "\n  ".join(_differences(there, identity))
    if differing:
        raise ValueError(
            f"{folder} holds the latents of something else:\n  {differing}\nGive "
            "another --out, or remove it"
        )
    return dict(enumerate(shards))


def unfinished(folder: pathlib.Path) -> Mapping[str, Any]:
    """Returns of what an interrupted export wrote the latents; {} where there is none.

    What is damaged is refused by `claim`.
    """
    try:
        identity = inputs.read_json(folder / PROGRESS, remedy="")["identity"]
    except (OSError, ValueError, KeyError):
        return {}
    finished = (folder / MANIFEST).exists()
    return identity if isinstance(identity, Mapping) and not finished else {}


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Yields a line for every field in which two nested dicts differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() | here.keys()):
            inner = f"{name}.{key}" if name else key
            yield from _differences(there.get(key), here.get(key), inner)
    elif there != here:
        yield f"{name}: {there} there, {here} here"
