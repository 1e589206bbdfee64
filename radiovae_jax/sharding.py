"""One mesh over all devices; the batch is split over it, the state is not."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh(batch_size: int) -> Mesh:
    """Returns a mesh of all devices along "data".

    Raises:
      ValueError: the devices do not divide the batch.
    """
    devices = jax.devices()
    if batch_size % len(devices):
        raise ValueError(
            f"train.batch_size {batch_size} is not a multiple of the {len(devices)} "
            f"devices; the nearest that is: {nearest(batch_size, len(devices))}"
        )
    return Mesh(np.asarray(devices), ("data",))


def nearest(value: int, factor: int) -> int:
    """Returns the multiple of `factor`, at least one of it, nearest to `value`."""
    return max(round(value / factor), 1) * factor


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of every array where they belong; drops the names."""
    return {
        key: jax.make_array_from_process_local_data(by_batch(mesh), value)
        for key, value in batch.items()
        if value.dtype.kind != "U"
    }


def local(array: jax.Array) -> np.ndarray:
    """Returns this process's rows of an array, in order (all of a replicated one)."""
    rows = {
        shard.index[0].start or 0: np.asarray(shard.data)
        for shard in array.addressable_shards
    }
    return np.concatenate([rows[start] for start in sorted(rows)])
