"""A plain folder of gray maps, PNG or NPY, for everyone else."""

import operator
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from radiovae_jax.data import folder_splits, radiomap


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
        split_by: str = "group",
        seed: int = 42,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        fields: Sequence[str] = ("gray",),
    ):
        """Lists the files; reads none but the first.

        Args:
          root: the folder. Where it holds any of train/, val/ and test/, these are
            the splits. Where it holds no maps itself, those of its subfolders count.
          split: "train", "val", "test", or "all" for every map found.
          split_by: how the random split deals where there are no such subfolders:
            "group", those of one map (7_0, 7_1) together; or "file".
          seed: of the random split.
          val_fraction: of the groups or files, for that split.
          test_fraction: of the groups or files, for that split.
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
        self.files, self._names, self._where = folder_splits.split_files(
            self.root,
            radiomap.MAP_SUFFIXES,
            split=split,
            split_by=split_by,
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

        The name of a map in a folder of its split carries that: "folder/stem".

        Raises:
          FileNotFoundError: the file has gone.
          ValueError: a damaged file, or one unlike the first in size or type.
        """
        index = operator.index(index)
        path = self.files[index]
        image = radiomap.read_map(path)
        radiomap.check_shape(image.shape, self.shape, path, self.files[0])
        if image.dtype != self._dtype:
            raise ValueError(
                f"{path} holds {image.dtype}, and {self.files[0]} {self._dtype}; "
                "keep one type in a folder: uint8 gray values, or f as floats"
            )
        return {"name": np.str_(self._names[index]), "gray": image}

    def summary(self) -> str:
        """Returns how many maps the split has, their size, and where they are."""
        size = "x".join(str(side) for side in self.shape)
        return (
            f"folder, split {self.split}: {len(self)} maps of {size} "
            f"({self._dtype}), in {self._where}"
        )
