"""The schedules at their corners."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


CYCLES = dict(steps=1000, cycles=4, ratio=0.5)  # of 250 steps; each rises for 125


@pytest.mark.parametrize(
    "schedule, fields, steps, values",
    [
        (schedules.kl_constant, {}, [0, 1, 10**6], [1, 1, 1]),
        (schedules.kl_linear, dict(warmup=100), [0, 25, 100, 10**6], [0, 0.25, 1, 1]),
        (schedules.kl_linear, dict(warmup=0), [0, 1, 2], [1, 1, 1]),
        (schedules.kl_cyclical, CYCLES, [0, 25, 124, 125], [0, 0.2, 0.992, 1]),
        (schedules.kl_cyclical, CYCLES, [249, 250, 275, 375], [1, 0, 0.2, 1]),
        (schedules.kl_cyclical, CYCLES, [750, 999, 1000], [0, 1, 0]),
        (
            schedules.kl_cyclical,
            dict(steps=100, cycles=1, ratio=1.0),  # never holds: one ramp
            [0, 50, 99],
            [0, 0.5, 0.99],
        ),
    ],
)
def test_the_kl_weight_by_hand(schedule, fields, steps, values):
    found = at(schedule, steps, kl_weight=4.0, **fields)
    np.testing.assert_allclose(found, 4 * np.asarray(values), rtol=1e-6)


@pytest.mark.parametrize("cycles", [3, 7])
def test_cycles_that_do_not_divide_the_steps_keep_their_number(cycles):
    fields = dict(kl_weight=1.0, steps=100, cycles=cycles, ratio=0.5)
    values = np.array([schedules.kl_cyclical(step, **fields) for step in range(100)])
    assert np.count_nonzero(values == 0) == cycles


def test_the_config_chooses_the_kl_schedule():
    config = tiny.read("radio")
    config.loss.update(kl_weight=2.0, kl_warmup_steps=100, kl_cycles=4, kl_ratio=0.5)
    config.train.steps = 1000
    found = {}
    for kind in ("constant", "linear", "cyclical"):
        config.loss.kl_schedule = kind
        schedule = experiment.build_schedules(config).kl_weight
        found[kind] = [float(schedule(step)) for step in (0, 50, 100, 250)]
    assert found == {
        "constant": [2.0, 2.0, 2.0, 2.0],
        "linear": [0.0, 1.0, 2.0, 2.0],
        "cyclical": [0.0, pytest.approx(0.8), pytest.approx(1.6), 0.0],
    }


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


def test_the_discriminator_s_factor_begins_at_exactly_its_start():
    fields = dict(disc_start=10, disc_factor=0.8)
    step = at(schedules.disc_factor, [9, 10, 99], disc_ramp_steps=0, **fields)
    np.testing.assert_allclose(step, [0.0, 0.8, 0.8])
    ramp = at(schedules.disc_factor, [9, 10, 13, 99], disc_ramp_steps=4, **fields)
    np.testing.assert_allclose(ramp, [0.0, 0.2, 0.8, 0.8], rtol=1e-6)


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
