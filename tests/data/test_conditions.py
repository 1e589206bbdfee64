"""Condition planes by hand on small maps: places, distances, measurements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.data import augmentation, conditions

ALL = tuple(conditions.KINDS)


@pytest.fixture
def raw():
    """Two maps of 4x6: a building, a car, the transmitters at (1, 2) and (3, 0)."""
    grays = {name: np.zeros((2, 4, 6, 1), np.uint8) for name in ("buildings", "cars")}
    grays["buildings"][:, 0, 0] = grays["cars"][:, 3, 5] = 255
    antenna = np.zeros((2, 4, 6, 1), np.uint8)
    antenna[0, 1, 2] = antenna[1, 3, 0] = 255
    return grays | {"antenna": antenna}


def test_planes_hold_what_their_names_say(raw):
    known = np.zeros((2, 4, 6, 1), np.float32)
    known[0, 2, 2] = 1
    measured = conditions.Measurements(0.25 * known, known)
    found = conditions.planes(raw, ALL, size=0, pixel_metres=2.0, measurements=measured)
    assert found.shape == (2, 4, 6, conditions.channels(ALL)) == (2, 4, 6, 7)
    building, tx, far, log_far, car, f, where = np.moveaxis(found, -1, 0)
    assert building[0, 0, 0] == 1 and building.sum() == 2
    assert car[1, 3, 5] == 1 and car.sum() == 2
    assert tx[0, 1, 2] == tx[1, 3, 0] == 1 and tx.sum() == 2
    # From (row 1, column 2) to (row 3, column 5): 2 and 3 pixels of 2 m.
    metres = 2 * 13**0.5
    np.testing.assert_allclose(far[0, 3, 5], metres / 100, rtol=1e-6)
    np.testing.assert_allclose(log_far[0, 3, 5], np.log10(1 + metres), rtol=1e-6)
    assert far[0, 1, 2] == far[1, 3, 0] == log_far[1, 3, 0] == 0
    assert f[0, 2, 2] == 0.25 and where[0, 2, 2] == 1 and where.sum() == 1
    np.testing.assert_array_equal(f[where == 0], 0)


def test_without_measurements_their_planes_are_empty(raw):
    found = conditions.planes(raw, ("measurements",), size=0, pixel_metres=1.0)
    np.testing.assert_array_equal(found, np.zeros((2, 4, 6, 2)))


@pytest.mark.parametrize("size", [8, 32])
def test_distances_are_of_the_place_not_of_the_size(size):
    antenna = np.zeros((1, 16, 16, 1), np.uint8)
    antenna[0, 4, 11] = 255
    found = conditions.distance(antenna, size, pixel_metres=3.0)[0, ..., 0]
    scale = 16 / size
    rows, columns = (np.mgrid[:size, :size] + 0.5) * scale - 0.5
    expected = 3 * np.hypot(rows - 4, columns - 11)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_turns_of_the_record_turn_map_and_condition_alike():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 255, (16, 16, 1), np.uint8)
    tx = np.unravel_index(gray.argmax(), gray.shape)  # so the map tells where it is
    antenna = np.zeros_like(gray)
    antenna[tx] = 255
    turn = augmentation.transform("dihedral", crop=0, shape=gray.shape)
    for seed in range(8):
        turned = turn({"gray": gray, "antenna": antenna}, np.random.default_rng(seed))
        found = conditions.distance(turned["antenna"][None], 0, pixel_metres=1.0)
        at = np.unravel_index(turned["gray"].argmax(), (16, 16))
        assert found[0][*at, 0] == 0
        np.testing.assert_allclose(
            found.max(), np.hypot(*np.maximum(at, 15 - np.array(at)))
        )


def test_measurements_are_drawn_on_the_street_and_differ_with_the_key():
    f = jnp.full((3, 8, 8, 1), 0.5)
    street = jnp.ones((3, 8, 8, 1)).at[:, :4].set(0)
    draw = jax.jit(conditions.measure, static_argnames="most")
    count = jnp.array([0, 5, 60])
    found = draw(jax.random.key(0), f, street, count=count, most=60)
    np.testing.assert_array_equal(found.known.sum((1, 2, 3)), [0, 5, 32])  # 32 allowed
    np.testing.assert_array_equal(found.known * (1 - street), 0)
    np.testing.assert_array_equal(found.f, 0.5 * found.known)
    other = draw(jax.random.key(1), f, street, count=count, most=60)
    assert (other.known[1] != found.known[1]).any()


def test_counts_are_none_with_the_given_probability():
    count = conditions.draw_counts(jax.random.key(0), 4000, most=10, none=0.3)
    assert 0.27 < float((count == 0).mean()) < 0.33
    assert set(np.unique(count)) == set(range(11))


def test_points_are_x_right_and_y_down():
    points = np.array([[2.9, 0.0], [2.0, 0.5], [0.0, 3.0]])
    found = conditions.at_points(points, np.array([0.25, 0.75, 1.0]), (4, 3))
    assert found.known[0, :, :, 0].tolist() == [[0, 0, 1], [0] * 3, [0] * 3, [1, 0, 0]]
    assert found.f[0, 0, 2, 0] == 0.5 and found.f[0, 3, 0, 0] == 1


@pytest.mark.parametrize(
    "points, f, words",
    [
        ([[3, 0], [0, 0]], [0.5, 0.5], "1 of 2 points lie outside the map of 3x4"),
        ([[0, -0.5]], [0.5], "outside the map"),
        ([[np.nan, 0]], [0.5], "outside the map"),
        ([[0, 0]], [1.5], "1 of 1 values lie outside the range of the maps"),
        ([[0, 0]], [np.nan], "outside the range"),
    ],
)
def test_points_that_cannot_be_are_refused(points, f, words):
    with pytest.raises(ValueError, match=words):
        conditions.at_points(np.array(points, float), np.array(f), (4, 3))


def test_an_unknown_plane_is_refused():
    with pytest.raises(ValueError, match="roofs"):
        conditions.fields(("buildings", "roofs"))
    assert conditions.fields(ALL) == ("buildings", "antenna", "cars")


def test_buildings_are_missing_as_a_whole_and_in_the_stated_share():
    mask = np.zeros((1, 24, 24, 1), np.uint8)
    mask[0, ::2, :12:2] = 255  # 72 buildings of a pixel, and one that winds
    winding = np.zeros((24, 24, 1), bool)
    winding[1:20, 14] = winding[19, 14:23] = winding[3:20, 22] = True
    mask[0, winding] = 255
    drop = jax.jit(conditions.without_some, static_argnums=2)
    masks = np.repeat(mask, 50, axis=0)
    seen = np.asarray(drop(jax.random.key(0), masks, 0.2))
    assert set(np.unique(seen)) == {0, 255} and not seen[masks == 0].any()
    of_it = seen[:, winding] > 0
    assert (of_it.all(axis=1) | ~of_it.any(axis=1)).all()  # all of it, or nothing
    assert 0 < of_it[:, 0].sum() < 50
    others = (masks > 0) & ~winding[None]
    np.testing.assert_allclose((seen[others] == 0).mean(), 0.2, atol=0.02)
    np.testing.assert_array_equal(drop(jax.random.key(0), masks, 0.0), masks)
