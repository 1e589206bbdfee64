"""Functions whose gradient is computed with them: the same numbers, once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.nn import cached_grad

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 2)), jnp.float32)


def energy(image):
    return jnp.sum(jnp.sin(image) ** 3, axis=(1, 2, 3)), {"mean": image.mean()}


def mean_energy(image):
    return energy(image)[0].mean(), ()


def pulled(function, weights):
    numbers, pull, other = jax.vjp(function, IMAGE, has_aux=True)
    return numbers, other, pull(weights)[0]


@pytest.mark.parametrize(
    "function, weights", [(energy, [0.5, 0.0, -2.0]), (mean_energy, 3.0)]
)
def test_numbers_are_pulled_back_with_their_own_weights(function, weights):
    def cached(image):
        return cached_grad.with_cached_grad(function, image)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        pulled(cached, jnp.float32(weights)),
        pulled(function, jnp.float32(weights)),
    )


def test_three_pull_backs_go_through_the_function_once():
    def products(function):
        def all_three(image):
            _, pull, _ = jax.vjp(function, image, has_aux=True)
            return [pull(jnp.float32(weight))[0] for weight in (0, 1, 2)]

        return str(jax.make_jaxpr(all_three)(IMAGE)).count("dot_general")

    def network(image):
        return (image @ jnp.ones((2, 5))).sum(), ()

    assert products(network) == 1 + 3
    assert products(lambda image: cached_grad.with_cached_grad(network, image)) == 1 + 1


def test_what_the_function_closes_over_is_not_silently_left_out():
    def total(scale):
        def scaled(image):
            return (image * scale).sum(), ()

        return cached_grad.with_cached_grad(scaled, IMAGE)[0]

    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.grad(total)(2.0)
