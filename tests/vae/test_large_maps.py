"""Row-wise streaming against one pass: the same numbers."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from radiovae_jax import losses
from radiovae_jax.vae import large_maps
from radiovae_jax.vae.autoencoder import AutoencoderKL

HEIGHT, WIDTH = 24, 20
# The features of one row are 640: bands of 5 rows, the last one of 4 or 2.
BAND_FLOATS = 5 * 640

# Attention at the lower level as well as in the middle; logits as output.
MODEL = AutoencoderKL(
    ch=32,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=((HEIGHT // 2, WIDTH // 2),),
    resolution=(HEIGHT, WIDTH),
    to_image=losses.image_from_logits,
)


def passes() -> large_maps.Passes:
    return large_maps.Passes(BAND_FLOATS, tqdm(total=1, file=io.StringIO()))


@pytest.fixture(scope="module")
def params():
    """Random ones, of norms as well: ones and zeros would hide a swap."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(MODEL.init, key, jnp.zeros((1, 4, 4, 1)), key)
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        return np.float32(rng.normal(size=leaf.shape) / np.sqrt(fan_in))

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def one_pass(params):
    """Two maps unlike above and below, their posterior and image."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, HEIGHT, WIDTH, 1)) + rng.normal(size=(2, 1, WIDTH, 1))
    x = np.float32(x * np.linspace(0.1, 3, HEIGHT).reshape(1, HEIGHT, 1, 1))

    @jax.jit
    def both(params, x):
        posterior = MODEL.apply(params, x, method="encode")
        return posterior, MODEL.apply(params, posterior.mean, method="decode")

    return x, *both(params, x)


@pytest.mark.slow
def test_bands_give_what_one_pass_gives(params, one_pass):
    x, posterior, image = one_pass
    found = large_maps.encode(params, x, band_floats=BAND_FLOATS)
    np.testing.assert_allclose(found.mean, posterior.mean, atol=1e-4)
    np.testing.assert_allclose(found.logvar, posterior.logvar, atol=1e-4)
    z = np.asarray(posterior.mean)
    decoded = large_maps.decode(MODEL, params, z, band_floats=BAND_FLOATS)
    np.testing.assert_allclose(decoded, image, atol=1e-4)
    assert np.std(image) > 0.1


def test_the_work_counted_is_the_work_done(params, one_pass):
    image = large_maps.stored(one_pass[0][0])
    count, done = large_maps.Passes(BAND_FLOATS), passes()
    for each in (count, done):
        large_maps._moments(params["params"], image, each)
    np.testing.assert_allclose(done.bar.n, count.work, rtol=1e-12)


def test_a_norm_of_bands_has_the_statistics_of_the_map():
    # A mean of 1000 and a deviation of 1: E[x^2] - E[x]^2 would lose it in float32.
    x = 1000 + np.random.default_rng(0).normal(size=(30, 8, 32)).astype(np.float32)
    tree = {"scale": jnp.ones(32), "bias": jnp.zeros(32)}
    stream = large_maps.norm(tree, large_maps.stored(x), passes(), swish=False)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis=(0, 1))) / exact.std(axis=(0, 1))
    np.testing.assert_allclose(stream.rows(0, 30), exact, atol=2e-3)


def test_attention_to_a_few_keys_at_a_time_is_softmax(monkeypatch):
    rng = np.random.default_rng(0)
    q, k, v = (5 * rng.normal(size=(6, 4, 8)).astype(np.float32) for _ in range(3))
    monkeypatch.setattr(large_maps, "SCORE_FLOATS", 12 * 4 * 2)  # two rows of keys
    attended = large_maps.attention(*map(large_maps.stored, (q, k, v))).rows(1, 4)
    scores = q[1:4].reshape(12, 8) @ k.reshape(24, 8).T / np.sqrt(8)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True) @ v.reshape(24, 8)
    np.testing.assert_allclose(attended.reshape(12, 8), expected, atol=1e-5)
