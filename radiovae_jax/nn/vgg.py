"""The convolutions of VGG16, up to relu5_3, as a function of their weights.

Source: Simonyan and Zisserman 2015 (arXiv:1409.1556), configuration D.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.nn import convolution
from radiovae_jax.types import Array, DType

# Features and number of convolutions of each block; a 2x2 pooling lies between two.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
Features = Float[Array, "b h w c"]


def activations(
    weights: dict[str, dict[str, Array]], x: Features, *, dtype: DType
) -> list[Float[Array, "b _ _ _"]]:
    """Returns the last activation of each block: relu1_2, 2_2, 3_3, 4_3, relu5_3.

    Args:
      weights: conv1_1 to conv5_3: kernel (HWIO) and bias.
      x: images of three channels, normalised.
      dtype: what is computed in, and the results' type.
    """
    found = []
    for block, (_, layers) in enumerate(BLOCKS, 1):
        x = max_pool(x) if found else x.astype(dtype)
        for layer in range(1, layers + 1):
            conv = weights[f"conv{block}_{layer}"]
            kernel, bias = conv["kernel"].astype(dtype), conv["bias"].astype(dtype)
            x = convolution.by_xla(x, kernel, ((1, 1), (1, 1)))
            x = jax.nn.relu(x + bias[None, None, None])
        found.append(x)
    return found


@jax.custom_vjp
def max_pool(x: Features) -> Float[Array, "b h//2 w//2 c"]:
    """Returns the maxima of 2x2 squares; an odd last row or column is left out.

    The gradient goes to a square's first maximum, as that of XLA's pooling, whose
    select-and-scatter takes twenty times as long on a CPU.
    """
    return _squares(x).max((2, 4))


def _squares(x):
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)


def _max_pool_forward(x):
    return max_pool(x), x


def _max_pool_backward(x, grad):
    _, h, w, _ = x.shape
    squares, parts, free = _squares(x), [], True
    largest = squares.max((2, 4))
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        first = free & (squares[:, :, row, :, column] == largest)
        free = free & ~first
        parts.append(jnp.where(first, grad, 0))
    rows = jnp.stack(parts[:2], axis=3), jnp.stack(parts[2:], axis=3)
    x_grad = jnp.stack(rows, axis=2).reshape(len(x), h // 2 * 2, w // 2 * 2, -1)
    return (jnp.pad(x_grad, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
