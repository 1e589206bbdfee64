"""The same weights as diffusers' `AutoencoderKL` names them, and its config.json.

diffusers has one number of latent channels (no embed_dim beside z_channels) and no
width between the first convolution and the first level; a model that needs either
cannot be said there and is refused.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from radiovae_jax.interop import torch_structure, torch_tables, torch_weights
from radiovae_jax.interop.torch_tables import Names

StateDict = Mapping[str, np.ndarray]

_DOWN = {False: "DownEncoderBlock2D", True: "AttnDownEncoderBlock2D"}
_UP = {False: "UpDecoderBlock2D", True: "AttnUpDecoderBlock2D"}
# What config.json may say that no tensor's shape tells.
_FIXED = {"_class_name": "AutoencoderKL", "act_fn": "silu", "norm_num_groups": 32}
# What the shapes tell as well.
_OF_THE_SHAPES = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "latent_channels",
    "mid_block_add_attention",
)
# Source: diffusers, AutoencoderKL.__init__; old files do not state it.
_DEFAULT_SCALING = 0.18215


def names_of(state: StateDict) -> Names:
    """Returns whose names these are: RadioDiff's or diffusers', new or old."""
    if not any(name.startswith("encoder.down_blocks.") for name in state):
        return torch_tables.RADIODIFF
    old = torch_tables.DIFFUSERS_OLD
    query = f"{old.mid_attn.format(side='encoder')}.{old.attention[1]}.weight"
    return old if query in state else torch_tables.DIFFUSERS


def check_config(config: Mapping[str, Any]) -> None:
    """Checks that a config.json of diffusers is of the network that we have.

    Raises:
      ValueError: it is of another one; says which field differs.
    """
    for name, wanted in _FIXED.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(
                f"config.json has {name}={config[name]!r}; only {wanted!r} can be "
                "imported"
            )
    known = {*_DOWN.values(), *_UP.values()}
    for field in ("down_block_types", "up_block_types"):
        blocks = config.get(field, [])
        if not isinstance(blocks, list | tuple):
            raise ValueError(f"config.json has {field}={blocks!r:.80}, expected a list")
        for block in map(str, blocks):
            if block not in known:
                raise ValueError(
                    f"config.json has a block of type {block!r:.80}; only "
                    f"{sorted(known)} can be imported"
                )
    if "_class_name" not in config:
        raise ValueError("config.json is not of diffusers: it has no _class_name")


def check_structure(config: Mapping[str, Any], structure: Mapping[str, Any]) -> None:
    """Checks that config.json describes the network that the tensors are of.

    Raises:
      ValueError: they are of two networks, two versions of a folder say; names all
        fields that differ. What an old config.json does not state is not compared.
    """
    wanted = config_json(structure, sample_size=0)
    stated = {
        name: list(config[name]) if isinstance(config[name], tuple) else config[name]
        for name in _OF_THE_SHAPES
        if name in config
    }
    differing = [
        f"{name}: {value} in config.json, {wanted[name]} in the tensors"
        for name, value in stated.items()
        if value != wanted[name]
    ]
    if differing:
        raise ValueError(
            "config.json is not of these weights:\n  "
            + "\n  ".join(differing)
            + "\nPut the two files of one save_pretrained beside each other"
        )


def factors_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the factors of its latents that a config.json states.

    Returns:
      scaling_factor, shift_factor, and where it states them latents_mean and
      latents_std, one number for each latent channel.

    Raises:
      ValueError: they are no numbers that latents can be scaled with.
    """
    scaling = config.get("scaling_factor", _DEFAULT_SCALING)
    shift = config.get("shift_factor")
    if not is_finite(scaling) or scaling <= 0:
        raise ValueError(f"scaling_factor={scaling!r} is not a finite number above 0")
    if shift is not None and not is_finite(shift):
        raise ValueError(f"shift_factor={shift!r} is not a finite number or null")
    factors = dict(scaling_factor=scaling, shift_factor=shift)
    for name in ("latents_mean", "latents_std"):
        values = config.get(name)
        if values is None:
            continue
        lowest = 0 if name == "latents_std" else -math.inf
        if not isinstance(values, list) or not all(
            is_finite(value) and value > lowest for value in values
        ):
            above = " above 0" if name == "latents_std" else ""
            raise ValueError(
                f"{name}={values!r} is not a list of finite numbers{above}, or null"
            )
        factors[name] = values
    return factors


