"""Weights to and from PyTorch: one table of names, layouts and shapes, read both ways.

    params = torch_weights.autoencoder_from_torch(state_dict)   # {"params": ...}
    state_dict = torch_weights.autoencoder_to_torch(params)

The PyTorch side is RadioDiff's `AutoencoderKL` (encoder_decoder.py), the same network
as diffusers names it, and the PatchGAN of taming-transformers. A state dict is a dict
of NumPy arrays: torch itself is not needed.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.discriminator import PatchDiscriminator

StateDict = Mapping[str, np.ndarray]
Tree = dict[str, Any]
Path = tuple[str, ...]


class Names(NamedTuple):
    """How one code base calls the modules of the autoencoder, by their names here.

    In levels `i` counts from the image, `r` from the latent, `j` the blocks.
    """

    modules: Mapping[str, str]
    linear: bool  # PROJECTIONS are Linear layers, not 1x1 convolutions


RADIODIFF = Names(
    {
        "down_block": "down.{i}.block.{j}",
        "down_attn": "down.{i}.attn.{j}",
        "down_downsample": "down.{i}.downsample.conv",
        "up_block": "up.{i}.block.{j}",
        "up_attn": "up.{i}.attn.{j}",
        "up_upsample": "up.{i}.upsample.conv",
    },
    linear=False,
)
DIFFUSERS = Names(
    {
        "down_block": "down_blocks.{i}.resnets.{j}",
        "down_attn": "down_blocks.{i}.attentions.{j}",
        "down_downsample": "down_blocks.{i}.downsamplers.0.conv",
        "up_block": "up_blocks.{r}.resnets.{j}",
        "up_attn": "up_blocks.{r}.attentions.{j}",
        "up_upsample": "up_blocks.{r}.upsamplers.0.conv",
        "mid": "mid_block",
        "block_1": "resnets.0",
        "attn_1": "attentions.0",
        "block_2": "resnets.1",
        "norm_out": "conv_norm_out",
        "nin_shortcut": "conv_shortcut",
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj_out": "to_out.0",
    },
    linear=True,
)
# Files saved before diffusers 0.15.
OLD_PROJECTIONS = dict(q="query", k="key", v="value", proj_out="proj_attn")
DIFFUSERS_OLD = Names(DIFFUSERS.modules | OLD_PROJECTIONS, linear=True)
LEVEL = re.compile(r"(down|up)_(\d+)_([a-z]+)(?:_(\d+))?")
PROJECTIONS = ("q", "k", "v", "proj_out")  # of attention
LEAVES = {"kernel": "weight", "scale": "weight"}
LEAVES |= {"mean": "running_mean", "var": "running_var"}  # of BatchNorm


class Layout(NamedTuple):
    """How an array lies there; `flax` is the inverse of `torch`."""

    torch: Callable[[np.ndarray], np.ndarray]
    flax: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda array: array, lambda tensor: tensor)
CONV = Layout(  # HWIO here, OIHW there
    lambda array: array.transpose(3, 2, 0, 1),
    lambda tensor: tensor.transpose(2, 3, 1, 0),
)
LINEAR = Layout(  # (1, 1, i, o) here, (o, i) there
    lambda array: array[0, 0].T, lambda tensor: tensor.T[None, None]
)
WIDE = Layout(  # (c,) here, (1, c, 1, 1) there
    lambda array: array.reshape(1, -1, 1, 1), lambda tensor: tensor.reshape(-1)
)


class Entry(NamedTuple):
    """One tensor: name there, path here, layout, shape there, shape here."""

    torch: str
    flax: Path
    layout: Layout
    shape: tuple[int, ...]
    flax_shape: tuple[int, ...]


def autoencoder_from_torch(state: StateDict, names: Names = RADIODIFF) -> Tree:
    """Returns {"params": ...} for `AutoencoderKL.apply`; the structure is inferred.

    Raises:
      ValueError: these are no such weights, or as `from_torch`.
    """
    table = autoencoder_table(names, **structure_of_torch(state, names))
    return {"params": from_torch(state, table)}


def autoencoder_to_torch(
    params: Mapping[str, Any], names: Names = RADIODIFF
) -> dict[str, np.ndarray]:
    """Returns the state dict of the same network; a ValueError if it is another."""
    inner = params["params"]
    return tree_to_torch(inner, autoencoder_table(names, **structure_of_flax(inner)))


def discriminator_from_torch(state: StateDict) -> Tree:
    """Returns {"params": ..., "batch_stats": ...}; as `autoencoder_from_torch`."""
    table = discriminator_table(**discriminator_structure_of_torch(state))
    return from_torch(state, table)


def loss_from_torch(state: StateDict, copy: str) -> tuple[Tree, np.ndarray]:
    """Returns discriminator and logvar of a loss that is called `copy` there."""
    prefix, name = f"{copy}.discriminator.", f"{copy}.logvar"
    inner = {
        n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)
    }
    logvar = from_torch({name: state[name]}, [Entry(name, ("logvar",), SAME, (), ())])
    try:
        return discriminator_from_torch(inner), logvar["logvar"]
    except ValueError as error:
        raise ValueError(f"{prefix}*: {error}") from error


def discriminator_to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the state dict of the same PatchGAN, with counters of 0."""
    table = discriminator_table(**discriminator_structure_of_flax(variables))
    zeros = {name: np.zeros((), np.int64) for name in counters(table)}
    return tree_to_torch(variables, table) | zeros


