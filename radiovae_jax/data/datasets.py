"""From a config to its data: what is opened, which fields of it are read."""

import pathlib
from collections.abc import Mapping

import jax
import ml_collections
from absl import logging

from radiovae_jax.data import (
    conditions,
    pipeline,
    radiomap,
    radiomapseer_files,
    shards,
    sources,
)
from radiovae_jax.data.sources import Source

ConfigDict = ml_collections.ConfigDict


def open_data(config: ConfigDict, split: str, *, also: tuple[str, ...] = ()) -> Source:
    """Opens one split of the configured data set.

    Args:
      also: fields of each record besides those that the training needs.
    """
    data = config.data
    simulation, scheme = data.simulation, data.split_scheme
    city = dict(simulation=simulation, split_scheme=scheme)
    options = {
        "radiomapseer": dict(city, transmitters=data.transmitters),
        "tfds": dict(simulation=simulation),
        "synthetic": city | data.synthetic.to_dict(),
        "folder": dict(split_by=data.split_by),
        "sionna": dict(split_by=data.split_by, db=db_range(config)),
        "tfds_images": dict(name=data.dataset),
    }.get(data.source, {})
    fields = list(dict.fromkeys(["gray", *fields_of(config), *also]))
    return sources.open_source(
        data.source, data.root, split=split, fields=fields, **options
    )


def open_training(config: ConfigDict) -> Source:
    """Opens the training split, of a second stage with exported latents."""
    source = open_data(config, config.data.train_split)
    folder = config.first_stage.latents if config.stage == "diffusion" else ""
    return shards.WithLatents(source, pathlib.Path(folder)) if folder else source


def fields_of(config: ConfigDict) -> list[str]:
    """Returns what the configured stage reads beside the map."""
    if config.stage == "diffusion":
        return list(conditions.fields(config.condition.planes))
    loss = config.loss
    buildings = loss.pixel_weights == "street" or loss.disc_conditional
    fields = ["buildings"] * buildings + ["antenna"] * loss.disc_conditional
    return fields if loss.objective == "base" else fields + radio_fields(config)


def open_with_buildings(config: ConfigDict, split: str) -> Source:
    """Opens a split with its buildings, for pictures, where the data set has them."""
    if config.data.source in ("radiomapseer", "synthetic", "tfds"):
        try:
            return open_data(config, split, also=("buildings",))
        except (FileNotFoundError, ValueError) as error:
            logging.warning("pictures will not show buildings: %s", error)
    return open_data(config, split)


def identity(opened: Mapping[str, Source | None]) -> dict[str, str]:
    """Returns what copies of the same data have in common, wherever they lie."""
    same = {}
    for split, source in opened.items():
        if source is not None:
            root = getattr(source, "root", "")
            same |= {
                f"{split} data": f"{len(source)} maps of {radiomap.by(source.shape)}",
                f"list of {split} maps": sources.names_digest(source, root=root)[:16],
                f"content of {split} maps": sources.sample_digest(source)[:16],
            }
    return same


def db_range(config: ConfigDict) -> radiomap.DbRange:
    """Returns what f is in dB: as the config says, or as the source has it."""
    data = config.data
    return sources.db_range(data.source, data.db_floor, data.db_span)


def train_batches(config: ConfigDict, source: Source) -> pipeline.TrainBatches:
    """Returns the endless batches of the configured training, this process's part."""
    return pipeline.train_batches(
        source,
        batch_size=config.train.batch_size,
        seed=config.seed,
        augment=config.data.augment,
        crop=config.data.crop,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
        prefetch=config.data.prefetch,
    )


def radio_fields(config: ConfigDict) -> list[str]:
    """Returns what a radio objective reads beside the map.

    The transmitter, where the data set knows it. The k^2 mask where it is stored
    (tools/write_k2.py); elsewhere it is computed from the map on the device. For
    dpm2irt4 the DPM map to encode.
    """
    data = config.data
    fields = [] if data.source == "folder" else ["antenna"]
    if data.source not in ("radiomapseer", "synthetic"):
        return fields
    if radiomapseer_files.has_k2(data.root, data.simulation):
        fields.append("k2_neg_norm")
    if config.loss.objective == "dpm2irt4":
        fields.append("DPM")
    return fields
