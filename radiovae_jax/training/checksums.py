"""Checksums of a saved state, array by array, and of the numbers beside it.

It does not depend on how the array is cut over devices and processes: every element's
bits are weighed by an odd number that depends on its place, and summed modulo 2^32. So
a checkpoint of four devices is checked on one, and any change of a single element
changes the sum (an odd number has an inverse there); of several, all but one in 2^32.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

Checksums = dict[str, int]


def of_state(state: PyTree) -> Checksums:
    """Returns {"params/logvar": sum, ...}. All processes must call it together.

    Waits for the arrays and reads each once.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    sums = np.asarray([of_local_part(leaf) for _, leaf in leaves], np.uint32)
    if not all(leaf.is_fully_addressable for _, leaf in leaves):
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(total)
        for (path, _), total in zip(leaves, sums, strict=True)
    }


def of_local_part(array: Any) -> int:
    """Returns the sum over what this process holds the first copy of."""
    total = 0
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            bits = np.ravel(np.asarray(shard.data))
            bits = bits.view(f"u{bits.dtype.itemsize}").astype(np.uint32, copy=False)
            total += int(np.dot(bits, 2 * _places(shard.index, array.shape) + 1))
    return total % 2**32


def of_numbers(value: Any) -> str:
    """Returns the SHA-256 of nested numbers and texts, as JSON holds them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _places(index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Returns each element's place in the whole array, row by row, modulo 2^32."""
    places = np.zeros((1,) * len(shape), np.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        along = np.arange(*index[axis].indices(shape[axis])) * stride % 2**32
        side = [1] * len(shape)
        side[axis] = -1
        places = places + along.astype(np.uint32).reshape(side)
        stride *= shape[axis]
    return np.ravel(places)


def differing(saved: Checksums, state: PyTree) -> list[str]:
    """Returns the names of the arrays in `state` that are not as they were saved.

    Arrays without a saved sum are not judged.
    """
    now = of_state(state)
    return [name for name, total in now.items() if saved.get(name, total) != total]
