"""Batches and their masks: uint8 records of the stored size to what the step sees."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from radiovae_jax import physics
from radiovae_jax.data import radiomap
from radiovae_jax.types import Array, Batch, Image


def padding_mask(position: int, count: int) -> np.float32:
    """Returns 1 for one of `count` records, 0 for what fills up their last batch."""
    return np.float32(position < count)


def to_batch(
    raw: Mapping[str, Shaped[Array, "b ..."]],
    *,
    image_size: int,
    pixel_weights: str,
    conditional: bool,
    objective: str = "base",
    mask_range: str = "unit",
    db_range: physics.DbRange = physics.RADIOMAPSEER_DB,
) -> Batch:
    """Makes a step's batch on the device from the arrays of a data batch.

    Args:
      raw: "gray" [b, h, w, c]; "buildings" and "antenna" [b, h, w, 1] where used;
        "DPM", the image to encode where it is not the target; "k2_neg_norm" where
        stored, else it is computed from the target.
      image_size: side to resize to, bilinearly; 0 keeps the stored size.
      pixel_weights: "none", or "street": buildings weigh 0.
      conditional: whether the discriminator is shown buildings and transmitter.
      objective: "base" needs neither k2_neg_norm nor the transmitter.
      mask_range: of the transmitter's mask, "unit" (0, 1) or "released" (0, 255).
    """
    stored = radiomap.gray_to_f(raw["gray"])
    # Where the data set knows no transmitter, there is none.
    raw = {"antenna": jnp.zeros((*stored.shape[:3], 1), jnp.float32), **raw}

    def resized_f(name: str) -> Image:
        return resize(radiomap.gray_to_f(raw[name]), image_size)

    def edge_mask() -> Image:
        if "k2_neg_norm" in raw:
            return resized_f("k2_neg_norm")
        tx = radiomap.gray_to_f(raw["antenna"])
        gray = physics.k2_neg_norm(physics.rescaled(stored, db_range), tx)
        return resize(radiomap.gray_to_f(gray), image_size)

    target = radiomap.f_to_model(resize(stored, image_size))
    masks = {}
    if pixel_weights == "street":
        masks["weights"] = 1.0 - binary_mask(raw["buildings"], image_size)
    if conditional:
        shown = (
            binary_mask(raw["buildings"], image_size),
            transmitter_mask(raw["antenna"], image_size),
        )
        masks["cond"] = jnp.concatenate(shown, axis=-1)
    if objective != "base":
        span = 255.0 if mask_range == "released" else 1.0
        masks["transmitter"] = span * transmitter_mask(raw["antenna"], image_size)
        masks["k2_neg_norm"] = edge_mask()
    image = radiomap.f_to_model(resized_f("DPM")) if "DPM" in raw else target
    return bare(image, target=target, **masks)


def binary_mask(gray: Shaped[Array, "b h w 1"], size: int) -> Float[Array, "b _ _ 1"]:
    """Returns where buildings or cars are: 0 or 1, whatever a resize does to edges."""
    return (resize(radiomap.gray_to_f(gray), size) >= 0.5).astype(jnp.float32)


def transmitter_mask(
    gray: Shaped[Array, "b h w 1"], size: int
) -> Float[Array, "b _ _ 1"]:
    """Returns where the transmitter is: a pixel that a resize spreads, its peak 1."""
    spread = resize(radiomap.gray_to_f(gray), size)
    peak = spread.max(axis=(1, 2, 3), keepdims=True)
    return spread / jnp.maximum(peak, 1e-6)


def bare(image: Image, **fields: Float[Array, "..."]) -> Batch:
    """Returns a batch of images in [-1, 1], their own targets but for `fields`."""
    nothing = jnp.zeros((*image.shape[:3], 0), jnp.float32)
    rest = dict.fromkeys(("weights", "cond", "k2_neg_norm", "transmitter"), nothing)
    return Batch(**({"image": image, "target": image} | rest | fields))


def resize(image: Image, size: int) -> Float[Array, "b _ _ c"]:
    """Resizes bilinearly to size x size, smoothed where it shrinks; 0 does nothing."""
    b, height, width, c = image.shape
    sides = resized(height, width, size)
    if sides == (height, width):
        return image
    return jax.image.resize(image, (b, *sides, c), "bilinear")


def resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns the sides of a map as `resize` makes it: only squares are resized."""
    if size and height != width:
        raise ValueError(
            f"maps of {height}x{width} are not square, and data.image_size={size} "
            "would squash them: set data.image_size=0 (for apply --size stored), or "
            "crop or pad them to squares"
        )
    return (size, size) if size else (height, width)


def resize_back(
    image: Image, height: int, width: int
) -> Float[Array, "b {height} {width} c"]:
    """Undoes `resize`: returns the map whose enlargement is closest to `image`.

    Interpolating back would blur a perfect reconstruction: on six real maps
    256 -> 320 -> 256 by two bilinear resizes has 35.0 dB PSNR, more error than a good
    first stage makes. The least-squares inverse is exact (singular values of the
    enlargement: 0.61 to 1.12). What `resize` shrank is enlarged bilinearly.
    """
    b, model_height, model_width, c = image.shape
    if (height, width) == (model_height, model_width):
        return image
    if height > model_height or width > model_width:
        return jax.image.resize(image, (b, height, width, c), "bilinear")
    rows, columns = _inverse(height, model_height), _inverse(width, model_width)
    return jnp.einsum("ih,bhwc,jw->bijc", rows, image, columns, precision="highest")


@functools.cache
def _inverse(stored: int, enlarged: int) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        identity = jnp.eye(stored, dtype=jnp.float32)
        enlarge = jax.image.resize(identity, (enlarged, stored), "bilinear")
    return np.linalg.pinv(np.asarray(enlarge, np.float64)).astype(np.float32)
