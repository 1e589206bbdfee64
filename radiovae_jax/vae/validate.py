"""Validation of the first stage: losses, metrics, samples and pictures of the average.

The reconstruction is that of the posterior's mode, so that validation draws nothing;
the sources validate on a sample.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from radiovae_jax import losses, metrics
from radiovae_jax.data import radiomap
from radiovae_jax.evaluation import evaluator
from radiovae_jax.reporting import plots
from radiovae_jax.training import validation
from radiovae_jax.training.task import Raw
from radiovae_jax.training.updates import Logs
from radiovae_jax.training.validation import Totals
from radiovae_jax.types import Array, Batch, Image, PerImage, PRNGKey
from radiovae_jax.vae import objectives
from radiovae_jax.vae.objectives import Reconstruction
from radiovae_jax.vae.state import PHASES, Experiment, TrainState


def ema_params(state: TrainState) -> PyTree:
    """The autoencoder that validation, export and `best` use: the average."""
    return {"params": state.ema["autoencoder"]}


def sums(
    built: Experiment,
    perceptual_weights: PyTree,
    state: TrainState,
    raw: Raw,
    phase: str,
    *,
    metrics_size: str,
) -> tuple[Totals, dict[str, Image]]:
    """Returns the sums of a batch, and its maps and their reconstructions as f.

    In the phase without discriminator its numbers are 0.

    Args:
      raw: with "mask", 0 for images that only fill up the batch.
      metrics_size: "stored" compares at the size of the files, "seen" at the model's.
    """
    networks, batch, mask = built.networks, built.to_batch(raw), raw["mask"]
    target = evaluator.target_f(raw, batch.target, stored=metrics_size == "stored")
    variables = ema_params(state)
    posterior = networks.autoencoder.apply(variables, batch.image, method="encode")
    output = networks.autoencoder.apply(
        variables, posterior.mode(), method="decode_output"
    )
    image = networks.autoencoder.to_image(output)
    recon = Reconstruction(image, output, posterior)
    distance = networks.perceptual(perceptual_weights, batch.target, image)
    adversarial = phase == PHASES[True]

    def of_one(*one) -> Logs:
        one = jax.tree.map(lambda leaf: leaf[None], one)
        return _losses(built, state, *one, adversarial=adversarial)

    per_image = jax.vmap(of_one)(batch, recon, distance)
    recon_f = evaluator.in_f(image, target)
    return validation.totals(target, recon_f, per_image, mask)


def _losses(
    built: Experiment,
    state: TrainState,
    batch: Batch,
    recon: Reconstruction,
    distance: PerImage,
    *,
    adversarial: bool,
) -> Logs:
    """Returns what is logged of a batch of one image, by the last step's weights."""
    settings, logvar = built.settings, state.params["logvar"]
    real = fake = jnp.zeros((1, 1, 1, 1))
    factor = jnp.zeros(())
    if adversarial:
        factor = built.schedules.disc_factor(state.step - 1)
        real, fake = (
            built.networks.discriminator.apply(
                {"params": state.disc_params, "batch_stats": state.disc_stats},
                jnp.concatenate([image, batch.cond], axis=-1),
                train=False,
            )
            for image in (batch.target, recon.image)
        )
    terms, means = objectives.loss_terms(batch, recon, distance, logvar, settings)
    if settings.perceptual_weight:
        means["perceptual_loss"] = distance.mean()
    # With beta itself, whatever its schedule: totals then compare between steps.
    weights = objectives.total_weights(
        settings, kl_weight=settings.kl_weight, g_weight=0.0
    )
    return means | {
        "total_loss": objectives.weighed(weights, terms),
        "nll_loss": terms.balance.rec,
        "g_loss": losses.generator(fake),
        "disc_loss": factor * losses.DISCRIMINATOR[settings.disc_loss](real, fake),
        "logits_real": real.mean(),
        "logits_fake": fake.mean(),
        "logvar": logvar,
        "disc_factor": factor,
        # There is no gradient to balance: 0, as the sources log it.
        "d_weight": jnp.zeros(()),
    }


def samples(
    built: Experiment, _, state: TrainState, key: PRNGKey, *, count: int
) -> dict[str, Image]:
    """Returns f in [0, 1] decoded from draws of the prior."""
    z = jax.random.normal(key, (count, *built.latent_shape))
    autoencoder = built.networks.autoencoder
    decoded = autoencoder.apply(ema_params(state), z, method="decode")
    return {"samples": jnp.clip(radiomap.model_to_f(decoded), 0, 1)}


def latents(built: Experiment, _, state: TrainState, raw: Raw) -> dict[str, Array]:
    """Returns the posterior of a batch."""
    image = built.to_batch(raw).image
    posterior = built.networks.autoencoder.apply(
        ema_params(state), image, method="encode"
    )
    return {"latents/mean": posterior.mean, "latents/logvar": posterior.logvar}


def numbers(
    totals: Totals, samples: Mapping[str, np.ndarray], *, db: radiomap.DbRange
) -> dict[str, float]:
    """Returns every number of the set by its name, losses as means over images."""
    means = validation.means(totals, db)
    if len(samples["samples"]) > 1:  # in f where it has no dB
        diversity = jax.jit(metrics.diversity_db, static_argnames="db_per_unit")
        apart = diversity(samples["samples"], db_per_unit=db.span or 1.0)
        means["sample_diversity"] = float(apart)
    return means


def figures(
    examples: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    *,
    db: radiomap.DbRange,
    max_rows: int,
) -> dict[str, Any]:
    """Draws maps with their reconstructions, and the samples."""
    return {
        "reconstructions": plots.validated(examples, raw, max_rows=max_rows, db=db),
        "samples": plots.samples(samples["samples"], db=db),
    }
