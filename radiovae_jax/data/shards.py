"""Shards of records on disk: written whole, listed with their checksums.

What is in a record, and how to read it, is in vae/latents.py.
"""

import functools
import hashlib
import io
import operator
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex

import numpy as np

from radiovae_jax import files, inputs
from radiovae_jax.data import pipeline
from radiovae_jax.data.sources import Source, names_digest

Record = dict[str, np.ndarray]
FORMATS = ("array_record", "npz")
MANIFEST, PROGRESS = "manifest.json", "progress.json"
STEM = "latents"  # of the names of shards
LATENTS = ("mean", "logvar", "z")  # a posterior, or a draw


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


class WithLatents:
    """A source whose records have their exported latents too, by their place.

    Attributes:
      shape: (h, w, c) of the maps.
      names: those of the source.
    """

    def __init__(self, source: Source, folder: pathlib.Path):
        """Reads the manifest; of npz shards all that they hold.

        Raises:
          FileNotFoundError: no finished export there.
          ValueError: it is of other maps than the source's.
        """
        self._source, self.shape = source, source.shape
        self.names, self.root = (
            getattr(source, "names", ()),
            getattr(source, "root", ""),
        )
        manifest = read_manifest(folder)
        same = manifest["identity"]["names_sha256"] == names_digest(source)
        if not same or manifest["count"] != len(source):
            raise ValueError(
                f"{folder} holds the latents of other maps than {source.summary()}; "
                "export those of the training split"
            )
        files_of = [
            folder / name for shard in manifest["shards"] for name in shard["files"]
        ]
        self._packed = [path for path in files_of if path.suffix == ".array_record"]
        self._latents: Any = None
        if not self._packed:
            arrays = [np.load(path) for path in files_of]
            self._latents = {
                name: np.concatenate([array[name] for array in arrays])
                for name in ("name", *LATENTS)
                if name in arrays[0]
            }

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        record, index = self._source[index], operator.index(index)
        if self._packed:
            with np.load(io.BytesIO(_packed(tuple(self._packed))[index])) as found:
                latents = {name: found[name] for name in found}
        else:
            latents = {name: of[index] for name, of in self._latents.items()}
        if str(latents["name"]) != str(record["name"]):
            raise ValueError(
                f"the latents of {record['name']} are those of {latents['name']}: "
                "export them again"
            )
        return record | {name: latents[name] for name in LATENTS if name in latents}

    def summary(self) -> str:
        return f"{self._source.summary()}, with exported latents"


@functools.cache
def _packed(paths: tuple[pathlib.Path, ...]) -> Any:
    # Opened by each process that reads; it cannot be sent to one.
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([*map(str, paths)])


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of a finished export."""
    path = folder / MANIFEST
    remedy = "export the latents with python tools/export_latents.py RUN"
    if not path.exists():
        raise FileNotFoundError(f"no finished export of latents in {folder}; {remedy}")
    manifest = inputs.read_json(path, remedy=remedy)
    missing = {"identity", "count", "shards"} - manifest.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {remedy}")
    return manifest


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
