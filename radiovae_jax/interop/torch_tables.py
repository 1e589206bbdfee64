"""Every tensor of the PyTorch networks: its name there, its path, layout and shape.

The PyTorch side is RadioDiff's `AutoencoderKL` (encoder_decoder.py), the same network
as diffusers names it, and the PatchGAN of taming-transformers. The Flax side is
`models/`. Names and numbers only: interop/torch_weights.py moves the tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """One tensor: its name there, its path here, its layout and its shape there."""

    torch: str
    flax: tuple[str, ...]
    layout: str  # "conv": OIHW there, HWIO here; "linear": (o, i) there, (1, 1, i, o)
    # here; "affine": (c,) both; "wide": (1, c, 1, 1) there, (c,) here; "scalar": ()
    shape: tuple[int, ...]


class Names(NamedTuple):
    """How one code base names the parts of the autoencoder.

    `side` is encoder or decoder, `i` the level counted from the image, `r` the level
    counted from the latent, `j` the block in its level.
    """

    down_block: str
    down_attn: str
    downsample: str
    up_block: str
    up_attn: str
    upsample: str
    mid_block_1: str
    mid_attn: str
    mid_block_2: str
    norm_out: str
    shortcut: str
    attention: tuple[str, str, str, str, str]  # norm, q, k, v, output
    linear: bool  # q, k, v and output are Linear layers, not 1x1 convolutions


RADIODIFF = Names(
    down_block="encoder.down.{i}.block.{j}",
    down_attn="encoder.down.{i}.attn.{j}",
    downsample="encoder.down.{i}.downsample.conv",
    up_block="decoder.up.{i}.block.{j}",
    up_attn="decoder.up.{i}.attn.{j}",
    upsample="decoder.up.{i}.upsample.conv",
    mid_block_1="{side}.mid.block_1",
    mid_attn="{side}.mid.attn_1",
    mid_block_2="{side}.mid.block_2",
    norm_out="{side}.norm_out",
    shortcut="nin_shortcut",
    attention=("norm", "q", "k", "v", "proj_out"),
    linear=False,
)
DIFFUSERS = Names(
    down_block="encoder.down_blocks.{i}.resnets.{j}",
    down_attn="encoder.down_blocks.{i}.attentions.{j}",
    downsample="encoder.down_blocks.{i}.downsamplers.0.conv",
    up_block="decoder.up_blocks.{r}.resnets.{j}",
    up_attn="decoder.up_blocks.{r}.attentions.{j}",
    upsample="decoder.up_blocks.{r}.upsamplers.0.conv",
    mid_block_1="{side}.mid_block.resnets.0",
    mid_attn="{side}.mid_block.attentions.0",
    mid_block_2="{side}.mid_block.resnets.1",
    norm_out="{side}.conv_norm_out",
    shortcut="conv_shortcut",
    attention=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    linear=True,
)
# Files saved before diffusers 0.15.
DIFFUSERS_OLD = DIFFUSERS._replace(
    attention=("group_norm", "query", "key", "value", "proj_attn")
)


def autoencoder_table(
    names: Names = RADIODIFF,
    *,
    in_channels: int,
    out_ch: int,
    ch: int,
    ch_mult: Sequence[int],
    num_res_blocks: int,
    attn_levels: Sequence[bool],
    z_channels: int,
    embed_dim: int,
    mid_attention: bool,
) -> list[Entry]:
    """Returns every tensor of the autoencoder of this structure."""
    widths = [ch * mult for mult in ch_mult]
    top = len(widths) - 1
    table: list[Entry] = []

    def mid(side: str):
        here, width = (side, "mid"), widths[-1]
        first = names.mid_block_1.format(side=side)
        second = names.mid_block_2.format(side=side)
        table.extend(_resnet(names, first, (*here, "block_1"), width, width))
        if mid_attention:
            name = names.mid_attn.format(side=side)
            table.extend(_attention(names, name, (*here, "attn_1"), width))
        table.extend(_resnet(names, second, (*here, "block_2"), width, width))

    def level(side: str, prefix: str, i: int, width: int, blocks: int):
        resnet = names.down_block if side == "encoder" else names.up_block
        attention = names.down_attn if side == "encoder" else names.up_attn
        for j in range(blocks):
            place = dict(i=i, r=top - i, j=j)
            path = (side, f"{prefix}_block_{j}")
            name = resnet.format(**place)
            table.extend(_resnet(names, name, path, width, widths[i]))
            width = widths[i]
            if attn_levels[i]:
                path = (side, f"{prefix}_attn_{j}")
                name = attention.format(**place)
                table.extend(_attention(names, name, path, width))

    table += _conv("encoder.conv_in", ("encoder", "conv_in"), in_channels, ch)
    for i, width in enumerate(widths):
        before = widths[i - 1] if i else ch
        level("encoder", f"down_{i}", i, before, num_res_blocks)
        if i != top:
            path = ("encoder", f"down_{i}_downsample")
            name = names.downsample.format(i=i, r=top - i)
            table += _conv(name, path, width, width)
    mid("encoder")
    name = names.norm_out.format(side="encoder")
    table += _norm(name, ("encoder", "norm_out"), widths[-1])
    path = ("encoder", "conv_out")
    table += _conv("encoder.conv_out", path, widths[-1], 2 * z_channels)

    path = ("decoder", "conv_in")
    table += _conv("decoder.conv_in", path, z_channels, widths[-1])
    mid("decoder")
    for i, width in reversed(list(enumerate(widths))):
        before = widths[min(i + 1, top)]
        level("decoder", f"up_{i}", i, before, num_res_blocks + 1)
        if i:
            path = ("decoder", f"up_{i}_upsample")
            name = names.upsample.format(i=i, r=top - i)
            table += _conv(name, path, width, width)
    name = names.norm_out.format(side="decoder")
    table += _norm(name, ("decoder", "norm_out"), widths[0])
    table += _conv("decoder.conv_out", ("decoder", "conv_out"), widths[0], out_ch)

    table += _conv("quant_conv", ("quant_conv",), 2 * z_channels, 2 * embed_dim, 1)
    table += _conv("post_quant_conv", ("post_quant_conv",), embed_dim, z_channels, 1)
    return table


def discriminator_table(
    *, in_channels: int, ndf: int, num_layers: int, use_actnorm: bool
) -> list[Entry]:
    """Returns the tensors of a PatchGAN; the Flax paths start with the collection."""
    last = num_layers + 1
    widths = [ndf * min(2**n, 8) for n in range(last)] + [1]
    table: list[Entry] = []
    for n, (before, width) in enumerate(
        zip([in_channels, *widths[:-1]], widths, strict=True)
    ):
        # main.0 and main.1 are conv and LeakyReLU; then conv, norm, LeakyReLU each.
        index = 3 * n - 1 if n else 0
        bias = use_actnorm or n in (0, last)
        path = ("params", f"conv_{n}")
        table += _conv(f"main.{index}", path, before, width, 4, bias=bias)
        if n in (0, last):
            continue
        norm, here = f"main.{index + 1}", f"norm_{n}"
        stats = ("batch_stats", here)
        if use_actnorm:
            for name in ("loc", "scale"):
                path = ("params", here, name)
                table.append(Entry(f"{norm}.{name}", path, "wide", (1, width, 1, 1)))
            flag = (*stats, "initialized")
            table.append(Entry(f"{norm}.initialized", flag, "scalar", ()))
        else:
            table += _norm(norm, ("params", here), width)
            for there, name in (("running_mean", "mean"), ("running_var", "var")):
                path = (*stats, name)
                table.append(Entry(f"{norm}.{there}", path, "affine", (width,)))
    return table


def counters(table: Sequence[Entry]) -> list[str]:
    """Returns the names of BatchNorm's batch counters, which nothing here needs."""
    norms = [e.torch.rpartition(".")[0] for e in table if e.flax[-1] == "var"]
    return [f"{norm}.num_batches_tracked" for norm in norms]


