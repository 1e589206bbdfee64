"""What is minimised: the terms, and what each weighs.

    total   = sum_t total_t nll(t) + ssim_weight ssim + kl_weight kl
              + d_weight disc_factor (g + feature_matching_weight feature_matching)
    balance = sum_t balance_t nll(t) + ssim_balance ssim, what d_weight compares g with

with t in rec, edge, pinn: the objectives of `TERMS`. A new term is one function (in
losses.py or physics.py), one field (of `Pixelwise` where it is summed over pixels like
a likelihood, else of `LossTerms`) and its weights in the config.

Source: RadioDiff and RadioDiff-k, loss.py (`LPIPSWithDiscriminator`, `..._Edge`,
`..._Edge_PINN`, `..._DPM2IRT4`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax import losses, physics
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.types import Array, Batch, Image, PerImage

Number = Float[Array, ""] | float | int
Logs = dict[str, Float[Array, ""]]

# The terms that each objective computes; their weights come from the config.
TERMS = {
    "base": ("rec",),
    "edge": ("rec", "edge"),
    "edge_pinn": ("rec", "edge", "pinn"),
    "dpm2irt4": ("rec", "edge", "pinn"),
}


class Pixelwise(NamedTuple):
    """A number for each term that is summed over pixels."""

    rec: Number
    edge: Number
    pinn: Number


class LossTerms(NamedTuple):
    """The terms that are pulled back; their weights have the same structure."""

    balance: Pixelwise  # nll of each, without pixel weights: for d_weight and the log
    total: Pixelwise  # nll of each, with pixel weights
    ssim: Number
    kl: Number  # with free bits
    g: Number
    feature_matching: Number


NOTHING = Pixelwise(0.0, 0.0, 0.0)
NO_TERMS = LossTerms(NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)


class Objective(NamedTuple):
    """One objective: its name (of `TERMS`) and its numbers."""

    name: str
    total: Pixelwise
    balance: Pixelwise
    pixel_weights: Pixelwise  # multiples of the batch's weights, in the total only
    pinn_form: str  # "dimensionless" or "released"
    input_range: str  # "unit" or "released"
    reconstruction: str = "l1_mse"  # of losses.RECONSTRUCTION
    db_range: physics.DbRange = physics.RADIOMAPSEER_DB  # for the physics of `pinn`


class LossSettings(NamedTuple):
    """The numbers of the loss, fixed when the step is compiled."""

    objective: Objective
    disc_loss: str
    disc_factor: float
    disc_weight: float
    kl_weight: float  # beta: what its schedule rises to
    perceptual_weight: float
    pixelloss_weight: float
    loss_scale: float  # multiplies both gradients; the released trainer has 1/2
    fresh_reconstruction: bool  # the discriminator sees a second forward pass
    reduction: str = "sum"  # of losses.REDUCTION
    kl_reduction: str = "same"  # as `reduction`; or of losses.REDUCTION
    free_bits_per: str = "dimension"  # or "entry"
    free_bits: float = 0.0  # nats; 0 is off, as for all that follow
    ssim_weight: float = 0.0
    ssim_balance: float = 0.0
    feature_matching_weight: float = 0.0
    r1_weight: float = 0.0
    lecam_weight: float = 0.0
    lecam_decay: float = 0.99
    accumulate_steps: int = 1  # parts of a batch, see training/microbatches.py


class Reconstruction(NamedTuple):
    """What the autoencoder makes of a batch."""

    image: Image  # in [-1, 1]
    output: Image  # of the decoder's last layer: the image, or logits of it (bce)
    posterior: DiagonalGaussian


def balance_weights(settings: LossSettings) -> LossTerms:
    """Returns the weights of what the adversarial term is balanced with."""
    return NO_TERMS._replace(
        balance=settings.objective.balance, ssim=settings.ssim_balance
    )


def total_weights(
    settings: LossSettings, *, kl_weight: Number, g_weight: Number
) -> LossTerms:
    """Returns the weights of the total.

    Args:
      kl_weight: of this step.
      g_weight: d_weight * disc_factor. Feature matching is weighed in units of it, as
        in pix2pixHD: beside a sum over pixels no fixed number would suit all sizes.
    """
    return NO_TERMS._replace(
        total=settings.objective.total,
        ssim=settings.ssim_weight,
        kl=kl_weight,
        g=g_weight,
        feature_matching=settings.feature_matching_weight * g_weight,
    )


def weighed(weights: LossTerms, terms: LossTerms) -> Float[Array, ""]:
    """Returns the sum of weight times term."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.multiply, weights, terms)))


