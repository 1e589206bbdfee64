"""The schedules at their corners."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from radiovae_jax.training import schedules
from radiovae_jax.vae import experiment


def at(schedule, at_steps, /, **fields):
    """Returns the schedule's values, as the jitted step computes them."""
    traced = jax.jit(lambda step: schedule(step, **fields))
    values = [traced(jnp.asarray(step)) for step in at_steps]
    np.testing.assert_allclose(
        [schedule(step, **fields) for step in at_steps], values, rtol=1e-6
    )
    return values


def test_the_learning_rates_have_their_corners():
    fields = dict(peak=1e-3, end=1e-5, steps=110, warmup=10)
    values = at(schedules.cosine, [0, 9, 59, 109], **fields)
    np.testing.assert_allclose(values, [1e-4, 1e-3, 5.05e-4, 1e-5], rtol=1e-3)
    fields = dict(peak=1e-3, end=1e-5, steps=100, warmup=0)
    values = at(schedules.cosine, [0, 50, 100], **fields)
    np.testing.assert_allclose(values, [1e-3, 5.05e-4, 1e-5], rtol=1e-3)
    fields = dict(peak=1e-3, floor_factor=0.1, steps=100)
    values = at(schedules.polynomial, [0, 50, 99, 100], **fields)
    np.testing.assert_allclose(values, [1e-3, 1e-3 * 0.5**0.95, 1e-4, 1e-4], rtol=1e-5)


def test_the_moving_averages_have_their_corners():
    ours = experiment.build_schedules(tiny.read("radio")).ema_decay
    np.testing.assert_allclose(at(ours, [0, 8, 10**6]), [0.1, 0.5, 0.999], rtol=1e-6)
    # Copies every tenth step until 100, then n = step + 1 - 101; 1 leaves it alone.
    released = experiment.build_schedules(tiny.read("radio_reference")).ema_decay
    values = at(released, [0, 5, 100, 110, 115, 10**7])
    np.testing.assert_allclose(
        values, [0.0, 1.0, 0.0, 1 - 11 ** (-2 / 3), 1.0, 0.995], rtol=1e-5
    )


def test_the_second_stage_s_schedules_are_the_release_s():
    arrays = golden.load("stage2/schedules")
    fields = dict(peak=1.0, floor_factor=5e-6, steps=50_000, power=0.96)
    steps = arrays["lr_steps"].tolist()
    found = [schedules.polynomial(step, **fields) for step in steps]
    np.testing.assert_allclose(found, arrays["lr_factor"], rtol=1e-4)
    decay = functools.partial(schedules.ema_decay_released, maximum=0.999, after=10_000)
    found = at(decay, arrays["ema_steps"].tolist())
    np.testing.assert_allclose(found, arrays["ema_decay"], atol=1e-6)
