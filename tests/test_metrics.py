"""Metrics against hand-made numbers, float64 NumPy and scikit-image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax import metrics
from radiovae_jax.data import radiomap
from radiovae_jax.data.radiomapseer import RadioMapSeer
from radiovae_jax.moments import RunningMoments

EVERYTHING = np.array([True, True, True])


def image(rows):
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def random_maps(seed, count=3, size=32, channels=1, noise=0.05):
    rng = np.random.default_rng(seed)
    target = rng.uniform(size=(count, size, size, channels))
    # The spread of the error differs by image, else mean and pooled would agree.
    spread = noise * np.arange(1, count + 1)[:, None, None, None]
    recon = target + spread * rng.normal(size=target.shape)
    return jnp.asarray(target, jnp.float32), jnp.asarray(recon, jnp.float32)


def real_maps(root, count=5):
    """Returns DPM maps, and what 4x4 means make of them."""
    source = RadioMapSeer(root, simulation="DPM", split="val", fields=("gray",))
    gray = np.stack([source[i]["gray"] for i in range(count)])
    target = jnp.asarray(radiomap.gray_to_f(gray))
    small = jax.image.resize(target, (count, 64, 64, 1), "linear")
    return target, jax.image.resize(small, target.shape, "bicubic")


MAPS = {
    "uniform noise": lambda root: random_maps(0),
    "two channels": lambda root: random_maps(1, channels=2),
    "real": real_maps,
}


def accumulate(target, recon, mask=EVERYTHING, **kwargs):
    return metrics.update(metrics.init(), target, recon, jnp.asarray(mask), **kwargs)


def test_only_the_region_counts_even_beside_nan():
    target = image([[0.5, 0.5], [0.0, 1.0]])
    recon = image([[0.4, np.nan], [0.1, 0.7]])
    region = image([[1, 0], [0, 1]])
    # Of the squared errors 0.01 and 0.09 are left, of the targets 0.25 and 1.
    np.testing.assert_allclose(metrics.mse(target, recon, region), [0.05], rtol=1e-6)
    np.testing.assert_allclose(metrics.nmse(target, recon, region), [0.08], rtol=1e-6)
    np.testing.assert_allclose(metrics.mae_db(target, recon, region), [20.0], rtol=1e-6)
    assert np.isnan(metrics.mse(target, recon)).all()
    assert np.isnan(metrics.mse(target, recon, jnp.zeros_like(region))).all()


def test_an_exact_image_has_infinite_psnr_and_no_error():
    target, _ = random_maps(0)
    assert np.isposinf(metrics.psnr(target, target)).all()
    np.testing.assert_array_equal(metrics.nmse(target, target), 0)
    np.testing.assert_allclose(metrics.ssim(target, target), 1, rtol=1e-6)
    empty = jnp.zeros_like(target)
    np.testing.assert_array_equal(metrics.nmse(empty, empty), 0)
    assert np.isposinf(metrics.nmse(empty, target)).all()


@pytest.mark.parametrize("maps", MAPS)
def test_psnr_ssim_and_nmse_match_scikit_image(maps, realmaps):
    skimage = pytest.importorskip("skimage.metrics")
    target, recon = MAPS[maps](realmaps)
    pairs = list(zip(np.float64(target), np.float64(recon), strict=True))
    gaussian = dict(channel_axis=-1, gaussian_weights=True, sigma=1.5)
    ssim = functools.partial(
        skimage.structural_similarity, **gaussian, use_sample_covariance=False
    )
    for found, expected, close in (
        (
            metrics.psnr(target, recon),
            [skimage.peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs],
            dict(rtol=1e-5),
        ),
        (
            metrics.nmse(target, recon),
            [skimage.normalized_root_mse(*pair) ** 2 for pair in pairs],
            dict(rtol=1e-5),
        ),
        (
            metrics.ssim(target, recon),
            [ssim(*pair, data_range=1) for pair in pairs],
            dict(rtol=1e-7, atol=1e-5),
        ),
    ):
        np.testing.assert_allclose(found, expected, **close)


# Left half building, where f is 0 and the reconstruction 0.1 in the upper half; right
# half street, where one of the eight pixels is off by 0.4 and one by 0.2.
FOUR = (
    [[0, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.1]],
    [[0.1, 0.1, 0.6, 0.5], [0.1, 0.1, 0.5, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.3]],
)
INSIDE = image([[1, 1, 0, 0]] * 4)


# Squared errors: 4 of 0.01, one of 0.16, one of 0.04. Squared targets: 1, 6 of 0.25,
# 0.01. Absolute errors: 0.4, 0.4, 0.2.
@pytest.mark.parametrize(
    "region, mse, nmse, mae",
    [
        (metrics.ALL, 0.24 / 16, 0.24 / 2.51, 1.0 / 16),
        (1 - INSIDE, 0.20 / 8, 0.20 / 2.51, 0.6 / 8),
        (INSIDE, 0.04 / 8, np.inf, 0.4 / 8),
    ],
)
def test_regions_of_four_by_four_pixels_match_the_numbers_by_hand(
    region, mse, nmse, mae
):
    pair = [image(rows) for rows in FOUR]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(metrics.mse(*pair, region), [mse])
    close(metrics.nmse(*pair, region), [nmse])
    close(metrics.rmse(*pair, region), [np.sqrt(mse)])
    close(metrics.mae_db(*pair, region, db_per_unit=80.0), [80 * mae])
    close(metrics.rmse_db(*pair, region), [100 * np.sqrt(mse)])
    close(metrics.psnr(*pair, region), [-10 * np.log10(mse)])


def test_ssim_of_a_region_is_the_mean_of_the_windows_centred_there():
    target, recon = random_maps(0)
    # One pixel of the region: exactly the 11x11 window around it.
    region = jnp.zeros_like(target).at[:, 12, 20].set(1)
    window = (slice(None), slice(7, 18), slice(15, 26))
    np.testing.assert_allclose(
        metrics.ssim(target, recon, region),
        metrics.ssim(target[window], recon[window]),
        atol=1e-5,
    )


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="11x11 pixels, got 10x10"):
        metrics.ssim(*random_maps(0, size=10))


def test_the_mean_is_per_image_and_pooled_is_the_whole_set_at_once():
    target, recon = random_maps(0, count=6)
    halves = (accumulate(target[part], recon[part]) for part in (slice(3), slice(3, 6)))
    found = metrics.result(metrics.merge(*halves))
    x, y = np.float64(target), np.float64(recon)
    mse = np.mean((x - y) ** 2, axis=(1, 2, 3))
    expected = {
        "nmse": np.mean(mse / np.mean(x**2, axis=(1, 2, 3))),
        "nmse_pooled": np.sum((x - y) ** 2) / np.sum(x**2),
        "rmse": np.mean(np.sqrt(mse)),
        "rmse_pooled": np.sqrt(np.mean((x - y) ** 2)),
        "rmse_db": np.mean(100 * np.sqrt(mse)),
        "rmse_db_pooled": 100 * np.sqrt(np.mean((x - y) ** 2)),
        "mae": np.mean(np.abs(x - y)),
        "mae_pooled": np.mean(np.abs(x - y)),
        "mae_db": 100 * np.mean(np.abs(x - y)),
        "mae_db_pooled": 100 * np.mean(np.abs(x - y)),
        "psnr": np.mean(-10 * np.log10(mse)),
        "psnr_pooled": -10 * np.log10(np.mean((x - y) ** 2)),
        "ssim": np.mean(metrics.ssim(target, recon)),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_padding_does_not_count_whatever_it_holds():
    target, recon = random_maps(0)
    padded = recon.at[2].set(jnp.nan)
    found = metrics.result(accumulate(target, padded, [True, True, False]))
    expected = metrics.result(accumulate(target[:2], recon[:2], [True, True]))
    assert found == pytest.approx(expected, rel=1e-5)


def test_nan_in_a_reconstruction_shows():
    target, recon = random_maps(0)
    found = metrics.result(accumulate(target, recon.at[0, 0, 0].set(jnp.nan)))
    assert all(np.isnan(value) for value in found.values())


def test_nmse_is_the_mean_over_the_images_that_have_power():
    target, recon = random_maps(0)
    target = target.at[1].set(0)
    found = metrics.result(accumulate(target, recon))
    kept = np.array([0, 2])
    expected = metrics.result(accumulate(target[kept], recon[kept], [True, True]))
    assert found["nmse"] == pytest.approx(expected["nmse"], rel=1e-5)
    power, error = jnp.sum(target**2), jnp.sum((target - recon) ** 2)
    assert found["nmse_pooled"] == pytest.approx(float(error / power), rel=1e-5)
    none = metrics.result(accumulate(0 * target, recon))
    assert np.isnan(none["nmse"]) and np.isfinite(none["rmse_pooled"])


def test_the_deciding_nmse_is_the_pooled_one_and_older_runs_have_the_mean():
    assert metrics.deciding({"nmse": 0.1, "nmse_pooled": 0.2}) == 0.2
    assert metrics.deciding({"val/nmse": 0.1}, "val/") == 0.1


def test_images_without_a_pixel_in_the_region_leave_the_means_alone():
    target, recon = random_maps(0)
    region = jnp.ones_like(target).at[1].set(0)
    region = region.at[:, :, :16].set(0)
    found = metrics.result(accumulate(target, recon, region=region))
    kept = np.array([0, 2])
    expected = metrics.result(
        accumulate(target[kept], recon[kept], [True, True], region=region[kept])
    )
    assert found == pytest.approx(expected, rel=1e-5)
    x, y = np.float64(target[kept, :, 16:]), np.float64(recon[kept, :, 16:])
    assert found["rmse_db_pooled"] == pytest.approx(
        100 * np.sqrt(np.mean((x - y) ** 2)), rel=1e-5
    )


def test_the_empty_set_has_no_numbers():
    assert all(np.isnan(value) for value in metrics.result(metrics.init()).values())


def test_update_compiles_with_donated_sums_and_counts_in_float32():
    target, recon = random_maps(0)
    update = jax.jit(metrics.update, donate_argnums=0)
    half = update(
        metrics.init(),
        target.astype(jnp.bfloat16),
        recon.astype(jnp.bfloat16),
        jnp.asarray(EVERYTHING),
    )
    assert {value.dtype for value in half} == {jnp.dtype("float32")}
    full = update(metrics.init(), target, recon, jnp.asarray(EVERYTHING))
    expected = metrics.result(accumulate(target, recon))
    assert metrics.result(full) == pytest.approx(expected, rel=1e-5)
    # Rounding the images themselves to eight bits moves the RMSE in the fourth digit.
    assert metrics.result(half)["rmse"] == pytest.approx(expected["rmse"], rel=5e-3)


def random_gaussian(seed, size=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return rng.normal(size=size), root @ root.T


def test_frechet_distance_is_that_of_scipys_matrix_root_symmetric_and_zero():
    linalg = pytest.importorskip("scipy.linalg")
    one, other = random_gaussian(0), random_gaussian(1)
    root = linalg.sqrtm(one[1] @ other[1]).real
    apart = np.sum((one[0] - other[0]) ** 2)
    expected = apart + np.trace(one[1] + other[1] - 2 * root)
    found = metrics.frechet(*one, *other)
    assert found == pytest.approx(expected)
    assert metrics.frechet(*other, *one) == pytest.approx(found)
    assert metrics.frechet(*one, *one) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_stands_fewer_images_than_features():
    # Both sets on one line, 4 and 1 in variance: (2 - 1)^2.
    line = np.random.default_rng(0).normal(size=50)
    line /= np.linalg.norm(line)
    zero = np.zeros(50)
    singular = [scale * np.outer(line, line) for scale in (4.0, 1.0)]
    assert metrics.frechet(zero, singular[0], zero, singular[1]) == pytest.approx(1)
    rows = np.random.default_rng(1).normal(size=(5, 50))
    few = RunningMoments.of(rows, pairs=True)
    found = metrics.frechet(few.mean, few.covariance, few.mean, few.covariance)
    assert found == pytest.approx(0, abs=1e-10)
    single = RunningMoments.of(rows[:1], pairs=True)
    pair = single.mean, single.covariance
    assert np.isnan(metrics.frechet(*pair, *pair))


def test_another_gray_scale_has_its_own_db_and_maps_without_a_unit_have_none():
    # Gray 55 to 255 is -250 to 0 dB: 1.25 dB a level, 318.75 dB over all 255.
    rng = np.random.default_rng(0)
    true_db = rng.uniform(-150, -50, (1, 32, 32, 1))
    error_db = rng.normal(0, 5, true_db.shape)
    f, g = (
        jnp.asarray((55 + 200 * (db + 250) / 250) / 255, jnp.float32)
        for db in (true_db, true_db + error_db)
    )
    sums = metrics.update(metrics.init(), f, g, jnp.array([True]))
    found = metrics.result(sums, db_per_unit=318.75)
    expected = np.sqrt(np.mean(error_db**2))
    assert found["rmse_db"] == pytest.approx(expected, rel=1e-4)
    assert found["mae_db_pooled"] == pytest.approx(np.abs(error_db).mean(), rel=1e-4)
    bare = metrics.result(sums, db_per_unit=0)
    assert not [name for name in bare if "db" in name]
    assert bare["rmse"] == found["rmse"] == pytest.approx(expected / 318.75, rel=1e-4)
    assert bare["mae"] == pytest.approx(np.abs(error_db).mean() / 318.75, rel=1e-4)
