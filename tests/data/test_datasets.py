"""From a config to its data: buildings, rows of pictures, what copies share."""

import logging
import pathlib
import shutil

import numpy as np
import pytest
import tiny

from radiovae_jax.data import datasets, radiomap, sources
from radiovae_jax.reporting import plots


def test_validation_data_bring_their_buildings_or_say_that_they_lack(
    city, tmp_path, caplog
):
    config = tiny.config(shutil.copytree(city, tmp_path / "copy"))
    config.data.source = "radiomapseer"
    with caplog.at_level(logging.WARNING):
        record = datasets.open_with_buildings(config, "val")[0]
        assert set(record) == {"name", "gray", "buildings"}
        np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
        plain = tiny.config(tmp_path)
        plain.data.source = "folder"
        assert set(datasets.open_with_buildings(plain, "all")[0]) == {"name", "gray"}
        assert not caplog.messages
        min((tmp_path / "copy" / "png" / "buildings_complete").iterdir()).unlink()
        assert datasets.open_with_buildings(config, "all").fields == ("gray",)
    (said,) = caplog.messages
    assert said.startswith("pictures will not show buildings: field 'buildings': 1 of")


def test_outlines_have_the_size_of_the_picture():
    buildings = np.zeros((1, 8, 8, 1), np.uint8)
    buildings[0, :4, :4] = 255
    raw = {"gray": buildings, "buildings": buildings}
    np.testing.assert_array_equal(plots.building_mask(raw, 8), buildings > 0)
    # Enlarged to twice the size, the corner building stays a quarter of the map.
    enlarged = np.zeros((1, 16, 16, 1), bool)
    enlarged[0, :8, :8] = True
    found = plots.building_mask(raw, 16)
    assert (found != enlarged).sum() <= 1  # the corner's pixel may be rounded off
    nowhere = plots.building_mask({"gray": buildings}, 16)
    assert nowhere.shape == (1, 16, 16, 1) and not nowhere.any()


class Named:
    """A source of so many records; what it knows of their names is an attribute."""

    def __init__(self, count, **known):
        self.count = count
        vars(self).update(known)

    shape = (8, 8, 1)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise AssertionError("no map need be read")

    def summary(self):
        return "names"


CITIES = [(city, tx) for city, count in ((4, 5), (7, 1), (9, 3)) for tx in range(count)]
FILES = [pathlib.Path(f"{city}_{tx}.png") for city, tx in CITIES]


@pytest.mark.parametrize("known", [{"names": CITIES}, {"files": FILES}])
def test_rows_of_a_picture_are_of_different_maps(known):
    source = Named(9, **known)
    for count, cities in ((1, {4}), (2, {4, 9}), (3, {4, 7, 9})):
        found = sources.spread(source, count)
        assert {CITIES[at][0] for at in found} == cities and len(found) == count
    # More rows than maps: each has one, the others are spread.
    found = sources.spread(source, 5)
    assert len(set(found)) == 5 and {CITIES[at][0] for at in found} == {4, 7, 9}
    assert sources.spread(source, 20) == list(range(9))
    assert sources.spread(Named(9), 3) == [0, 4, 8]  # without names: equal distances


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def reverse(root):
    for path in (root / "train").iterdir():
        path.rename(path.with_stem(str(99 - int(path.stem))))


def crop(root):
    for path in root.glob("*/*.png"):
        radiomap.write_png(path, radiomap.read_map(path)[:4])


def repaint(root):
    shutil.copy(root / "train" / "00.png", root / "train" / "19.png")


@pytest.mark.parametrize(
    "change, first_difference",
    [
        (lambda root: None, ""),
        (rename("train/02.png", "02.png"), "training data"),
        (rename("val/02.png", "02.png"), "validation data"),
        (rename("train/07.png", "train/07b.png"), "list of training maps"),
        (repaint, "content of training maps"),
        (reverse, "list of training maps"),
        (crop, "training data"),
    ],
)
def test_copies_of_data_have_one_identity_and_others_another(
    tmp_path, change, first_difference
):
    pixels = np.random.default_rng(0)
    for split, count in {"train": 20, "val": 3}.items():
        (tmp_path / "a" / split).mkdir(parents=True)
        for index in range(count):
            gray = pixels.integers(0, 255, (8, 8), np.uint8)
            radiomap.write_png(tmp_path / "a" / split / f"{index:02d}.png", gray)
    change(shutil.copytree(tmp_path / "a", tmp_path / "b"))
    one, other = (
        datasets.identity(
            {
                "training": sources.open_source(
                    "folder", tmp_path / copy, split="train"
                ),
                "validation": sources.open_source(
                    "folder", tmp_path / copy, split="val"
                ),
                "nothing": None,
            }
        )
        for copy in "ab"
    )
    assert one["training data"] == "20 maps of 8x8x1"
    assert one.keys() == other.keys()
    differing = [name for name in one if one[name] != other[name]]
    assert [*differing, ""][0] == first_difference
