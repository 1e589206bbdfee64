"""Shape letters and array types, defined once.

    b  images in the batch          c  image channels (1 for a radio map)
    h  image rows                   w  image columns
    p  latent rows    (h / f)       q  latent columns (w / f)
    z  latent channels              k  channels of a condition (0: none)

f is the down-sampling factor 2 ** (len(ch_mult) - 1). Images are NHWC in [-1, 1].
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Key, UInt32

# A user's NumPy array is as good as a device's.
Array = jax.Array | np.ndarray

Image = Float[Array, "b h w c"]
Latent = Float[Array, "b p q z"]
Logits = Float[Array, "b i j 1"]
PerImage = Float[Array, "b"]
Scalar = Float[Array, ""] | float
# New-style typed keys and the raw uint32 pairs of jax.random.PRNGKey both work.
PRNGKey = Key[jax.Array, ""] | UInt32[Array, "2"]
Params = Any
DType = Any


class Batch(NamedTuple):
    """What a step sees, on the device, in floats. Zero channels mean "not used"."""

    image: Image  # what is encoded
    target: Image  # what is to come out: the image itself but for dpm2irt4
    weights: Float[Array, "b h w k"]  # multiply the NLL elementwise; k is 0, 1 or c
    cond: Float[Array, "b h w k"]  # shown to a conditional discriminator
    k2_neg_norm: Float[Array, "b h w k"]  # in [0, 1], 0 on the sharpest edges
    transmitter: Float[Array, "b h w k"]  # mask of its pixel, see loss.mask_range
