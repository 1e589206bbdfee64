"""Buildings in the pictures that validation draws."""

import logging
import pathlib
import shutil

import numpy as np
import pytest
import tiny

from radiovae_jax.data import datasets, sources
from radiovae_jax.training import validation


def test_validation_data_bring_their_buildings_where_there_are_any(city, tmp_path):
    config = tiny.config(city)
    config.data.source = "radiomapseer"
    record = datasets.open_with_buildings(config, "val")[0]
    assert set(record) == {"name", "gray", "buildings"}
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    config.data.update(source="folder", root=str(tmp_path))
    assert set(datasets.open_with_buildings(config, "all")[0]) == {"name", "gray"}


def test_buildings_that_are_missing_in_part_are_said(city, tmp_path, caplog):
    config = tiny.config(shutil.copytree(city, tmp_path / "copy"))
    config.data.source = "radiomapseer"
    masks = sorted((tmp_path / "copy" / "png" / "buildings_complete").iterdir())
    masks[0].unlink()
    with caplog.at_level(logging.WARNING):
        source = datasets.open_with_buildings(config, "all")
    assert source.fields == ("gray",)
    (said,) = caplog.messages
    assert said.startswith("pictures will not show buildings: field 'buildings': 1 of")
    caplog.clear()
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    config.data.update(source="folder", root=str(tmp_path))
    datasets.open_with_buildings(config, "all")
    assert not caplog.messages


def test_outlines_have_the_size_of_the_picture():
    buildings = np.zeros((1, 8, 8, 1), np.uint8)
    buildings[0, :4, :4] = 255
    raw = {"gray": buildings, "buildings": buildings}
    np.testing.assert_array_equal(validation.building_mask(raw, 8), buildings > 0)
    # Enlarged to twice the size, the corner building stays a quarter of the map.
    enlarged = np.zeros((1, 16, 16, 1), bool)
    enlarged[0, :8, :8] = True
    found = validation.building_mask(raw, 16)
    assert (found != enlarged).sum() <= 1  # the corner's pixel may be rounded off
    for size in (8, 16):
        nowhere = validation.building_mask({"gray": buildings}, size)
        assert nowhere.shape == (1, size, size, 1) and not nowhere.any()


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


def test_rows_of_a_source_without_names_are_at_equal_distances():
    assert sources.spread(Named(9), 3) == [0, 4, 8]
    loose = [pathlib.Path(f"{i}.png") for i in range(9)]
    assert sources.spread(Named(9, files=loose), 3) == [0, 4, 8]
