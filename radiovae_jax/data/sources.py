"""The kinds of data sets, opened by name: what is common to them, without Grain."""

import hashlib
import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np

from radiovae_jax.data import radiomap, splits

Record = dict[str, Any]
Path = str | os.PathLike[str]

# Modules are imported when first asked for: TFDS is heavy.
_SOURCES = {
    "radiomapseer": ("radiomapseer", "RadioMapSeer"),
    "tfds": ("radiomapseer_tfds", "TfdsSource"),
    "synthetic": ("synthetic", "SyntheticCity"),
    "folder": ("folder", "MapFolder"),
    "sionna": ("sionna", "SionnaFolder"),
    "tfds_images": ("tfds_images", "TfdsImages"),
}
KINDS = tuple(_SOURCES)
# Any maps: what their f is in dB only their owner can say.
_WITHOUT_UNIT = ("folder", "tfds_images")


def db_range(
    kind: str, floor: float | int | None = None, span: float | int | None = None
) -> radiomap.DbRange:
    """Returns what f is in dB: as given, or as this kind of data set has it."""
    if span is not None:
        return radiomap.DbRange(float(floor), float(span))
    return radiomap.NO_DB if kind in _WITHOUT_UNIT else radiomap.RADIOMAPSEER_DB


@runtime_checkable
class Source(Protocol):
    """What every data set here is."""

    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Record: ...

    def summary(self) -> str: ...


def open_source(kind: str, root: Path, *, split: str, **options: Any) -> Source:
    """Opens a data set by its kind; the options are those of its class.

    Args:
      split: "train", "val", "test" or "all"; of TFDS images what the data set has.
    """
    splits.check_choice("data.source", kind, KINDS)
    module, name = _SOURCES[kind]
    source = getattr(importlib.import_module(f"radiovae_jax.data.{module}"), name)
    return source(root, split=split, **options)


def spread(source: Source, count: int) -> list[int]:
    """Returns the places of some records, of different maps, from all over the source.

    The records of a map are those whose names differ in the transmitter alone
    (`{map}_{tx}`). With more records than maps every map has some; where a source lists
    no names, records are taken at equal distances.
    """
    maps: dict[Any, list[int]] = {}
    for index, name in enumerate(_names(source) or range(len(source))):
        maps.setdefault(_map_of(name), []).append(index)
    groups = list(maps.values())
    chosen = {
        groups[at][number % len(groups[at])]
        for number, at in enumerate(_even(len(groups), count))
    }
    rest = sorted(set(range(len(source))) - chosen)
    more = [rest[at] for at in _even(len(rest), count - len(chosen))]
    return sorted([*chosen, *more])


def _names(source: Source) -> Sequence[Any]:
    """Returns the names of the records, or their files; () where none are listed."""
    return getattr(source, "names", getattr(source, "files", ()))


def _map_of(name: Any) -> Any:
    if isinstance(name, tuple):  # (map, transmitter)
        return name[0]
    if isinstance(name, pathlib.Path):
        return name.stem.rpartition("_")[0] or name
    return name


def _even(total: int, count: int) -> list[int]:
    places = np.linspace(0, total - 1, min(count, total))
    return places.round().astype(int).tolist()


def names_digest(source: Source, *, root: Path = "") -> str:
    """Returns a checksum of the names of the maps, in their order.

    Of a TFDS data set, which is written once and whole, their number says enough.

    Args:
      root: a folder that the names of files do not count with.
    """
    names = str(_names(source) or len(source))
    text = names.replace(f"{pathlib.Path(root)}{os.sep}", "")
    return hashlib.sha256(text.encode()).hexdigest()


def sample_digest(source: Source, *, samples: int = 16) -> str:
    """Returns a checksum of some records, evenly spaced, the first and last too."""
    bits = hashlib.sha256()
    for index in _even(len(source), samples):
        for name, value in sorted(source[index].items()):
            array = np.asarray(value)
            bits.update(f"{name} {array.dtype} {array.shape}".encode())
            bits.update(array.tobytes())
    return bits.hexdigest()


class Numbered:
    """The records `first` to `last` (not included) of a source, each with its index."""

    def __init__(self, source: Source, first: int, last: int):
        self.shape, self._source, self._first = source.shape, source, first
        self._count = last - first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index) -> dict[str, Any]:
        index = int(index) + self._first
        return {**self._source[index], "index": np.int32(index)}

    def summary(self) -> str:
        return self._source.summary()
