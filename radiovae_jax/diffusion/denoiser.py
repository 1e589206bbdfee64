"""The denoiser: an encoder of the condition, and a U-Net that predicts from a latent.

Everything in it has a forward-mode derivative, which mean flow takes through the whole
network; so its convolutions and its attention are plain ones, not those of
nn/layers.py, whose backward passes are written by hand.

Source: Ho et al. 2020 (arXiv:2006.11239) for the U-Net; Dhariwal and Nichol 2021
(arXiv:2105.05233) for scale and shift by time; Henry et al. 2020 (arXiv:2010.04245) for
normalised queries and keys. The condition at every level is RadioDiff's idea, without
its Swin network.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.nn.layers import GroupNorm, upsample_nearest
from radiovae_jax.types import Array, DType, Latent, PerImage

Features = Float[Array, "b h w c"]
Planes = Float[Array, "b h w k"]  # of the condition, at the size of the maps
Levels = tuple[Float[Array, "b _ _ _"], ...]  # the condition at the U-Net's sizes
# Radians a unit of time.
FREQUENCIES = np.float32(2 * np.pi * np.geomspace(0.25, 16, 32))


class Denoiser(nn.Module):
    """Predicts from x at time t, given planes that describe the place.

    Attributes:
      heads: latents that it predicts, each of `channels`.
      channels: of the latent.
      downsampling: pixels of the planes to one of the latent, a power of 2.
      width: features of the first level; a multiple of 32.
      mult: widths of the levels in `width`; each beyond the first halves the size.
      blocks: residual blocks of a level, on either side.
      attention_levels: so many of the coarsest levels have attention.
      condition_width: features of the encoded condition, at every level.
      log_time: features are of log(t)/4 rather than of t.
      remat: compute blocks again in the backward pass.
    """

    heads: int
    channels: int
    downsampling: int
    width: int = 96
    mult: tuple[int, ...] = (1, 2, 3)
    blocks: int = 2
    attention_levels: int = 2
    condition_width: int = 64
    dropout: float = 0.0
    log_time: bool = False
    remat: bool = False
    dtype: DType = jnp.float32

    def setup(self):
        self.encoder = ConditionEncoder(
            self.condition_width,
            round(math.log2(self.downsampling)),
            len(self.mult),
            self.dtype,
        )
        self.unet = UNet(
            self.heads * self.channels,
            self.width,
            tuple(self.mult),
            self.blocks,
            self.attention_levels,
            self.dropout,
            self.log_time,
            self.remat,
            self.dtype,
        )

    def __call__(
        self,
        x: Latent,
        t: PerImage,
        r: PerImage,
        planes: Planes,
        train: bool = False,
    ) -> tuple[Latent, ...]:
        """Returns the predictions, one for each head.

        Args:
          x: latent at time t.
          t, r: times in [0, 1]; r is the one that mean flow jumps to.
          planes: of the condition, at the size of the maps.
        """
        return self.predict(x, t, r, self.encode(planes), train)

    def encode(self, planes: Planes) -> Levels:
        """Returns the condition for `predict`: once for all calls and samples."""
        return self.encoder(planes)

    def predict(
        self,
        x: Latent,
        t: PerImage,
        r: PerImage,
        condition: Levels,
        train: bool = False,
    ) -> tuple[Latent, ...]:
        """Returns the predictions, with the condition encoded already."""
        output = self.unet(x, t, r, condition, train)
        return tuple(jnp.split(output, self.heads, axis=-1))


class ConditionEncoder(nn.Module):
    """Planes of the maps' size to features of every level of the U-Net."""

    width: int
    halvings: int  # from the map to the latent
    levels: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, planes: Planes) -> Levels:
        h = conv(self.width, dtype=self.dtype, name="conv_in")(planes)
        levels = [h]
        for i in range(self.halvings + self.levels - 1):
            h = nn.swish(GroupNorm(self.dtype, name=f"norm_{i}")(h))
            h = conv(self.width, strides=2, dtype=self.dtype, name=f"down_{i}")(h)
            inner = nn.swish(GroupNorm(self.dtype, name=f"inner_{i}")(h))
            h = h + conv(self.width, dtype=self.dtype, name=f"conv_{i}")(inner)
            levels.append(h)
        return tuple(levels[self.halvings :])


