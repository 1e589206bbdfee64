"""Calibration of errors that are drawn from a known distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.evaluation import calibration


def sums_of(factor, floor=0.0):
    """Errors `factor` times as large as the deviation says."""
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (2, 100, 100, 1)
    deviation = jnp.exp(jax.random.uniform(keys[0], shape, minval=-5, maxval=-2))
    spread = jnp.sqrt(deviation**2 + floor**2)
    error = factor * spread * jax.random.normal(keys[1], shape)
    mean = jnp.full(shape, 0.5)
    counted = jnp.ones(shape, bool).at[:, 50:].set(False)
    error = jnp.where(counted, error, 9.0)
    return calibration.measure(mean + error, mean, deviation, counted, floor=floor)


@pytest.mark.parametrize("factor, covered", [(1.0, 0.9), (2.0, 0.589), (0.5, 0.999)])
def test_coverage_is_that_of_the_normal_distribution(factor, covered):
    sums = sums_of(factor)
    assert sums.pixels.sum() == sums.ratios.sum() == 10_000
    assert calibration.coverage(sums) == pytest.approx(covered, abs=0.012)
    scale = calibration.fitted_scale(sums)
    assert scale == pytest.approx(factor, rel=0.03)
    assert calibration.coverage(sums, scale=scale) == pytest.approx(0.9, abs=0.002)


def test_errors_grow_with_the_deviation_bin_by_bin():
    found = calibration.result(sums_of(2.0), scale=2.0)
    assert len(found["bins"]) > 5
    for one in found["bins"]:
        if one["pixels"] > 300:
            assert one["rmse"] == pytest.approx(2 * one["deviation"], rel=0.15)
    assert found["scaled_coverage"] == pytest.approx(0.9, abs=0.012)


def test_the_first_stage_s_error_is_added_in_quadrature():
    sums = sums_of(1.0, floor=0.05)
    assert calibration.coverage(sums) == pytest.approx(0.9, abs=0.012)


def test_sums_of_parts_add_up():
    whole = sums_of(1.0)
    twice = jax.tree.map(np.add, whole, whole)
    assert calibration.result(twice)["coverage"] == calibration.coverage(whole)
