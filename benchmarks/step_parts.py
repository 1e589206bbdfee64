"""The parts of our training step, each compiled and timed by itself."""

import statistics

import jax
import timed_step  # this and timing are beside this file
import timing

from radiovae_jax import losses
from radiovae_jax.training import updates
from radiovae_jax.vae import adversary, objectives, train_step
from radiovae_jax.vae.state import averaged

FORWARD, BOTH = "autoencoder forward", "autoencoder forward and backward"


def seconds_of(
    ours: timed_step.Ours, steps: int, *, adversarial: bool
) -> dict[str, float]:
    """Returns the median seconds of the step's parts, each compiled by itself.

    XLA fuses and shares across them in the whole step, so they need not add up.
    "autoencoder backward" is what the backward pass adds to the forward pass.
    """
    pieces = _autoencoder_pieces(ours)
    if adversarial:
        pieces |= _discriminator_pieces(ours)
    calls = {}
    for name, (function, *arguments) in pieces.items():
        call = jax.jit(function)
        calls[name] = lambda call=call, given=arguments: jax.block_until_ready(
            call(*given)
        )
    times = timing.in_turns(calls, steps)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    both, forward = medians.pop(BOTH), medians.pop(FORWARD)
    return {FORWARD: forward, "autoencoder backward": both - forward} | medians


def _autoencoder_pieces(ours: timed_step.Ours) -> dict[str, tuple]:
    """Returns functions of the autoencoder's side, with what they are given."""
    built, state = ours.built, ours.state
    networks, schedules = built.networks, built.schedules
    batch = jax.jit(built.to_batch)(ours.raw)
    part = objectives.MicroBatch(
        batch,
        train_step.draw_noise(networks.autoencoder, batch.image, ours.key),
        ours.key,
    )

    def forward(params):
        made = objectives.reconstruct(networks.autoencoder, params, part)
        return made.image, made.posterior.kl().mean()

    def loss(params):
        recon, kl = forward(params)
        return losses.sum_per_image(losses.reconstruction(batch.target, recon)) + kl

    def optimise(state, grads):
        direction, opt_state = built.opt.autoencoder.update(
            grads, state.opt_state, state.params
        )
        rate = schedules.learning_rate(state.step)
        params = updates.descend(state.params, direction, rate)
        new = state._replace(params=params, opt_state=opt_state)
        decay = schedules.ema_decay(state.step)
        return (
            params,
            opt_state,
            updates.update_ema(new.ema, averaged(new, tuple(new.ema)), decay),
        )

    pieces = {
        FORWARD: (forward, state.params),
        BOTH: (jax.grad(loss), state.params),
        "autoencoder's optimiser and EMA": (optimise, state, state.params),
    }
    if built.settings.perceptual_weight:

        def distance(image, weights):
            return networks.perceptual(weights, batch.target, image).sum()

        pieces["LPIPS forward and backward"] = (
            jax.value_and_grad(distance),
            batch.target,
            ours.weights,
        )
    return pieces


def _discriminator_pieces(ours: timed_step.Ours) -> dict[str, tuple]:
    """Returns functions of the discriminator's side, with what they are given."""
    built, state = ours.built, ours.state
    batch = jax.jit(built.to_batch)(ours.raw)
    real = batch.target
    discriminator_loss = losses.DISCRIMINATOR[built.settings.disc_loss]

    def discriminate(params, image):
        logits, _, _ = adversary.discriminate(
            built.networks.discriminator, params, state.disc_stats, image, batch.cond
        )
        return logits

    def generator_loss(image, params):
        return losses.generator(discriminate(params, image))

    def loss(params, recon):
        return discriminator_loss(
            discriminate(params, real), discriminate(params, recon)
        )

    def optimise(params, opt_state, grads):
        direction, opt_state = built.opt.discriminator.update(grads, opt_state, params)
        rate = built.schedules.disc_rate(state.step)
        return updates.descend(params, direction, rate), opt_state

    params = state.disc_params
    return {
        "generator's pass through the discriminator": (
            jax.value_and_grad(generator_loss),
            real,
            params,
        ),
        "discriminator forward and backward": (
            jax.value_and_grad(loss),
            params,
            real,
        ),
        "discriminator's optimiser": (optimise, params, state.disc_opt_state, params),
    }
