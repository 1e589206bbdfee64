"""Every loss term and weight: pure functions of arrays, which know no model.

The base objective is `LPIPSWithDiscriminator` of Esser et al. 2021
(arXiv:2012.09841) and Rombach et al. 2022 as RadioDiff's `loss.py` released it:

    total = nll + kl_weight * kl + d_weight * disc_factor * g
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from radiovae_jax.types import Array, Image, Latent, Logits, PerImage, Scalar

Step = Int[Array, ""] | int
Elements = Float[Array, "*elements"]  # an image's pixels, of any shape
SSIM_TAPS = 11  # along each side of its window


def reconstruction(x: Elements, recon: Elements) -> Elements:
    """Returns |x - recon| + (x - recon)^2, elementwise.

    Source: RadioDiff, loss.py (latent-diffusion has the absolute value alone).
    """
    difference = x - recon  # once: its gradient is one sum, to the last bit
    return absolute(difference) + difference**2


def absolute(x: Elements) -> Elements:
    """Returns |x| with PyTorch's gradient 0 at 0; `jnp.abs` has 1 there."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def l1(x: Elements, recon: Elements) -> Elements:
    """Returns |x - recon|, elementwise: a Laplace likelihood's negative logarithm."""
    return absolute(x - recon)


def mse(x: Elements, recon: Elements) -> Elements:
    """Returns (x - recon)^2, elementwise: twice a unit Gaussian's, less a constant."""
    return (x - recon) ** 2


def add_perceptual(pixels: Image, distance: PerImage, *, weight: float) -> Image:
    """Adds weight * distance to every pixel: after their sum it counts h*w*c times."""
    return pixels + weight * distance.reshape(-1, 1, 1, 1)


def nll(
    rec: Image,
    logvar: Scalar,
    weights: Float[Array, "b h w k"] | float = 1.0,
    *,
    reduction: str = "sum",
) -> Float[Array, ""]:
    """Returns weights * (rec / exp(logvar) + logvar), reduced.

    Args:
      reduction: of `REDUCTION`; "sum" is over an image's pixels, then the mean over
        images.

    Source: Rombach et al. 2022, ldm/modules/losses/contperceptual.py: a Laplace-like
    likelihood whose log-scale `logvar` can be learned.
    """
    return REDUCTION[reduction](weights * (rec / jnp.exp(logvar) + logvar))


def generator(logits_fake: Logits) -> Float[Array, ""]:
    """Returns -mean(logits): low where the discriminator takes the fake for real."""
    return -logits_fake.mean()


def discriminator_hinge(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Returns (mean relu(1 - real) + mean relu(1 + fake)) / 2.

    Source: Lim & Ye 2017 (arXiv:1705.02894); the half is taming-transformers'.
    """
    real, fake = jax.nn.relu(1.0 - logits_real), jax.nn.relu(1.0 + logits_fake)
    return 0.5 * (real.mean() + fake.mean())


def discriminator_vanilla(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Returns (mean softplus(-real) + mean softplus(fake)) / 2: cross-entropy.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661); the half is taming-transformers'.
    """
    real, fake = jax.nn.softplus(-logits_real), jax.nn.softplus(logits_fake)
    return 0.5 * (real.mean() + fake.mean())


DISCRIMINATOR = {"hinge": discriminator_hinge, "vanilla": discriminator_vanilla}


def adaptive_weight(
    nll_grad: Float[Array, "*k"], g_grad: Float[Array, "*k"]
) -> Float[Array, ""]:
    """Returns the factor that makes the two last-layer gradients equally long.

    Args:
      nll_grad: gradient of the reconstruction term at the decoder's output kernel.
      g_grad: gradient of the unweighted adversarial term there.

    Returns:
      ||nll_grad|| / (||g_grad|| + 1e-4), clipped to [0, 1e4], without gradient.

    Source: Esser et al. 2021 (arXiv:2012.09841), offset 1e-6 there; 1e-4 and the
    clip follow taming-transformers, vqperceptual.py at 3ba01b2.
    """
    nll_length, g_length = (jnp.sqrt(jnp.sum(g**2)) for g in (nll_grad, g_grad))
    ratio = nll_length / (g_length + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))


