"""The whole algorithm: one step of the VAE-GAN, as a pure function of its state.

    forward once -> LossTerms -> one vjp:
        pull back the balance (nll), read the last layer  \\ d_weight: how much of g
        pull back g, read the last layer                  / balances reconstruction
        pull back the total (1, kl_weight, d_weight * disc_factor)
    -> AdamW -> the discriminator's own step on the same reconstruction -> EMA

The weights of the terms are the cotangents of the vjp. XLA drops what the first two
pull-backs do not read, so they cost 3% of a step; three `jax.grad` calls, 37%.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, PyTree

from radiovae_jax import losses, objectives, optimizers, physics
from radiovae_jax.models import discriminator as discriminator_lib
from radiovae_jax.models.autoencoder import AutoencoderKL
from radiovae_jax.models.discriminator import PatchDiscriminator
from radiovae_jax.models.posterior import DiagonalGaussian
from radiovae_jax.objectives import Number, Objective, Pixelwise
from radiovae_jax.types import Array, Batch, Image, Logits, Params, PerImage, PRNGKey

Logs = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """Everything that a checkpoint holds of the training, arrays only."""

    step: Int[Array, ""]
    params: PyTree  # {"autoencoder": ..., "logvar": scalar}
    disc_params: PyTree
    disc_stats: PyTree  # running statistics (BatchNorm) or the flag (ActNorm)
    ema: PyTree
    opt_state: PyTree
    disc_opt_state: PyTree


class LossTerms(NamedTuple):
    """The terms that are pulled back; their weights have the same structure."""

    balance: Pixelwise  # nll of each, without pixel weights: for d_weight and the log
    total: Pixelwise  # nll of each, with pixel weights
    kl: Number
    g: Number


class Forward(NamedTuple):
    """What one forward pass leaves for the discriminator and the logs."""

    recon: Image
    means: Logs  # per-pixel means: rec_loss, and edge_loss, pinn_loss where used
    disc_stats: PyTree


class LossSettings(NamedTuple):
    """The numbers of the objective, fixed when the step is compiled."""

    objective: Objective
    disc_loss: str
    disc_factor: float
    disc_weight: float
    kl_weight: float
    perceptual_weight: float
    pixelloss_weight: float
    loss_scale: float  # multiplies both gradients; the released trainer has 1/2
    fresh_reconstruction: bool  # the discriminator sees a second forward pass


class Networks(NamedTuple):
    """The functions that are trained, and the fixed one that measures."""

    autoencoder: AutoencoderKL
    discriminator: PatchDiscriminator
    perceptual: Callable[[Any, Image, Image], PerImage]


class Schedules(NamedTuple):
    """Functions of the global step."""

    learning_rate: Callable
    logvar_rate: Callable
    disc_rate: Callable
    disc_factor: Callable
    ema_decay: Callable


class Optimizers(NamedTuple):
    autoencoder: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def loss_terms(
    batch: Batch,
    recon: Image,
    posterior: DiagonalGaussian,
    distance: PerImage,
    logvar: Float[Array, ""],
    g: Float[Array, ""],
    settings: LossSettings,
) -> tuple[LossTerms, Logs]:
    """Returns the terms, and the per-pixel mean of each pixelwise one for the log."""
    objective, nothing = settings.objective, Pixelwise(*[jnp.zeros(())] * 3)
    pixelwise = {
        name: losses.add_perceptual(
            settings.pixelloss_weight * term,
            distance,
            weight=settings.perceptual_weight,
        )
        for name, term in objectives.elementwise(objective, batch, recon).items()
    }
    plain = {name: losses.nll(term, logvar) for name, term in pixelwise.items()}
    # Without pixel weights both are one value, and XLA pulls back through LPIPS once.
    weighted = plain
    if batch.weights.shape[-1]:
        weighted = {
            name: losses.nll(
                term,
                logvar,
                getattr(objective.pixel_weights, name)
                * physics.weights_for(term, batch.weights),
            )
            for name, term in pixelwise.items()
        }
    terms = LossTerms(
        balance=nothing._replace(**plain),
        total=nothing._replace(**weighted),
        kl=posterior.kl().mean(),
        g=g,
    )
    return terms, {f"{name}_loss": term.mean() for name, term in pixelwise.items()}


def weighed(weights: LossTerms, terms: LossTerms) -> Float[Array, ""]:
    """Returns the sum of weight times term."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.multiply, weights, terms)))


