import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.data.batch import resize, resize_back, to_batch


def gray(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def unit(*shape):
    return jnp.asarray(gray(*shape) / np.float32(255))


def test_the_batch_is_in_the_model_s_range_and_empty_where_nothing_is_asked():
    raw = {"gray": np.asarray([[[[0], [255]]]], np.uint8)}
    batch = to_batch(raw, image_size=0, pixel_weights="none", conditional=False)
    np.testing.assert_array_equal(batch.image.ravel(), [-1.0, 1.0])
    assert batch.weights.shape == batch.cond.shape == (1, 1, 2, 0)


def test_street_weights_are_zero_on_buildings_and_conditions_are_shown():
    raw = {
        "gray": gray(1, 2, 2, 1),
        "buildings": np.asarray([255, 0, 0, 255], np.uint8).reshape(1, 2, 2, 1),
        "antenna": np.asarray([0, 255, 0, 0], np.uint8).reshape(1, 2, 2, 1),
    }
    batch = to_batch(raw, image_size=0, pixel_weights="street", conditional=True)
    np.testing.assert_array_equal(batch.weights.ravel(), [0, 1, 1, 0])
    np.testing.assert_array_equal(batch.cond[0, ..., 0].ravel(), [1, 0, 0, 1])
    np.testing.assert_array_equal(batch.cond[0, ..., 1].ravel(), [0, 1, 0, 0])
    # Only the transmitter may be unknown: without their mask all pixels would weigh 1.
    del raw["buildings"]
    with pytest.raises(KeyError, match="buildings"):
        to_batch(raw, image_size=0, pixel_weights="street", conditional=False)


def test_resizing_is_bilinear_at_half_pixel_centres():
    # 2 -> 4 pixels: centres at 0.25, 0.75, 1.25, 1.75 of a pixel, edges held.
    enlarged = resize(jnp.asarray([0.0, 1.0, 0.0, 1.0]).reshape(1, 2, 2, 1), 4)
    np.testing.assert_allclose(enlarged[0, 0, :, 0], [0, 0.25, 0.75, 1], atol=1e-6)


def test_enlarging_and_coming_back_is_exact():
    f = unit(2, 64, 64, 1)
    np.testing.assert_allclose(resize_back(resize(f, 80), 64, 64), f, atol=1e-5)


def test_coming_back_is_the_least_squares_fit():
    noise = unit(1, 40, 40, 1)
    residual = np.asarray(noise - resize(resize_back(noise, 32, 32), 40)).ravel()
    # At the best fit the residual is orthogonal to everything that enlarging gives.
    direction = np.asarray(resize(unit(1, 32, 32, 1), 40)).ravel()
    lengths = np.linalg.norm(residual) * np.linalg.norm(direction)
    assert abs(residual @ direction / lengths) < 1e-4


def test_maps_that_are_not_square_are_not_squashed_and_sizes_that_agree_stay():
    # A circle would become an ellipse, even where one side agrees with the size.
    f = jnp.zeros((1, 16, 32, 1))
    with pytest.raises(ValueError, match=r"16x32 are not square, .*data.image_size=0"):
        to_batch({"gray": f}, image_size=32, pixel_weights="none", conditional=False)
    assert resize(f, 0) is f
    f = unit(1, 16, 16, 1)
    assert resize(f, 16) is resize_back(f, 16, 16) is f
