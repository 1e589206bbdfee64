"""Plain folders of maps; how they are split is in test_splits.py."""

import numpy as np
import pytest
import tiny

from radiovae_jax.data import datasets, folder, radiomap


def fill(root, count=10, size=(4, 6), name="{}"):
    """Writes maps 0 to count - 1, each full of its own number."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = root / f"{name.format(number)}.png"
        radiomap.write_png(path, np.full(size, number, np.uint8))
    return root


def names(source):
    return {str(source[index]["name"]) for index in range(len(source))}


def test_the_config_says_whether_cities_or_files_are_dealt(tmp_path):
    for city in range(5):
        fill(tmp_path, 8, name=f"{city}_{{}}")
    config = tiny.config(tmp_path)
    config.data.source = "folder"
    source = datasets.open_data(config, "val")
    # RandomState(42).permutation(5) starts 1, 4.
    assert names(source) == {f"1_{tx}" for tx in range(8)}
    assert "dealt by group: 5 groups, 0_0 and 0_1 in one; " in source.summary()
    config.data.split_by = "file"
    assert len({name[0] for name in names(datasets.open_data(config, "val"))}) > 1


def test_a_record_is_the_map_and_its_name_in_the_folder_of_its_split(tmp_path):
    source = folder.MapFolder(fill(tmp_path), split="all")
    assert source.shape == (4, 6, 1)
    assert source[7]["name"] == "7" and source[7]["gray"].dtype == np.uint8
    assert (source[7]["gray"] == 7).all()
    assert source.summary() == (
        f"folder, split all: 10 maps of 4x6x1 (uint8), in {tmp_path}"
    )
    fill(tmp_path / "train" / "a", 3)  # the loose ones belong to no split any more
    assert names(folder.MapFolder(tmp_path)) == {"a/0", "a/1", "a/2"}


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
    for index, message in (
        (2, r"2.png is 5x6x1, expected 4x6x1 .*\(data.image_size"),
        (3, r"3.npy holds float32, and .*0.png uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            source[index]


@pytest.mark.parametrize(
    "count, options, message",
    [
        (0, {}, r"found 0 in train.*\(.png, .npy files\)"),
        (3, {"fields": ("gray", "buildings")}, r"maps only, and fields=\['gray', 'bui"),
        (3, {"split": "training"}, r"unknown split 'training': did you mean"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(tmp_path, count, options, message):
    with pytest.raises(ValueError, match=message):
        folder.MapFolder(fill(tmp_path / "maps", count), **options)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere: set data.root"):
        folder.MapFolder(tmp_path / "nowhere", split="all")