def _conv(name, path, before, after, size=3, bias=True) -> list[Entry]:
    shape = (after, before, size, size)
    table = [Entry(f"{name}.weight", (*path, "kernel"), "conv", shape)]
    if bias:
        table.append(Entry(f"{name}.bias", (*path, "bias"), "affine", (after,)))
    return table


def _norm(name, path, width) -> list[Entry]:
    return [
        Entry(f"{name}.weight", (*path, "scale"), "affine", (width,)),
        Entry(f"{name}.bias", (*path, "bias"), "affine", (width,)),
    ]


def _resnet(names, name, path, before, after) -> list[Entry]:
    table = _norm(f"{name}.norm1", (*path, "norm1"), before)
    table += _conv(f"{name}.conv1", (*path, "conv1"), before, after)
    table += _norm(f"{name}.norm2", (*path, "norm2"), after)
    table += _conv(f"{name}.conv2", (*path, "conv2"), after, after)
    if before != after:
        shortcut = (*path, "nin_shortcut")
        table += _conv(f"{name}.{names.shortcut}", shortcut, before, after, 1)
    return table


def _attention(names, name, path, width) -> list[Entry]:
    norm, *layers = names.attention
    table = _norm(f"{name}.{norm}", (*path, "norm"), width)
    for there, here in zip(layers, ("q", "k", "v", "proj_out"), strict=True):
        entries = _conv(f"{name}.{there}", (*path, here), width, width, 1)
        if names.linear:
            shape = (width, width)
            entries[0] = entries[0]._replace(layout="linear", shape=shape)
        table += entries
    return table
