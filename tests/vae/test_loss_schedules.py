"""The weights of the loss terms at the corners of their schedules."""

import functools

import jax
import numpy as np
import pytest
import tiny

from radiovae_jax.vae import experiment, loss_schedules


def at(schedule, at_steps, /, **fields):
    """Returns the schedule's values, as the jitted step computes them."""
    traced = jax.jit(functools.partial(schedule, **fields))
    return [traced(step) for step in at_steps]


CYCLES = dict(steps=1000, cycles=4, ratio=0.5)  # of 250 steps; each rises for 125


@pytest.mark.parametrize(
    "schedule, fields, steps, values",
    [
        (loss_schedules.kl_constant, {}, [0, 1, 10**6], [1, 1, 1]),
        (
            loss_schedules.kl_linear,
            dict(warmup=100),
            [0, 25, 100, 10**6],
            [0, 0.25, 1, 1],
        ),
        (loss_schedules.kl_linear, dict(warmup=0), [0, 1, 2], [1, 1, 1]),
        (loss_schedules.kl_cyclical, CYCLES, [0, 25, 124, 125], [0, 0.2, 0.992, 1]),
        (loss_schedules.kl_cyclical, CYCLES, [249, 250, 275, 375], [1, 0, 0.2, 1]),
        (loss_schedules.kl_cyclical, CYCLES, [750, 999, 1000], [0, 1, 0]),
        (
            loss_schedules.kl_cyclical,
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
    values = np.array(
        [loss_schedules.kl_cyclical(step, **fields) for step in range(100)]
    )
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


def test_the_discriminator_s_factor_begins_at_exactly_its_start():
    fields = dict(disc_start=10, disc_factor=0.8)
    step = at(loss_schedules.disc_factor, [9, 10, 99], disc_ramp_steps=0, **fields)
    np.testing.assert_allclose(step, [0.0, 0.8, 0.8])
    ramp = at(loss_schedules.disc_factor, [9, 10, 13, 99], disc_ramp_steps=4, **fields)
    np.testing.assert_allclose(ramp, [0.0, 0.2, 0.8, 0.8], rtol=1e-6)
