import numpy as np
import pytest

from radiovae_jax.data import gains, radiomap, sionna
from radiovae_jax.data.radiomap import DbRange

# One transmitter in the lowest row, second column, of 2x3 cells. By hand,
# (10 log10 g + 147) / 100: -100 dB is 0.47, -50 dB 0.97, -140 dB 0.07; 0 dB and
# -200 dB are clipped, no gain is 0.
GAIN = np.array([[[1e-10, 1e-5, 0.0], [1e-20, 1.0, 1e-14]]])
F = [[0.0, 1.0, 0.07], [0.47, 0.97, 0.0]]
SCENE = {
    "path_gain": GAIN,
    "cell_size": np.array([2.0, 2.0]),
    "tx_cell_indices": np.array([[1, 0]]),
}


def save(path, **changes):
    arrays = SCENE | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


# What drjit exports: float32 tensors, unsigned indices, a 2x1 Point2f.
DRJIT = {
    "path_gain": GAIN.astype(np.float32),
    "cell_size": np.full((2, 1), 2.0, np.float32),
    "tx_cell_indices": np.array([[1, 0]], np.uint32),
}


@pytest.mark.parametrize("types", [{}, DRJIT])
def test_linear_gain_becomes_f_with_the_lowest_y_at_the_bottom(tmp_path, types):
    found = sionna.read_scene(save(tmp_path / "a.npz", **types))
    assert found.f.dtype == np.float32
    np.testing.assert_allclose(found.f[..., 0], [F], atol=1e-6)
    assert np.argwhere(found.antenna[..., 0]).tolist() == [[0, 1, 1]]
    np.testing.assert_array_equal(found.cell_size, [2, 2])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("as_sionna", [False, True])
def test_cells_are_read_whichever_axis_comes_first(tmp_path, count, as_sionna):
    cells = np.array([[40, 10], [5, 20], [7, 30]], np.uint32)[:count]
    gain = np.full((count, 64, 64), 1e-12, np.float32)
    # The second one's peak is a cell beside the transmitter.
    for one, (column, row), beside in zip(gain, cells, (0, 1, 0)):  # noqa: B905
        one[row + beside, column - beside] = 1e-6
    stored = cells.T if as_sionna else cells
    path = save(tmp_path / "a.npz", path_gain=gain, tx_cell_indices=stored)
    expected = [[i, 63 - row, column, 0] for i, (column, row) in enumerate(cells)]
    assert np.argwhere(sionna.read_scene(path).antenna).tolist() == expected


@pytest.mark.parametrize("peak", [1e-9, 1e-6])  # 1e-9: the same everywhere
def test_cells_of_two_transmitters_that_nothing_decides_are_refused(tmp_path, peak):
    gain = np.full((2, 64, 64), 1e-9)
    gain[0, 30, 30] = gain[1, 31, 31] = peak
    cells = np.array([[40, 5], [10, 20]])
    path = save(tmp_path / "a.npz", path_gain=gain, tx_cell_indices=cells)
    with pytest.raises(ValueError, match="do not say which; export a file for each"):
        sionna.read_scene(path)
    # The map alone does not need them.
    assert sionna.SionnaFolder(tmp_path, split="all")[1]["gray"].shape == (64, 64, 1)
    assert sionna.read_scene(path, fields=("gray",)).antenna.size == 0


def test_path_gain_alone_is_enough_where_only_the_map_is_asked_for(tmp_path):
    save(tmp_path / "a.npz", cell_size=None, tx_cell_indices=None)
    source = sionna.SionnaFolder(tmp_path, split="all")
    np.testing.assert_allclose(source[0]["gray"][..., 0], F, atol=1e-6)
    with pytest.raises(ValueError, match=r"a.npz lacks cell_size, tx_cell_indices"):
        sionna.SionnaFolder(tmp_path, split="all", fields=("gray", "antenna"))


