"""Latents of a data set on disk, for the next stage: shards, statistics, manifest.

One record is one map, a dict of arrays:

    mean, logvar   float32 [p, q, z]   the posterior; or in their place
    z              float32 [p, q, z]   one sample of it
    name           str                 as in the data set: MAP_TRANSMITTER
    buildings      uint8 [h, w, 1]     255 inside, at the stored size, where there are
    antenna        uint8 [h, w, 1]     255 at the transmitter's pixel, where it is known
    transmitter    int32 [2]           that pixel's row and column

A shard is there in two forms that hold the same: X.npz, every array with an axis of
maps in front, and X.array_record, whose records are each the bytes of an npz of one
map; `tools/export_latents.py --help` shows how PyTorch reads it.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from radiovae_jax import files, sharding
from radiovae_jax.data import datasets, pipeline, radiomap, shards, sources
from radiovae_jax.data.shards import FORMATS, MANIFEST, PROGRESS, Record
from radiovae_jax.data.sources import Numbered
from radiovae_jax.evaluation import latent_statistics
from radiovae_jax.moments import RunningMoments
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.progress import Bar
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec
from radiovae_jax.vae.codec import Codec

Encode = Callable[[Mapping[str, np.ndarray]], Record]
STATISTICS = "statistics.json"
CONDITION = ("buildings", "antenna")
BATCH, EXAMPLES_SEED = 8, 0  # of `examples`: maps that are encoded at a time


class Examples(NamedTuple):
    """Latents of a few maps, to be drawn: `reporting/latent_plots.py`."""

    f: Float[np.ndarray, "n h w c"]  # the maps as the network gets them
    mode: Float[np.ndarray, "n p q z"]
    sample: Float[np.ndarray, "n p q z"]
    db: radiomap.DbRange


def examples(workdir: pathlib.Path | str, *, count: int) -> Examples:
    """Returns latents of the best checkpoint, of `count` maps of different cities.

    Of the validation split, else of the training one.

    Raises:
      FileNotFoundError, ValueError: no run, no checkpoint, or no data.
    """
    config = run_folder.read_config(workdir)
    source = datasets.open_data(
        config, config.data.val_split or config.data.train_split
    )
    of_run = codec.load(workdir)
    raw = pipeline.stack([source[i] for i in sources.spread(source, count)])
    raw.pop("name")
    images = of_run.batch(raw).image
    mode, sample = [], []
    for first in range(0, len(images), BATCH):
        posterior = of_run.posterior(of_run.params, images[first : first + BATCH])
        key = jax.random.fold_in(jax.random.key(EXAMPLES_SEED), first)
        mode.append(posterior.mode())
        sample.append(posterior.sample(key))
    f = np.asarray(radiomap.model_to_f(images))
    return Examples(f, np.concatenate(mode), np.concatenate(sample), of_run.db)


def of_training(
    source: sources.Source, run: Codec, *, maps: int
) -> Iterator[tuple[DiagonalGaussian, Float[np.ndarray, "b"]]]:
    """Yields posteriors of training maps and the mean squares of the modes' errors.

    Args:
      source: the training split.
      maps: so many, of different cities.
    """
    places = sources.spread(source, maps)

    @jax.jit
    def encode(params, raw):
        x = run.batch(raw).image
        posterior = run.posterior(params, x)
        off = (run.image(params, posterior.mode()) - x) / 2
        return posterior, jnp.square(off).mean(axis=(1, 2, 3))

    for first in Bar(range(0, len(places), BATCH), desc="latents", unit="batch"):
        records = [source[i] for i in places[first : first + BATCH]]
        real = len(records)
        records += [records[-1]] * (BATCH - real)
        raw = pipeline.stack([{"gray": record["gray"]} for record in records])
        yield jax.tree.map(
            lambda a, n=real: a[:n], jax.device_get(encode(run.params, raw))
        )


def encoder(run: Codec, *, seed: int, mesh: Any) -> Encode:
    """Returns a function from a raw batch with "index" to mean, logvar and z."""
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

    def encode(params, raw):
        posterior = run.posterior(params, run.batch(raw).image)
        key = jax.random.key(seed)
        z = codec.sample_each(key, raw["index"], posterior.mean, posterior.std)
        return {"mean": posterior.mean, "logvar": posterior.logvar, "z": z}

    compiled = jax.jit(encode, in_shardings=(whole, split), out_shardings=split)
    params = jax.device_put(run.params, whole)

    def encode_batch(raw):
        encoded = compiled(params, sharding.to_devices(raw, mesh))
        return {name: sharding.local(array) for name, array in encoded.items()}

    return encode_batch


def digest(params: PyTree) -> str:
    """Returns a checksum of every bit of the weights, in the order of their names."""
    bits = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        bits.update(jax.tree_util.keystr(path).encode() + leaf.tobytes())
    return bits.hexdigest()


def export(
    source: sources.Source,
    encode: Encode,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    *,
    keep: tuple[str, ...],
    batch_size: int,
    shard_size: int,
    formats: tuple[str, ...] = FORMATS,
    db_range: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Writes every map of a source and returns the manifest.

    A shard appears under its name when it is whole, and `progress.json` names it then;
    so after an interruption only shards that are not named, or not as they were
    written, are made. Batches begin anew with every shard: the files are those of an
    unbroken export, byte for byte (on a GPU, as far as its convolutions repeat).

    Args:
      encode: of `encoder`.
      folder: is made.
      identity: says of what these are the latents, in JSON's types.
      keep: which results of `encode` a record holds.
      formats: of FORMATS.
      db_range: for the manifest: f of these maps is floor + span f in dB; None: no dB.

    Raises:
      ValueError: the folder holds the latents of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = shards.claim(folder, identity)
    count = -(-len(source) // shard_size)
    listed: list[dict[str, Any]] = []
    total = RunningMoments()
    with Bar(total=len(source), unit="map", desc="latents") as bar:
        for number in range(count):
            first = number * shard_size
            part = Numbered(source, first, min(first + shard_size, len(source)))
            shard = there.get(number)
            if shard is None or not shards.whole(folder, shard):
                records, moments = encoded(part, encode, keep, batch_size, bar)
                stem = f"{shards.STEM}-{number:05d}-of-{count:05d}"
                paths = [folder / f"{stem}.{name}" for name in formats]
                for path in paths:
                    shards.write(path, records)
                shard = shards.describe(paths, records)
                shard["moments"] = {  # JSON keeps every bit of a float
                    name: np.asarray(value).tolist()
                    for name, value in moments._asdict().items()
                }
            else:
                bar.update(len(part))
            listed.append(shard)
            moments = map(np.asarray, shard["moments"].values())
            total = total.merge(RunningMoments(*moments))
            if not (folder / MANIFEST).exists():
                state = dict(identity=identity, shards=listed)
                with files.written(folder / PROGRESS) as partial:
                    partial.write_text(json.dumps(state))  # NaN moments stay NaN
    manifest = dict(
        identity=identity,
        count=len(source),
        data=source.summary(),
        db_range=db_range,
        statistics=latent_statistics.statistics(total),
        shards=listed,
    )
    numbers = manifest["statistics"] | {"maps": len(source)}
    files.write_json(folder / STATISTICS, numbers)
    files.write_json(folder / MANIFEST, manifest)
    (folder / PROGRESS).unlink(missing_ok=True)
    return manifest


def encoded(
    part: Numbered, encode: Encode, keep: tuple[str, ...], batch_size: int, bar: Bar
) -> tuple[list[Record], RunningMoments]:
    """Returns the records of one shard and the moments of its latents."""
    records: list[Record] = []
    total = RunningMoments()
    for raw in pipeline.eval_batches(part, batch_size=batch_size):
        real = raw["mask"] > 0
        latents = {name: values[real] for name, values in encode(raw).items()}
        total = total.merge(
            latent_statistics.moments(latents["mean"], latents["logvar"])
        )
        fields = {name: latents[name] for name in keep} | condition(raw, real)
        rows = zip(*fields.values(), strict=True)
        records += [dict(zip(fields, row, strict=True)) for row in rows]
        bar.update(int(real.sum()))
    return records, total


def condition(raw: Mapping[str, np.ndarray], real: np.ndarray) -> Record:
    """Returns name, buildings and transmitter of the maps, where they are known."""
    fields = {name: raw[name][real] for name in ("name", *CONDITION) if name in raw}
    if "antenna" in fields:
        masks = fields["antenna"]
        peak = masks.reshape(len(masks), -1).argmax(axis=1)
        place = np.stack(np.unravel_index(peak, masks.shape[1:3]), axis=1)
        fields["transmitter"] = place.astype(np.int32)
    return fields