def loss_terms(
    batch: Batch,
    made: Reconstruction,
    distance: PerImage,
    logvar: Float[Array, ""],
    settings: LossSettings,
) -> tuple[LossTerms, Logs]:
    """Returns all terms but the discriminator's, and what is logged of them.

    Logged are the per-pixel mean of each pixelwise term, `kl_loss` without free bits
    (they would hide a collapse) and `ssim_loss` where it is used.
    """
    objective, zero = settings.objective, jnp.zeros(())
    pixelwise = {
        name: losses.add_perceptual(
            settings.pixelloss_weight * term,
            distance,
            weight=settings.perceptual_weight,
        )
        for name, term in elementwise(objective, batch, made).items()
    }
    plain = {
        name: losses.nll(term, logvar, reduction=settings.reduction)
        for name, term in pixelwise.items()
    }
    weighted = plain
    if batch.weights.shape[-1]:
        weighted = {
            name: losses.nll(
                term,
                logvar,
                getattr(objective.pixel_weights, name)
                * physics.weights_for(term, batch.weights),
                reduction=settings.reduction,
            )
            for name, term in pixelwise.items()
        }
    logs = {f"{name}_loss": term.mean() for name, term in pixelwise.items()}
    kl, logs["kl_loss"] = kl_terms(made.posterior, settings)
    ssim = zero
    if settings.ssim_weight or settings.ssim_balance:
        ssim = logs["ssim_loss"] = losses.ssim(batch.target, made.image).mean()
    nothing = Pixelwise(zero, zero, zero)
    terms = LossTerms(
        balance=nothing._replace(**plain),
        total=nothing._replace(**weighted),
        ssim=ssim,
        kl=kl,
        g=zero,
        feature_matching=zero,
    )
    return terms, logs


def elementwise(
    objective: Objective, batch: Batch, made: Reconstruction
) -> dict[str, Float[Array, "b i j c"]]:
    """Returns the objective's terms by name, before the perceptual part.

    An interior term lacks the border of one pixel. The radio terms keep their published
    forms, of the image, whatever kind of reconstruction `rec` is.
    """
    x, recon = batch.target, made.image
    terms = {"rec": losses.RECONSTRUCTION[objective.reconstruction](x, made.output)}
    if "edge" in TERMS[objective.name]:
        terms["edge"] = physics.edge(x, recon, batch.k2_neg_norm)
    input_range = objective.input_range
    x, recon = (
        physics.to_radiomapseer(image, input_range, objective.db_range)
        for image in (x, recon)
    )
    if objective.name == "edge_pinn":
        form = physics.EDGE_PINN[objective.pinn_form]
        terms["pinn"] = form(x, recon, input_range=input_range)
    if objective.name == "dpm2irt4":
        form = physics.HELMHOLTZ[objective.pinn_form]
        terms["pinn"] = form(x, recon, batch.transmitter, input_range=input_range)
    return terms


def kl_terms(
    posterior: DiagonalGaussian, settings: LossSettings
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the reduced KL divergence with free bits, and without."""
    reduce = losses.kl_reducer(settings.reduction, settings.kl_reduction)
    kl = losses.gaussian_kl(posterior.mean, posterior.logvar)
    plain = reduce(kl)
    if not settings.free_bits:
        return plain, plain
    held = losses.free_bits(kl, minimum=settings.free_bits, per=settings.free_bits_per)
    return reduce(held), plain
