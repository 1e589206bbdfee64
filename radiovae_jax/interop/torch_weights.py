"""Weights to and from PyTorch, by the tables of interop/torch_tables.py.

    params = torch_weights.autoencoder_from_torch(state_dict)   # {"params": ...}
    state_dict = torch_weights.autoencoder_to_torch(params)

Both directions read one table, so that what is missing, extra or wrongly shaped is
known by name. A state dict is a dict of NumPy arrays: torch itself is not needed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from radiovae_jax.interop import torch_structure, torch_tables
from radiovae_jax.interop.torch_tables import RADIODIFF, Entry, Names

StateDict = Mapping[str, np.ndarray]
Tree = dict[str, Any]


def autoencoder_from_torch(state: StateDict, names: Names = RADIODIFF) -> Tree:
    """Returns {"params": ...} for `AutoencoderKL.apply`; the structure is inferred.

    Raises:
      ValueError: tensors are missing, extra or wrongly shaped; all are named.
    """
    table = torch_tables.autoencoder_table(
        names, **torch_structure.of_torch(state, names)
    )
    return {"params": from_torch(state, table)}


def autoencoder_to_torch(
    params: Mapping[str, Any], names: Names = RADIODIFF
) -> dict[str, np.ndarray]:
    """Returns the state dict of the same network; the inverse of the above.

    Raises:
      ValueError: these are not the parameters of an `AutoencoderKL`.
    """
    inner = params["params"]
    table = torch_tables.autoencoder_table(names, **torch_structure.of_flax(inner))
    return tree_to_torch(inner, table)


def discriminator_from_torch(state: StateDict) -> Tree:
    """Returns {"params": ..., "batch_stats": ...}; the structure is inferred.

    Raises:
      ValueError: tensors are missing, extra or wrongly shaped; all are named.
    """
    table = torch_tables.discriminator_table(
        **torch_structure.discriminator_of_torch(state)
    )
    # PyTorch counts batches and, with a fixed momentum, never reads the count.
    unused = torch_tables.counters(table)
    kept = {name: value for name, value in state.items() if name not in unused}
    return from_torch(kept, table)


def loss_from_torch(state: StateDict, copy: str) -> tuple[Tree, np.ndarray]:
    """Returns discriminator and logvar of a loss that is called `copy` there.

    Raises:
      ValueError: tensors are missing, extra or wrongly shaped; all are named.
    """
    prefix, logvar = f"{copy}.discriminator.", f"{copy}.logvar"
    own = {name: v for name, v in state.items() if name.startswith((prefix, logvar))}
    inner = {
        name.removeprefix(prefix): value
        for name, value in own.items()
        if name.startswith(prefix)
    }
    try:
        structure = torch_structure.discriminator_of_torch(inner)
    except ValueError as error:
        raise ValueError(f"{prefix}*: {error}") from error
    table = [
        entry._replace(torch=prefix + entry.torch)
        for entry in torch_tables.discriminator_table(**structure)
    ]
    unused = torch_tables.counters(table)
    table.append(Entry(logvar, ("logvar",), "scalar", ()))
    tree = from_torch({k: v for k, v in own.items() if k not in unused}, table)
    scale = tree.pop("logvar")
    return tree, scale


def discriminator_to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the state dict of the same PatchGAN, with counters of 0."""
    table = torch_tables.discriminator_table(
        **torch_structure.discriminator_of_flax(variables)
    )
    state = tree_to_torch(variables, table)
    return state | {
        name: np.zeros((), np.int64) for name in torch_tables.counters(table)
    }


def from_torch(state: StateDict, table: Iterable[Entry]) -> Tree:
    """Returns the nested dict that the table describes.

    Raises:
      ValueError: tensors are missing, extra, wrongly shaped, of integers or not
        finite; all are named.
    """
    table = list(table)
    check(state, {entry.torch: entry.shape for entry in table})
    # ActNorm's flag is a whole number; everything else that is one is no weight.
    weights = [e.torch for e in table if not e.torch.endswith(".initialized")]
    kinds = {name: np.asarray(state[name]).dtype for name in weights}
    whole = [f"{name} {k}" for name, k in kinds.items() if not is_floating(k)]
    if whole:
        raise ValueError(
            f"{len(whole)} tensors hold no floating-point numbers, so are no weights "
            f"(quantised ones, say; give the file before that): {', '.join(whole)}"
        )
    broken = [e.torch for e in table if not np.isfinite(state[e.torch]).all()]
    if broken:
        raise ValueError(
            f"{len(broken)} tensors hold NaN or infinity: {', '.join(broken)}"
        )
    tree: Tree = {}
    for entry in table:
        node = tree
        for name in entry.flax[:-1]:
            node = node.setdefault(name, {})
        node[entry.flax[-1]] = to_flax(entry, state[entry.torch])
    return tree


def is_floating(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))  # bfloat16 too


def tree_to_torch(
    tree: Mapping[str, Any], table: Iterable[Entry]
) -> dict[str, np.ndarray]:
    """Returns the state dict that the table describes.

    Raises:
      ValueError: arrays are missing, extra or wrongly shaped; all are named.
    """
    table = list(table)
    arrays = _flat(tree)
    paths = {entry.torch: "/".join(entry.flax) for entry in table}
    check(arrays, {paths[entry.torch]: flax_shape(entry) for entry in table})
    return {e.torch: to_torch(e, arrays[paths[e.torch]]) for e in table}


def check(found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a ValueError that names all tensors that do not fit."""
    problems = [
        f"missing: {name} {shapes[name]}" for name in shapes.keys() - set(found)
    ]
    problems += [
        f"extra: {name} {np.shape(found[name])}" for name in set(found) - shapes.keys()
    ]
    problems += [
        f"wrong shape: {name} {np.shape(found[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(np.shape(found[name])) != shape
    ]
    if problems:
        raise ValueError(
            f"{len(problems)} tensors do not fit the network:\n  "
            + "\n  ".join(sorted(problems))
        )


def to_flax(entry: Entry, tensor: Any) -> np.ndarray:
    tensor = np.asarray(tensor)
    if entry.layout == "conv":
        return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0))
    if entry.layout == "linear":
        return np.ascontiguousarray(tensor.T)[None, None]
    return tensor.reshape(-1) if entry.layout == "wide" else tensor


def to_torch(entry: Entry, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if entry.layout == "conv":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if entry.layout == "linear":
        return np.ascontiguousarray(array[0, 0].T)
    return array.reshape(entry.shape)


def flax_shape(entry: Entry) -> tuple[int, ...]:
    """Returns the shape that the tensor has here."""
    if entry.layout == "conv":
        after, before, height, width = entry.shape
        return height, width, before, after
    if entry.layout == "linear":
        return (1, 1, *entry.shape[::-1])
    return entry.shape[1:2] if entry.layout == "wide" else entry.shape


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            arrays |= _flat(value, f"{prefix}{name}/")
        else:
            arrays[prefix + name] = value
    return arrays