def test_what_is_clipped_is_counted_and_shown(tmp_path):
    # In dB: -inf (no path), -150, -147, -100, -47 and three times -20.
    gain_db = np.array([-np.inf, -150, -147, -100, -47, -20, -20, -20, -90, -80])
    gain = 10 ** (gain_db.reshape(1, 2, 5) / 10)
    scene = sionna.read_scene(save(tmp_path / "a.npz", path_gain=gain))
    assert scene.clipped == [gains.Clipped(3, 1, 4, 10, *scene.clipped[0][4:])]
    np.testing.assert_allclose(scene.clipped[0][4:], (-150, -20), atol=1e-9)
    source = sionna.SionnaFolder(tmp_path, split="all")
    assert source.summary().endswith(
        f"in {tmp_path}; 3 values (30.00%) above -47 dB and 1 values (10.00%) below "
        "-147 dB, clipped"
    )
    whole = sionna.SionnaFolder(tmp_path, split="all", db=DbRange(-150, 130))
    assert whole.summary().endswith(f"in {tmp_path}")
    # By hand: -100 dB is 50 / 130.
    np.testing.assert_allclose(whole[0]["gray"][1, 3, 0], 50 / 130, atol=1e-6)


def test_one_value_that_repeats_below_all_others_is_no_path_and_refuses_no_map():
    gain_db = np.full((1, 4, 4, 1), -200.0)
    gain_db[0, 0] = -100.0
    _, (clipped,) = gains.to_f(gain_db, radiomap.RADIOMAPSEER_DB)
    assert clipped == gains.Clipped(0, 12, 0, 16, -100.0, -100.0)
    gains.check({"a": clipped}, radiomap.RADIOMAPSEER_DB)


def test_maps_that_saturate_for_the_most_part_are_refused_with_their_range(tmp_path):
    save(tmp_path / "a.npz")
    room = np.geomspace(10**-6.12, 10**-1.23, 60).reshape(1, 6, 10)  # -61.2 to -12.3 dB
    path = save(tmp_path / "b.npz", path_gain=room)
    with pytest.raises(ValueError, match=r"b.npz: map 0 is mostly outside -147 to -47"):
        sionna.read_scene(path)
    # The range of all the scenes, as the message says: a.npz has -200 to 0 dB.
    for floor, span in ((-200, 200), (-70, 60)):
        message = rf"set data.db_floor={floor} and data.db_span={span} f"
        with pytest.raises(ValueError, match=message):
            sionna.SionnaFolder(tmp_path, split="all")
        (tmp_path / "a.npz").unlink(missing_ok=True)
    f = sionna.SionnaFolder(tmp_path, split="all", db=DbRange(-70, 60))[0]["gray"]
    np.testing.assert_allclose([f.min(), f.max()], [8.8 / 60, 57.7 / 60], atol=1e-6)


def test_the_size_of_a_scene_is_checked_before_it_is_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.npz", path_gain=np.full((1, 9, 8), 1e-9))
    monkeypatch.setattr(radiomap, "MOST_PIXELS", 71)
    monkeypatch.setattr(np, "load", lambda *a, **options: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"a.npz is 9x8, and maps of at most 71 pixel"):
        sionna.read_scene(path)


def test_a_folder_of_scenes_is_split_by_scene(tmp_path):
    for number in range(10):
        gain = np.full((2, 4, 4), 10.0 ** -(number + 5))
        gain[0, 0, 0] = gain[1, 1, 3] = 10**-4.9
        cells = np.array([[0, 0], [3, 1]])
        save(tmp_path / f"s{number}.npz", path_gain=gain, tx_cell_indices=cells)
    train, val, test, everything = (
        sionna.SionnaFolder(tmp_path, split=split, fields=("gray", "antenna"))
        for split in ("train", "val", "test", "all")
    )
    assert [len(train), len(val), len(test), len(everything)] == [16, 2, 2, 20]
    files = [*train.files, *val.files, *test.files]
    assert sorted(files) == everything.files
    record = everything[3]
    assert record["name"] == "s1_1"
    assert record["gray"].shape == everything.shape == (4, 4, 1)
    # 1e-6 is -60 dB, f = 0.87.
    np.testing.assert_allclose(record["gray"][0], 0.87, atol=1e-6)
    assert np.argwhere(record["antenna"]).tolist() == [[2, 3, 0]]
    assert "20 maps of 10 scenes of 4x4x1" in everything.summary()


