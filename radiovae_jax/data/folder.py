"""A plain folder of gray maps, PNG or NPY, for everyone else."""

import operator
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from radiovae_jax.data import radiomap, splits


class MapFolder:
    """The maps of a folder; each file is one record.

    Attributes:
      files: the file of every record.
      shape: (h, w, c) that all maps must have, the first one's.
    """

    def __init__(
        self,
        root: radiomap.Path,
        *,
        split: str = "train",
        seed: int = 42,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        fields: Sequence[str] = ("gray",),
    ):
        """Lists the files; reads none but the first.

        Args:
          root: the folder. Where it holds any of train/, val/ and test/, these are
            the splits; make them so when several files show the same city.
          split: "train", "val", "test", or "all" for every map found.
          seed: of the random split, where there are no such subfolders.
          val_fraction: of the files, for that split.
          test_fraction: of the files, for that split.
          fields: ("gray",), all there is.

        Raises:
          FileNotFoundError: root is missing.
          ValueError: other fields, an unknown or empty split, an unreadable map.
        """
        if tuple(fields) != ("gray",):
            raise ValueError(
                f"a plain folder has gray maps only, and fields={list(fields)}; lay "
                "the data out as RadioMapSeer does, or switch off what needs the rest "
                "(pixel_weights, disc_conditional)"
            )
        self.root = pathlib.Path(root)
        self.split = split
        self.files = splits.split_files(
            self.root,
            radiomap.MAP_SUFFIXES,
            split=split,
            seed=seed,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )
        first = radiomap.read_map(self.files[0])
        self.shape, self._dtype = first.shape, first.dtype

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": the file's stem, "gray": [h, w, c] uint8, or float32 f}.

        Raises:
          FileNotFoundError: the file has gone.
          ValueError: a damaged file, or one unlike the first in size or type.
        """
        path = self.files[operator.index(index)]
        image = radiomap.read_map(path)
        radiomap.check_shape(image.shape, self.shape, path, self.files[0])
        if image.dtype != self._dtype:
            raise ValueError(
                f"{path} holds {image.dtype}, and {self.files[0]} {self._dtype}; "
                "keep one type in a folder: uint8 gray values, or f as floats"
            )
        return {"name": np.str_(path.stem), "gray": image}

    def summary(self) -> str:
        """Returns how many maps the split has, their size, and where they are."""
        size = "x".join(str(side) for side in self.shape)
        return (
            f"folder, split {self.split}: {len(self)} maps of {size} "
            f"({self._dtype}), in {self.root}"
        )
