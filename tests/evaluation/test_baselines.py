"""Predictions without a network: fitted values that are known beforehand."""

import numpy as np
import pytest
import small_ldm

from radiovae_jax.evaluation import baselines


def batches(raw, size=4):
    count = len(raw["gray"])
    return [{k: v[i : i + size] for k, v in raw.items()} for i in range(0, count, size)]


def predicted(name, train, test):
    made = baselines.PREDICTORS[name]
    known = {k: v for k, v in test.items() if k != "gray"}
    return np.asarray(made.predict(made.fit(batches(train)), known))


def test_the_mean_map_is_the_mean_of_every_pixel():
    raw = small_ldm.raw(6)
    expected = np.float32(raw["gray"]).mean(axis=0) / 255
    found = predicted("mean_map", raw, small_ldm.raw(2))
    np.testing.assert_allclose(found, np.stack([expected] * 2), rtol=1e-5)


def test_the_log_distance_fit_finds_the_line_that_maps_were_made_of():
    raw = small_ldm.raw(6)
    rows, columns = np.mgrid[:32, :32]
    building = raw["buildings"] > 0
    for gray, antenna in zip(raw["gray"], raw["antenna"], strict=True):
        row, column, _ = np.unravel_index(antenna.argmax(), antenna.shape)
        far = np.hypot(rows - row, columns - column)[..., None]
        f = np.where(building[0], 0.5, 0.9) - 0.25 * np.log10(1 + far)
        gray[:] = np.round(255 * f)
    weights = baselines.fit_log_distance(batches(raw))
    np.testing.assert_allclose(weights, [0.9, 0.5, -0.25], atol=2e-3)
    found = predicted("log_distance", raw, raw)
    np.testing.assert_allclose(found, raw["gray"] / 255, atol=5e-3)
    assert found.min() >= 0 and found.max() <= 1


def test_the_nearest_map_is_the_one_of_the_same_place():
    raw = small_ldm.raw(9)
    shuffled = {name: array[::-1] for name, array in raw.items()}
    found = predicted("nearest", raw, shuffled)
    np.testing.assert_allclose(found, shuffled["gray"] / 255, rtol=1e-6)


@pytest.mark.parametrize("name", baselines.PREDICTORS)
def test_every_predictor_gives_maps_of_the_conditions_number(name):
    found = predicted(name, small_ldm.raw(5), small_ldm.raw(3))
    assert found.shape == (3, 32, 32, 1)