def adopt_weight(
    value: float, step: Step, threshold: int, otherwise: float = 0.0
) -> Float[Array, ""]:
    """Returns `otherwise` before step `threshold`, `value` from exactly there on."""
    return jnp.where(step < threshold, otherwise, value)


def bce(x: Elements, logits: Elements) -> Elements:
    """Returns the cross-entropy of f = (x + 1) / 2 in [0, 1] with sigmoid(logits).

    From the logits, so that it is exact and finite at any of them. Where f is neither
    0 nor 1 its minimum is f's own entropy, not 0.

    Args:
      x: target in the model's range, [-1, 1].
      logits: what the decoder gives; `image_from_logits` makes an image of it.
    """
    f = (x + 1.0) / 2.0
    return jax.nn.softplus(logits) - f * logits


def image_from_logits(logits: Image) -> Image:
    """Returns 2 sigmoid(logits) - 1, the image in [-1, 1] that `bce` compares."""
    return jnp.tanh(0.5 * logits)


# `bce` takes logits for the reconstruction; the others take an image.
RECONSTRUCTION = {"bce": bce, "mse": mse, "l1": l1, "l1_mse": reconstruction}


def sum_per_image(elementwise: Float[Array, "b *rest"]) -> Float[Array, ""]:
    """Returns the mean over images of the sum over an image's elements."""
    return elementwise.sum() / elementwise.shape[0]


def mean_per_element(elementwise: Float[Array, "b *rest"]) -> Float[Array, ""]:
    """Returns the mean over every element: pixels, or latent entries."""
    return elementwise.mean()


REDUCTION = {"sum": sum_per_image, "mean": mean_per_element}


def kl_reducer(reduction: str, kl_reduction: str) -> Callable[[Elements], Elements]:
    """Returns how the KL term is reduced: "same" is as the reconstruction."""
    return REDUCTION[reduction if kl_reduction == "same" else kl_reduction]


def gaussian_kl(mean: Elements, logvar: Elements) -> Elements:
    """Returns KL(N(mean, exp(logvar)) || N(0, 1)) in nats, of every latent entry.

    0 for a deterministic one (logvar -inf), as `DiagonalGaussian.kl` has it.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
    """
    random = logvar != -jnp.inf
    # Both `where`s: the gradient through the branch not taken would be NaN.
    logvar = jnp.where(random, logvar, 0.0)
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)
    return jnp.where(random, kl, 0.0)


def free_bits(
    kl: Latent, *, minimum: float, per: str = "dimension"
) -> Float[Array, "_ p q z"]:
    """Returns max(minimum, mean over the batch of kl), of every latent entry.

    The mean is taken first: an entry may carry nothing about one image if it carries
    more about another. Below the minimum its gradient is 0. One entry is one of
    Kingma et al.'s groups here; in their image models a group is a feature map.

    Args:
      minimum: nats that each entry may hold for free; 0 changes nothing.
      per: "dimension", or "entry": without the mean, every image by itself.

    Source: Kingma et al. 2016 (arXiv:1606.04934), the free-bits objective.
    """
    if per == "dimension":
        kl = kl.mean(axis=0, keepdims=True)
    return jnp.maximum(kl, minimum)