def from_torch(state: StateDict, table: Sequence[Entry]) -> Tree:
    """Returns the nested dict that the table describes.

    Raises:
      ValueError: tensors are missing, extra, wrongly shaped, of integers or not
        finite; all are named.
    """
    unused = counters(table)
    state = {name: v for name, v in state.items() if name not in unused}
    check(state, {entry.torch: entry.shape for entry in table})
    kinds = {e.torch: np.asarray(state[e.torch]).dtype for e in table}
    whole = [
        f"{name} {kind}"
        for name, kind in kinds.items()
        if not jnp.issubdtype(kind, jnp.floating)  # of bfloat16 too
        and not name.endswith(".initialized")  # ActNorm's flag is a whole number
    ]
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
    return traverse_util.unflatten_dict(
        {
            e.flax: np.asarray(e.layout.flax(np.asarray(state[e.torch])), order="C")
            for e in table
        }
    )


def tree_to_torch(
    tree: Mapping[str, Any], table: Sequence[Entry]
) -> dict[str, np.ndarray]:
    """Returns the state dict that the table describes; checked as in `from_torch`."""
    arrays = traverse_util.flatten_dict(tree, sep="/")
    check(arrays, {"/".join(entry.flax): entry.flax_shape for entry in table})
    return {
        e.torch: np.asarray(
            e.layout.torch(np.asarray(arrays["/".join(e.flax)])), order="C"
        )
        for e in table
    }