def pull_back(
    terms_of: Callable[[Params], tuple[LossTerms, Any]],
    params: Params,
    last_layer: Callable[[Params], Float[Array, "..."]],
    disc_factor: Float[Array, ""],
    settings: LossSettings,
    *,
    adversarial: bool,
) -> tuple[Params, LossTerms, Any, Logs]:
    """Weighs the terms and returns the gradient of their sum.

    Args:
      terms_of: params -> (LossTerms, auxiliary).
      last_layer: picks the decoder's output kernel out of params.
      adversarial: False leaves the adversarial term and its balance out entirely.

    Returns:
      gradient of the total, terms, auxiliary, {"total_loss", "d_weight"}.
    """
    terms, pullback, aux = jax.vjp(terms_of, params, has_aux=True)
    objective = settings.objective
    none = LossTerms(
        balance=objectives.NOTHING, total=objectives.NOTHING, kl=0.0, g=0.0
    )

    def pulled(weights: LossTerms) -> Params:
        (grads,) = pullback(jax.tree.map(jnp.asarray, weights))
        return grads

    d_weight = jnp.zeros(())
    if adversarial and settings.disc_factor > 0:
        nll_grad = pulled(none._replace(balance=objective.balance))
        g_grad = pulled(none._replace(g=1.0))
        d_weight = settings.disc_weight * losses.adaptive_weight(
            last_layer(nll_grad), last_layer(g_grad)
        )
    weights = none._replace(
        total=objective.total, kl=settings.kl_weight, g=d_weight * disc_factor
    )
    logs = {"total_loss": weighed(weights, terms), "d_weight": d_weight}
    grads = pulled(jax.tree.map(lambda w: w * settings.loss_scale, weights))
    return grads, terms, aux, logs


def discriminate(
    discriminator: PatchDiscriminator, params, stats, image: Image, cond
) -> tuple[Logits, PyTree]:
    """Returns the logits and the moved running statistics."""
    shown = jnp.concatenate([image, cond], axis=-1)
    variables = {"params": params, "batch_stats": stats}
    logits, new = discriminator.apply(
        variables, shown, train=True, mutable=["batch_stats"]
    )
    return logits, new["batch_stats"]


def discriminator_gradient(
    discriminator: PatchDiscriminator,
    params: Params,
    stats: PyTree,
    batch: Batch,
    recon: Image,
    disc_factor: Float[Array, ""],
    settings: LossSettings,
) -> tuple[Params, PyTree, Logs]:
    """Returns its gradient, running statistics and logs; real first, then fake.

    Real and fake go through separately: each batch has its own statistics.
    """
    recon = jax.lax.stop_gradient(recon)

    def loss_of(params):
        real, moved = discriminate(
            discriminator, params, stats, batch.target, batch.cond
        )
        fake, moved = discriminate(discriminator, params, moved, recon, batch.cond)
        loss = disc_factor * losses.DISCRIMINATOR[settings.disc_loss](real, fake)
        return settings.loss_scale * loss, (loss, real.mean(), fake.mean(), moved)

    grads, (loss, real, fake, moved) = jax.grad(loss_of, has_aux=True)(params)
    logs = {"disc_loss": loss, "logits_real": real, "logits_fake": fake}
    return grads, moved, logs