def vae_loss(
    recon: Float[Array, "b *pixels"],
    x: Float[Array, "b *pixels"],
    mean: Float[Array, "b *entries"],
    logvar: Float[Array, "b *entries"],
    reduction: str = "sum",
    *,
    beta: float = 1.0,
    kind: str = "mse",
    kl_reduction: str = "same",
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Returns (rec + beta * kl, rec, kl): the loss of a plain VAE, from its outputs.

    Args:
      recon: the reconstruction; with `kind="bce"` logits of it.
      x: the images, in [-1, 1].
      kind: of `RECONSTRUCTION`.
      kl_reduction: of the KL term; "sum" beside `reduction="mean"` weighs the mean over
        pixels against whole images' KL, as tutorials do.

    Source: Kingma & Welling 2014 (arXiv:1312.6114); beta of Higgins et al. 2017.
    """
    rec = REDUCTION[reduction](RECONSTRUCTION[kind](x, recon))
    kl = kl_reducer(reduction, kl_reduction)(gaussian_kl(mean, logvar))
    return rec + beta * kl, rec, kl


def ssim(x: Image, recon: Image) -> PerImage:
    """Returns 1 - SSIM of f = (x + 1) / 2, with data range 1, per image.

    Window and constants are those of `metrics.ssim`.

    Raises:
      ValueError: an image smaller than the window.

    Source: Wang et al. 2004 (IEEE TIP 13(4)), 11-tap Gaussian; computed by dm-pix.
    """
    import dm_pix  # not in the core's dependencies

    height, width = x.shape[1:3]
    if min(height, width) < SSIM_TAPS:
        raise ValueError(
            f"the SSIM loss needs images of at least {SSIM_TAPS}x{SSIM_TAPS} pixels, "
            f"got {height}x{width}; set loss.ssim_weight=0 and loss.ssim_balance=0, or "
            "train on larger ones (data.image_size, data.crop)"
        )
    f_x, f_recon = (x + 1.0) / 2.0, (recon + 1.0) / 2.0
    return 1.0 - dm_pix.ssim(f_x, f_recon, filter_size=SSIM_TAPS, filter_sigma=1.5)


def feature_matching(
    real: Sequence[Float[Array, "b ..."]], fake: Sequence[Float[Array, "b ..."]]
) -> Float[Array, ""]:
    """Returns the sum over layers of mean |real - fake|, without gradient to real.

    Args:
      real: the discriminator's activations of the images, layer by layer.

    Source: Wang et al. 2018 (pix2pixHD, arXiv:1711.11585), feature matching loss.
    """
    layers = zip(real, fake, strict=True)
    return sum(absolute(jax.lax.stop_gradient(r) - f).mean() for r, f in layers)


def r1(discriminator: Callable[[Image], Logits], real: Image) -> Float[Array, ""]:
    """Returns half the mean over images of |d score / d image|^2 at real images.

    An image's score is the mean of its patches' logits, as in `generator`. Where
    BatchNorm uses the batch's statistics, one image's score depends on the others,
    and the gradient is that of the sum of all scores.

    Source: Mescheder et al. 2018 (arXiv:1801.04406), R1 with gamma = 1.
    """

    def scores(images: Image) -> Float[Array, ""]:
        return discriminator(images).mean(axis=(1, 2, 3)).sum()

    return 0.5 * sum_per_image(jax.grad(scores)(real) ** 2)


class LeCamState(NamedTuple):
    """Moving averages of the mean logits, from 0, and the number of updates."""

    real: Float[Array, ""]
    fake: Float[Array, ""]
    count: Int[Array, ""]

    @classmethod
    def start(cls) -> "LeCamState":
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


def lecam_update(
    state: LeCamState, logits_real: Logits, logits_fake: Logits, *, decay: float
) -> LeCamState:
    """Returns the averages moved towards a batch's mean logits; decay 0.99 is usual."""
    real, fake = (
        decay * old + (1.0 - decay) * jax.lax.stop_gradient(logits.mean())
        for old, logits in ((state.real, logits_real), (state.fake, logits_fake))
    )
    return LeCamState(real, fake, state.count + 1)


def lecam(
    state: LeCamState, logits_real: Logits, logits_fake: Logits, *, decay: float
) -> Float[Array, ""]:
    """Returns mean relu(real - ema_fake)^2 + mean relu(ema_real - fake)^2.

    Keeps the discriminator's two answers near each other. The averages are freed of
    their start at 0 by 1 - decay^count; before the first update they are 0.

    Args:
      state: of `lecam_update` with the same decay, this batch included.

    Source: Tseng et al. 2021 (arXiv:2104.03310), R_LC; the relu and the correction
    are the authors' code (google/lecam-gan, stylegan2/lecam_loss.py at eaf2bd4).
    """
    bias_correction = jnp.maximum(1.0 - decay**state.count, 1.0 - decay)
    above = jax.nn.relu(logits_real - state.fake / bias_correction)
    below = jax.nn.relu(state.real / bias_correction - logits_fake)
    return (above**2).mean() + (below**2).mean()
