"""Per-array checksums of a saved state, computed where its arrays lie; of JSON values.

An element's bits are weighed by an odd number that depends on its place, and summed
modulo 2^32. So the sum is the same however an array is cut over devices and processes,
and any change of a single element changes it (an odd number has an inverse there); of
several elements, all but one in 2^32.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped, UInt32

from radiovae_jax.types import Array

Checksums = dict[str, int]


def named(tree: PyTree) -> dict[str, Any]:
    """Returns {"params/logvar": leaf, ...}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@jax.jit
def of_array(array: Shaped[Array, "*s"]) -> UInt32[Array, ""]:
    """Returns the sum of bits * (2 * place + 1); places are counted row by row."""
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    unsigned = f"uint{8 * array.dtype.itemsize}"
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    weights, stride = jnp.ones(array.shape, jnp.uint32), 2
    for axis in reversed(range(array.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        weights += along * np.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.sum(bits * weights, dtype=jnp.uint32)


def of_state(state: PyTree) -> Checksums:
    """Returns {"params/logvar": sum, ...}. All processes must call it together.

    Compiled by shape: a thousand arrays in one program take a minute to compile.
    """
    # CPU devices share a pool of threads, which several sums whose parts wait for each
    # other use up: one after the other there.
    shared = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    sums = {}
    for name, leaf in named(state).items():
        sums[name] = of_array(leaf)
        if shared:
            sums[name].block_until_ready()
    return {name: int(total) for name, total in jax.device_get(sums).items()}


def of_numbers(value: Any) -> str:
    """Returns the SHA-256 of nested numbers and texts, as JSON holds them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