def check(found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a ValueError that names all tensors that do not fit."""
    there = {name: tuple(np.shape(value)) for name, value in found.items()}
    problems = [f"missing: {name} {shapes[name]}" for name in shapes.keys() - there]
    problems += [f"extra: {name} {there[name]}" for name in there.keys() - shapes]
    problems += [
        f"wrong shape: {name} {there[name]}, expected {shapes[name]}"
        for name in shapes.keys() & there
        if there[name] != shapes[name]
    ]
    if problems:
        raise ValueError(
            f"{len(problems)} tensors do not fit the network:\n  "
            + "\n  ".join(sorted(problems))
        )


def autoencoder_table(names: Names = RADIODIFF, **structure: Any) -> list[Entry]:
    """Returns every tensor of the autoencoder of a `structure_of_torch`."""
    levels = len(structure["ch_mult"])
    shapes = _autoencoder_shapes(**structure)

    def layout(path: Path, shape: tuple[int, ...]) -> Layout:
        if len(shape) < 4:
            return SAME
        return LINEAR if names.linear and path[-2] in PROJECTIONS else CONV

    return _entries(shapes, lambda path: torch_name(path, names, levels), layout)


@functools.lru_cache
def _autoencoder_shapes(**structure: Any) -> Tree:
    """Returns the shapes of the parameters; a second of tracing at full size."""
    side = 2 ** (len(structure["ch_mult"]) - 1)
    model = AutoencoderKL(**model_fields(structure, side))
    x = jax.ShapeDtypeStruct((1, side, side, model.in_channels), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(model.init, key, x, key)["params"]


def torch_name(path: Path, names: Names, levels: int = 0) -> str:
    """Returns what the tensor of a path here is called there.

    Args:
      levels: of the network, where names count from the latent.
    """
    parts = []
    for module in path[:-1]:
        if level := LEVEL.fullmatch(module):
            side, i, kind, j = level.groups()
            place = dict(i=i, r=levels - 1 - int(i), j=j)
            parts.append(names.modules[f"{side}_{kind}"].format(**place))
        else:
            parts.append(names.modules.get(module, module))
    return ".".join([*parts, LEAVES.get(path[-1], path[-1])])


def discriminator_table(
    *, in_channels: int, ndf: int, num_layers: int, use_actnorm: bool
) -> list[Entry]:
    """Returns the tensors of a PatchGAN; the Flax paths start with the collection."""
    model = PatchDiscriminator(in_channels, ndf, num_layers, use_actnorm)
    side = 8 * 2**num_layers
    x = jax.ShapeDtypeStruct((1, side, side, in_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)

    def layout(path: Path, shape: tuple[int, ...]) -> Layout:
        if len(shape) == 4:
            return CONV
        return WIDE if use_actnorm and path[-1] in ("loc", "scale") else SAME

    def name(path: Path) -> str:
        return discriminator_name(path, use_actnorm)

    return _entries(shapes, name, layout)


def discriminator_name(path: Path, use_actnorm: bool = False) -> str:
    """Returns what the tensor of a path here is called in `NLayerDiscriminator`."""
    _, module, leaf = path
    kind, _, n = module.partition("_")
    # main.0 and main.1 are conv and LeakyReLU; then conv, norm, LeakyReLU each.
    index = max(0, 3 * int(n) - (kind == "conv"))
    if not (use_actnorm and kind == "norm"):
        leaf = LEAVES.get(leaf, leaf)
    return f"main.{index}.{leaf}"


def _entries(shapes: Tree, name: Callable, layout: Callable) -> list[Entry]:
    entries = []
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        how = layout(path, leaf.shape)
        there = how.torch(np.broadcast_to(np.float32(0), leaf.shape)).shape
        entries.append(Entry(name(path), path, how, there, leaf.shape))
    return entries


def counters(table: Iterable[Entry]) -> set[str]:
    """Returns the names of BatchNorm's batch counters.

    PyTorch counts batches and, with a fixed momentum, never reads the count.
    """
    norms = [e.torch.rpartition(".")[0] for e in table if e.flax[-1] == "var"]
    return {f"{norm}.num_batches_tracked" for norm in norms}


def structure_of_torch(state: StateDict, names: Names = RADIODIFF) -> dict[str, Any]:
    """Reads the structure of an autoencoder off its tensors.

    Returns:
      the fields of `AutoencoderKL` that shapes determine. Where attention stands is
      returned as `attn_levels` (one bool a level): the resolution that
      `attn_resolutions` refers to leaves no trace in the tensors.

    Raises:
      ValueError: the tensors are not those of such an autoencoder.
    """
    what = "weights of a KL autoencoder"
    return _structure(state, lambda path: torch_name(path, names), (1, 0), what)


def structure_of_flax(params: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what `structure_of_torch` returns off the Flax parameters."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return _structure(flat, "/".join, (2, 3), "parameters of an AutoencoderKL")


def _structure(
    arrays: Mapping[str, Any],
    name: Callable[[Path], str],
    axes: tuple[int, int],
    what: str,
) -> dict[str, Any]:
    """Args: `name` of a path among the arrays, `axes` of a kernel's (input, output)."""

    def there(*path: str) -> bool:
        return name(path) in arrays

    def width(*module: str, axis: int = axes[1]) -> int:
        return _width(arrays, name((*module, "kernel")), axis)

    def first(i: int) -> Path:
        return "encoder", f"down_{i}_block_0", "conv1"

    needed = ("encoder", "conv_in"), ("encoder", "conv_out"), ("decoder", "conv_out")
    needed = [name((*path, "kernel")) for path in (*needed, ("quant_conv",), first(0))]
    _check_there(arrays, needed, what)
    ch = width("encoder", "conv_in")
    levels = _count(lambda i: there(*first(i), "kernel"))
    widths = [width(*first(i)) for i in range(levels)]
    if any(width % ch for width in widths):
        raise ValueError(
            f"the levels are {widths} channels wide, not multiples of the {ch} of the "
            "first convolution; ch_mult cannot say that"
        )
    return dict(
        in_channels=width("encoder", "conv_in", axis=axes[0]),
        out_ch=width("decoder", "conv_out"),
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=_count(
            lambda j: there("encoder", f"down_0_block_{j}", "conv1", "kernel")
        ),
        attn_levels=tuple(
            there("encoder", f"down_{i}_attn_0", "norm", "scale") for i in range(levels)
        ),
        # Mean and log-variance; of an odd number the table says what is wrong.
        z_channels=max(1, width("encoder", "conv_out") // 2),
        embed_dim=max(1, width("quant_conv") // 2),
        mid_attention=there("encoder", "mid", "attn_1", "norm", "scale"),
    )


def model_fields(structure: Mapping[str, Any], resolution: Any) -> dict[str, Any]:
    """Returns the arguments of `AutoencoderKL` for an inferred structure.

    Args:
      structure: what `structure_of_torch` returns.
      resolution: (height, width) or one int; `attn_resolutions` refers to it.

    Raises:
      ValueError: it cannot be halved as often as the levels want.
    """
    square = isinstance(resolution, int)
    height, width = (resolution, resolution) if square else resolution
    halvings = len(structure["ch_mult"]) - 1
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(
            f"autoencoder.resolution {height}x{width} cannot be halved {halvings} "
            "times, as the weights want; give another"
        )
    fields = dict(structure, resolution=(height, width))
    fields["attn_resolutions"] = tuple(
        (height >> i, width >> i)
        for i, attends in enumerate(fields.pop("attn_levels"))
        if attends
    )
    return fields


def discriminator_structure_of_torch(state: StateDict) -> dict[str, Any]:
    """Reads the fields of `PatchDiscriminator` off its tensors."""
    what = "weights of a PatchGAN discriminator"
    return _discriminator_structure(state, discriminator_name, (1, 0), what)


def discriminator_structure_of_flax(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the same fields off the Flax variables."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    what = "variables of a PatchDiscriminator"
    return _discriminator_structure(flat, "/".join, (2, 3), what)


def _discriminator_structure(
    arrays: Mapping[str, Any],
    name: Callable[[Path], str],
    axes: tuple[int, int],
    what: str,
) -> dict[str, Any]:
    def kernel(n: int) -> str:
        return name(("params", f"conv_{n}", "kernel"))

    _check_there(arrays, [kernel(0), kernel(1)], what)
    in_channels, ndf = (_width(arrays, kernel(0), axis) for axis in axes)
    return dict(
        in_channels=in_channels,
        ndf=ndf,
        num_layers=_count(lambda n: kernel(n) in arrays) - 2,
        use_actnorm=name(("params", "norm_1", "loc")) in arrays,
    )


def _check_there(arrays: Mapping[str, Any], needed: Sequence[str], what: str) -> None:
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(
            f"these are not the {what}: no {', '.join(missing)}; the first names found "
            f"are {sorted(arrays)[:5]}"
        )


def _width(arrays: Mapping[str, Any], name: str, axis: int) -> int:
    shape = np.shape(arrays[name])
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"{name} has the shape {shape}; expected a 2-D convolution")
    return int(shape[axis])


def _count(exists: Callable[[int], bool]) -> int:
    return next(n for n in itertools.count() if not exists(n))
