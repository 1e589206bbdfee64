"""Any prepared TFDS image data set by name, MNIST say, read without TensorFlow.

    python -c "import tensorflow_datasets as tfds; tfds.builder('mnist', \
data_dir='data', file_format='array_record').download_and_prepare()"

downloads and prepares one (TensorFlow is needed for that where the data set's own code
wants it); then `data.source=tfds_images`, `data.root=data`, `data.dataset=mnist`.
"""

import operator
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import tensorflow_datasets as tfds

from radiovae_jax.data import radiomap, splits


class TfdsImages:
    """The images of a split of a data set that TFDS has prepared; labels are dropped.

    Attributes:
      shape: (h, w, c) of the images, the first one's; gray or RGB.
    """

    def __init__(
        self,
        root: radiomap.Path,
        *,
        name: str,
        split: str = "train",
        fields: Sequence[str] = ("gray",),
    ):
        """Opens a split.

        Args:
          root: TFDS's `data_dir`.
          name: as TFDS has it: "mnist", "dataset/config", "dataset:1.0.0".
          split: one of the data set's own, or a slice of it: "train[:90%]"; "all".
          fields: ("gray",), the image, whatever its colours.
        """
        splits.check_gray_alone(fields, "a TFDS image data set has images only")
        builder = _open(root, name)
        self._feature = _image_feature(builder)
        self._split, self._where = split, builder.info.full_name
        skipped = {  # what is not asked for is not decoded either
            other: tfds.decode.SkipDecoding()
            for other, feature in builder.info.features.items()
            if other != self._feature
            and not isinstance(feature, tfds.features.FeaturesDict)
        }
        try:
            self._records = builder.as_data_source(split=split, decoders=skipped)
            size = len(self._records)
        except (ValueError, AssertionError, KeyError) as error:
            raise ValueError(
                f"{self._where} has no split {split!r}: it has "
                f"{', '.join(builder.info.splits)} and slices of them (train[:90%]), "
                f"for data.train_split and data.val_split ({error})"
            ) from error
        if not size:
            raise ValueError(f"split {split!r} of {self._where} is empty")
        self.shape = np.shape(self._records[0][self._feature])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": "train_17", "gray": [h, w, c] uint8}."""
        index = range(len(self))[operator.index(index)]
        image = np.asarray(self._records[index][self._feature])
        if image.shape != self.shape:
            raise ValueError(
                f"image {index} of {self._where}, split {self._split}, is "
                f"{radiomap.by(image.shape)} and the first {radiomap.by(self.shape)}: "
                "take a data set of images of one size, or write it resized into a "
                "folder (data.source=folder)"
            )
        return {"name": np.str_(f"{self._split}_{index}"), "gray": image}

    def summary(self) -> str:
        """Returns how many images the split has, and which data set it is."""
        size = radiomap.by(self.shape)
        return f"TFDS {self._where}, split {self._split}: {len(self)} images of {size}"


def _open(root: radiomap.Path, name: str):
    remedy = (
        'prepare it with python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}, data_dir={str(root)!r}, "
        "file_format='array_record').download_and_prepare()\""
    )
    try:
        builder = tfds.core.read_only_builder.builder_from_files(
            name, data_dir=str(root)
        )
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        infos = pathlib.Path(root).glob("**/dataset_info.json")  # NAME/VERSION/...
        found = {str(path.parents[1].relative_to(root)) for path in infos}
        raise FileNotFoundError(
            f"no prepared TFDS data set {name!r} in {root} (it holds "
            f"{', '.join(sorted(found)) or 'none'}); {remedy}, or set data.root and "
            "data.dataset to one that is there"
        ) from error
    found = builder.info.file_format
    if found is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{builder.data_path} holds {found.value} files, which need TensorFlow and "
            f"have no random access; remove it and {remedy}"
        )
    return builder


def _image_feature(builder) -> str:
    """Returns the name of the image: "image", or the only one there is."""
    features, where = builder.info.features, builder.info.full_name
    images = [
        n for n, feature in features.items() if type(feature) is tfds.features.Image
    ]
    if "image" in images:
        images = ["image"]
    if len(images) != 1:
        raise ValueError(
            f"{where} has {len(images)} images a record "
            f"({', '.join(sorted(features))}); one is wanted, or one called 'image'"
        )
    feature = features[images[0]]
    if feature.np_dtype != np.uint8 or feature.shape[-1] not in (1, 3):
        raise ValueError(
            f"the images of {where} are {np.dtype(feature.np_dtype).name} of "
            f"{feature.shape[-1]} channels; uint8 gray (1) or RGB (3) can be read"
        )
    return images[0]