class UNet(nn.Module):
    """Residual blocks down and up again, conditioned at every level and by the time."""

    out_channels: int
    width: int
    mult: tuple[int, ...]
    blocks: int
    attention_levels: int
    dropout: float
    log_time: bool
    remat: bool
    dtype: DType

    @nn.compact
    def __call__(
        self,
        x: Latent,
        t: PerImage,
        r: PerImage,
        condition: Levels,
        train: bool = False,
    ) -> Float[Array, "b p q {self.out_channels}"]:
        # `train`, the fourth argument, decides what is traced and is no array.
        block = nn.remat(Block, static_argnums=3) if self.remat else Block
        embedding = TimeEmbedding(4 * self.width, self.log_time, name="time")(t, r)

        def level(h, features, name, number):
            kind = block(features, self.dropout, self.dtype, name=name)
            h = kind(h, embedding, train)
            if number >= len(self.mult) - self.attention_levels:
                h = Attention(self.dtype, name=f"{name}_attention")(h)
            return h

        h = jnp.concatenate([x, condition[0].astype(x.dtype)], axis=-1)
        h = conv(self.width, dtype=self.dtype, name="conv_in")(h)
        skips = []
        for i, mult in enumerate(self.mult):
            if i:
                h = conv(h.shape[-1], strides=2, dtype=self.dtype, name=f"down_{i}")(h)
                h = jnp.concatenate([h, condition[i]], axis=-1)
            for j in range(self.blocks):
                h = level(h, mult * self.width, f"down_{i}_{j}", i)
                skips.append(h)
        coarsest = len(self.mult) - 1
        h = level(h, h.shape[-1], "middle_0", coarsest)
        h = level(h, h.shape[-1], "middle_1", coarsest)
        for i, mult in reversed(list(enumerate(self.mult))):
            for j in range(self.blocks):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = level(h, mult * self.width, f"up_{i}_{j}", i)
            if i:
                name = f"up_{i}"
                h = conv(h.shape[-1], dtype=self.dtype, name=name)(upsample_nearest(h))
        h = nn.swish(GroupNorm(name="norm_out")(h))  # in float32, as what it predicts
        return conv(self.out_channels, zero=True, name="conv_out")(h)


class Block(nn.Module):
    """norm, swish, conv, norm scaled and shifted by the time, swish, conv; plus x."""

    features: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Features, embedding: Float[Array, "b e"], train: bool = False
    ) -> Float[Array, "b h w {self.features}"]:
        h = nn.swish(GroupNorm(self.dtype, name="norm1")(x))
        h = conv(self.features, dtype=self.dtype, name="conv1")(h)
        both = nn.Dense(2 * self.features, dtype=self.dtype, name="time")(embedding)
        scale, shift = jnp.split(both[:, None, None], 2, axis=-1)
        h = GroupNorm(self.dtype, name="norm2")(h) * (1 + scale) + shift
        h = nn.Dropout(self.dropout)(nn.swish(h), deterministic=not train)
        h = conv(self.features, zero=True, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all pixels, heads of 32; plus the input."""

    dtype: DType = jnp.float32
    head: int = 32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        b, h, w, c = x.shape
        normed = GroupNorm(self.dtype, name="norm")(x)
        qkv = conv(3 * c, 1, dtype=self.dtype, name="qkv")(normed)
        q, k, v = jnp.moveaxis(
            qkv.reshape(b, h * w, 3, c // self.head, self.head), 2, 0
        )
        # Queries and keys of fixed length bound the scores, in any type.
        q, k = (
            nn.RMSNorm(dtype=jnp.float32, name=name)(array)
            for name, array in (("q_norm", q), ("k_norm", k))
        )
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) * self.head**-0.5
        weights = nn.softmax(scores, axis=-1).astype(v.dtype)
        attended = jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(b, h, w, c)
        return x + conv(c, 1, zero=True, dtype=self.dtype, name="proj_out")(attended)


class TimeEmbedding(nn.Module):
    """Features of t and of t - r, finite with all derivatives at t = 0 and r = t."""

    features: int
    log_time: bool

    @nn.compact
    def __call__(self, t: PerImage, r: PerImage) -> Float[Array, "b e"]:
        times = (jnp.log(t) / 4,) if self.log_time else (t, t - r)
        angles = jnp.stack(times, axis=-1)[..., None] * FREQUENCIES[None, None]
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        h = waves.reshape(len(t), -1).astype(jnp.float32)
        h = nn.swish(nn.Dense(self.features, name="dense_0")(h))
        return nn.swish(nn.Dense(self.features, name="dense_1")(h))


def conv(
    features: int,
    size: int = 3,
    *,
    strides: int = 1,
    zero: bool = False,
    dtype: DType = jnp.float32,
    name: str,
) -> nn.Conv:
    """Returns a convolution that keeps the size, divided by `strides`."""
    kernel_init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(
        features,
        (size, size),
        strides=strides,
        padding=size // 2,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


def parameters(model: Denoiser, planes: int, side: int) -> int:
    """Returns how many numbers it learns; `side` is that of the latent."""
    x = jnp.zeros((1, side, side, model.channels))
    shown = jnp.zeros((1, *(2 * [side * model.downsampling]), planes))
    t = jnp.ones(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, t, shown)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
