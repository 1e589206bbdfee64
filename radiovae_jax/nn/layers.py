"""The blocks of the autoencoder, with PyTorch's numerics where Flax's differ.

Source: `encoder_decoder.py` of RadioDiff, after ldm/modules/diffusionmodules/model.py
of latent-diffusion (Rombach et al. 2022).
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.nn import convolution
from radiovae_jax.types import Array, DType

Features = Float[Array, "b h w c"]
GROUPS, EPSILON = 32, 1e-6  # of GroupNorm


def compute_dtype(name: str) -> DType:
    """Returns what to compute in; "auto" is bfloat16 on accelerators only."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what PyTorch gives Conv2d and Linear; 1/3 because
# variance_scaling's uniform reaches sqrt(3 * scale / fan_in).
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias_init(fan_in: int):
    """The same bound for the bias, whose own shape does not tell the fan-in."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv(
    in_channels: int,
    features: int,
    kernel_size: int = 3,
    *,
    strides: int = 1,
    padding=None,
    use_bias: bool = True,
    kernel_init=torch_kernel_init,
    dtype=jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """Returns a Conv with PyTorch's initialisation; 'same' size by default."""
    pad = (kernel_size - 1) // 2 if padding is None else padding
    hook = _convolve if strides == 1 else None
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=(strides, strides),
        padding=pad,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=torch_bias_init(in_channels * kernel_size**2),
        dtype=dtype,
        name=name,
        conv_general_dilated=hook,
    )


def _convolve(x, kernel, strides, padding, **unset):
    """What Flax calls; `conv` sets neither dilation, groups nor precision."""
    return convolution.convolve(x, kernel, tuple(map(tuple, padding)))


class GroupNorm(nn.Module):
    """32 groups, eps 1e-6, in float32; the two-pass variance that PyTorch computes.

    Sums over the pixels of every channel first and over the few channels of a group
    then: what Flax's sums at once, on CPUs up to five times as fast.
    """

    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def mean(x):
            groups = x.mean((1, 2)).reshape(len(x), GROUPS, -1).mean(-1)
            return jnp.repeat(groups, channels // GROUPS, axis=-1)

        x = x.astype(jnp.float32)
        centred = x - mean(x)[:, None, None]
        slope = jax.lax.rsqrt(mean(jnp.square(centred)) + EPSILON) * scale[None]
        y = centred * slope[:, None, None] + bias[None, None, None]
        return y.astype(self.dtype)


class ResnetBlock(nn.Module):
    """norm, swish, conv, norm, swish, dropout, conv; plus the input."""

    features: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Features, train: bool = False
    ) -> Float[Array, "b h w {self.features}"]:
        channels = x.shape[-1]
        h = nn.swish(GroupNorm(self.dtype, name="norm1")(x))
        h = conv(channels, self.features, dtype=self.dtype, name="conv1")(h)
        h = nn.swish(GroupNorm(self.dtype, name="norm2")(h))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = conv(self.features, self.features, dtype=self.dtype, name="conv2")(h)
        if channels != self.features:
            x = conv(channels, self.features, 1, dtype=self.dtype, name="nin_shortcut")(
                x
            )
        return x + h


@jax.custom_vjp
def _products(
    q: Float[Array, "b i c"], k: Float[Array, "b j c"]
) -> Float[Array, "b i j"]:
    """Returns q k^T in float32; its gradient is multiplied in the type of q and k.

    JAX would take the other two products of the backward pass in float32, because this
    one's result is: half the speed on a GPU, and twice the bytes of n x n numbers.
    """
    return jnp.einsum("bic,bjc->bij", q, k, preferred_element_type=jnp.float32)


def _products_forward(q, k):
    return _products(q, k), (q, k)


