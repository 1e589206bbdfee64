"""The layers that are written another way than PyTorch's, against the plain way."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.nn import convolution, layers


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both(ours, plain, params, x, y):
    """Returns output and gradients (of params, of x) of two functions of them."""

    def of(function):
        out, pull_back = jax.vjp(function, params, x)
        return out, *pull_back(y)

    return of(ours), of(plain)


def close(ours, plain, tolerance):
    def same(a, b):
        assert np.abs(a - b).max() < tolerance * np.abs(b).max()

    jax.tree.map(same, ours, plain)


@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (8, 8)])
def test_an_upsampling_convolution_is_one_of_the_enlarged_image(height, width):
    module = layers.UpsampleConv()
    x = random(2, height, width, 6)
    params = {"kernel": random(3, 3, 6, 6, seed=1), "bias": random(6, seed=2)}

    def plain(params, x):
        enlarged = x.repeat(2, axis=1).repeat(2, axis=2)
        return jax.lax.conv_general_dilated(
            enlarged,
            params["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ) + jnp.broadcast_to(params["bias"], (*enlarged.shape[:3], 6))

    def ours(params, x):
        return module.apply({"params": params}, x)

    y = random(2, 2 * height, 2 * width, 6, seed=3)
    close(*both(ours, plain, params, x, y), 1e-5)


@pytest.mark.parametrize("module", [layers.UpsampleConv(), layers.conv(32, 32)])
def test_kernels_and_biases_start_in_pytorch_s_range(module):
    x = jnp.zeros((1, 4, 4, 32))
    params = module.init(jax.random.key(0), x)["params"]
    bound = 1 / np.sqrt(9 * 32)  # PyTorch's Conv2d: 1 / sqrt(fan_in)
    for leaf in jax.tree.leaves(params):
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        assert np.abs(leaf).min() < 0.1 * bound
    # The variance of U(-a, a) is a^2 / 3.
    np.testing.assert_allclose(params["kernel"].std(), bound / np.sqrt(3), rtol=0.03)


@pytest.mark.parametrize("channels", [32, 96])
def test_group_norm_is_flax_s_with_the_two_pass_variance(channels):
    # Far from 0, where the variance as mean of squares less square of mean is lost.
    x = 100 + random(2, 5, 7, channels)
    params = {"scale": random(channels, seed=1), "bias": random(channels, seed=2)}
    plain = nn.GroupNorm(32, epsilon=1e-6, use_fast_variance=False)

    def of(module):
        def apply(params, x):
            with jax.numpy_rank_promotion("allow"):
                return module.apply({"params": params}, x)

        return apply

    y = random(*x.shape, seed=3)
    ours, theirs = both(of(layers.GroupNorm()), of(plain), params, x, y)
    close(ours, theirs, 2e-5)


def test_group_norm_of_bfloat16_is_computed_in_float32():
    x = (100 + random(2, 5, 7, 32)).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(32), "bias": jnp.zeros(32)}}
    ours = layers.GroupNorm(jnp.bfloat16).apply(params, x)
    assert ours.dtype == jnp.bfloat16
    wide = layers.GroupNorm().apply(params, x.astype(jnp.float32))
    np.testing.assert_array_equal(ours, wide.astype(jnp.bfloat16))


P1 = ((1, 1), (1, 1))


@pytest.mark.parametrize(
    "height, width, size, channels, features, padding",
    [
        (5, 7, 1, 6, 4, ((0, 0), (0, 0))),  # a product
        (5, 7, 3, 6, 1, P1),  # shifts
        (5, 7, 4, 6, 1, P1),
        (5, 6, 4, 130, 5, P1),  # patches
        (5, 6, 2, 520, 5, ((1, 0), (0, 1))),
        (5, 7, 3, 6, 4, P1),  # XLA's own
    ],
)
def test_every_form_of_a_convolution_is_the_convolution(
    height, width, size, channels, features, padding
):
    x = random(2, height, width, channels)
    kernel = random(size, size, channels, features, seed=1)

    def of(form):
        return lambda kernel, x: form(x, kernel, padding)

    shape = jax.eval_shape(of(convolution.by_xla), kernel, x).shape
    y = random(*shape, seed=2)
    ours, theirs = both(of(convolution.convolve), of(convolution.by_xla), kernel, x, y)
    close(ours, theirs, 1e-5)


@pytest.mark.parametrize(
    "kernel, height, form",
    [
        ((3, 3, 32, 1), 64, "by_shifts"),
        ((4, 4, 256, 512), 8, "by_patches"),
        ((4, 4, 256, 512), 128, "by_xla"),
        ((3, 3, 128, 128), 8, "by_xla"),
    ],
)
def test_the_form_follows_from_the_shapes(monkeypatch, kernel, height, form):
    taken = []
    for name in ("by_shifts", "by_patches", "by_xla"):
        real = getattr(convolution, name)
        monkeypatch.setattr(
            convolution,
            name,
            lambda *args, name=name, real=real: taken.append(name) or real(*args),
        )
    x = jax.ShapeDtypeStruct((2, height, height, kernel[2]), jnp.float32)
    kernel = jax.ShapeDtypeStruct(kernel, jnp.float32)
    jax.eval_shape(lambda x, kernel: convolution.convolve(x, kernel, P1), x, kernel)
    assert taken[0] == form


@pytest.mark.parametrize("shape", [(3, 3, 32, 1), (4, 4, 256, 2)])
def test_only_a_cpu_takes_another_form_than_xlas(shape):
    traced = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, P1)).trace(
        random(1, 8, 8, shape[2]), random(*shape)
    )

    def products(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("dot_general")

    assert (products("cpu"), products("cuda"), products("tpu")) == (1, 0, 0)
