"""What is minimised: the terms, and what each weighs.

    total   = sum_t total_t nll(t) + ssim_weight ssim + kl_weight kl
              + d_weight disc_factor (g + feature_matching_weight feature_matching)
    balance = sum_t balance_t nll(t) + ssim_balance ssim, what d_weight compares g with

with t in rec, edge, pinn: the objectives of `TERMS`. A new term is one function (in
losses.py or physics.py), one field (of `Pixelwise` where it is summed over pixels like
a likelihood, else of `LossTerms`) and its weights in the config (`LossSettings`).

Source: RadioDiff and RadioDiff-k, loss.py (`LPIPSWithDiscriminator`, `..._Edge`,
`..._Edge_PINN`, `..._DPM2IRT4`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from radiovae_jax import losses, physics
from radiovae_jax.nn import cached_grad
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import updates
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Batch, Image, Latent, Params, PerImage, PRNGKey
from radiovae_jax.vae import adversary, discriminator
from radiovae_jax.vae.adversary import Adversary
from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.state import (
    Experiment,
    LossSettings,
    Networks,
    Number,
    Objective,
    Pixelwise,
    TrainState,
)

# The terms that each objective computes; their weights come from the config.
TERMS = {
    "base": ("rec",),
    "edge": ("rec", "edge"),
    "edge_pinn": ("rec", "edge", "pinn"),
    "dpm2irt4": ("rec", "edge", "pinn"),
}


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


class MicroBatch(NamedTuple):
    """A micro-batch and what is drawn for it."""

    batch: Batch
    noise: Latent
    dropout_key: PRNGKey


class Reconstruction(NamedTuple):
    """What the autoencoder makes of a batch."""

    image: Image  # in [-1, 1]
    output: Image  # of the decoder's last layer: the image, or logits of it (bce)
    posterior: DiagonalGaussian


class Averages(NamedTuple):
    """What a forward pass leaves, besides terms, that is averaged over the parts."""

    means: Logs  # see loss_terms
    disc_stats: PyTree


class Aux(NamedTuple):
    """What a forward pass leaves for every image."""

    recon: Image
    posterior_logvar: Latent


def reconstruct(
    autoencoder: AutoencoderKL, params: Params, part: MicroBatch
) -> Reconstruction:
    """Returns what the autoencoder makes of a sample of the posterior."""
    variables = {"params": params["autoencoder"]}
    apply = functools.partial(
        autoencoder.apply, variables, rngs={"dropout": part.dropout_key}
    )
    posterior = apply(part.batch.image, True, method="encode")
    z = posterior.mean + posterior.std * part.noise
    output = apply(z, True, method="decode_output")
    return Reconstruction(autoencoder.to_image(output), output, posterior)


def reconstruct_all(
    networks: Networks, params: Params, parts: MicroBatch
) -> Float[Array, "n b h w c"]:
    """Returns the images of all micro-batches."""

    def image_of(part):
        return (), reconstruct(networks.autoencoder, params, part).image

    return updates.accumulate(image_of, parts)[1]


def set_actnorm(
    networks: Networks, disc: Adversary, params: Params, parts: MicroBatch
) -> Adversary:
    """Returns it with ActNorm set by the first reconstruction, unless it is set."""
    part = updates.first(parts)
    image = reconstruct(networks.autoencoder, params, part).image
    shown = jnp.concatenate([image, part.batch.cond], axis=-1)
    disc_params, stats = discriminator.initialize(
        networks.discriminator, disc.params, disc.stats, shown
    )
    return disc._replace(params=disc_params, stats=stats)


def forward(
    built: Experiment,
    perceptual_weights: PyTree,
    disc: Adversary,
    params: Params,
    part: MicroBatch,
    *,
    adversarial: bool,
) -> tuple[LossTerms, tuple[Averages, Aux]]:
    """Returns every term of one micro-batch, and what else is wanted of the pass."""
    networks, settings = built.networks, built.settings
    batch, recon = part.batch, reconstruct(networks.autoencoder, params, part)

    def distance_of(image):
        return networks.perceptual(perceptual_weights, batch.target, image), ()

    distance, _ = cached_grad.with_cached_grad(distance_of, recon.image)
    terms, means = loss_terms(batch, recon, distance, params["logvar"], settings)
    if settings.perceptual_weight:
        means |= {"perceptual_loss": distance.mean()}
    stats = disc.stats
    if adversarial:
        discriminate = functools.partial(
            adversary.discriminate, networks.discriminator, disc.params, disc.stats
        )

        def g_of(image):
            logits_fake, stats, _ = discriminate(image, batch.cond)
            return losses.generator(logits_fake), stats

        g, stats = cached_grad.with_cached_grad(g_of, recon.image)
        terms = terms._replace(g=g)
        if settings.feature_matching_weight:

            def matching_of(image):
                _, _, fake = discriminate(image, batch.cond)  # XLA runs it once
                _, _, real = discriminate(batch.target, batch.cond)
                return losses.feature_matching(real, fake), ()

            matching, _ = cached_grad.with_cached_grad(matching_of, recon.image)
            terms = terms._replace(feature_matching=matching)
    return terms, (Averages(means, stats), Aux(recon.image, recon.posterior.logvar))


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


def logs(terms: LossTerms, aux: Aux, settings: LossSettings) -> Logs:
    """Returns what is logged of the pass as a whole; see `loss_terms` for the rest."""
    logs = {"nll_loss": terms.balance.rec, "g_loss": terms.g}
    if settings.feature_matching_weight:
        logs["feature_matching_loss"] = terms.feature_matching
    logs |= updates.extremes("recon", aux.recon)
    return logs | updates.extremes("posterior_logvar", aux.posterior_logvar)


def norms(old: TrainState, new: TrainState, grads: Params, disc_grads: Params) -> Logs:
    """Returns the lengths of both networks' gradients, updates and parameters."""
    before, after, grad = (p["autoencoder"] for p in (old.params, new.params, grads))
    logs = updates.norms("ae", grad, before, after) | {"logvar": old.params["logvar"]}
    if disc_grads:
        logs |= updates.norms("disc", disc_grads, old.disc_params, new.disc_params)
    return logs