def test_scenes_of_another_size_are_named(tmp_path):
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz", path_gain=np.full((1, 2, 2), 1e-9))
    source = sionna.SionnaFolder(tmp_path, split="all")
    with pytest.raises(ValueError, match=r"b.npz is 2x2x1, expected 2x3x1 like .*a.np"):
        source[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"path_gain": None, "cell_size": None}, r"a.npz lacks path_gain, cell_size;"),
        (
            {"path_gain": np.ones((2, 3))},
            r"has shape \(2, 3\), .* expected \[tx, ny, nx",
        ),
        (
            {"path_gain": np.ones((1, 2, 3), int)},
            r"path_gain is int64, expected floats",
        ),
        ({"path_gain": np.full((1, 2, 3), -90.0)}, r"-90, expected a linear .*undo"),
        ({"path_gain": np.full((1, 2, 3), np.nan)}, r"path_gain holds nan or inf"),
        ({"path_gain": np.array([[[-np.inf, -90.0]]])}, r"-90, .*which is 0 for -inf"),
        ({"path_gain": np.array([{}])}, r"a.npz is damaged.*path_gain holds Python ob"),
        ({"cell_size": np.array([1.0, 0.0])}, r"cell_size is \[1.0, 0.0\], expected m"),
        ({"cell_size": np.ones(3)}, r"cell_size is \[1.0, 1.0, 1.0\]"),
        ({"tx_cell_indices": np.array([[1, 0, 0]])}, r"\(1, 3\), expected .* \(1, 2\)"),
        ({"tx_cell_indices": np.array([[1.0, 0.0]])}, r"float64 .* expected integers"),
        ({"tx_cell_indices": np.array([[3, 0]])}, r"\[\[3, 0\]\] leave the 3 columns"),
        ({"tx_cell_indices": np.array([[0, -1]])}, r"leave the 3 columns and 2 rows"),
    ],
)
def test_a_wrong_export_is_named_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sionna.read_scene(save(tmp_path / "a.npz", **changes))


def test_what_is_missing_is_named(tmp_path):
    path = save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"unknown field 'cars'.*gray, antenna"):
        sionna.SionnaFolder(tmp_path, fields=("gray", "cars"))
    with pytest.raises(ValueError, match=r"a.npz lacks buildings; export it as"):
        sionna.SionnaFolder(tmp_path, split="all", fields=("gray", "buildings"))
    with pytest.raises(ValueError, match=r"no unit, .*set data.db_floor"):
        sionna.read_scene(path, db=radiomap.NO_DB)


def test_buildings_are_turned_with_the_map_and_checked(tmp_path):
    # No gain in the cells at the top right and, at the bottom, on the right.
    inside = np.array([[False, False, True], [False, False, True]])
    gain = np.where(inside, 0, [[1e-8, 1e-9, 0], [1e-9, 1e-12, 0]])[None]
    inside[1, 1] = True
    path = save(tmp_path / "a.npz", path_gain=gain, buildings=inside)
    fields = ("gray", "antenna", "buildings")
    record = sionna.SionnaFolder(tmp_path, split="all", fields=fields)[0]
    expected = [[0, 255, 255], [0, 0, 255]]
    np.testing.assert_array_equal(record["buildings"][..., 0], expected)
    assert record["gray"][1, 0] == record["gray"].max()
    for wrong, words in [
        (~inside, "is inverted"),
        (inside[:, :2], "expected a mask"),
        (inside * 7, "expected a mask"),
    ]:
        save(path, path_gain=gain, buildings=wrong)
        with pytest.raises(ValueError, match=words):
            sionna.read_scene(path, fields=fields)
