"""The discriminator's side of the step: its logits, its loss, its gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PyTree

from radiovae_jax import losses
from radiovae_jax.training import updates
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Batch, Image, Logits, Params
from radiovae_jax.vae.discriminator import PatchDiscriminator
from radiovae_jax.vae.state import Experiment, LossSettings, Number, TrainState


class Adversary(NamedTuple):
    """The discriminator's arrays within a step."""

    params: Params
    stats: PyTree
    lecam: losses.LeCamState


def discriminate(
    discriminator: PatchDiscriminator, params, stats, image: Image, cond
) -> tuple[Logits, PyTree, tuple[Array, ...]]:
    """Returns the logits, the moved running statistics and the layers' activations."""
    shown = jnp.concatenate([image, cond], axis=-1)
    variables = {"params": params, "batch_stats": stats}
    logits, new = discriminator.apply(
        variables, shown, train=True, mutable=["batch_stats", "intermediates"]
    )
    return logits, new["batch_stats"], new["intermediates"]["features"]


def gradient(
    discriminator: PatchDiscriminator,
    disc: Adversary,
    batches: Batch,
    recons: Float[Array, "n b h w c"],
    disc_factor: Number,
    settings: LossSettings,
) -> tuple[Params, Adversary, Logs]:
    """Returns its gradient, its moved statistics and averages, and the logs.

    Real and fake go through separately, real first: each has its own statistics.
    `batches` are of `updates.split`, `recons` their reconstructions.
    """

    def loss_of(params, batch, recon):
        def logits_of(image, stats):
            return discriminate(discriminator, params, stats, image, batch.cond)[:2]

        real, moved = logits_of(batch.target, disc.stats)
        fake, moved = logits_of(recon, moved)
        loss, lecam = losses.DISCRIMINATOR[settings.disc_loss](real, fake), disc.lecam
        logs = {
            "disc_loss": disc_factor * loss,
            "logits_real": real.mean(),
            "logits_fake": fake.mean(),
            "disc_accuracy": accuracy(real, fake),
        }
        if settings.r1_weight:
            logs["r1_loss"] = losses.r1(
                lambda image: logits_of(image, disc.stats)[0], batch.target
            )
            loss += settings.r1_weight * logs["r1_loss"]
        if settings.lecam_weight:
            decay = settings.lecam_decay
            lecam = losses.lecam_update(lecam, real, fake, decay=decay)
            logs["lecam_loss"] = losses.lecam(lecam, real, fake, decay=decay)
            loss += settings.lecam_weight * logs["lecam_loss"]
        loss *= settings.loss_scale * disc_factor
        return loss, (moved, lecam, logs)

    def of_part(part):
        batch, recon = part
        grads, moved = jax.grad(loss_of, has_aux=True)(
            disc.params, batch, jax.lax.stop_gradient(recon)
        )
        return (grads, *moved), ()

    means, _ = updates.accumulate(of_part, (batches, recons))
    grads, stats, lecam, logs = means
    return grads, disc._replace(stats=stats, lecam=lecam), logs


def accuracy(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Returns the share of logits on their side of 0; 0 itself is on neither."""
    return 0.5 * ((logits_real > 0).mean() + (logits_fake < 0).mean())


def descended(
    built: Experiment,
    state: TrainState,
    disc: Adversary,
    batches: Batch,
    recons: Float[Array, "n b h w c"],
    step: Int[Array, ""],
    disc_factor: Number,
) -> tuple[TrainState, Params, Logs]:
    """Returns the state with the discriminator one step on, the gradient, the logs.

    Args:
      disc: its arrays, with the statistics as the generator's pass has moved them.
      batches, recons: as for `gradient`.
      step: that is being taken.
    """
    grads, disc, logs = gradient(
        built.networks.discriminator, disc, batches, recons, disc_factor, built.settings
    )
    direction, opt_state = built.opt.discriminator.update(
        grads, state.disc_opt_state, disc.params
    )
    rate, limit = built.schedules.disc_rate(step), built.opt.clip_weights
    new = state._replace(
        disc_params=updates.descend(disc.params, direction, rate, limit=limit),
        disc_stats=disc.stats,
        disc_opt_state=opt_state,
        lecam=disc.lecam,
    )
    return new, grads, logs


def idle_logs(settings: LossSettings) -> Logs:
    """Returns 0 for all that is logged of a discriminator that does not run."""
    names = ["disc_loss", "logits_real", "logits_fake", "disc_accuracy"]
    names += ["disc_grad_norm", "disc_update_norm", "disc_param_norm"]
    names += ["r1_loss"] * bool(settings.r1_weight)
    names += ["lecam_loss"] * bool(settings.lecam_weight)
    return dict.fromkeys(names, jnp.zeros(()))