def loss_terms(
    batch: Batch,
    recon: Reconstruction,
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
        for name, term in elementwise(objective, batch, recon).items()
    }
    plain = {
        name: losses.nll(term, logvar, reduction=settings.reduction)
        for name, term in pixelwise.items()
    }
    weighted = dict(plain)
    if batch.weights.shape[-1]:
        for name, term in pixelwise.items():
            weight = getattr(objective.pixel_weights, name)
            weights = weight * physics.weights_for(term, batch.weights)
            weighted[name] = losses.nll(
                term, logvar, weights, reduction=settings.reduction
            )
    logs = {f"{name}_loss": term.mean() for name, term in pixelwise.items()}
    kl, logs["kl_loss"] = kl_terms(recon.posterior, settings)
    nothing = Pixelwise(zero, zero, zero)
    terms = LossTerms(
        balance=nothing._replace(**plain),
        total=nothing._replace(**weighted),
        ssim=zero,
        kl=kl,
        g=zero,
        feature_matching=zero,
    )
    if settings.ssim_weight or settings.ssim_balance:
        logs["ssim_loss"] = losses.ssim(batch.target, recon.image).mean()
        terms = terms._replace(ssim=logs["ssim_loss"])
    return terms, logs


def elementwise(
    objective: Objective, batch: Batch, recon: Reconstruction
) -> dict[str, Float[Array, "b i j c"]]:
    """Returns the objective's terms by name, before the perceptual part.

    An interior term lacks the border of one pixel. The radio terms keep their published
    forms, of the image, whatever kind of reconstruction `rec` is.
    """
    x, image = batch.target, recon.image
    terms = {"rec": losses.RECONSTRUCTION[objective.reconstruction](x, recon.output)}
    if "edge" in TERMS[objective.name]:
        terms["edge"] = physics.edge(x, image, batch.k2_neg_norm)
    input_range = objective.input_range
    x, image = (
        physics.to_radiomapseer(y, input_range, objective.db_range) for y in (x, image)
    )
    if objective.name == "edge_pinn":
        form = physics.EDGE_PINN[objective.pinn_form]
        terms["pinn"] = form(x, image, input_range=input_range)
    if objective.name == "dpm2irt4":
        form = physics.HELMHOLTZ[objective.pinn_form]
        terms["pinn"] = form(x, image, batch.transmitter, input_range=input_range)
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
    per = settings.free_bits_per
    return reduce(losses.free_bits(kl, minimum=settings.free_bits, per=per)), plain
