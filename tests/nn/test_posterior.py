import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.nn.posterior import DiagonalGaussian

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize("mean, var", [(0.0, 1.0), (2.0, 1.0), (0.0, 4.0)])
def test_kl_matches_the_closed_form(mean, var):
    q = DiagonalGaussian(jnp.full(SHAPE, mean), jnp.full(SHAPE, np.log(var)))
    expected = 3 * 4 * 5 * 0.5 * (mean**2 + var - 1 - np.log(var))
    np.testing.assert_allclose(q.kl(), [expected] * 2, rtol=1e-5, atol=1e-5)


def test_moments_are_clipped_to_the_source_s_range():
    moments = jnp.concatenate([jnp.zeros(SHAPE), jnp.full(SHAPE, 99.0)], axis=-1)
    assert DiagonalGaussian.from_moments(moments).logvar.max() == 20.0
    assert DiagonalGaussian.from_moments(-moments).logvar.min() == -30.0


def test_a_deterministic_gaussian_samples_its_mean_and_costs_nothing():
    moments = jax.random.normal(jax.random.key(0), (2, 3, 4, 10))
    q = DiagonalGaussian.from_moments(moments, deterministic=True)
    np.testing.assert_array_equal(q.sample(jax.random.key(1)), q.mode())
    np.testing.assert_array_equal(q.kl(), 0.0)
    np.testing.assert_array_equal(q.nll(q.mode()), 0.0)


def test_samples_have_the_stated_mean_and_spread():
    q = DiagonalGaussian(
        jnp.full((1, 100, 100, 5), 2.0), jnp.full((1, 100, 100, 5), 1.0)
    )
    z = q.sample(jax.random.key(0))
    # 50,000 draws: the standard error of the mean is 0.0074.
    np.testing.assert_allclose(z.mean(), 2.0, atol=0.03)
    np.testing.assert_allclose(z.std(), np.exp(0.5), rtol=0.02)
