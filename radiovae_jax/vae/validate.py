"""Validation: the losses and the metrics of a set, without gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from radiovae_jax import losses, metrics
from radiovae_jax.data import radiomap
from radiovae_jax.data.batch import resize_back
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Batch, Image, PRNGKey
from radiovae_jax.vae import objectives
from radiovae_jax.vae.objectives import Reconstruction
from radiovae_jax.vae.state import LossSettings, Networks, TrainState


class Totals(NamedTuple):
    """Sums over a set: of metrics, of losses x images, and the number of images."""

    metrics: metrics.Sums
    losses: Logs
    images: Float[Array, ""]


def validate_batch(
    networks: Networks,
    settings: LossSettings,
    perceptual_weights: PyTree,
    state: TrainState,
    params: PyTree,
    batch: Batch,
    target: Image,
    mask: Float[Array, "b"],
    disc_factor: Float[Array, ""],
    *,
    adversarial: bool,
) -> tuple[Totals, Image]:
    """Returns the sums of one batch and its reconstructions at the target's size.

    The reconstruction is that of the posterior's mode, so that validation draws
    nothing; the sources validate on a sample.

    Args:
      params: of the autoencoder (the live ones, or their average).
      target: the maps to compare with, f in [0, 1]; reconstructions are brought to
        their size.
      mask: 0 for images that only fill up the batch.
      disc_factor: of the last step.
      adversarial: False leaves the discriminator out; its numbers are 0.
    """
    variables = {"params": params}
    posterior = networks.autoencoder.apply(variables, batch.image, method="encode")
    output = networks.autoencoder.apply(
        variables, posterior.mode(), method="decode_output"
    )
    recon = networks.autoencoder.to_image(output)
    made = Reconstruction(recon, output, posterior)
    distance = networks.perceptual(perceptual_weights, batch.target, recon)
    logvar = state.params["logvar"]

    def of_one(*one) -> Logs:
        one = jax.tree.map(lambda leaf: leaf[None], one)
        batch, made, distance = one
        real = fake = jnp.zeros((1, 1, 1, 1))
        if adversarial:
            real, fake = (
                networks.discriminator.apply(
                    {"params": state.disc_params, "batch_stats": state.disc_stats},
                    jnp.concatenate([shown, batch.cond], axis=-1),
                    train=False,
                )
                for shown in (batch.target, made.image)
            )
        terms, means = objectives.loss_terms(batch, made, distance, logvar, settings)
        if settings.perceptual_weight:
            means["perceptual_loss"] = distance.mean()
        disc_loss = losses.DISCRIMINATOR[settings.disc_loss](real, fake)
        # With beta itself, whatever its schedule: totals then compare between steps.
        weights = objectives.total_weights(
            settings, kl_weight=settings.kl_weight, g_weight=0.0
        )
        return means | {
            "total_loss": objectives.weighed(weights, terms),
            "nll_loss": terms.balance.rec,
            "g_loss": losses.generator(fake),
            "disc_loss": disc_factor * disc_loss,
            "logits_real": real.mean(),
            "logits_fake": fake.mean(),
            "logvar": logvar,
            "disc_factor": disc_factor,
            # There is no gradient to balance: 0, as the sources log it.
            "d_weight": jnp.zeros(()),
        }

    per_image = jax.vmap(of_one)(batch, made, distance)
    sums = {
        name: jnp.sum(jnp.where(mask > 0, values, 0.0))
        for name, values in per_image.items()
    }
    recon_f = resize_back(radiomap.model_to_f(recon), *target.shape[1:3])
    recon_f = jnp.clip(recon_f, 0, 1)
    measured = metrics.update(metrics.init(), target, recon_f, mask > 0)
    return Totals(measured, sums, mask.sum()), recon_f


def result(
    totals: Totals, *, db_per_unit: float | int = metrics.DB_PER_UNIT
) -> dict[str, float]:
    """Returns every number of the set by its name, losses as means over images."""
    means = {
        name: float(value / totals.images) for name, value in totals.losses.items()
    }
    return means | metrics.result(totals.metrics, db_per_unit=db_per_unit)


def prior_samples(networks: Networks, params: PyTree, key: PRNGKey, shape) -> Image:
    """Returns f in [0, 1] decoded from standard normal latents of `shape`."""
    z = jax.random.normal(key, shape)
    decoded = networks.autoencoder.apply({"params": params}, z, method="decode")
    return jnp.clip(radiomap.model_to_f(decoded), 0, 1)
