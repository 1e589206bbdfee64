"""The schedules at their corners."""

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


def test_a_constant_kl_weight_is_constant():
    np.testing.assert_allclose(
        at(schedules.kl_constant, [0, 1, 10**6], kl_weight=0.3), 0.3
    )


def test_a_linear_kl_weight_starts_at_0_and_stays_at_its_end():
    values = at(
        schedules.kl_linear, [0, 25, 100, 101, 10**6], kl_weight=4.0, warmup=100
    )
    np.testing.assert_allclose(values, [0.0, 1.0, 4.0, 4.0, 4.0])


def test_no_warm_up_is_a_constant_kl_weight():
    values = at(schedules.kl_linear, [0, 1, 2], kl_weight=4.0, warmup=0)
    np.testing.assert_allclose(values, [4.0, 4.0, 4.0])


def test_a_cyclical_kl_weight_rises_for_its_ratio_and_holds():
    # Cycles of 250 steps; each rises for 125.
    fields = dict(kl_weight=2.0, steps=1000, cycles=4, ratio=0.5)
    corners = [0, 25, 124, 125, 249, 250, 275, 375, 750, 999, 1000]
    expected = [0.0, 0.4, 1.984, 2.0, 2.0, 0.0, 0.4, 2.0, 0.0, 2.0, 0.0]
    values = at(schedules.kl_cyclical, corners, **fields)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_ratio_of_1_never_holds_and_one_cycle_is_one_ramp():
    fields = dict(kl_weight=1.0, steps=100, cycles=1, ratio=1.0)
    values = at(schedules.kl_cyclical, [0, 50, 99], **fields)
    np.testing.assert_allclose(values, [0.0, 0.5, 0.99], rtol=1e-6)


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
    values = at(schedules.ema_decay, [0, 8, 10**6], maximum=0.999)
    np.testing.assert_allclose(values, [0.1, 0.5, 0.999], rtol=1e-6)
    # Copies every tenth step until 100, then n = step + 1 - 101; 1 leaves it alone.
    values = at(schedules.ema_decay_released, [0, 5, 100, 110, 115, 10**7])
    np.testing.assert_allclose(
        values, [0.0, 1.0, 0.0, 1 - 11 ** (-2 / 3), 1.0, 0.995], rtol=1e-5
    )
