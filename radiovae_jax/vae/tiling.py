"""The autoencoder on maps too large for one pass: the same numbers, band by band.

Tiles that go through the network one by one show in the result however they are
blended: GroupNorm's statistics and the mid block's attention are of the whole map. So a
map is not cut before the network but inside it (bands.py): each layer goes over bands
of rows of the whole map, with the rows above and below that its 3x3 kernels need, and a
norm's statistics are summed over all bands before any band is normalised. What comes
out is what one pass gives, up to rounding.

Only the output of a block is kept whole, in main memory, in place of its input where
their shapes agree. What lies between the norms of a block is made anew for each of
them: 1.5 times the multiplications for half the memory. Attention goes over all pairs
of latent pixels; on large maps it takes most of the time.

The functions read the tree of parameters, by the names that vae/autoencoder.py
gives, and compute in float32.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.progress import Bar
from radiovae_jax.types import Array, Image, Latent, Params
from radiovae_jax.vae import bands
from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.bands import Passes, Rows

BAND_FLOATS = 2**23  # features in one band: 32 MB


def encode(
    params: Params, image: Image, *, band_floats: int = BAND_FLOATS, progress: str = ""
) -> DiagonalGaussian:
    """Returns what `AutoencoderKL.encode` gives.

    Args:
      params: {"params": ...} of the model.
      image: in [-1, 1], sides divisible by the down-sampling.
      band_floats: features in a band; fewer take less memory, and more time.
      progress: label of a progress bar; none without.
    """
    moments = _each(_moments, params["params"], image, band_floats, progress)
    return DiagonalGaussian.from_moments(jnp.asarray(moments))


def decode(
    model: AutoencoderKL,
    params: Params,
    z: Latent,
    *,
    band_floats: int = BAND_FLOATS,
    progress: str = "",
) -> Image:
    """Returns what `AutoencoderKL.decode` gives.

    Args:
      model: whose `to_image` makes the image of the last layer's output.
      params: {"params": ...} of the model.
      z: latents [b, h/f, w/f, embed_dim].
      band_floats: as for `encode`.
      progress: as for `encode`.
    """
    output = _each(_output, params["params"], z, band_floats, progress)
    return model.to_image(jnp.asarray(output))


def _each(
    walk: Callable[[Params, Rows, Passes], Rows],
    tree: Params,
    batch: Float[Array, "b _ _ _"],
    band_floats: int,
    progress: str,
) -> Float[np.ndarray, "b _ _ _"]:
    """Sends every image of a batch on its walk through the network."""
    images = [bands.kept(np.asarray(image, np.float32)) for image in batch]
    count = Passes(band_floats)
    walk(tree, images[0], count)
    with Bar(
        total=len(images) * count.work,
        desc=progress,
        disable=not progress,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
    ) as bar:
        passes = Passes(band_floats, bar)
        return np.stack([walk(tree, image, passes).array for image in images])


def _moments(tree: Params, image: Rows, passes: Passes) -> Rows:
    """The encoder and quant_conv."""
    encoder = tree["encoder"]
    h = passes.keep(bands.conv(encoder["conv_in"], image))
    for i in range(_levels(encoder, "down")):
        h = _blocks(encoder, f"down_{i}", h, passes)
        if f"down_{i}_downsample" in encoder:
            h = passes.keep(bands.conv(encoder[f"down_{i}_downsample"], h, stride=2))
    h = _mid(encoder["mid"], h, passes)
    h = bands.norm(encoder["norm_out"], h, passes, swish=True)
    return passes.keep(
        bands.conv(tree["quant_conv"], bands.conv(encoder["conv_out"], h))
    )


def _output(tree: Params, z: Rows, passes: Passes) -> Rows:
    """post_quant_conv and the decoder."""
    decoder = tree["decoder"]
    h = bands.conv(decoder["conv_in"], bands.conv(tree["post_quant_conv"], z))
    h = _mid(decoder["mid"], passes.keep(h), passes)
    for i in reversed(range(_levels(decoder, "up"))):
        h = _blocks(decoder, f"up_{i}", h, passes)
        if f"up_{i}_upsample" in decoder:
            # Not kept: nothing in the network is larger.
            h = bands.conv(decoder[f"up_{i}_upsample"], bands.upsample(h))
    h = bands.norm(decoder["norm_out"], h, passes, swish=True)
    return passes.keep(bands.conv(decoder["conv_out"], h))


def _levels(tree: Params, way: str) -> int:
    return sum(name.startswith(way) and name.endswith("_block_0") for name in tree)


def _blocks(tree: Params, level: str, h: Rows, passes: Passes) -> Rows:
    """The ResnetBlocks of one level, each with its attention if it has one."""
    for j in range(sum(name.startswith(f"{level}_block") for name in tree)):
        h = _resnet(tree[f"{level}_block_{j}"], h, passes)
        if f"{level}_attn_{j}" in tree:
            h = _attention(tree[f"{level}_attn_{j}"], h, passes)
    return h


def _mid(tree: Params, h: Rows, passes: Passes) -> Rows:
    h = _resnet(tree["block_1"], h, passes)
    if "attn_1" in tree:
        h = _attention(tree["attn_1"], h, passes)
    return _resnet(tree["block_2"], h, passes)


def _resnet(tree: Params, x: Rows, passes: Passes) -> Rows:
    x = bands.remembered(x)
    h = bands.conv(tree["conv1"], bands.norm(tree["norm1"], x, passes, swish=True))
    h = bands.conv(tree["conv2"], bands.norm(tree["norm2"], h, passes, swish=True))
    shortcut = bands.conv(tree["nin_shortcut"], x) if "nin_shortcut" in tree else x
    return passes.keep(bands.add(shortcut, h), into=x.array)


def _attention(tree: Params, x: Rows, passes: Passes) -> Rows:
    normed = bands.norm(tree["norm"], x, passes, swish=False)
    keys, values = (passes.keep(bands.conv(tree[name], normed)) for name in ("k", "v"))
    attended = bands.attention(bands.conv(tree["q"], normed), keys, values)
    return passes.keep(
        bands.add(x, bands.conv(tree["proj_out"], attended)), into=x.array
    )
