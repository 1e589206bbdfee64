"""Predicted maps: their noise, their number, what they are decoded by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_ldm as small

from radiovae_jax.diffusion import sampler, train_step


@pytest.fixture(scope="module")
def predict():
    """(raw, index, key) -> two samples of two calls, by a network of random numbers."""
    built = small.built()
    shapes = jax.eval_shape(
        lambda: train_step.init_state(built, jax.random.key(0), (32, 32)).params
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(0, 0.1, leaf.shape)), shapes
    )

    @jax.jit
    def predict(raw, index, key):
        planes = train_step.draw_planes(built, raw, key, count=0)
        frozen = built.first.frozen
        return sampler.predict_maps(
            built, frozen, params, planes, key, index, calls=2, samples=2
        )

    return predict


def test_maps_are_in_range_and_samples_differ(predict):
    found = predict(small.raw(), jnp.arange(4), jax.random.key(0))
    assert found.shape == (2, 4, 32, 32, 1)
    assert found.min() >= 0 and found.max() <= 1
    assert np.abs(found[0] - found[1]).mean() > 1e-3
    other = predict(small.raw(), jnp.arange(4), jax.random.key(1))
    assert np.abs(found - other).mean() > 1e-3  # no seed is fixed inside


def test_a_map_s_samples_are_its_own_wherever_it_stands_in_the_batch(predict):
    raw = small.raw()
    found = predict(raw, jnp.arange(4), jax.random.key(0))
    order = np.array([2, 0, 3, 1])
    moved = {name: array[order] for name, array in raw.items()}
    again = predict(moved, jnp.asarray(order), jax.random.key(0))
    np.testing.assert_allclose(again, found[:, order], atol=2e-5)
