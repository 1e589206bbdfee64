"""Metrics against hand-made numbers, float64 NumPy and scikit-image."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax import metrics

REALMAPS = pathlib.Path(
    os.environ.get(
        "RADIOVAE_REALMAPS",
        pathlib.Path(__file__).parents[2] / "shared" / "realmaps",
    )
)
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


def real_maps(count=3):
    image_module = pytest.importorskip("PIL.Image")
    files = sorted((REALMAPS / "RadioMapSeer" / "gain" / "DPM").glob("*.png"))[:count]
    if not files:
        pytest.skip(f"no real maps under {REALMAPS}; set RADIOVAE_REALMAPS")
    maps = np.stack([np.asarray(image_module.open(file)) for file in files])
    target = maps[..., None].astype(np.float32) / 255
    noise = 0.03 * np.random.default_rng(0).normal(size=target.shape)
    return jnp.asarray(target), jnp.asarray(target + noise, jnp.float32)


MAPS = {
    "uniform noise": lambda: random_maps(0),
    "two channels": lambda: random_maps(1, channels=2),
    "real": real_maps,
}


def accumulate(target, recon, mask=EVERYTHING, **kwargs):
    return metrics.update(metrics.init(), target, recon, jnp.asarray(mask), **kwargs)


def test_two_by_two_pixels_match_the_numbers_by_hand():
    target = image([[0.5, 0.5], [0.0, 1.0]])
    recon = image([[0.4, 0.6], [0.1, 0.7]])
    # Squared errors 0.01, 0.01, 0.01, 0.09; squared targets 0.25, 0.25, 0, 1.
    np.testing.assert_allclose(metrics.mse(target, recon), [0.03], rtol=1e-6)
    np.testing.assert_allclose(metrics.nmse(target, recon), [0.12 / 1.5], rtol=1e-6)
    np.testing.assert_allclose(metrics.rmse(target, recon), [0.03**0.5], rtol=1e-6)
    np.testing.assert_allclose(
        metrics.rmse_db(target, recon), [100 * 0.03**0.5], rtol=1e-6
    )
    np.testing.assert_allclose(metrics.mae_db(target, recon), [15.0], rtol=1e-6)
    np.testing.assert_allclose(
        metrics.mae_db(target, recon, db_per_unit=80.0), [12.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.psnr(target, recon), [-10 * np.log10(0.03)], rtol=1e-6
    )


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
def test_psnr_ssim_and_nmse_match_scikit_image(maps):
    skimage = pytest.importorskip("skimage.metrics")
    target, recon = MAPS[maps]()
    pairs = list(zip(np.float64(target), np.float64(recon), strict=True))
    np.testing.assert_allclose(
        metrics.psnr(target, recon),
        [skimage.peak_signal_noise_ratio(x, y, data_range=1) for x, y in pairs],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        metrics.nmse(target, recon),
        [skimage.normalized_root_mse(x, y) ** 2 for x, y in pairs],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        metrics.ssim(target, recon),
        [
            skimage.structural_similarity(
                x,
                y,
                data_range=1,
                channel_axis=-1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for x, y in pairs
        ],
        atol=1e-5,
    )


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
    sums = accumulate(target[:3], recon[:3])
    sums = metrics.update(sums, target[3:], recon[3:], jnp.asarray(EVERYTHING))
    found = metrics.result(sums)
    x, y = np.float64(target), np.float64(recon)
    mse = np.mean((x - y) ** 2, axis=(1, 2, 3))
    expected = {
        "nmse": np.mean(mse / np.mean(x**2, axis=(1, 2, 3))),
        "nmse_pooled": np.sum((x - y) ** 2) / np.sum(x**2),
        "rmse": np.mean(np.sqrt(mse)),
        "rmse_pooled": np.sqrt(np.mean((x - y) ** 2)),
        "rmse_db": np.mean(100 * np.sqrt(mse)),
        "rmse_db_pooled": 100 * np.sqrt(np.mean((x - y) ** 2)),
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


def test_merged_sums_are_those_of_the_whole_set():
    target, recon = random_maps(0, count=6)
    merged = metrics.merge(
        accumulate(target[:3], recon[:3]), accumulate(target[3:], recon[3:])
    )
    whole = accumulate(target, recon, [True] * 6)
    assert metrics.result(merged) == pytest.approx(metrics.result(whole), rel=1e-5)


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