def is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # isfinite fails for 10**400


def with_quant_convs(
    state: StateDict, config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Adds 1x1 convolutions that do nothing where the network has none.

    Flux's and SD3's files have none, nor tensors that say so: a config.json says it, or
    RadioDiff's and latent-diffusion's names without either.
    """
    if np.ndim(state.get("encoder.conv_out.weight")) != 4:
        return dict(state)  # no autoencoder at all, which is said elsewhere
    z = np.shape(state["encoder.conv_out.weight"])[0] // 2
    neither = not any("quant_conv." in name for name in state)
    by_names = neither and names_of(state) is torch_tables.RADIODIFF
    if by_names:
        print("no quant_conv and post_quant_conv in it, as in Flux and SD3: identities")
    state = dict(state)
    for name, width in (("quant_conv", 2 * z), ("post_quant_conv", z)):
        if by_names or not config.get(f"use_{name}", True):
            state[f"{name}.weight"] = np.eye(width, dtype=np.float32)[..., None, None]
            state[f"{name}.bias"] = np.zeros(width, np.float32)
    return state


def autoencoder_to_diffusers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the state dict of `diffusers.AutoencoderKL` for {"params": ...}.

    Raises:
      ValueError: diffusers has no such model; says why.
    """
    check_expressible(torch_structure.of_flax(params["params"]))
    return torch_weights.autoencoder_to_torch(params, torch_tables.DIFFUSERS)


def check_expressible(structure: Mapping[str, Any]) -> None:
    """Raises a ValueError where diffusers' AutoencoderKL has no such network."""
    z, e = structure["z_channels"], structure["embed_dim"]
    if z != e:
        raise ValueError(
            f"diffusers has no embed_dim apart from the latent channels, and this "
            f"model has embed_dim={e}, z_channels={z}; export it in RadioDiff's format"
        )
    if structure["ch_mult"][0] != 1:
        raise ValueError(
            "diffusers gives the first convolution the width of the first level, and "
            f"this model has ch_mult={structure['ch_mult']}, which starts with "
            "another; export it in RadioDiff's format"
        )


def config_json(
    structure: Mapping[str, Any],
    *,
    sample_size: int,
    scaling_factor: float = 1.0,
    shift_factor: float | None = None,
    **per_channel: list[float],
) -> dict[str, Any]:
    """Returns the config.json that `from_pretrained` reads beside the weights.

    Args:
      sample_size: side of the images.
      scaling_factor: latents are multiplied with it,
      shift_factor: after this is taken off.
      **per_channel: latents_mean and latents_std, where they came with the weights.
    """
    check_expressible(structure)
    attn = structure["attn_levels"]
    return _FIXED | dict(
        in_channels=structure["in_channels"],
        out_channels=structure["out_ch"],
        block_out_channels=[structure["ch"] * mult for mult in structure["ch_mult"]],
        down_block_types=[_DOWN[attends] for attends in attn],
        up_block_types=[_UP[attends] for attends in reversed(attn)],
        layers_per_block=structure["num_res_blocks"],
        latent_channels=structure["z_channels"],
        mid_block_add_attention=structure["mid_attention"],
        sample_size=sample_size,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        **per_channel,
    )


def check_statistics(found: Mapping[str, Any], z: int, source: Any) -> None:
    """Raises a ValueError where mean and std are not those of z latent channels."""
    for name in ("mean", "std"):
        values = found.get(name)
        if not isinstance(values, list) or len(values) != z:
            raise ValueError(
                f"{source}: expected {name} with {z} numbers, one for each latent "
                f"channel; found {values}"
            )
        lowest = 0 if name == "std" else -math.inf
        if not all(is_finite(value) and value > lowest for value in values):
            above = " above 0" if name == "std" else ""
            raise ValueError(
                f"{source}: expected finite numbers{above} as {name}; found {values}"
            )


def latent_factors(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """Returns (scaling_factor, shift_factor) from the statistics of each channel.

    (z - shift_factor) * scaling_factor has mean 0 and variance 1 over all channels
    together: diffusers has one number for all of them.
    """
    shift = math.fsum(mean) / len(mean)
    spread = [s**2 + (m - shift) ** 2 for m, s in zip(mean, std, strict=True)]
    return 1 / math.sqrt(math.fsum(spread) / len(spread)), shift
