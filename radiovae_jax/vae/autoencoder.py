"""The KL autoencoder: Encoder, Decoder and the two 1x1 convolutions between.

Source: `encoder_decoder.py` of RadioDiff, after ldm/models/autoencoder.py of
latent-diffusion (Rombach et al. 2022, arXiv:2112.10752).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.nn.layers import Blocks, GroupNorm, UpsampleConv, conv, downsample
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.types import Array, DType, Image, Latent, PRNGKey


def attention_levels(resolution, attn_resolutions, levels: int) -> tuple[bool, ...]:
    """Says for each level whether its blocks are followed by attention.

    Args:
      resolution: (height, width) that the config names, or one int for both.
      attn_resolutions: sizes, ints or pairs, at which to attend.
      levels: number of levels; each halves the size of the one before.
    """

    def pair(size) -> tuple[int, int]:
        return (size, size) if isinstance(size, int) else tuple(size)

    wanted = {pair(size) for size in attn_resolutions}
    height, width = pair(resolution)
    return tuple((height >> i, width >> i) in wanted for i in range(levels))


def unchanged(output: Image) -> Image:
    """The output is the image."""
    return output


class _Mid(nn.Module):
    """ResnetBlock, attention (unless switched off), ResnetBlock."""

    features: int
    attention: bool
    blocks: Blocks

    @nn.compact
    def __call__(self, h, train: bool):
        h = self.blocks.resnet(self.features, "block_1")(h, train)
        if self.attention:
            h = self.blocks.attention("attn_1")(h)
        return self.blocks.resnet(self.features, "block_2")(h, train)


class Encoder(nn.Module):
    """Image -> features with 2 z_channels (mean and log-variance together)."""

    ch: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    attn: Sequence[bool]
    mid_attention: bool
    out_features: int
    blocks: Blocks

    @nn.compact
    def __call__(self, x: Image, train: bool = False) -> Float[Array, "b p q zz"]:
        dtype = self.blocks.dtype
        h = conv(x.shape[-1], self.ch, dtype=dtype, name="conv_in")(x)
        for i, mult in enumerate(self.ch_mult):
            for j in range(self.num_res_blocks):
                h = self.blocks.resnet(self.ch * mult, f"down_{i}_block_{j}")(h, train)
                if self.attn[i]:
                    h = self.blocks.attention(f"down_{i}_attn_{j}")(h)
            if i != len(self.ch_mult) - 1:
                h = downsample(h.shape[-1], dtype, f"down_{i}_downsample")(h)
        h = _Mid(h.shape[-1], self.mid_attention, self.blocks, name="mid")(h, train)
        h = nn.swish(GroupNorm(dtype, name="norm_out")(h))
        return conv(h.shape[-1], self.out_features, dtype=dtype, name="conv_out")(h)


class Decoder(nn.Module):
    """Features with z_channels -> image; one ResnetBlock more a level than Encoder."""

    ch: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    attn: Sequence[bool]
    mid_attention: bool
    out_ch: int
    blocks: Blocks

    @nn.compact
    def __call__(self, z: Latent, train: bool = False) -> Image:
        dtype = self.blocks.dtype
        features = self.ch * self.ch_mult[-1]
        h = conv(z.shape[-1], features, dtype=dtype, name="conv_in")(z)
        h = _Mid(features, self.mid_attention, self.blocks, name="mid")(h, train)
        for i, mult in reversed(list(enumerate(self.ch_mult))):
            for j in range(self.num_res_blocks + 1):
                h = self.blocks.resnet(self.ch * mult, f"up_{i}_block_{j}")(h, train)
                if self.attn[i]:
                    h = self.blocks.attention(f"up_{i}_attn_{j}")(h)
            if i != 0:
                h = UpsampleConv(dtype, name=f"up_{i}_upsample")(h)
        h = nn.swish(GroupNorm(dtype, name="norm_out")(h))
        # In float32: bfloat16 would round the map itself, by up to 0.1 dB.
        return conv(h.shape[-1], self.out_ch, name="conv_out")(h.astype(jnp.float32))


class AutoencoderKL(nn.Module):
    """The first stage: image -> Gaussian over latents, latent -> image.

    Use it as pure functions: `model.apply(params, x, method="encode")` gives a
    `DiagonalGaussian`, `model.apply(params, z, method="decode")` an image.
    `resolution` only places `attn_resolutions`; any size divisible by
    `downsampling` goes through. Parameters are float32, `dtype` is what is computed
    in; moments and images come out in float32. Where the decoder's last layer gives
    something else than the image (logits of it), `to_image` makes the image of it.
    `remat` and `attention_chunk` trade time for memory and change no number (`Blocks`
    and `attend` in layers.py).

    Raises:
      ValueError: a size that the down-sampling does not divide, a width that 32
        groups do not divide, `double_z=False`.
    """

    in_channels: int = 1
    out_ch: int = 1
    ch: int = 128
    ch_mult: Sequence[int] = (1, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: Sequence = ()
    resolution: Sequence[int] | int = (320, 320)
    z_channels: int = 3
    embed_dim: int = 3
    double_z: bool = True
    dropout: float = 0.0
    mid_attention: bool = True
    to_image: Callable[[Image], Image] = unchanged
    remat: bool = False
    attention_chunk: int = 0
    dtype: DType = jnp.float32

    @property
    def downsampling(self) -> int:
        return 2 ** (len(self.ch_mult) - 1)

    def setup(self):
        if not self.double_z:
            raise ValueError(
                "double_z=False leaves no log-variance for the KL term; set it to True"
            )
        for mult in self.ch_mult:
            if self.ch * mult % 32:
                raise ValueError(
                    f"{self.ch * mult} channels (ch {self.ch} x {mult}) do not split "
                    "into GroupNorm's 32 groups; make ch a multiple of 32"
                )
        common = dict(
            ch=self.ch,
            ch_mult=self.ch_mult,
            num_res_blocks=self.num_res_blocks,
            attn=attention_levels(
                self.resolution, self.attn_resolutions, len(self.ch_mult)
            ),
            mid_attention=self.mid_attention,
            blocks=Blocks(self.dropout, self.remat, self.attention_chunk, self.dtype),
        )
        z, e = self.z_channels, self.embed_dim
        self.encoder = Encoder(out_features=2 * z, **common)
        self.decoder = Decoder(out_ch=self.out_ch, **common)
        self.quant_conv = conv(2 * z, 2 * e, 1, dtype=self.dtype)
        self.post_quant_conv = conv(e, z, 1, dtype=self.dtype)

    def encode(self, x: Image, train: bool = False) -> DiagonalGaussian:
        """Returns the posterior over latents of shape [b, h/f, w/f, embed_dim]."""
        _, height, width, channels = x.shape
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"image size {height}x{width} is not a multiple of the down-sampling "
                f"{self.downsampling} (ch_mult has {len(self.ch_mult)} levels); resize "
                "the maps (data.image_size) or use fewer levels"
            )
        if channels != self.in_channels:
            raise ValueError(
                f"the image has {channels} channels, the model in_channels="
                f"{self.in_channels}; set autoencoder.in_channels and out_ch"
            )
        moments = self.quant_conv(self.encoder(x, train))
        return DiagonalGaussian.from_moments(moments.astype(jnp.float32))

    def decode(self, z: Latent, train: bool = False) -> Image:
        """Returns the image, unclipped, of a latent."""
        return self.to_image(self.decode_output(z, train))

    def decode_output(self, z: Latent, train: bool = False) -> Image:
        """Returns what the last layer gives, of which `to_image` makes the image."""
        return self.decoder(self.post_quant_conv(z), train).astype(jnp.float32)

    def __call__(
        self, x: Image, key: PRNGKey
    ) -> tuple[Float[Array, "b h w {self.out_ch}"], DiagonalGaussian]:
        """Returns the reconstruction from a sampled latent, and the posterior."""
        posterior = self.encode(x)
        return self.decode(posterior.sample(key)), posterior
