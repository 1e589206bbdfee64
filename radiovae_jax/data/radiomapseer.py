"""RadioMapSeer as a source: the images of a simulation and split, as found on disk."""

import operator
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from absl import logging
from jaxtyping import UInt8

from radiovae_jax.data import radiomap, radiomapseer_files, splits
from radiovae_jax.data.radiomapseer_files import (
    FIELDS,
    IRT4_TRANSMITTERS,
    MAPS,
    PER_MAP,
    SIMULATIONS,
    TRANSMITTERS,
    FileNames,
)


class RadioMapSeer:
    """The images of one simulation and one split, in the order of (map, tx).

    A partial copy works: `summary()` says how much of the whole there is.

    Attributes:
      names: (map, tx) of every record.
      shape: (h, w, c) of the stored images, the first one's.
    """

    def __init__(
        self,
        root: radiomap.Path,
        *,
        simulation: str = "DPM",
        split: str = "train",
        split_scheme: str = "radiounet",
        fields: Sequence[str] = ("gray",),
        transmitters: int = 0,
    ):
        """Indexes the files; reads none but the first one.

        Args:
          root: the folder that holds `gain/` and `png/`.
          simulation: one of SIMULATIONS; what "gray" is.
          split: "train", "val", "test", or "all" for every map found.
          split_scheme: "radiounet", or "released" (overlapping, as in RadioDiff).
          fields: images of each record, of FIELDS. The name of a simulation gives
            that simulation of the same map and transmitter; records without it are
            left out, and their number is logged.
          transmitters: keeps those numbered below it; 0 keeps all there are.
        """
        splits.check_choice("simulation", simulation, SIMULATIONS)
        splits.check_choice("split", split, splits.SPLITS)
        splits.check_choice("split_scheme", split_scheme, tuple(splits.SCHEMES))
        splits.check_fields(fields, FIELDS)
        _check_transmitters(simulation, transmitters)
        if split_scheme == "released" and split != "all":
            logging.warning(
                "split_scheme=released leaks: one test map is trained on, and all "
                "validation maps are tested on. Compare its numbers with RadioDiff's "
                "only."
            )
        self.root, self.fields = pathlib.Path(root), tuple(fields)
        self.simulation, self.transmitters = simulation, transmitters
        self.split, self.split_scheme = split, split_scheme

        found = radiomapseer_files.gain_images(self.root, simulation)
        self._indexed: dict[str, tuple[pathlib.Path, FileNames]] = {}
        wanted = (
            {city for city, _ in found}
            if split == "all"
            else splits.split_maps(split, split_scheme)
        )
        self.names = [
            (city, tx)
            for city, tx in sorted(found)
            if city in wanted and (tx < transmitters or not transmitters)
        ]
        if not self.names:
            raise ValueError(self._empty_split([*found]))
        for other in set(fields) & set(SIMULATIONS) - {simulation}:
            self.names = self._pairs(other)
        for field in self.fields:
            self._check_files(field)
        self._first = self.path("gray", 0)
        self.shape = radiomap.read_map(self._first).shape

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.str_]:
        """Returns {"name": "11_1", field: [h, w, 1] uint8, ...}."""
        index = operator.index(index)
        city, tx = self.names[index]
        record = {field: self._read(field, index) for field in self.fields}
        if "buildings" in record:
            gain = record["gray"] if "gray" in record else self._read("gray", index)
            radiomap.check_mask(
                record["buildings"], gain, self.path("buildings", index)
            )
        return {"name": np.str_(f"{city}_{tx}"), **record}

    def summary(self) -> str:
        """Returns how many images were found of how many there are, and where."""
        cities = len({city for city, _ in self.names})
        irt4 = self.simulation.endswith("IRT4")
        all_tx = self.transmitters or (IRT4_TRANSMITTERS if irt4 else TRANSMITTERS)
        all_maps, scheme = MAPS, ""
        if self.split != "all":
            all_maps = len(splits.split_maps(self.split, self.split_scheme))
            scheme = f" of scheme {self.split_scheme}"
        expected = all_maps * all_tx
        share = "complete" if len(self) >= expected else "a partial copy"
        return (
            f"RadioMapSeer {self.simulation}, split {self.split}{scheme}: {len(self)} "
            f"images of {cities} maps found, of {expected} ({all_maps} maps x {all_tx} "
            f"transmitters) expected: {share}, in {self.root}"
        )

    def path(self, field: str, index: int) -> pathlib.Path:
        """Returns the file of one field of a record."""
        folder, there = self._index(field)
        key = self.names[index][:1] if field in PER_MAP else self.names[index]
        return folder / there.get(key, _file_name(key))

    def _index(self, field: str) -> tuple[pathlib.Path, FileNames]:
        """Returns a field's folder and files, as they were when first asked for."""
        if field not in self._indexed:
            folder = radiomapseer_files.folder(self.root, self.simulation, field)
            names = radiomapseer_files.file_names(folder, per_map=field in PER_MAP)
            self._indexed[field] = folder, names
        return self._indexed[field]

    def _read(self, field: str, index: int) -> UInt8[np.ndarray, "h w 1"]:
        path = self.path(field, index)
        try:
            image = radiomap.read_map(path)
            radiomap.check_shape(image.shape, self.shape, path, self._first)
        except ValueError as error:
            if field != "k2_neg_norm":
                raise
            raise ValueError(
                f"{error}. As a k^2 mask: delete it, and {self._write_masks()}"
            ) from error
        return image

    def _write_masks(self) -> str:
        command = f"write_k2.py --root {self.root} --simulation {self.simulation}"
        return f"write what is missing with python tools/{command}"

    def _pairs(self, other: str) -> list[tuple[int, int]]:
        """Returns the records that have the image of another simulation too."""
        there = radiomapseer_files.gain_images(self.root, other)
        pairs = [name for name in self.names if name in there]
        if not pairs:
            raise ValueError(
                f"none of the {len(self.names)} {self.simulation} images of split "
                f"{self.split} has a {other} image of the same map and transmitter "
                f"under {self.root}; copy them from the source, or take another split"
            )
        of_all = f"{len(pairs)} of {len(self.names)} {self.simulation} images"
        logging.info("%s have their %s pair", of_all, other)
        return pairs

    def _check_files(self, field: str) -> None:
        """Fails now, not hours into training, when a field's files are missing."""
        folder, there = self._index(field)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder {folder} for field {field!r}; copy it from the source, "
                "or do without it"
            )
        keys = {name[:1] if field in PER_MAP else name for name in self.names}
        missing = sorted(keys - there.keys())
        remedy = f"copy them from the source, or leave {field!r} out of the fields"
        if field == "k2_neg_norm":
            remedy = (
                f"{self._write_masks()}, or move {folder} away: without it masks "
                "are computed while training"
            )
        if missing:
            raise FileNotFoundError(
                f"field {field!r}: {len(missing)} of {len(keys)} files are missing, "
                f"the first is {folder / _file_name(missing[0])}; {remedy}"
            )

    def _empty_split(self, found: Sequence[tuple[int, ...]]) -> str:
        """Returns why a split has no image, and what there is."""
        folder, _ = self._index("gray")
        below = self.transmitters or float("inf")
        cities = {city for city, tx in found if tx < below}
        if not cities:
            there = [tx for _, tx in found]
            return (
                f"no image in {folder} has a transmitter below {self.transmitters}: "
                f"found {min(there)} to {max(there)}; set transmitters=0 for all"
            )
        counts = [
            f"{len(cities & splits.split_maps(name, self.split_scheme))} maps in {name}"
            for name in splits.SCHEMES[self.split_scheme]
        ]
        wanted = splits.split_maps(self.split, self.split_scheme)
        some = ", ".join(map(str, sorted(wanted)[:3]))
        return (
            f"split {self.split!r} is empty in {folder}: it is the maps {some}, ..., "
            f"and there are {', '.join(counts)}, {len(cities)} in all; copy some of "
            "its maps, ask for another split, or for split='all'"
        )


def _file_name(key: tuple[int, ...]) -> str:
    return "_".join(map(str, key)) + ".png"


def _check_transmitters(simulation: str, transmitters: int) -> None:
    if simulation.endswith("IRT4") and transmitters > IRT4_TRANSMITTERS:
        raise ValueError(
            f"{simulation} has {IRT4_TRANSMITTERS} transmitters a map, {transmitters} "
            "were asked for: four-interaction ray tracing is costly, and RadioMapSeer "
            f"publishes no more; set transmitters to 0 or {IRT4_TRANSMITTERS}, or take "
            f"DPM or IRT2, which have {TRANSMITTERS}"
        )
