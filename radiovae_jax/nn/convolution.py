"""Convolutions of stride 1, in the form that is fast where they run.

All forms add up the same products. A convolution of one pixel is a product of matrices
everywhere, others are XLA's own. On CPUs XLA is slow at two more of this model's, and
for these it is a product too: those to a single channel (the gradient of the kernel, at
1% of the machine's speed) and those that are deep and small (the discriminator's last
ones, the gradient of the input).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]  # of rows and columns
Map = Float[Array, "b h w i"]
Kernel = Float[Array, "k l i o"]
Result = Float[Array, "b p q o"]
NO_PADDING = ((0, 0), (0, 0))
DEEP = 2048  # products that make one number of the result
SMALL = 8 * 8  # pixels; at 15x15 it is no faster, at 31x31 slower


def convolve(x: Map, kernel: Kernel, padding: Padding) -> Result:
    """Returns the convolution, in the sense of networks: the kernel is not mirrored."""
    rows, columns, channels, features = kernel.shape
    if (rows, columns) == (1, 1) and padding == NO_PADDING:
        product = x.reshape(-1, channels) @ kernel[0, 0]
        return product.reshape(*x.shape[:3], features)
    if features == 1:
        return _on_cpu(by_shifts, x, kernel, padding)
    small = x.shape[1] * x.shape[2] <= SMALL
    if small and rows * columns * channels >= DEEP:
        return _on_cpu(by_patches, x, kernel, padding)
    return by_xla(x, kernel, padding)


def by_xla(x: Map, kernel: Kernel, padding: Padding) -> Result:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def by_shifts(x: Map, kernel: Kernel, padding: Padding) -> Result:
    """The product of every pixel with every tap, then the sum of shifted images."""
    rows, columns, channels, features = kernel.shape
    b, height, width, _ = x.shape
    taps = jnp.moveaxis(kernel, 2, 0).reshape(channels, -1)
    products = _product(x.reshape(-1, channels), taps)
    products = products.reshape(b, height, width, rows, columns, features)
    products = jnp.pad(products, ((0, 0), *padding, (0, 0), (0, 0), (0, 0)))
    total = sum(
        part[:, :, :, row, column] for row, column, part in _shifts(products, kernel)
    )
    return total.astype(x.dtype)


def by_patches(x: Map, kernel: Kernel, padding: Padding) -> Result:
    """One product of a matrix of all patches with one of the kernel."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    patches = jnp.concatenate([part for _, _, part in _shifts(x, kernel)], axis=-1)
    b, height, width, depth = patches.shape
    product = _product(patches.reshape(-1, depth), kernel.reshape(depth, -1))
    return product.reshape(b, height, width, -1).astype(x.dtype)


_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _shifts(padded, kernel: Kernel):
    """Yields row and column of every tap of a kernel, and what of an image it meets."""
    rows, columns = kernel.shape[:2]
    height, width = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    for row in range(rows):
        for column in range(columns):
            yield row, column, padded[:, row : row + height, column : column + width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _on_cpu(form: Callable, x: Map, kernel: Kernel, padding: Padding) -> Result:
    """Takes a form on CPUs and XLA's own elsewhere, forward and back.

    Its own derivative, so that `x` and the kernel are all that the backward pass keeps.
    """
    return _choose(lambda convolution: convolution(x, kernel, padding), form)


def _choose(use: Callable[[Callable], Array], form: Callable):
    """Returns what `use` makes of the form on CPUs, and of XLA's own elsewhere."""
    return jax.lax.platform_dependent(
        cpu=lambda: use(form), default=lambda: use(by_xla)
    )


def _forward(form, x, kernel, padding):
    return _on_cpu(form, x, kernel, padding), (x, kernel)


def _backward(form, padding, kept, result_grad):
    def pull(convolution):
        bound = functools.partial(convolution, padding=padding)
        return jax.vjp(bound, *kept)[1](result_grad)

    return _choose(pull, form)


_on_cpu.defvjp(_forward, _backward)
