import numpy as np
import pytest

from radiovae_jax.data import sionna


def scene(**changes):
    """One transmitter in the lowest row, second column, of 2x3 cells."""
    arrays = {
        "path_gain": np.array([[[1e-10, 1e-5, 0.0], [1e-20, 1.0, 1e-14]]]),
        "cell_size": np.array([2.0, 2.0]),
        "tx_cell_indices": np.array([[1, 0]]),
    }
    arrays.update(changes)
    return {key: value for key, value in arrays.items() if value is not None}


def save(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **scene(**changes))
    return path


def test_linear_gain_becomes_f_with_the_lowest_y_at_the_bottom(tmp_path):
    found = sionna.read_scene(save(tmp_path / "a.npz"))
    # By hand, (10 log10 g + 147) / 100: -100 dB is 0.47, -50 dB 0.97, -140 dB 0.07;
    # 0 dB and -200 dB are clipped, no gain is 0.
    expected = [[[0.0, 1.0, 0.07], [0.47, 0.97, 0.0]]]
    assert found.f.dtype == np.float32
    np.testing.assert_allclose(found.f[..., 0], expected, atol=1e-6)
    assert np.argwhere(found.antenna[..., 0]).tolist() == [[0, 1, 1]]
    np.testing.assert_array_equal(found.cell_size, [2, 2])


def test_the_types_that_sionna_exports_are_read(tmp_path):
    # drjit: float32 tensors, unsigned indices, a 2x1 Point2f.
    path = save(
        tmp_path / "a.npz",
        path_gain=scene()["path_gain"].astype(np.float32),
        cell_size=np.full((2, 1), 1.0, np.float32),
        tx_cell_indices=np.array([[1, 0]], np.uint32),
    )
    assert np.argwhere(sionna.read_scene(path).antenna).tolist() == [[0, 1, 1, 0]]


def test_a_folder_of_scenes_is_split_by_scene(tmp_path):
    for number in range(10):
        save(
            tmp_path / f"s{number}.npz",
            path_gain=np.full((2, 4, 4), 10.0 ** -(number + 5)),
            tx_cell_indices=np.array([[0, 0], [3, 1]]),
        )
    sources = {
        split: sionna.SionnaFolder(tmp_path, split=split, fields=("gray", "antenna"))
        for split in ("train", "val", "test", "all")
    }
    assert [len(source) for source in sources.values()] == [16, 2, 2, 20]
    files = [set(source.files) for source in list(sources.values())[:3]]
    assert not set.intersection(*files)
    record = sources["all"][3]
    assert record["name"] == "s1_1"
    assert record["gray"].shape == sources["all"].shape == (4, 4, 1)
    # 1e-6 is -60 dB, f = 0.87.
    np.testing.assert_allclose(record["gray"], 0.87, atol=1e-6)
    assert np.argwhere(record["antenna"]).tolist() == [[2, 3, 0]]
    assert "20 maps of 10 scenes of 4x4x1" in sources["all"].summary()


def test_scenes_of_another_size_are_named(tmp_path):
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz", path_gain=np.ones((1, 2, 2)))
    source = sionna.SionnaFolder(tmp_path, split="all")
    with pytest.raises(ValueError, match=r"b.npz is 2x2x1, expected 2x3x1 like .*a.np"):
        source[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cell_size": None}, r"a.npz lacks cell_size \(it holds path_gain, tx_cell"),
        (
            {"path_gain": None, "tx_cell_indices": None, "rss": np.ones(1)},
            r"a.npz lacks path_gain, tx_cell_indices \(it holds cell_size, rss\)",
        ),
        ({"path_gain": np.ones((2, 3))}, r"float64 of shape \(2, 3\), expected floats"),
        ({"path_gain": np.ones((1, 2, 3), int)}, r"path_gain is int64 of shape"),
        ({"path_gain": np.full((1, 2, 3), -90.0)}, r"-90, expected a linear .*undo"),
        ({"path_gain": np.full((1, 2, 3), np.nan)}, r"path_gain holds nan or inf"),
        ({"cell_size": np.array([1.0, 0.0])}, r"cell_size is \[1.0, 0.0\], expected m"),
        ({"cell_size": np.ones(3)}, r"cell_size is \[1.0, 1.0, 1.0\]"),
        ({"tx_cell_indices": np.array([[1], [0]])}, r"\(2, 1\), expected \(1, 2\).*T$"),
        ({"tx_cell_indices": np.array([[1.0, 0.0]])}, r"float64, expected integers"),
        ({"tx_cell_indices": np.array([[3, 0]])}, r"\[\[3, 0\]\] leave the 3 columns"),
        ({"tx_cell_indices": np.array([[0, -1]])}, r"leave the 3 columns and 2 rows"),
    ],
)
def test_a_wrong_export_is_named_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sionna.read_scene(save(tmp_path / "a.npz", **changes))


@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
def test_a_truncated_npz_is_named_and_to_be_copied_again(tmp_path, keep):
    path = save(tmp_path / "a.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"a.npz is truncated or no npz .*copy it ag"):
        sionna.read_scene(path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.npz does not exist"):
        sionna.read_scene(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        sionna.SionnaFolder(tmp_path / "nowhere")
    save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"unknown field 'buildings'.*gray, antenna"):
        sionna.SionnaFolder(tmp_path, fields=("gray", "buildings"))
    with pytest.raises(ValueError, match=r"split 'train' of .* is empty: found 0 in t"):
        sionna.SionnaFolder(tmp_path)
