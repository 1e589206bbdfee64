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
        fields: Sequence[str] = ("gray",),
        split_by: str = "group",
    ):
        """Lists the files; reads none but the first.

        Args:
          root: where it holds no maps itself, those of its subfolders count.
          split, split_by: see splits.split_files.
          fields: ("gray",), all there is.
        """
        splits.check_gray_alone(fields, "a plain folder has gray maps only")
        self.root, self.split = pathlib.Path(root), split
        self.files, self._names, self._where = splits.split_files(
            self.root, radiomap.MAP_SUFFIXES, split=split, split_by=split_by
        )
        first = radiomap.read_map(self.files[0])
        self.shape, self._dtype = first.shape, first.dtype

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": the file's stem, "gray": [h, w, c] uint8, or float32 f}.

        The name of a map in a folder of its split carries that: "folder/stem".
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
        size = radiomap.by(self.shape)
        return (
            f"folder, split {self.split}: {len(self)} maps of {size} "
            f"({self._dtype}), in {self._where}"
        )
