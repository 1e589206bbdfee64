"""The whole algorithm: one step of the VAE-GAN, as a pure function of its state.

    forward once -> LossTerms -> one vjp:
        pull back the balance (nll), read the last layer  \\ d_weight: how much of g
        pull back g, read the last layer                  / balances reconstruction
        pull back the total (1, kl_weight, d_weight * disc_factor)
    -> AdamW -> the discriminator's own step on the same reconstruction -> EMA
    -> all of it left out where something was not finite

The weights of the terms are the cotangents of the vjp. XLA drops what the first two
pull-backs do not read, and cached_grad keeps them out of LPIPS and the discriminator.
The forward pass, what is minimised, and a new term are in objectives.py; the
discriminator in adversary.py; micro-batches, EMA and guard in training/updates.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from radiovae_jax import losses
from radiovae_jax.training import updates
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Batch, Image, Latent, Params, PRNGKey, Scalar
from radiovae_jax.vae import adversary, objectives
from radiovae_jax.vae.adversary import Adversary
from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.objectives import LossTerms, MicroBatch
from radiovae_jax.vae.state import Experiment, LossSettings, TrainState, averaged


def train_step(
    built: Experiment,
    perceptual_weights: PyTree,
    state: TrainState,
    batch: Batch,
    key: PRNGKey,
    *,
    adversarial: bool,
) -> tuple[TrainState, Logs]:
    """Returns the next state and the logged numbers.

    Close over the first argument, and jit the rest with the state donated.
    `adversarial=False` is the step before `disc_start`: no discriminator work at all,
    its numbers logged as 0.
    """
    networks, settings, schedules = built.networks, built.settings, built.schedules
    step_key = jax.random.fold_in(key, state.step)
    sample_key, dropout_key, fresh_key = jax.random.split(step_key, 3)
    parts = micro_batches(built, batch, sample_key, dropout_key)
    factor = schedules.disc_factor(state.step) if adversarial else jnp.zeros(())
    kl_weight = schedules.kl_weight(state.step)
    disc = Adversary(state.disc_params, state.disc_stats, state.lecam)
    if adversarial and networks.discriminator.use_actnorm:
        disc = objectives.set_actnorm(networks, disc, state.params, parts)

    terms_of = functools.partial(
        objectives.forward, built, perceptual_weights, disc, adversarial=adversarial
    )
    grads, terms, averages, aux, logs = pull_back(
        terms_of,
        state.params,
        parts,
        last_kernel,
        settings,
        kl_weight=kl_weight,
        disc_factor=factor,
        adversarial=adversarial,
    )
    new = descended(built, state, grads)

    disc_grads, disc_logs = (), adversary.idle_logs(settings)
    if adversarial:
        recons = aux.recon
        if settings.fresh_reconstruction:
            fresh = micro_batches(built, batch, fresh_key, dropout_key)
            recons = objectives.reconstruct_all(networks, new.params, fresh)
        disc = disc._replace(stats=averages.disc_stats)
        new, disc_grads, disc_logs = adversary.descended(
            built, new, disc, parts.batch, recons, state.step, factor
        )

    current, decay = averaged(new, tuple(new.ema)), schedules.ema_decay(state.step)
    new = new._replace(ema=updates.update_ema(new.ema, current, decay))
    watched = (logs["total_loss"], disc_logs["disc_loss"], grads, disc_grads)
    new = updates.unless_bad(new, state, watched)
    logs |= averages.means | disc_logs | objectives.logs(terms, aux, settings)
    logs |= objectives.norms(state, new, grads, disc_grads)
    logs |= {"disc_factor": factor, "kl_weight": kl_weight}
    logs |= {"learning_rate": schedules.learning_rate(state.step)}
    return new, {name: jnp.asarray(n, jnp.float32) for name, n in logs.items()}


def micro_batches(
    built: Experiment, batch: Batch, noise_key: PRNGKey, dropout_key: PRNGKey
) -> MicroBatch:
    """Returns a batch as micro-batches, with what is drawn for them."""
    count = built.settings.accumulate_steps
    noise = draw_noise(built.networks.autoencoder, batch.image, noise_key)
    return MicroBatch(
        batch=updates.split(batch, count),
        noise=updates.split(noise, count),
        dropout_key=jax.random.split(dropout_key, count),
    )


def draw_noise(autoencoder: AutoencoderKL, image: Image, key: PRNGKey) -> Latent:
    """Returns the posterior's noise, of the whole batch whatever its parts."""
    b, height, width, _ = image.shape
    factor = autoencoder.downsampling
    shape = (b, height // factor, width // factor, autoencoder.embed_dim)
    return jax.random.normal(key, shape)


def pull_back(
    terms_of: Callable[[Params, PyTree], tuple[LossTerms, Any]],
    params: Params,
    parts: PyTree,
    last_layer: Callable[[Params], Float[Array, "..."]],
    settings: LossSettings,
    *,
    kl_weight: Scalar,
    disc_factor: Scalar,
    adversarial: bool,
) -> tuple[Params, LossTerms, Any, Any, Logs]:
    """Weighs the terms and returns the gradient of their sum.

    One micro-batch is one forward pass. Several are gone through twice, since d_weight
    is that of the whole batch and must be known before gradients are weighed: 4/3 of
    the work in the adversarial phase, nothing before. To accumulate g's gradient apart
    would pull back twice through everything (5/3) and hold two gradients.

    Args:
      terms_of: (params, micro-batch) -> (LossTerms, (what to average, to stack)).
      parts: of `updates.split`.
      last_layer: picks the decoder's output kernel out of params.
      adversarial: False leaves the adversarial term and its balance out entirely.

    Returns:
      gradient of the total, terms, averages, stacked, {"total_loss", "d_weight"}.
    """

    def vjp_of(part):
        return jax.vjp(lambda params: terms_of(params, part), params, has_aux=True)

    if updates.count(parts) == 1:
        whole = vjp_of(updates.first(parts))
        vjp_of = lambda part: whole  # noqa: E731

    def pulled(pullback, weights: LossTerms) -> Params:
        return pullback(jax.tree.map(jnp.asarray, weights))[0]

    def last_gradients(part):
        _, pullback, _ = vjp_of(part)
        nll_grad = pulled(pullback, objectives.balance_weights(settings))
        g_grad = pulled(pullback, objectives.NO_TERMS._replace(g=1.0))
        return (last_layer(nll_grad), last_layer(g_grad)), ()

    d_weight = jnp.zeros(())
    if adversarial and settings.disc_factor > 0:
        pair, _ = updates.accumulate(last_gradients, parts)
        d_weight = settings.disc_weight * losses.adaptive_weight(*pair)
    weights = objectives.total_weights(
        settings, kl_weight=kl_weight, g_weight=d_weight * disc_factor
    )

    def gradient(part):
        terms, pullback, (averages, aux) = vjp_of(part)
        scaled = jax.tree.map(lambda w: w * settings.loss_scale, weights)
        return (pulled(pullback, scaled), terms, averages), aux

    (grads, terms, averages), aux = updates.accumulate(gradient, parts)
    logs = {"total_loss": objectives.weighed(weights, terms), "d_weight": d_weight}
    return grads, terms, averages, aux, logs


def last_kernel(params: Params) -> Float[Array, "3 3 i o"]:
    """The decoder's output kernel (not its bias): where the terms are balanced."""
    return params["autoencoder"]["decoder"]["conv_out"]["kernel"]


def descended(built: Experiment, state: TrainState, grads: Params) -> TrainState:
    """Returns the state with the autoencoder and logvar one step on."""
    opt, schedules = built.opt, built.schedules
    rates = {
        "autoencoder": (schedules.learning_rate(state.step), opt.clip_weights),
        "logvar": (schedules.logvar_rate(state.step), 0.0),
    }
    direction, opt_state = opt.autoencoder.update(grads, state.opt_state, state.params)
    params = {
        name: updates.descend(state.params[name], direction[name], rate, limit=limit)
        for name, (rate, limit) in rates.items()
    }
    return state._replace(step=state.step + 1, params=params, opt_state=opt_state)
