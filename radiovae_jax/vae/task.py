"""The first stage as the engine takes it: the VAE-GAN's steps, validation, pictures."""

import functools
from collections.abc import Callable

import jax
import ml_collections
from absl import logging

from radiovae_jax.data import datasets
from radiovae_jax.training.task import Limit, Numbers, Raw, Task
from radiovae_jax.types import PRNGKey
from radiovae_jax.vae import (
    experiment,
    objectives,
    train_step,
    validate,
    warm_start,
)
from radiovae_jax.vae.adversary import Adversary
from radiovae_jax.vae.objectives import MicroBatch
from radiovae_jax.vae.state import PHASES, Experiment, TrainState

ConfigDict = ml_collections.ConfigDict


def make(config: ConfigDict, shape: tuple[int, int, int]) -> Task:
    """Builds the stage that a config describes.

    Args:
      shape: (h, w, c) of the maps on disk.

    Raises:
      ValueError, FileNotFoundError: something in the config cannot be done.
    """
    built = experiment.build(config, shape)
    if config.loss.objective != "base" and not datasets.db_range(config).span:
        logging.info(
            "what f is in dB is not known of these maps (data.db_floor, data.db_span): "
            "the radio terms take it for RadioMapSeer's, -147 + 100 f"
        )
    return of(config, built)


def of(config: ConfigDict, built: Experiment) -> Task:
    """Returns the stage of what was built."""
    loss, train, db = config.loss, config.train, datasets.db_range(config)
    return Task(
        constants=built.perceptual_weights,
        phase=lambda step: PHASES[experiment.adversarial(config, step)],
        init=functools.partial(experiment.init_state, config, built),
        step={
            phase: step_of(built, adversarial=kind) for kind, phase in PHASES.items()
        },
        validate=functools.partial(
            validate.sums, built, metrics_size=train.metrics_size
        ),
        sample=functools.partial(validate.samples, built, count=train.images),
        activations=functools.partial(validate.latents, built),
        residuals={
            phase: residuals_of(built, adversarial=kind)
            for kind, phase in PHASES.items()
        },
        metrics=functools.partial(validate.numbers, db=db),
        figures=functools.partial(validate.figures, db=db, max_rows=train.images),
        weights=lambda state: (
            state.params["autoencoder"] | {"discriminator": state.disc_params}
        ),
        bar=bar,
        warm_start=functools.partial(
            warm_start.prepared, reconstruction=loss.reconstruction
        ),
        slowed=lambda factor: of(config, slowed(built, factor)),
        step_gathers=("params", "disc_params"),
        validation_gathers=("ema", "disc_params"),
        limits=(kl_collapse(train.stop_on_kl_below),),
        plateau_since=loss.disc_start
        if 0 < loss.disc_start < train.steps and loss.disc_factor > 0
        else 0,
        dtype=str(built.networks.autoencoder.dtype),
        parameters=lambda state: {
            "autoencoder": state.params["autoencoder"],
            "discriminator": state.disc_params,
            "LPIPS, fixed": built.perceptual_weights,
        },
        phases=phases(config),
        schedules={
            name: getattr(built.schedules, name)
            for name in ("learning_rate", "disc_rate", "logvar_rate", "disc_factor")
        },
        corners={
            "warm-up done": max(config.optimizer.warmup_steps - 1, 0),
            "disc_start": loss.disc_start,
        },
    )


def step_of(built: Experiment, *, adversarial: bool) -> Callable:
    """Returns the step of one phase: (constants, state, raw, key) -> (state, logs)."""

    def step(perceptual_weights, state: TrainState, raw: Raw, key: PRNGKey):
        batch = built.to_batch(raw)
        return train_step.train_step(
            built, perceptual_weights, state, batch, key, adversarial=adversarial
        )

    return step


def residuals_of(built: Experiment, *, adversarial: bool) -> Callable:
    """Returns what computes what a forward pass leaves for its backward pass."""

    def residuals(perceptual_weights, state: TrainState, raw: Raw, key: PRNGKey):
        batch = built.to_batch(raw)
        noise = train_step.draw_noise(built.networks.autoencoder, batch.image, key)
        terms_of = functools.partial(
            objectives.forward,
            built,
            perceptual_weights,
            Adversary(state.disc_params, state.disc_stats, state.lecam),
            part=MicroBatch(batch, noise, key),
            adversarial=adversarial,
        )
        return jax.vjp(terms_of, state.params, has_aux=True)[1]

    return residuals


def slowed(built: Experiment, factor: float) -> Experiment:
    """Returns it with all learning rates multiplied."""

    def times(rate: Callable) -> Callable:
        return lambda step: factor * rate(step)

    names = ("learning_rate", "logvar_rate", "disc_rate")
    rates = {name: times(getattr(built.schedules, name)) for name in names}
    return built._replace(schedules=built.schedules._replace(**rates))


def bar(values: Numbers) -> dict[str, float]:
    """Returns the numbers that the progress bar shows."""
    shown = {"rec": "rec_loss", "kl": "kl_loss", "logvar": "logvar"}
    if values["train/disc_factor"]:
        shown |= {"g": "g_loss", "disc": "disc_loss", "d_weight": "d_weight"}
    return {short: values[f"train/{name}"] for short, name in shown.items()}


def kl_collapse(below: float) -> Limit:
    """Returns the limit at which the latents say nothing any more."""
    return Limit(
        names=("train/kl_loss", "val/kl_loss"),
        below=below,
        what="KL collapse: {name} is {value:.3g} nats an image, so the latents say "
        "nothing about the map",
        remedy="Lower loss.kl_weight or set loss.free_bits, in a new --workdir; "
        "train.stop_on_kl_below=0 goes on regardless",
    )


def phases(config: ConfigDict) -> str:
    """Returns which step brings the discriminator in."""
    loss, steps = config.loss, config.train.steps
    if not loss.disc_factor:
        return f"{steps:,} steps without discriminator (loss.disc_factor=0)"
    if loss.disc_start >= steps:
        return (
            f"{steps:,} steps without discriminator (loss.disc_start="
            f"{loss.disc_start:,} is no step of them)"
        )
    early = " (trained from the first)" * (loss.discriminator_before_start != "off")
    return f"{steps:,} steps, discriminator after step {loss.disc_start:,}{early}"
