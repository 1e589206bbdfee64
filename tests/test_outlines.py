"""Buildings in the pictures that validation draws."""

import logging
import shutil

import numpy as np
import tiny

from radiovae_jax import datasets, judging


def test_validation_data_bring_their_buildings_where_there_are_any(city, tmp_path):
    config = tiny.config(city)
    config.data.source = "radiomapseer"
    record = datasets.open_outlined(config, "val")[0]
    assert set(record) == {"name", "gray", "buildings"}
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    config.data.update(source="folder", root=str(tmp_path))
    assert set(datasets.open_outlined(config, "all")[0]) == {"name", "gray"}


def test_buildings_that_are_missing_in_part_are_said(city, tmp_path, caplog):
    config = tiny.config(shutil.copytree(city, tmp_path / "copy"))
    config.data.source = "radiomapseer"
    masks = sorted((tmp_path / "copy" / "png" / "buildings_complete").iterdir())
    masks[0].unlink()
    with caplog.at_level(logging.WARNING):
        source = datasets.open_outlined(config, "all")
    assert source.fields == ("gray",)
    (said,) = caplog.messages
    assert said.startswith("pictures will not show buildings: field 'buildings': 1 of")
    caplog.clear()
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    config.data.update(source="folder", root=str(tmp_path))
    datasets.open_outlined(config, "all")
    assert not caplog.messages


def test_outlines_have_the_size_of_the_picture():
    buildings = np.zeros((1, 8, 8, 1), np.uint8)
    buildings[0, :4, :4] = 255
    raw = {"gray": buildings, "buildings": buildings}
    np.testing.assert_array_equal(judging.outlines(raw, 8), buildings > 0)
    # Enlarged to twice the size, the corner building stays a quarter of the map.
    enlarged = np.zeros((1, 16, 16, 1), bool)
    enlarged[0, :8, :8] = True
    found = judging.outlines(raw, 16)
    assert (found != enlarged).sum() <= 1  # the corner's pixel may be rounded off
    for size in (8, 16):
        nowhere = judging.outlines({"gray": buildings}, size)
        assert nowhere.shape == (1, size, size, 1) and not nowhere.any()
