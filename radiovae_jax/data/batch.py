"""Records as they travel (uint8, stored size) to what the step sees (floats)."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from radiovae_jax import physics
from radiovae_jax.data import radiomap
from radiovae_jax.types import Array, Batch, Image


def to_batch(
    raw: Mapping[str, Shaped[Array, "b ..."]],
    *,
    image_size: int,
    pixel_weights: str,
    conditional: bool,
    objective: str = "base",
    mask_range: str = "unit",
    db_range: tuple[float, float] = physics.DB_RANGE,
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
      db_range: dB at f = 0, and over the whole scale.
    """
    stored = radiomap.gray_to_f(raw["gray"])
    f = resize(stored, image_size)
    seen = resize(radiomap.gray_to_f(raw["DPM"]), image_size) if "DPM" in raw else f
    nothing = jnp.zeros((*f.shape[:3], 0), jnp.float32)

    def mask(name: str) -> Float[Array, "b h w 1"]:
        return resize(radiomap.gray_to_f(raw[name]), image_size)

    def buildings() -> Float[Array, "b h w 1"]:
        # A building or not, whatever the resize made of its edge.
        return (mask("buildings") >= 0.5).astype(jnp.float32)

    def transmitter() -> Float[Array, "b h w 1"]:
        # One pixel that a resize spreads and dims; its peak stays 1.
        if "antenna" not in raw:
            return jnp.zeros((*f.shape[:3], 1), jnp.float32)
        spread = mask("antenna")
        peak = spread.max(axis=(1, 2, 3), keepdims=True)
        return spread / jnp.maximum(peak, 1e-6)

    def edges() -> Image:
        if "k2_neg_norm" in raw:
            return mask("k2_neg_norm")
        antenna = raw.get("antenna", jnp.zeros((*stored.shape[:3], 1), jnp.uint8))
        tx = radiomap.gray_to_f(antenna)
        gray = physics.k2_neg_norm(stored, tx, db_range=db_range)
        return resize(radiomap.gray_to_f(gray), image_size)

    physical = objective != "base"
    span = 255.0 if mask_range == "released" else 1.0
    return Batch(
        image=radiomap.f_to_model(seen),
        target=radiomap.f_to_model(f),
        k2_neg_norm=edges() if physical else nothing,
        transmitter=span * transmitter() if physical else nothing,
        weights=1.0 - buildings() if pixel_weights == "street" else nothing,
        cond=jnp.concatenate([buildings(), transmitter()], axis=-1)
        if conditional
        else nothing,
    )


def bare(image: Image, **fields: Float[Array, "..."]) -> Batch:
    """Returns a batch of images in [-1, 1] whose target is the image itself."""
    nothing = jnp.zeros((*image.shape[:3], 0), jnp.float32)
    rest = dict.fromkeys(("weights", "cond", "k2_neg_norm", "transmitter"), nothing)
    return Batch(**({"image": image, "target": image} | rest | fields))


def resize(image: Image, size: int) -> Float[Array, "b _ _ c"]:
    """Resizes bilinearly to size x size, smoothed where it shrinks; 0 does nothing.

    Raises:
      ValueError: as `resized`.
    """
    b, height, width, c = image.shape
    seen = resized(height, width, size)
    if seen == (height, width):
        return image
    return jax.image.resize(image, (b, *seen, c), "bilinear")


def resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns the sides of a map as `resize` makes it.

    Raises:
      ValueError: a map that is not square and would be squashed.
    """
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
    b, seen_height, seen_width, c = image.shape
    if (height, width) == (seen_height, seen_width):
        return image
    if height > seen_height or width > seen_width:
        return jax.image.resize(image, (b, height, width, c), "bilinear")
    rows, columns = _inverse(height, seen_height), _inverse(width, seen_width)
    return jnp.einsum("ih,bhwc,jw->bijc", rows, image, columns, precision="highest")


@functools.cache
def _inverse(stored: int, seen: int) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        identity = jnp.eye(stored, dtype=jnp.float32)
        enlarge = np.asarray(jax.image.resize(identity, (seen, stored), "bilinear"))
    return np.linalg.pinv(enlarge.astype(np.float64)).astype(np.float32)
