"""The numbers of a run as curves."""

import jax.numpy as jnp
import numpy as np
import pytest
import showcase

from radiovae_jax import losses
from radiovae_jax.reporting import charts, curves
from radiovae_jax.reporting.curves import Curve
from radiovae_jax.vae import diagnosis
from radiovae_jax.vae.charts import CHARTS


def run(lines):
    return curves.of(lines, showcase.CONFIG, CHARTS)


def test_what_is_not_a_finite_number_is_no_point():
    values = [1.0, None, 3.0, float("nan"), "x", True, 10**400, 1e39]
    lines = [{"step": i, "train/rec_loss": v} for i, v in enumerate(values)]
    found = curves.curve(run([*lines, {"step": 9}]), "train/rec_loss")
    np.testing.assert_array_equal(found.steps, [0, 2])
    np.testing.assert_array_equal(found.values, [1, 3])


def test_zeros_logged_before_the_discriminator_are_no_points():
    lines = [{"step": s, "train/g_loss": g} for s, g in ((50_001, 0.0), (50_002, -0.4))]
    # Step 50,002 is the first taken with disc_start 50,001 steps done.
    np.testing.assert_array_equal(
        curves.curve(run(lines), "train/g_loss").steps, [50_002]
    )
    off = showcase.CONFIG | {"loss": showcase.CONFIG["loss"] | {"disc_factor": 0.0}}
    assert not len(curves.curve(curves.of(lines, off, CHARTS), "train/g_loss").values)


def test_a_product_needs_all_its_columns_in_a_line():
    lines = [
        {"step": 1, "train/kl_loss": 2.0, "train/kl_weight": 3.0},
        {"step": 2, "train/kl_loss": 2.0},
    ]
    steps, values = curves.product(run(lines), "train/kl_loss", "train/kl_weight")
    np.testing.assert_array_equal([steps, values], [[1], [6]])


def test_the_clamp_is_that_of_the_loss():
    weight = losses.adaptive_weight(jnp.full(4, 1e9), jnp.zeros(4))
    assert float(weight) == diagnosis.D_WEIGHT_CLIP
    assert diagnosis.d_weight_clamp(run([])) == 5000


def test_smoothing_ignores_a_spike_and_does_not_cross_the_switch():
    steps = np.arange(1.0, 401)
    values = np.where(steps <= 200, steps, 1000 - steps)
    values[100] = 1e6
    median = curves.smooth(Curve(steps, values), 200).values
    # The windows of 11 are cut: 195 to 200, and 201 to 206.
    assert (median[199], median[200]) == (197.5, 1000 - 203.5)
    assert median[100] == 102  # of 96 to 106 without 101, and the spike above


def test_smoothing_is_the_median_of_a_centred_window():
    values = np.random.default_rng(0).random(200)
    mean = curves.smooth(Curve(np.arange(200.0), values), np.inf)
    # 200 / 40 = 5 lines; at the ends what there is of them.
    np.testing.assert_allclose(mean.values[10], np.median(values[8:13]))
    np.testing.assert_allclose(mean.values[0], np.median(values[:3]))
    short = Curve(np.arange(50.0), values[:50])
    assert curves.smooth(short, np.inf) is short


def test_the_band_is_of_the_medians_windows():
    values = np.random.default_rng(0).random(200)
    points = Curve(np.arange(200.0), values)
    low, high = curves.band(points, np.inf)
    np.testing.assert_array_equal(low.steps, curves.smooth(points, np.inf).steps)
    # Of five sorted values the 10th percentile lies 0.4 from the lowest to the next.
    one, two, _, four, five = np.sort(values[8:13])
    np.testing.assert_allclose(low.values[10], one + 0.4 * (two - one))
    np.testing.assert_allclose(high.values[10], four + 0.6 * (five - four))


def test_thinning_keeps_spikes_and_ends():
    values = np.zeros(100_000)
    values[[31_415, 92_653]] = [7, -7]
    thin = curves.thin(Curve(np.arange(100_000.0), values), 1000)
    assert len(thin.values) <= 1000
    assert {7.0, -7.0} <= set(thin.values)
    assert thin.steps[0] == 0 and thin.steps[-1] == 99_999
    assert (np.diff(thin.steps) > 0).all()


def test_a_folder_without_numbers_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not the folder of a run"):
        curves.read(tmp_path, CHARTS)
    showcase.write(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="has no whole line yet"):
        curves.read(tmp_path, CHARTS)
    torn = ('{"loss": {"disc_start": 1', "{}", '{"loss": {"disc_start": ""}}')
    for damaged in (*torn, '{"loss": null}', "[]", ""):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json .*put the run's config ba"):
            curves.read(tmp_path, CHARTS)


def test_a_run_of_maps_without_a_unit_has_no_db_but_those_it_is_given():
    lines = [{"step": 1, "val/rmse": 0.03, "val/sample_diversity": 0.2}]
    folder = {"data": {"source": "folder"}}
    plain = curves.of(lines, showcase.CONFIG | folder, CHARTS)
    titles = [chart.title for chart in charts.of(plain)[0]]
    assert titles == ["RMSE and MAE (f)", "Diversity of samples (f)"]
    folder["data"] |= {"db_floor": -250, "db_span": 250}
    assert curves.of(lines, showcase.CONFIG | folder).db == (-250, 250)
    assert curves.of(lines, showcase.CONFIG).db == (-147, 100)
