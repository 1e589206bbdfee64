"""RadioMapSeer as a TFDS data set: prepared once, read as one indexed file.

Nothing here needs TensorFlow. TFDS writes array_record files and reads them back with
`as_data_source`; images are handed to it as paths of PNG files, which it copies byte
by byte, since arrays would make it import TensorFlow.

    python -m radiovae_jax.data.radiomapseer_tfds ROOT DATA_DIR [SIMULATION]
"""

import operator
import sys
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from radiovae_jax.data import radiomap, radiomapseer, splits
from radiovae_jax.data.radiomapseer_files import SIMULATIONS, WHERE_TO_GET_IT

NAME = "radiomapseer"
# The maps of no split, such as map 0, so that "all" is every map found.
REST = "rest"


class RadioMapSeerBuilder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder over a RadioMapSeer folder; one config for each simulation."""

    name = NAME
    # TFDS looks beside the code for checksums of downloads. There are none, and its
    # search needs importlib_resources, which it does not install.
    code_path = None
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=simulation) for simulation in SIMULATIONS
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = WHERE_TO_GET_IT

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        fields = stored_fields(self.builder_config.name)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Simulated path gain over city maps, split by map.",
            homepage="https://radiomapseer.github.io",
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), **dict.fromkeys(fields, image)}
            ),
            disable_shuffling=True,  # Grain shuffles; here the order is (map, tx)
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, str]]]]:
        simulation = self.builder_config.name
        source = radiomapseer.RadioMapSeer(
            dl_manager.manual_dir,
            simulation=simulation,
            split="all",
            fields=stored_fields(simulation),
        )
        members = {name: [] for name in (*splits.SPLITS[:-1], REST)}
        for index, (city, _) in enumerate(source.names):
            members[_split_of(city)].append(index)
        # A partial copy may have nothing of a split; TFDS knows no empty ones.
        return {
            name: self._generate_examples(source, indices)
            for name, indices in members.items()
            if indices
        }

    def _generate_examples(
        self, source: radiomapseer.RadioMapSeer, indices: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, str]]]:
        for index in indices:
            record = source[index]  # a damaged file is found now, not while training
            paths = {field: str(source.path(field, index)) for field in source.fields}
            yield index, {"name": str(record["name"]), **paths}


def stored_fields(simulation: str) -> tuple[str, ...]:
    """Returns the images of a record; simulations with cars have them as well."""
    cars = ("cars",) if simulation.startswith("cars") else ()
    return ("gray", "buildings", "antenna", *cars)


def prepare(
    root: radiomap.Path, data_dir: radiomap.Path, simulation: str = "DPM"
) -> None:
    """Writes a RadioMapSeer folder as a TFDS data set, unless it is there already.

    What is there is kept even if root has more by now; remove it to write it anew.

    Args:
      data_dir: TFDS's folder; it gets `radiomapseer/{simulation}/1.0.0/`.
    """
    splits.check_choice("simulation", simulation, SIMULATIONS)
    # TFDS would report a missing manual_dir in its own words, without the remedy.
    radiomapseer.RadioMapSeer(root, simulation=simulation, split="all")
    builder = RadioMapSeerBuilder(
        data_dir=data_dir, config=simulation, file_format="array_record"
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=root)
    )


class TfdsSource:
    """A prepared data set, with the records of radiomapseer.RadioMapSeer.

    Attributes:
      shape: (h, w, c) of the stored images, the first one's.
    """

    def __init__(
        self,
        data_dir: radiomap.Path,
        *,
        simulation: str = "DPM",
        split: str = "train",
        fields: Sequence[str] = ("gray",),
    ):
        """Opens a split.

        Args:
          data_dir: as given to `prepare`.
          split: "train", "val", "test" (RadioUNet's), or "all" for every map stored.
          fields: images of each record, of stored_fields(simulation).
        """
        splits.check_choice("simulation", simulation, SIMULATIONS)
        splits.check_choice("split", split, splits.SPLITS)
        splits.check_fields(fields, stored_fields(simulation))
        folder = epath.Path(data_dir) / NAME / simulation
        folder = folder / str(RadioMapSeerBuilder.VERSION)
        if not folder.exists():
            raise FileNotFoundError(
                f"no {folder}: write it with python -m "
                f"radiovae_jax.data.radiomapseer_tfds ROOT {data_dir} {simulation}, "
                f"where ROOT is RadioMapSeer; {WHERE_TO_GET_IT}"
            )
        self._folder, self.split, self.fields = folder, split, tuple(fields)
        builder = tfds.builder_from_directory(folder)
        stored = {name: info.num_examples for name, info in builder.info.splits.items()}
        if split not in ("all", *stored):
            counts = ", ".join(f"{count} in {name}" for name, count in stored.items())
            raise ValueError(
                f"split {split!r} is empty in {folder}: found {counts}; ask for "
                "another, for split='all', or prepare it again from a fuller copy"
            )
        # What is not asked for is not decoded either.
        unwanted = set(stored_fields(simulation)) - set(self.fields)
        skip = dict.fromkeys(unwanted, tfds.decode.SkipDecoding())
        self._records = builder.as_data_source(split=split, decoders=skip)
        self.shape = self[0][self.fields[0]].shape

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": "11_1", field: [h, w, 1] uint8, ...}."""
        stored = self._records[range(len(self))[operator.index(index)]]
        images = {field: stored[field] for field in self.fields}
        return {"name": np.str_(stored["name"].decode()), **images}

    def summary(self) -> str:
        """Returns how many images the split has, and where they are."""
        return f"TFDS, split {self.split}: {len(self)} images, in {self._folder}"


def _split_of(city: int) -> str:
    for name in splits.SPLITS[:-1]:
        if city in splits.split_maps(name, "radiounet"):
            return name
    return REST


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    prepare(*sys.argv[1:])
