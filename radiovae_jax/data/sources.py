"""The kinds of data sets, opened by name: what is common to them, without Grain."""

import importlib
import os
from typing import Any, Protocol, SupportsIndex, runtime_checkable

from radiovae_jax.data import splits

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


@runtime_checkable
class Source(Protocol):
    """What every data set here is."""

    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Record: ...

    def summary(self) -> str: ...


def open_source(kind: str, root: Path, *, split: str, **options: Any) -> Any:
    """Opens a data set by its kind; the options are those of its class.

    Args:
      kind: of `KINDS`.
      root: its folder.
      split: "train", "val", "test" or "all"; of TFDS images what the data set has.
      **options: what else RadioMapSeer, TfdsSource, SyntheticCity, MapFolder,
        SionnaFolder or TfdsImages takes.

    Raises:
      ValueError: an unknown kind; names the closest one.
      TypeError: an option that the kind does not have.
    """
    splits.check_choice("data.source", kind, KINDS)
    module, name = _SOURCES[kind]
    source = getattr(importlib.import_module(f"radiovae_jax.data.{module}"), name)
    return source(root, split=split, **options)
