import numpy as np
import pytest
import tiny

from radiovae_jax.data import datasets, folder, radiomap


def fill(root, count=10, size=(4, 6)):
    """Writes maps 0 to count - 1, each full of its own number."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        radiomap.write_png(root / f"{number}.png", np.full(size, number, np.uint8))
    return root


def names(source):
    return {str(source[index]["name"]) for index in range(len(source))}


def test_a_plain_folder_is_split_at_random_and_the_same_each_time(tmp_path):
    fill(tmp_path)
    parts = {s: names(folder.MapFolder(tmp_path, split=s)) for s in ("train", "val")}
    parts["test"] = names(folder.MapFolder(tmp_path, split="test"))
    assert [len(part) for part in parts.values()] == [8, 1, 1]
    assert set.union(*parts.values()) == {str(number) for number in range(10)}
    # RandomState(42).permutation(10) starts 8, 1, 5: NumPy's frozen stream.
    assert (parts["val"], parts["test"]) == ({"8"}, {"1"})
    assert names(folder.MapFolder(tmp_path, split="val", seed=1)) != parts["val"]


def test_the_config_says_whether_cities_or_files_are_dealt(tmp_path):
    for city in range(5):
        for tx in range(8):
            radiomap.write_png(
                tmp_path / f"{city}_{tx}.png", np.zeros((4, 4), np.uint8)
            )
    config = tiny.config(tmp_path)
    config.data.source = "folder"
    source = datasets.open_data(config, "val")
    # RandomState(42).permutation(5) starts 1, 4.
    assert names(source) == {f"1_{tx}" for tx in range(8)}
    assert "dealt by group: 5 groups, 0_0 and 0_1 in one; " in source.summary()
    config.data.split_by = "file"
    assert len({name[0] for name in names(datasets.open_data(config, "val"))}) > 1


def test_subfolders_are_the_splits_where_there_are_any(tmp_path):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "val", 2)
    fill(tmp_path, 1)  # loose files belong to no split
    assert len(folder.MapFolder(tmp_path, split="train")) == 3
    assert len(folder.MapFolder(tmp_path, split="val")) == 2
    assert len(folder.MapFolder(tmp_path, split="all")) == 6
    with pytest.raises(
        ValueError,
        match=r"split 'test' of .* is empty: found 3 in train, 2 in val, 6 in all",
    ):
        folder.MapFolder(tmp_path, split="test")


def test_a_record_is_the_map_and_its_name(tmp_path):
    source = folder.MapFolder(fill(tmp_path), split="all")
    assert source.shape == (4, 6, 1)
    assert source[7]["name"] == "7"
    assert source[7]["gray"].dtype == np.uint8
    assert (source[7]["gray"] == 7).all()
    assert source.summary() == (
        f"folder, split all: 10 maps of 4x6x1 (uint8), in {tmp_path}"
    )


def test_a_map_in_a_folder_of_its_split_carries_its_name(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 1)
    source = folder.MapFolder(tmp_path, split="train")
    assert names(source) == {"a/0", "b/0"}
    assert source.summary().endswith(
        "from 2 of its folders, split by its folders train/"
    )


def test_floating_maps_of_several_channels_are_f(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 4, 2), 0.5))
    source = folder.MapFolder(tmp_path, split="all")
    assert source.shape == (4, 4, 2)
    assert source[0]["gray"].dtype == np.float32


def test_a_map_unlike_the_first_is_named(tmp_path):
    fill(tmp_path, 2)
    radiomap.write_png(tmp_path / "2.png", np.zeros((5, 6), np.uint8))
    np.save(tmp_path / "3.npy", np.zeros((4, 6)))
    source = folder.MapFolder(tmp_path, split="all")
    with pytest.raises(
        ValueError, match=r"2.png is 5x6x1, expected 4x6x1 .*\(data.image_size"
    ):
        source[2]
    with pytest.raises(ValueError, match=r"3.npy holds float32, and .*0.png uint8"):
        source[3]


def test_what_cannot_be_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere: set data.root"):
        folder.MapFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"found 0 in train.*\(.png, .npy files\)"):
        folder.MapFolder(tmp_path)
    fill(tmp_path)
    with pytest.raises(ValueError, match=r"gray maps only, and fields=\['gray', 'bui"):
        folder.MapFolder(tmp_path, fields=("gray", "buildings"))
    with pytest.raises(ValueError, match=r"unknown split 'training': did you mean"):
        folder.MapFolder(tmp_path, split="training")
    with pytest.raises(ValueError, match=r"leave something to train on"):
        folder.MapFolder(tmp_path, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"split 'val' of .* is empty"):
        folder.MapFolder(tmp_path, split="val", val_fraction=0.0)