def _products_backward(kept, grad):
    q, k = kept
    grad = grad.astype(q.dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    q_grad, k_grad = product("bij,bjc->bic", grad, k), product("bij,bic->bjc", grad, q)
    return q_grad.astype(q.dtype), k_grad.astype(k.dtype)


_products.defvjp(_products_forward, _products_backward)


def attend(
    q: Float[Array, "b n c"],
    k: Float[Array, "b n c"],
    v: Float[Array, "b n c"],
    *,
    chunk: int,
) -> Float[Array, "b n c"]:
    """Returns softmax(q k^T / sqrt(c)) v; scores and softmax are float32.

    Args:
      chunk: 0 holds all n x n scores at once. Above 0 only those of so many queries,
        which the backward pass computes again: the same numbers, every row of the
        scores being whole, for one more product of q and k.
    """
    n, dtype = q.shape[1], v.dtype

    def rows(q, k, v):
        scores = _products(q, k)
        weights = nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(dtype)
        return jnp.einsum("bij,bjc->bic", weights, v)

    if not 0 < chunk < n:
        return rows(q, k, v)
    blocks = -(-n // chunk)
    padded = jnp.pad(q, ((0, 0), (0, blocks * chunk - n), (0, 0)))
    padded = padded.reshape(q.shape[0], blocks, chunk, q.shape[2]).swapaxes(0, 1)
    # The backward pass adds up the gradients of k and v block by block, in their type.
    k, v = k.astype(jnp.float32), v.astype(jnp.float32)
    attended = jax.lax.map(
        jax.checkpoint(lambda block: rows(block, k.astype(dtype), v.astype(dtype))),
        padded,
    )
    return attended.swapaxes(0, 1).reshape(q.shape[0], -1, q.shape[2])[:, :n]


class AttnBlock(nn.Module):
    """Single-head self-attention over all pixels; plus the input."""

    chunk: int = 0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        b, h, w, c = x.shape
        normed = GroupNorm(self.dtype, name="norm")(x)
        q, k, v = (
            conv(c, c, 1, dtype=self.dtype, name=name)(normed).reshape(b, h * w, c)
            for name in ("q", "k", "v")
        )
        attended = attend(q, k, v, chunk=self.chunk).reshape(b, h, w, c)
        return x + conv(c, c, 1, dtype=self.dtype, name="proj_out")(attended)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Makes the blocks of a network, by what they have in common.

    With `remat` a block keeps its input only and is computed again in the backward
    pass; `attention_chunk`: see `attend`. Neither changes a parameter's name or value.
    """

    dropout: float
    remat: bool
    attention_chunk: int
    dtype: DType

    def resnet(self, features: int, name: str) -> nn.Module:
        # `train`, the third argument, decides what is traced and is no array.
        kind = nn.remat(ResnetBlock, static_argnums=2) if self.remat else ResnetBlock
        return kind(features, self.dropout, self.dtype, name=name)

    def attention(self, name: str) -> nn.Module:
        kind = nn.remat(AttnBlock) if self.remat else AttnBlock
        return kind(self.attention_chunk, self.dtype, name=name)


def downsample(channels: int, dtype, name: str) -> nn.Conv:
    """3x3, stride 2, zeros at the right and bottom only: not Flax's 'SAME'."""
    padding = ((0, 1), (0, 1))
    return conv(channels, channels, strides=2, padding=padding, dtype=dtype, name=name)


def upsample_nearest(x: Features) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats every pixel 2x2."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


# Which rows of a 3x3 kernel meet the row above (of the small image) and the row itself
# in even rows of the enlarged image; the row itself and the row below in odd ones.
_MEETS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


class UpsampleConv(nn.Module):
    """A 3x3 convolution of `upsample_nearest`, at 4/9 of its products.

    A pixel of the enlarged image sees 2x2 pixels of the small one, some twice. So the
    taps that meet the same pixel are added first, for each of the four positions in a
    2x2 square, and the small image is convolved. Parameters are those of `conv`.
    """

    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "b 2*h 2*w c"]:
        b, h, w, c = x.shape
        kernel = self.param("kernel", torch_kernel_init, (3, 3, c, c))
        bias = self.param("bias", torch_bias_init(9 * c), (c,))
        taps = jnp.einsum("puk,qvl,klio->pquvio", _MEETS, _MEETS, kernel)
        taps, x = taps.astype(self.dtype), x.astype(self.dtype)

        def position(p, q):
            """Returns every second pixel of every second row, from row p, column q."""
            return convolution.convolve(x, taps[p, q], ((1 - p, p), (1 - q, q)))

        rows = [jnp.stack([position(p, 0), position(p, 1)], axis=3) for p in (0, 1)]
        enlarged = jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, c)
        return enlarged + bias.astype(self.dtype)[None, None, None]
