"""One mesh over all devices of all processes, and what lies where on it.

The batch is split over every device. The state is the same everywhere or, with an
"fsdp" axis above 1, its larger arrays are split over that axis: parameters, average and
both optimisers. A step begins with gathering the parameters; what it updates are the
parts.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

# Below so many numbers (16 kB in float32) a message costs more than the memory.
SMALLEST_SPLIT = 4096
AXES = ("data", "fsdp")


def make_mesh(batch_size: int, fsdp: int = 1) -> Mesh:
    """Returns a mesh of all devices along "data" and "fsdp".

    Args:
      batch_size: over all devices.
      fsdp: how many neighbouring devices share one copy of the state.

    Raises:
      ValueError: numbers that do not divide, processes with unlike devices.
    """
    # By process: each then holds a run of the batch's rows, as the pipeline cuts it.
    devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
    if len(devices) != jax.local_device_count() * jax.process_count():
        raise ValueError(
            f"this process has {jax.local_device_count()} devices and all "
            f"{jax.process_count()} together {len(devices)}; give each process as many"
        )
    if len(devices) % fsdp:
        raise ValueError(
            f"train.fsdp={fsdp} does not divide the {len(devices)} devices; set it to "
            f"1, or to {len(devices)} to split the state over all"
        )
    if batch_size % len(devices):
        raise ValueError(
            f"train.batch_size {batch_size} is not a multiple of the {len(devices)} "
            f"devices; the nearest that is: {nearest(batch_size, len(devices))}"
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), AXES)


def nearest(value: int, factor: int) -> int:
    """Returns the multiple of `factor`, at least one of it, nearest to `value`."""
    return max(round(value / factor), 1) * factor


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(AXES))


def rule(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Returns how an array of the state lies on the mesh: whole, or split over fsdp.

    The longest axis that `fsdp` divides is split, the last of several; an array of
    fewer than `SMALLEST_SPLIT` numbers, or without such an axis, is whole everywhere.
    """
    divided = [axis for axis, length in enumerate(shape) if length % fsdp == 0]
    if fsdp == 1 or not divided or np.prod(shape) < SMALLEST_SPLIT:
        return PartitionSpec()
    longest = max(divided, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*[None] * longest, "fsdp")


def of_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Returns the sharding of every array (or shape) of a state, by `rule`."""
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, rule(leaf.shape, fsdp)), state)


def placed(shapes: PyTree, places: PyTree) -> PyTree:
    """Returns the shapes together with where their arrays lie."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        places,
    )


def gathered(state: Any, mesh: Mesh, *fields: str) -> Any:
    """Returns the state (a NamedTuple) with these fields whole on every device.

    To be called inside a compiled function, before a network sees its parameters: XLA
    would otherwise take their parts for a wish to split the activations' channels, and
    send those around.
    """
    whole = {
        name: jax.lax.with_sharding_constraint(getattr(state, name), replicated(mesh))
        for name in fields
    }
    return state._replace(**whole)


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


def placed_like(values: PyTree, like: PyTree) -> PyTree:
    """Puts arrays where those of a state are, in their precision."""
    return jax.tree.map(
        lambda value, leaf: jax.device_put(
            jax.device_get(value).astype(leaf.dtype), leaf.sharding
        ),
        values,
        like,
    )
