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

from radiovae_jax.interop import torch_weights
from radiovae_jax.interop.torch_weights import Names

StateDict = Mapping[str, np.ndarray]

# By whether they attend.
_DOWN = {False: "DownEncoderBlock2D", True: "AttnDownEncoderBlock2D"}
_UP = {False: "UpDecoderBlock2D", True: "AttnUpDecoderBlock2D"}
# What config.json may say that no tensor's shape tells.
_FIXED = {"_class_name": "AutoencoderKL", "act_fn": "silu", "norm_num_groups": 32}
# Source: diffusers, AutoencoderKL.__init__; old files do not state it.
_DEFAULT_SCALING = 0.18215
_ABOVE_0 = ("scaling_factor", "latents_std", "std")


def names_of(state: StateDict) -> Names:
    """Returns whose names these are: RadioDiff's or diffusers', new or old."""
    if not any(name.startswith("encoder.down_blocks.") for name in state):
        return torch_weights.RADIODIFF
    query = ("encoder", "mid", "attn_1", "q", "kernel")
    old = torch_weights.DIFFUSERS_OLD
    is_old = torch_weights.torch_name(query, old) in state
    return old if is_old else torch_weights.DIFFUSERS


def check_config(config: Mapping[str, Any]) -> None:
    """Raises a ValueError where a config.json is not of the network that we have."""
    stated = {"act_fn": "silu", "norm_num_groups": 32} | dict(config)
    for name, wanted in _FIXED.items():
        if stated.get(name) != wanted:
            raise ValueError(
                f"config.json has {name}={stated.get(name)!r}; only {wanted!r} can be "
                "imported"
            )


def check_structure(config: Mapping[str, Any], structure: Mapping[str, Any]) -> None:
    """Checks that config.json describes the network that the tensors are of.

    Raises:
      ValueError: they are of two networks, two versions of a folder say; names all
        fields that differ. What an old config.json does not state is not compared.
    """
    differing = [
        f"{name}: {config[name]} in config.json, {wanted} in the tensors"
        for name, wanted in fields_of(structure).items()
        if name in config and config[name] != wanted
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
    single = dict(
        scaling_factor=config.get("scaling_factor", _DEFAULT_SCALING),
        shift_factor=config.get("shift_factor"),
    )
    each = {name: config.get(name) for name in ("latents_mean", "latents_std")}
    each = {name: values for name, values in each.items() if values is not None}
    check_numbers(each, "config.json")
    stated = {name: [one] for name, one in single.items() if one is not None}
    check_numbers(stated, "config.json")
    return single | each


def check_numbers(
    found: Mapping[str, Any], source: Any, *, count: int | None = None
) -> None:
    """Raises a ValueError unless all are lists of (`count`) finite numbers."""
    for name, values in found.items():
        above_0 = name in _ABOVE_0
        numbers = isinstance(values, list) and all(
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max  # isfinite fails for 10**400
            and (value > 0 or not above_0)
            for value in values
        )
        if not numbers or count not in (None, len(values)):
            raise ValueError(
                f"{source}: {name} is {values!r:.80}, expected a list of "
                f"{'' if count is None else f'{count} '}finite numbers"
                f"{' above 0' * above_0}"
            )


def with_quant_convs(
    state: StateDict, config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Adds 1x1 convolutions that do nothing where the network has none.

    Flux's and SD3's files have none, nor tensors that say so: a config.json says it, or
    RadioDiff's and latent-diffusion's names without either.
    """
    state = dict(state)
    shape = np.shape(state.get("encoder.conv_out.weight"))
    if len(shape) != 4:
        return state  # no autoencoder at all, which is said elsewhere
    neither = not any("quant_conv." in name for name in state)
    by_names = neither and names_of(state) is torch_weights.RADIODIFF
    if by_names:
        print("no quant_conv and post_quant_conv in it, as in Flux and SD3: identities")
    z = shape[0] // 2
    for name, width in (("quant_conv", 2 * z), ("post_quant_conv", z)):
        if by_names or not config.get(f"use_{name}", True):
            state[f"{name}.weight"] = np.eye(width, dtype=np.float32)[..., None, None]
            state[f"{name}.bias"] = np.zeros(width, np.float32)
    return state


def autoencoder_to_diffusers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the state dict of `diffusers.AutoencoderKL`; raises as `fields_of`."""
    fields_of(torch_weights.structure_of_flax(params["params"]))
    return torch_weights.autoencoder_to_torch(params, torch_weights.DIFFUSERS)


def fields_of(structure: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of diffusers' AutoencoderKL that the shapes determine.

    Raises:
      ValueError: diffusers has no such model; says why.
    """
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
    attn = structure["attn_levels"]
    return dict(
        in_channels=structure["in_channels"],
        out_channels=structure["out_ch"],
        block_out_channels=[structure["ch"] * mult for mult in structure["ch_mult"]],
        down_block_types=[_DOWN[attends] for attends in attn],
        up_block_types=[_UP[attends] for attends in reversed(attn)],
        layers_per_block=structure["num_res_blocks"],
        latent_channels=z,
        mid_block_add_attention=structure["mid_attention"],
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

    Raises: as `fields_of`.
    """
    return dict(
        **_FIXED,
        **fields_of(structure),
        sample_size=sample_size,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        **per_channel,
    )


def latent_factors(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """Returns (scaling_factor, shift_factor) from the statistics of each channel.

    (z - shift_factor) * scaling_factor has mean 0 and variance 1 over all channels
    together: diffusers has one number for all of them.
    """
    shift = math.fsum(mean) / len(mean)
    spread = [s**2 + (m - shift) ** 2 for m, s in zip(mean, std, strict=True)]
    return 1 / math.sqrt(math.fsum(spread) / len(spread)), shift
