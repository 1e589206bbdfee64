import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from radiovae_jax.data import radiomap, splits, synthetic
from radiovae_jax.data.radiomapseer import RadioMapSeer
from radiovae_jax.data.synthetic import city as city_module
from radiovae_jax.data.synthetic import dominant_path

ALL = ("gray", "buildings", "antenna")
SMALL = dict(maps=3, transmitters=1, size=32, seed=0)


def trace(buildings, site, *, corners=(), max_turns=6, through_buildings=False):
    corners = np.array(corners, np.int64).reshape(-1, 2)
    sight = dominant_path.sight_from(corners, buildings)
    return dominant_path.gain_gray(
        buildings,
        sight,
        np.array(site),
        max_turns=max_turns,
        through_buildings=through_buildings,
    )


def tree(root: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_line_of_sight_follows_the_distance_law_of_the_real_maps():
    # Gray levels at these distances in DPM/410_49 and 483_23, both nearly empty maps.
    gray = trace(np.zeros((256, 256), bool), (128, 40))
    distances = [0, 5, 8, 12, 20, 30, 50, 80, 120, 160]
    expected = [255, 210, 198, 186, 172, 160, 146, 133, 121, 113]
    np.testing.assert_allclose(gray[128, 40 + np.array(distances)], expected, atol=1.5)


# What the law of the distance and n turns of 90 degrees leave, in gray.
def gray_after(metres, turns=0, inside=0):
    turn = dominant_path.TURN_DB + dominant_path.TURN_DB_PER_RADIAN * np.pi / 2
    loss = turns * turn + inside * dominant_path.BUILDING_DB_PER_METRE
    return 255 * (-46.8 - 25.3 * np.log10(metres) - loss + 147) / 100


def test_a_turn_costs_what_is_stated_and_starts_from_the_direction_before_it():
    # By hand: an L of two streets, transmitter and pixel 20 m from the corner.
    buildings = np.ones((41, 41), bool)
    buildings[20, :] = buildings[:, 20] = False
    gray = trace(buildings, (20, 0), corners=[(20, 20)])
    np.testing.assert_allclose(gray[40, 20], gray_after(40, turns=1), atol=1.5)
    # Down, right and down again, 20 m each.
    buildings = np.ones((41, 41), bool)
    buildings[:21, 20] = buildings[20, 20:] = buildings[20:, 40] = False
    corners = [(20, 20), (20, 40)]
    gray = trace(buildings, (0, 20), corners=corners)
    np.testing.assert_allclose(gray[40, 40], gray_after(60, turns=2), atol=1.5)
    assert trace(buildings, (0, 20), corners=corners, max_turns=1)[40, 40] == 0


def test_a_path_may_cross_buildings_only_where_it_is_allowed():
    buildings = np.zeros((41, 41), bool)
    buildings[10:31, 10:31] = True
    buildings[15:26, 15:26] = False  # a closed court, walls of 5 m
    assert trace(buildings, (20, 2))[15:26, 15:26].max() == 0
    gray = trace(buildings, (20, 2), through_buildings=True)
    np.testing.assert_allclose(gray[20, 20], gray_after(18, inside=5), atol=1.5)
    assert gray[~buildings].min() >= 1


def test_a_city_is_drawn_with_streets_houses_and_room_for_transmitters():
    for seed in range(20):
        drawn = city_module.draw_city(64, np.random.default_rng(seed))
        assert not (drawn.roads & drawn.buildings).any()
        assert not drawn.buildings[tuple(drawn.sites.T)].any()
        assert len(drawn.sites) >= 80
    assert 0.05 < drawn.buildings.mean() < 0.6


def test_the_city_is_read_by_the_reader_of_the_real_data(city):
    for split, maps in (("train", 8), ("val", 1), ("test", 1)):
        source = RadioMapSeer(city, split=split, fields=ALL)
        assert len(source) == 2 * maps
        for index in range(len(source)):
            record = source[index]
            assert (record["gray"][record["buildings"] == 255] == 0).all()
            assert (record["gray"][record["buildings"] == 0] > 0).all()
            assert record["gray"][record["antenna"] == 255] == 255


def test_the_json_gives_the_transmitters_as_column_and_row_from_the_bottom(city):
    source = RadioMapSeer(city, split="all", fields=("antenna",))
    number, tx = source.names[1]
    x, y = json.loads((city / "antenna" / f"{number}.json").read_text())[tx]
    assert np.argwhere(source[1]["antenna"]).tolist() == [[64 - 1 - y, x, 0]]


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    first, again, other, more = (
        tree(synthetic.write_city(tmp_path / str(i), **SMALL | changes))
        for i, changes in enumerate(({}, {}, {"seed": 2}, {"transmitters": 2}))
    )
    assert first == again != other
    # Nor does asking for more change what was there.
    assert {item for item in first.items() if "gain" in item[0]} <= more.items()
    # Of version 1, as it was: a city that users have is that of its numbers for ever.
    gray = radiomap.read_map(tmp_path / "0" / "gain" / "DPM" / "124_0.png")
    column = [89, 0, 0, 134, 139, 135, 142, 180, 188, 210, 203]
    np.testing.assert_allclose(gray[::3, 15, 0].astype(int), column, atol=1)
    assert synthetic.VERSION == 1 and np.count_nonzero(gray == 0) == 264


@pytest.mark.parametrize(
    "maps, parts",
    [(3, (1, 1, 1)), (10, (8, 1, 1)), (100, (80, 10, 10)), (700, (501, 100, 99))],
)
def test_the_maps_are_dealt_to_the_splits_in_proportion(maps, parts):
    numbers = synthetic.map_numbers(maps)
    assert len(set(numbers)) == maps
    for split, part in zip(("train", "val", "test"), parts, strict=True):
        assert len(splits.split_maps(split, "radiounet") & set(numbers)) == part


def test_a_city_is_written_once_and_other_numbers_are_refused(tmp_path):
    root = synthetic.write_city(tmp_path / "city", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    synthetic.write_city(root, **SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    message = r"another synthetic city \(seed=0 there, 7 asked for\)"
    with pytest.raises(ValueError, match=message):
        synthetic.write_city(root, **SMALL | {"seed": 7})
    (root / "synthetic.json").write_text("[]")
    with pytest.raises(ValueError, match=r"synthetic.json .*give another folder"):
        synthetic.write_city(root, **SMALL)
    (root / "synthetic.json").unlink()
    with pytest.raises(ValueError, match=r"holds no synthetic.json: it is no synthet"):
        synthetic.write_city(root, **SMALL)


def test_an_interrupted_city_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    root, write_png = tmp_path / "city", radiomap.write_png

    def fail_later(path, gray):
        write_png(path, gray)
        if "gain" in path.parts:
            raise KeyboardInterrupt

    monkeypatch.setattr(radiomap, "write_png", fail_later)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_city(root, **SMALL)
    assert not root.exists()
    monkeypatch.undo()
    synthetic.write_city(root, **SMALL)
    assert len(RadioMapSeer(root, split="all")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["city"]


def test_of_two_processes_the_slower_takes_the_city_of_the_faster(
    tmp_path, monkeypatch
):
    root = tmp_path / "city"
    rename = pathlib.Path.rename

    def after_the_other(partial, target):
        monkeypatch.undo()
        monkeypatch.setattr(os, "getpid", lambda: 1)
        synthetic.write_city(root, **SMALL)
        return rename(partial, target)

    monkeypatch.setattr(pathlib.Path, "rename", after_the_other)
    assert synthetic.write_city(root, **SMALL) == root
    assert [path.name for path in tmp_path.iterdir()] == ["city"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"maps": 2}, r"maps=2, .* expected 3 \(one for each split\) to 700"),
        ({"maps": 701}, r"maps=701, .* expected 3"),
        ({"transmitters": 0}, r"transmitters=0, .* 1 or more"),
        ({"size": 8}, r"size=8; .* 16 pixels or more"),
        ({"simulation": "DMP"}, r"unknown simulation 'DMP': did you mean 'DPM"),
        ({"transmitters": 2000}, r"has room for \d+ transmitters, 2000 were asked for"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        synthetic.write_city(tmp_path / "city", **SMALL | options)
    assert not (tmp_path / "city").exists()


def test_fewer_turns_reach_less_of_the_street(tmp_path):
    options = dict(maps=3, transmitters=2, size=64, seed=0)
    gains = {}
    for simulation in ("IRT2", "IRT4", "DPM"):
        source = synthetic.SyntheticCity(
            tmp_path / simulation, simulation=simulation, split="all", **options
        )
        gains[simulation] = np.stack([source[i]["gray"] for i in range(len(source))])
    assert (gains["IRT2"] <= gains["IRT4"]).all()
    assert (gains["IRT4"] <= gains["DPM"]).all()
    assert (gains["IRT2"] < gains["DPM"]).any()


def test_a_car_costs_what_is_stated_behind_it_and_nothing_beside_it():
    buildings, cars = np.zeros((2, 41, 41), bool)
    cars[19:22, 10:14] = True  # 4 m along the row of the transmitter
    sight = dominant_path.sight_from(np.zeros((0, 2), np.int64), buildings, cars)
    with_cars, without = (
        dominant_path.gain_gray(
            buildings,
            sight,
            np.array([20, 2]),
            max_turns=0,
            through_buildings=False,
            cars=some,
        )
        for some in (cars, None)
    )
    lost = without.astype(float) - with_cars
    loss = 4 * dominant_path.CAR_DB_PER_METRE * 2.55
    np.testing.assert_allclose(lost[20, 14:], loss, atol=1)
    assert not lost[20, :10].any() and not lost[:, 2].any()
    assert not with_cars[cars].any()


def test_an_older_city_gets_the_layers_that_it_lacks_and_nothing_else(tmp_path):
    numbers = SMALL | {"size": 64}
    root = synthetic.write_city(tmp_path / "city", **numbers)
    whole = tree(root)
    shutil.rmtree(root / "png" / "cars")  # as cities were before they had cars
    fields = ("gray", "cars", "buildings")
    options = dict(split="all", simulation="carsDPM", fields=fields)
    source = synthetic.SyntheticCity(root, **options, **numbers)
    assert whole.items() <= tree(root).items()
    assert [path.name for path in tmp_path.iterdir()] == ["city"]
    plain = synthetic.SyntheticCity(root, split="all", **numbers)
    for index in range(len(source)):
        record, without = source[index], plain[index]["gray"]
        cars = record["cars"] == 255
        assert cars.any() and not (cars & (record["buildings"] == 255)).any()
        assert (record["gray"] <= without).all() and (record["gray"] < without).any()
        assert without[cars].max() < 255  # no car stands where the transmitter is
        assert not record["gray"][cars].any()  # as in RadioMapSeer's maps with cars
    shutil.rmtree(root / "png" / "cars")
    synthetic.SyntheticCity(root, split="all", fields=("gray", "cars"), **numbers)
    assert whole.items() <= tree(root).items()
