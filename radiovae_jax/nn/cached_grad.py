"""Functions of an image whose gradient is computed with them, once.

The weights of the terms are known only after some of the gradients are (`pull_back` in
train_step.py), so every term is pulled back up to three times: once with weight 0, once
for a multiple of what there is already. Through a network that would be three times
the work. A gradient of one number an image can be scaled instead: `with_cached_grad`
keeps it, and every pull-back is a product.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.types import Array, Image


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def with_cached_grad(
    function: Callable[[Image], tuple[Float[Array, "*b"], Any]], image: Image
) -> tuple[Float[Array, "*b"], Any]:
    """Returns function(image): one number, or one for each image, and what else.

    Of what is returned the numbers alone are differentiable, and with respect to the
    image alone: JAX raises UnexpectedTracerError where something that the function
    closes over is differentiated.

    Args:
      function: each of its numbers, where there are several, depends on its own image.
    """
    return function(image)


def _forward(function, image):
    numbers, pull, other = jax.vjp(function, image, has_aux=True)
    (image_grad,) = pull(jnp.ones_like(numbers))
    return (numbers, other), image_grad


def _backward(function, image_grad, grads):
    grad, _ = grads
    scale = grad.reshape(*grad.shape, *(image_grad.ndim - grad.ndim) * (1,))
    return (scale * image_grad,)


with_cached_grad.defvjp(_forward, _backward)
