"""Reads the structure of a network off its tensors, in PyTorch or in Flax.

What comes back are the arguments of the tables in interop/torch_tables.py, which are
also the fields of `AutoencoderKL` and `PatchDiscriminator`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from radiovae_jax.interop.torch_tables import RADIODIFF, Names

StateDict = Mapping[str, np.ndarray]


def of_torch(state: StateDict, names: Names = RADIODIFF) -> dict[str, Any]:
    """Reads the structure of an autoencoder off its tensors.

    Returns:
      the fields of `AutoencoderKL` that shapes determine. Where attention stands is
      returned as `attn_levels` (one bool a level): the resolution that
      `attn_resolutions` refers to leaves no trace in the tensors.

    Raises:
      ValueError: the tensors are not those of such an autoencoder.
    """
    first_block = names.down_block.format(i=0, j=0)
    needed = [
        "encoder.conv_in.weight",
        "encoder.conv_out.weight",
        "decoder.conv_out.weight",
        "quant_conv.weight",
        f"{first_block}.conv1.weight",
    ]
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(
            f"these are not the weights of a KL autoencoder: no {', '.join(missing)}; "
            f"the first names found are {sorted(state)[:5]}"
        )

    _check_kernels(state, needed)

    def conv1(i: int, j: int) -> str:
        return names.down_block.format(i=i, j=j) + ".conv1.weight"

    def attends(name: str) -> bool:
        return f"{name}.{names.attention[0]}.weight" in state

    ch, in_channels = np.shape(state["encoder.conv_in.weight"])[:2]
    levels = _count(lambda i: conv1(i, 0) in state)
    _check_kernels(state, [conv1(i, 0) for i in range(levels)])
    widths = [int(np.shape(state[conv1(i, 0)])[0]) for i in range(levels)]
    return dict(
        in_channels=int(in_channels),
        out_ch=int(np.shape(state["decoder.conv_out.weight"])[0]),
        ch=int(ch),
        ch_mult=_multiples(widths, int(ch)),
        num_res_blocks=_count(lambda j: conv1(0, j) in state),
        attn_levels=tuple(
            attends(names.down_attn.format(i=i, j=0)) for i in range(levels)
        ),
        z_channels=int(np.shape(state["encoder.conv_out.weight"])[0] // 2),
        embed_dim=int(np.shape(state["quant_conv.weight"])[0] // 2),
        mid_attention=attends(names.mid_attn.format(side="encoder")),
    )


def of_flax(params: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what `of_torch` returns off the Flax parameters.

    Raises:
      ValueError: these are not the parameters of an `AutoencoderKL`.
    """
    try:
        encoder, decoder = params["encoder"], params["decoder"]
        in_channels, ch = np.shape(encoder["conv_in"]["kernel"])[2:]
        levels = _count(lambda i: f"down_{i}_block_0" in encoder)
        widths = [
            np.shape(encoder[f"down_{i}_block_0"]["conv1"]["kernel"])[-1]
            for i in range(levels)
        ]
        return dict(
            in_channels=int(in_channels),
            out_ch=int(np.shape(decoder["conv_out"]["kernel"])[-1]),
            ch=int(ch),
            ch_mult=_multiples(widths, int(ch)),
            num_res_blocks=_count(lambda j: f"down_0_block_{j}" in encoder),
            attn_levels=tuple(f"down_{i}_attn_0" in encoder for i in range(levels)),
            z_channels=int(np.shape(encoder["conv_out"]["kernel"])[-1] // 2),
            embed_dim=int(np.shape(params["quant_conv"]["kernel"])[-1] // 2),
            mid_attention="attn_1" in encoder["mid"],
        )
    except KeyError as error:
        raise ValueError(
            f"these are not the parameters of an AutoencoderKL: no {error} in them; "
            f"found {sorted(params)}"
        ) from error


def model_fields(config: Mapping[str, Any], resolution: Any) -> dict[str, Any]:
    """Returns the arguments of `AutoencoderKL` for an inferred structure.

    Args:
      config: what `of_torch` returns.
      resolution: (height, width) or one int; `attn_resolutions` is told in it.

    Raises:
      ValueError: the levels do not differ in size at this resolution, or it is not
        divisible.
    """
    fields = {name: value for name, value in config.items() if name != "attn_levels"}
    height, width = (
        (resolution, resolution) if isinstance(resolution, int) else resolution
    )
    levels = len(fields["ch_mult"])
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"autoencoder.resolution {height}x{width} cannot be halved {levels - 1} "
            "times, as the weights want; give another"
        )
    attended = tuple(
        (height >> i, width >> i)
        for i, attends in enumerate(config["attn_levels"])
        if attends
    )
    return fields | dict(resolution=(height, width), attn_resolutions=attended)


def discriminator_of_torch(state: StateDict) -> dict[str, Any]:
    """Reads the fields of `PatchDiscriminator` off its tensors.

    Raises:
      ValueError: the tensors are not those of such a discriminator.
    """
    first = state.get("main.0.weight")
    convs = _count(lambda n: f"main.{3 * n - 1 if n else 0}.weight" in state)
    if first is None or convs < 2:
        raise ValueError(
            "these are not the weights of a PatchGAN discriminator: no main.0.weight "
            f"and main.2.weight; the first names found are {sorted(state)[:5]}"
        )
    _check_kernels(state, ["main.0.weight"])
    ndf, in_channels = np.shape(first)[:2]
    return dict(
        in_channels=int(in_channels),
        ndf=int(ndf),
        num_layers=convs - 2,
        use_actnorm="main.3.loc" in state,
    )


def discriminator_of_flax(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the same fields off the Flax variables."""
    params = variables["params"]
    in_channels, ndf = np.shape(params["conv_0"]["kernel"])[2:]
    return dict(
        in_channels=int(in_channels),
        ndf=int(ndf),
        num_layers=_count(lambda n: f"conv_{n}" in params) - 2,
        use_actnorm="loc" in params.get("norm_1", ()),
    )


def _check_kernels(state: StateDict, names: Sequence[str]) -> None:
    shapes = {name: np.shape(state[name]) for name in names}
    for name, shape in shapes.items():
        if len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"{name} has the shape {shape}; expected a 2-D convolution"
            )


def _multiples(widths: Sequence[int], ch: int) -> tuple[int, ...]:
    if any(width % ch for width in widths):
        raise ValueError(
            f"the levels are {widths} channels wide, not multiples of the {ch} of the "
            "first convolution; ch_mult cannot say that"
        )
    return tuple(width // ch for width in widths)


def _count(exists: Callable[[int], bool]) -> int:
    count = 0
    while exists(count):
        count += 1
    return count
