"""Maps of several channels as colours: fixed, distinct, honest about what is broken."""

import numpy as np
import pytest

from radiovae_jax.reporting import colours


def test_the_projection_is_the_same_in_every_run():
    # NumPy's default_rng(0).standard_normal, first row; its stream is kept stable.
    np.testing.assert_allclose(
        colours.projection(5)[0], [0.12573022, -0.13210486, 0.64042265], rtol=1e-6
    )
    np.testing.assert_array_equal(colours.projection(5), colours.projection(5))


def test_classes_of_a_segmentation_get_colours_of_their_own():
    one_hot = np.eye(8)[None, :, None]  # a map of 8 pixels, each of another class
    rgb = colours.to_rgb(one_hot, one_hot)[0, :, 0]
    apart = np.linalg.norm(rgb[:, None] - rgb, axis=-1)[~np.eye(8, dtype=bool)]
    assert apart.min() > 0.1
    # The reference spans the colours.
    np.testing.assert_allclose([rgb.min(axis=0), rgb.max(axis=0)], [[0] * 3, [1] * 3])


def test_a_reconstruction_is_coloured_on_the_scale_of_its_map():
    target = np.random.default_rng(0).random((1, 8, 8, 5))
    half = 0.5 * target
    weights = colours.projection(5)
    mixed = target @ weights
    low, high = mixed.min(axis=(0, 1, 2)), mixed.max(axis=(0, 1, 2))
    expected = np.clip((half @ weights - low) / (high - low), 0, 1)
    np.testing.assert_allclose(colours.to_rgb(half, target), expected, atol=1e-12)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_what_is_not_finite_is_magenta(channels):
    f = np.full((1, 2, 2, channels), 0.5)
    f[0, 1, 0, -1] = np.nan
    rgb = colours.to_rgb(f, f)
    np.testing.assert_array_equal(rgb[0, 1, 0], [1, 0, 1])
    assert not (rgb[0, 0, 0] == [1, 0, 1]).all()
    assert np.isfinite(colours.to_rgb(f * np.nan, f * np.nan)).all()
