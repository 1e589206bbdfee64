"""Our training step, as the benchmark times it."""

import unittest.mock
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing  # beside this file

from radiovae_jax import losses
from radiovae_jax.vae import experiment, train_step

PHASES = {"autoencoder": False, "adversarial": True}  # whether the step is adversarial
# What a batch of gray maps alone does not hold.
PLAIN = {
    "loss.objective": "base",
    "loss.pixel_weights": "none",
    "loss.disc_conditional": False,
}


def check_plain(config, more: Mapping[str, Any]) -> None:
    """Refuses fields with other values than those of `PLAIN` and of `more`.

    Raises:
      ValueError: the field, and what to give.
    """
    for name, wanted in {**PLAIN, **more}.items():
        section, field = name.split(".")
        value = config[section][field]
        if value != wanted:
            raise ValueError(
                f"{name} is {value!r}, which is not measured here; give "
                f"--config.{name}={wanted}"
            )


def in_phase(config, *, adversarial: bool):
    """Returns the config with all of its steps in one phase."""
    config = config.copy_and_resolve_references()
    config.loss.disc_start = 0 if adversarial else config.train.steps
    return config


def phases_of(config, asked: str) -> dict[str, bool]:
    """Returns those of `PHASES` that are asked for and that the config can run.

    Whatever its loss.disc_start: both phases are to be had where one would begin later.

    Args:
      asked: "both", or the name of one.

    Raises:
      ValueError: the config never runs the one that is asked for.
    """
    loss = config.loss
    runs = {
        name: experiment.adversarial(in_phase(config, adversarial=kind), 0) == kind
        for name, kind in PHASES.items()
    }
    if not runs.get(asked, True):
        raise ValueError(
            f"the config never runs the {asked} step: loss.disc_factor is "
            f"{loss.disc_factor}, loss.discriminator_before_start "
            f"{loss.discriminator_before_start!r}; leave --phase out"
        )
    return {
        name: adversarial
        for name, adversarial in PHASES.items()
        if runs[name] and asked in ("both", name)
    }


def image_shape(config) -> tuple[int, int, int]:
    """Returns (h, w, c) of what the networks see."""
    side = config.data.image_size or config.data.crop
    size = (side, side) if side else tuple(config.autoencoder.resolution)
    return (*size, config.autoencoder.in_channels)


def step_of(built, settings, *, adversarial: bool):
    """Returns the step of one phase: (LPIPS, state, raw, key) -> (new, logs)."""

    def step(weights, state, raw, key):
        return train_step.train_step(
            built._replace(settings=settings),
            weights,
            state,
            built.to_batch(raw),
            key,
            adversarial=adversarial,
        )

    return step


class Ours:
    """Our step of one phase: `step()` takes one and waits for it.

    Args:
      state: to begin with; it is copied.
      fresh: runs the fresh forward pass for the discriminator anyway.
      fixed_weight: puts the number 1 in the place of the adaptive weight.
    """

    def __init__(
        self, config, built, raw, state, *, adversarial, fresh=False, fixed_weight=False
    ):
        self.built, self.raw = built, raw
        settings = built.settings
        if fresh:
            settings = settings._replace(fresh_reconstruction=True)
        self.key = jax.random.key(config.seed)
        self.state = jax.tree.map(jnp.copy, state)  # every step gives its state away
        self.weights = jax.device_put(built.perceptual_weights)

        step = step_of(built, settings, adversarial=adversarial)
        arguments = (self.weights, self.state, self.raw, self.key)
        weight = losses.adaptive_weight
        if fixed_weight:
            weight = lambda nll_grad, g_grad: jnp.ones(())  # noqa: E731
        with unittest.mock.patch.object(losses, "adaptive_weight", weight):
            self.program = timing.compiled(step, *arguments, donate_argnums=1)

    def launch(self) -> dict[str, Any]:
        """Starts a step and does not wait for it."""
        self.state, logs = self.program.run(
            self.weights, self.state, self.raw, self.key
        )
        return logs

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    def step(self) -> dict[str, Any]:
        logs = self.launch()
        jax.block_until_ready((self.state, logs))
        return logs


def first_noise(ours: Ours) -> tuple[np.ndarray, np.ndarray]:
    """Returns the posterior noise of step 0, and of its fresh forward pass."""
    step_key = jax.random.fold_in(ours.key, 0)
    sample_key, _, fresh_key = jax.random.split(step_key, 3)
    shape = (len(ours.raw["gray"]), *ours.built.latent_shape)
    return tuple(
        np.asarray(jax.random.normal(key, shape)) for key in (sample_key, fresh_key)
    )
