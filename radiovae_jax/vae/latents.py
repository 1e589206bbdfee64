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
map. So a PyTorch user reads any map with `pip install array-record` and NumPy:

    from array_record.python.array_record_data_source import ArrayRecordDataSource
    source = ArrayRecordDataSource(sorted(glob.glob(f"{folder}/*.array_record")))
    record = np.load(io.BytesIO(source[i]))
    scale = json.load(open(f"{folder}/statistics.json"))  # mean, std of each channel
    z = (record["mean"] - scale["mean"]) / scale["std"]
    z = torch.tensor(z, dtype=torch.float32).permute(2, 0, 1)
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from radiovae_jax import files, moments, sharding
from radiovae_jax.data import pipeline, shards, sources
from radiovae_jax.data.batch import to_batch
from radiovae_jax.data.shards import FORMATS, MANIFEST, PROGRESS, Record
from radiovae_jax.moments import Moments
from radiovae_jax.progress import Bar
from radiovae_jax.types import Array, PRNGKey
from radiovae_jax.vae.autoencoder import AutoencoderKL

Encode = Callable[[Mapping[str, np.ndarray]], Record]
STATISTICS = "statistics.json"
CONDITION = ("buildings", "antenna")


def of_posterior(
    mean: Float[np.ndarray, "b p q z"], logvar: Float[np.ndarray, "b p q z"]
) -> Moments:
    """Returns the moments of mean, variance and log-variance, a column for each z."""
    rows = np.concatenate([mean, np.exp(np.float64(logvar)), logvar], axis=-1)
    return moments.of(rows.reshape(-1, rows.shape[-1]), pairs=False)


def statistics(seen: Moments) -> dict[str, list[float]]:
    """Returns numbers of each latent channel, over maps and places.

    Returns:
      mean, std: of z drawn from the posteriors, exactly (no sample is drawn): the
        variance of the means plus the mean of the variances.
      scale_factor: 1 / std.
      mode_std: of the means alone.
      kl_nats: KL to N(0, 1) of one latent entry.
    """
    z = len(seen.mean) // 3
    mean, noise, logvar = np.split(seen.mean, 3)
    mode_variance = seen.variance[:z]
    std = np.sqrt(mode_variance + noise)
    kl = 0.5 * (mode_variance + np.square(mean) + noise - 1 - logvar)
    numbers = dict(
        mean=mean,
        std=std,
        scale_factor=1 / std,
        mode_std=np.sqrt(mode_variance),
        kl_nats=kl,
    )
    return {name: values.tolist() for name, values in numbers.items()}


def sample_each(
    key: PRNGKey, index: Array, mean: Float[Array, "b p q z"], std
) -> Float[Array, "b p q z"]:
    """Draws a latent for every map; its noise depends on the map's number alone.

    So neither the batch nor the devices change what a map gets.

    Args:
      index: number of each map in its split.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    noise = jax.vmap(lambda one: jax.random.normal(one, mean.shape[1:]))(keys)
    return mean + std * noise


def encoder(
    model: AutoencoderKL, params: PyTree, *, image_size: int, seed: int, mesh: Any
) -> Encode:
    """Returns a function from a raw batch with "index" to mean, logvar and z."""
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

    def encode(params, raw):
        batch = to_batch(
            raw, image_size=image_size, pixel_weights="none", conditional=False
        )
        posterior = model.apply(params, batch.image, method="encode")
        key = jax.random.key(seed)
        z = sample_each(key, raw["index"], posterior.mean, posterior.std)
        return {"mean": posterior.mean, "logvar": posterior.logvar, "z": z}

    compiled = jax.jit(encode, in_shardings=(whole, split), out_shardings=split)
    params = jax.device_put(params, whole)

    def run(raw):
        # The same numbers on every kind of device: no TF32, no bfloat16 passes.
        with jax.default_matmul_precision("highest"):
            made = compiled(params, sharding.to_devices(raw, mesh))
        return {name: sharding.local(array) for name, array in made.items()}

    return run


class Numbered:
    """The records `first` to `last` (not included) of a source, each with its index."""

    def __init__(self, source: sources.Source, first: int, last: int):
        self.shape, self._source, self._first = source.shape, source, first
        self._count = last - first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index) -> dict[str, Any]:
        index = int(index) + self._first
        return {**self._source[index], "index": np.int32(index)}

    def summary(self) -> str:
        return self._source.summary()


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
    with Bar(total=len(source), unit="map", desc="latents") as bar:
        for number in range(count):
            first = number * shard_size
            part = Numbered(source, first, min(first + shard_size, len(source)))
            shard = there.get(number)
            if shard is None or not shards.whole(folder, shard):
                records, seen = encoded(part, encode, keep, batch_size, bar)
                stem = f"{shards.STEM}-{number:05d}-of-{count:05d}"
                paths = [folder / f"{stem}.{name}" for name in formats]
                for path in paths:
                    shards.write(path, records)
                shard = shards.describe(paths, records) | {"moments": listing(seen)}
            else:
                bar.update(len(part))
            listed.append(shard)
            if not (folder / MANIFEST).exists():
                state = dict(identity=identity, shards=listed)
                files.write_json(folder / PROGRESS, state)
    manifest = dict(
        identity=identity,
        count=len(source),
        data=source.summary(),
        db_range=db_range,
        statistics=statistics(merged(listed)),
        shards=listed,
    )
    numbers = manifest["statistics"] | {"maps": len(source)}
    files.write_json(folder / STATISTICS, numbers)
    files.write_json(folder / MANIFEST, manifest)
    (folder / PROGRESS).unlink(missing_ok=True)
    return manifest


def encoded(
    part: Numbered, encode: Encode, keep: tuple[str, ...], batch_size: int, bar: Bar
) -> tuple[list[Record], Moments]:
    """Returns the records of one shard and the moments of its latents."""
    records: list[Record] = []
    seen: list[Moments] = []
    for raw in pipeline.eval_batches(part, batch_size=batch_size):
        real = raw["mask"] > 0
        made = {name: values[real] for name, values in encode(raw).items()}
        seen.append(of_posterior(made["mean"], made["logvar"]))
        fields = {name: made[name] for name in keep} | condition(raw, real)
        records += [
            {name: values[i] for name, values in fields.items()}
            for i in range(int(real.sum()))
        ]
        bar.update(int(real.sum()))
    return records, functools.reduce(moments.merge, seen)


def condition(raw: Mapping[str, np.ndarray], real: np.ndarray) -> Record:
    """Returns name, buildings and transmitter of the maps, where they are known."""
    fields = {name: raw[name][real] for name in ("name", *CONDITION) if name in raw}
    if "antenna" in fields:
        masks = fields["antenna"]
        peak = masks.reshape(len(masks), -1).argmax(axis=1)
        place = np.stack(np.unravel_index(peak, masks.shape[1:3]), axis=1)
        fields["transmitter"] = place.astype(np.int32)
    return fields


def listing(seen: Moments) -> dict[str, Any]:
    """Returns the moments for a file; JSON keeps every bit of a float."""
    return dict(
        count=seen.count, mean=seen.mean.tolist(), scatter=seen.scatter.tolist()
    )


def merged(listed: list[dict[str, Any]]) -> Moments:
    """Returns the moments of all shards, from what is listed of each."""
    every = [
        Moments(m["count"], np.asarray(m["mean"]), np.asarray(m["scatter"]))
        for m in (shard["moments"] for shard in listed)
    ]
    return functools.reduce(moments.merge, every)
