"""PatchGAN: a logit for every overlapping patch, true or reconstructed.

Source: Isola et al. 2017 (arXiv:1611.07004) as in taming-transformers,
taming/modules/discriminator/model.py (`NLayerDiscriminator`, `weights_init`) and
taming/modules/util.py (`ActNorm`) at 3ba01b2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.nn.layers import conv
from radiovae_jax.types import Array, DType, Image, Logits, Params

Features = Float[Array, "b h w c"]
# N(0, 0.02) and N(1, 0.02): the initialisation of DCGAN that pix2pix kept.
kernel_init = nn.initializers.normal(0.02)


def scale_init(key, shape):
    return 1 + kernel_init(key, shape)


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm2d: normalises with the biased, stores the unbiased variance.

    Flax stores the biased one. Under `jit` over a sharded batch the mean is over
    the whole batch, not over one device's share.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Features, train: bool) -> Features:
        shape = (x.shape[-1],)
        scale = self.param("scale", scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        stored_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        stored_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = stored_mean.value, stored_var.value
        if train:
            x32 = x.astype(jnp.float32)
            mean, var = x32.mean(axis=(0, 1, 2)), x32.var(axis=(0, 1, 2))
        if train and not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = var * (count / max(count - 1, 1))
            for stored, new in ((stored_mean, mean), (stored_var, unbiased)):
                old = stored.value
                stored.value = self.momentum * old + (1 - self.momentum) * new
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shift = bias - mean * factor
        wide = np.s_[None, None, None]  # over channels
        return (x * factor[wide] + shift[wide]).astype(self.dtype)


class ActNorm(nn.Module):
    """scale * (x + loc), set by the first training batch, then learned.

    The two are ordinary parameters. They are set where "params" is mutable (see
    `initialize`) and the flag `initialized` is still 0.
    """

    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Features, train: bool) -> Features:
        shape = (x.shape[-1],)
        loc = self.param("loc", nn.initializers.zeros, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        flag = self.variable("batch_stats", "initialized", jnp.zeros, (), jnp.uint8)
        settable = self.is_mutable_collection("params") and not self.is_initializing()
        if train and settable:
            x32 = x.astype(jnp.float32)
            mean, std = x32.mean(axis=(0, 1, 2)), x32.std(axis=(0, 1, 2), ddof=1)
            loc = jnp.where(flag.value, loc, -mean)
            scale = jnp.where(flag.value, scale, 1 / (std + 1e-6))
            self.put_variable("params", "loc", loc)
            self.put_variable("params", "scale", scale)
            flag.value = jnp.ones_like(flag.value)
        wide = np.s_[None, None, None]  # over channels
        return (scale[wide] * (x + loc[wide])).astype(self.dtype)


class PatchDiscriminator(nn.Module):
    """Image (and condition, concatenated on channels) -> unbounded patch logits.

    Returns [b, h', w', 1] logits; a 256x256 image gives 30x30 at three layers.
    Train mode uses the batch's statistics and wants `mutable=["batch_stats"]`.
    """

    in_channels: int = 1
    ndf: int = 64
    num_layers: int = 3
    use_actnorm: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Image, train: bool = True) -> Logits:
        if x.shape[-1] != self.in_channels:
            raise ValueError(
                f"the discriminator was given {x.shape[-1]} channels (image and "
                f"condition), in_channels={self.in_channels}; set loss.disc_in_channels"
            )
        norm = ActNorm if self.use_actnorm else BatchNorm
        h = self._conv(x, self.ndf, strides=2, name="conv_0")
        h = nn.leaky_relu(h, 0.2)
        self.sow("intermediates", "features", h)  # kept where it is asked for
        for n in range(1, self.num_layers + 1):
            features = self.ndf * min(2**n, 8)
            strides = 2 if n < self.num_layers else 1
            h = self._conv(
                h, features, strides=strides, bias=self.use_actnorm, name=f"conv_{n}"
            )
            h = nn.leaky_relu(norm(dtype=self.dtype, name=f"norm_{n}")(h, train), 0.2)
            self.sow("intermediates", "features", h)
        h = self._conv(h, 1, strides=1, name=f"conv_{self.num_layers + 1}")
        return h.astype(jnp.float32)

    def _conv(self, h, features, *, strides, name, bias=True):
        if min(h.shape[1:3]) + 2 < 4:
            raise ValueError(
                f"the image is too small for a discriminator of {self.num_layers} "
                "layers; use larger images or fewer layers (loss.disc_num_layers)"
            )
        return conv(
            h.shape[-1],
            features,
            4,
            strides=strides,
            padding=1,
            use_bias=bias,
            kernel_init=kernel_init,
            dtype=self.dtype,
            name=name,
        )(h)


def initialize(
    discriminator: PatchDiscriminator, params: Params, stats: Params, x: Image
) -> tuple[Params, Params]:
    """Sets ActNorm's loc and scale from `x` if no batch has; else changes nothing.

    With BatchNorm there is nothing to set and nothing is computed.
    """
    if not discriminator.use_actnorm:
        return params, stats

    def set_from_batch():
        variables = {"params": params, "batch_stats": stats}
        _, new = discriminator.apply(
            variables, x, train=True, mutable=["params", "batch_stats"]
        )
        return new["params"], new["batch_stats"]

    done = jax.tree.leaves(stats)[0] == 1
    return jax.lax.cond(done, lambda: (params, stats), set_from_batch)
