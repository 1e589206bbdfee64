"""The toy stage (toy.py) with numbers and events that a test has scripted."""

import time

import jax.numpy as jnp
import numpy as np
import toy

from radiovae_jax import training


def make(
    *,
    bad=lambda step, rate: False,
    error=None,
    loss=None,
    at=(0, None),
    during_validation=False,
    plateau_since=0,
):
    """Returns the `make` of a toy stage.

    Args:
      bad: whether the step that makes so many of them is not finite, at this rate.
      error: step -> what `best` goes by, after so many steps.
      loss: step -> the logged loss.
      at: a step, and what happens while it is taken, or in its validation.
    """
    called = []

    def phase(step):
        calls = called.count(step)  # the second time in its validation
        called.append(step)
        if step + 1 == at[0] and calls == during_validation:
            at[1]()
            time.sleep(0.2)  # until the listening thread has heard of it
        return "denoising"

    def make_toy(config, shape, factor=1.0):
        task = toy.make(config, shape, factor)
        steps = range(config.train.steps + 1)
        rate = factor * config.optimizer.learning_rate
        poison = np.asarray([np.nan if bad(n, rate) else 1.0 for n in steps])

        def step(constants, state, raw, key):
            noise = constants["noise"] * jnp.asarray(poison)[state.step + 1]
            new, logs = task.step["denoising"]({"noise": noise}, state, raw, key)
            if loss:
                logs["loss"] = jnp.asarray([loss(n) for n in steps])[new.step]
            return new, logs

        def validate(constants, state, raw, phase):
            sums, examples = task.validate(constants, state, raw, phase)
            if error:
                table = jnp.asarray([error(n) for n in steps], jnp.float32)
                sums["error"] = sums["power"] * table[state.step]
            return sums, examples

        return task._replace(
            phase=phase,
            step={"denoising": step},
            validate=validate,
            slowed=lambda factor: make_toy(config, shape, factor),
            plateau_since=plateau_since,
        )

    return make_toy


def run(config, workdir, **plan) -> dict[str, float]:
    """Trains the toy stage as scripted."""
    return training.run(make(**plan), config, workdir)