def train_step(
    networks: Networks,
    opt: Optimizers,
    schedules: Schedules,
    settings: LossSettings,
    perceptual_weights: PyTree,
    state: TrainState,
    batch: Batch,
    key: PRNGKey,
    *,
    adversarial: bool,
) -> tuple[TrainState, Logs]:
    """Returns the next state and the logged numbers.

    Bind all but state, batch and key, and jit the rest with the state donated.
    `adversarial=False` is the step before `disc_start`: no discriminator work at all,
    its numbers logged as 0.
    """
    step_key = jax.random.fold_in(key, state.step)
    sample_key, dropout_key, fresh_key = jax.random.split(step_key, 3)
    factor = schedules.disc_factor(state.step) if adversarial else jnp.zeros(())
    disc_params, disc_stats = state.disc_params, state.disc_stats

    def reconstruct(params, key):
        apply = networks.autoencoder.apply
        variables, rngs = {"params": params["autoencoder"]}, {"dropout": dropout_key}
        posterior = apply(variables, batch.image, True, method="encode", rngs=rngs)
        z = posterior.sample(key)
        return apply(variables, z, True, method="decode", rngs=rngs), posterior

    if adversarial and networks.discriminator.use_actnorm:
        recon, _ = reconstruct(state.params, sample_key)
        shown = jnp.concatenate([recon, batch.cond], axis=-1)
        disc_params, disc_stats = discriminator_lib.initialize(
            networks.discriminator, disc_params, disc_stats, shown
        )

    def terms_of(params):
        recon, posterior = reconstruct(params, sample_key)
        distance = networks.perceptual(perceptual_weights, batch.target, recon)
        g, moved = jnp.zeros(()), disc_stats
        if adversarial:
            logits_fake, moved = discriminate(
                networks.discriminator, disc_params, disc_stats, recon, batch.cond
            )
            g = losses.generator(logits_fake)
        terms, means = loss_terms(
            batch, recon, posterior, distance, params["logvar"], g, settings
        )
        return terms, Forward(recon, means, moved)

    grads, terms, forward, logs = pull_back(
        terms_of, state.params, last_kernel, factor, settings, adversarial=adversarial
    )
    direction, opt_state = opt.autoencoder.update(grads, state.opt_state, state.params)
    rates = {
        "autoencoder": schedules.learning_rate(state.step),
        "logvar": schedules.logvar_rate(state.step),
    }
    params = {
        name: optimizers.descend(state.params[name], direction[name], rate)
        for name, rate in rates.items()
    }

    disc_opt_state = state.disc_opt_state
    disc_logs = dict.fromkeys(
        ("disc_loss", "logits_real", "logits_fake"), jnp.zeros(())
    )
    if adversarial:
        recon = forward.recon
        if settings.fresh_reconstruction:
            recon, _ = reconstruct(params, fresh_key)
        disc_grads, disc_stats, disc_logs = discriminator_gradient(
            networks.discriminator,
            disc_params,
            forward.disc_stats,
            batch,
            recon,
            factor,
            settings,
        )
        direction, disc_opt_state = opt.discriminator.update(
            disc_grads, state.disc_opt_state, disc_params
        )
        rate = schedules.disc_rate(state.step)
        disc_params = optimizers.descend(disc_params, direction, rate)

    new = TrainState(
        step=state.step + 1,
        params=params,
        disc_params=disc_params,
        disc_stats=disc_stats,
        ema=state.ema,
        opt_state=opt_state,
        disc_opt_state=disc_opt_state,
    )
    new = new._replace(ema=moved_average(new, schedules.ema_decay(state.step)))
    logs |= (
        forward.means
        | disc_logs
        | {
            "logvar": state.params["logvar"],
            "kl_loss": terms.kl,
            "nll_loss": terms.balance.rec,
            "disc_factor": factor,
            "g_loss": terms.g,
        }
    )
    return new, logs


def last_kernel(params: Params) -> Float[Array, "3 3 i o"]:
    """The decoder's output kernel (not its bias): where the terms are balanced."""
    return params["autoencoder"]["decoder"]["conv_out"]["kernel"]


def averaged(state: TrainState, names: tuple[str, ...]) -> PyTree:
    """Picks out of the state what the EMA is of."""
    everything = {
        **state.params,
        "disc_params": state.disc_params,
        "disc_stats": state.disc_stats,
    }
    return {name: everything[name] for name in names}


def moved_average(state: TrainState, decay: Float[Array, ""]) -> PyTree:
    """Returns decay * ema + (1 - decay) * what it is of."""
    current = averaged(state, tuple(state.ema))
    return jax.tree.map(
        lambda old, new: (decay * old + (1.0 - decay) * new).astype(old.dtype),
        state.ema,
        current,
    )
