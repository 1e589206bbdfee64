"""Streamed mean and covariance against NumPy's of the whole set."""

import numpy as np
import pytest

from radiovae_jax.moments import RunningMoments


@pytest.mark.parametrize("pairs", [True, False])
def test_moments_of_parts_are_those_of_the_whole_far_from_zero(pairs):
    # A mean of 1e6 standard deviations, where E[x^2] - E[x]^2 has no digit left.
    rows = 1e6 + np.random.default_rng(0).normal(size=(1000, 3)) * [1.0, 2.0, 3.0]
    found = RunningMoments()
    for part in np.split(rows, [1, 10, 600]):
        found = found.merge(RunningMoments.of(part, pairs=pairs))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.variance, rows.var(axis=0), rtol=1e-9)
    if pairs:
        expected = np.cov(rows.T)
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-8, atol=1e-8)
    assert found.count == 1000


def test_one_row_has_no_covariance():
    assert np.isnan(RunningMoments.of(np.ones((1, 2)), pairs=True).covariance).all()
