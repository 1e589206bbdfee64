import logging
import shutil

import numpy as np
import pytest

from radiovae_jax.data import radiomap, splits
from radiovae_jax.data.radiomapseer import SIMULATIONS, RadioMapSeer


@pytest.fixture
def copy(city, tmp_path):
    """A city that a test may harm."""
    return shutil.copytree(city, tmp_path / "copy")


def test_a_partial_copy_is_indexed_as_found(realmaps):
    # The README of the sample: 25 DPM maps in positions 0-500, 6 in 501-600.
    train = RadioMapSeer(realmaps, split="train")
    val = RadioMapSeer(realmaps, split="val")
    assert (len(train), len(val)) == (25, 6)
    assert train.shape == (256, 256, 1)
    assert train[0]["name"] == "11_1"  # in numerical order, not 118_15
    assert train.names == sorted(train.names)
    # 501 maps x 80 transmitters.
    assert "25 images of 25 maps found, of 40080" in train.summary()
    assert "a partial copy" in train.summary()


def test_all_is_every_map_found_with_map_0_of_no_split(realmaps):
    everything = RadioMapSeer(realmaps, split="all")
    assert len(everything) == 41
    assert sum(city == 0 for city, _ in everything.names) == 10


@pytest.mark.parametrize("simulation", SIMULATIONS)
def test_every_simulation_is_read(realmaps, simulation):
    source = RadioMapSeer(realmaps, simulation=simulation, split="train")
    record = next(source[i] for i in range(len(source)) if source.names[i] == (11, 1))
    expected = radiomap.read_map(realmaps / "gain" / simulation / "11_1.png")
    np.testing.assert_array_equal(record["gray"], expected)


def test_all_masks_of_the_real_maps_pass_and_mark_what_they_say(realmaps):
    fields = ("gray", "buildings", "antenna", "cars", "IRT2")
    source = RadioMapSeer(realmaps, simulation="IRT4", fields=fields, split="train")
    record = source[0]
    assert set(record) == {"name", *fields}
    for field in fields:
        assert record[field].dtype == np.uint8
        assert record[field].shape == (256, 256, 1)
    assert np.count_nonzero(record["antenna"]) == 1
    assert record["gray"][record["antenna"] == 255] == 255
    cars = RadioMapSeer(realmaps, simulation="carsDPM", fields=("cars",))[0]["cars"]
    assert set(np.unique(cars)) == {0, 255}
    buildings = RadioMapSeer(realmaps, fields=("buildings",), split="all")
    assert all(buildings[i]["buildings"].any() for i in range(0, len(buildings), 4))


def test_a_split_holds_its_maps_and_no_others(city):
    for split in ("train", "val", "test"):
        source = RadioMapSeer(city, split=split)
        wanted = splits.split_maps(split, "radiounet")
        assert {number for number, _ in source.names} <= wanted
        assert source.names == sorted(source.names)


def test_transmitters_are_those_numbered_below(city):
    both = RadioMapSeer(city, split="all")
    one = RadioMapSeer(city, split="all", transmitters=1)
    assert (len(both), len(one)) == (20, 10)
    assert {tx for _, tx in one.names} == {0}


def test_files_of_other_names_are_passed_over(copy):
    gain = copy / "gain" / "DPM"
    for name in ("Thumbs.db", ".11_1.png.7.partial", "11_1.jpg", "x_1.png"):
        (gain / name).touch()
    assert len(RadioMapSeer(copy, split="all")) == 20


def test_padded_and_upper_case_names_are_found_where_they_are(copy):
    expected = RadioMapSeer(copy, split="all", fields=("gray", "buildings", "antenna"))
    records = [expected[i] for i in range(len(expected))]
    for path in [*copy.glob("gain/DPM/*"), *copy.glob("png/*/*")]:
        padded = "_".join(f"{int(number):04}" for number in path.stem.split("_"))
        path.rename(path.with_name(f"{padded}.PNG"))
    found = RadioMapSeer(copy, split="all", fields=("gray", "buildings", "antenna"))
    assert found.names == expected.names
    for i, record in enumerate(records):
        assert found[i]["name"] == record["name"]
        for field in ("gray", "buildings", "antenna"):
            np.testing.assert_array_equal(found[i][field], record[field])
    number, tx = found.names[3]
    assert found.path("antenna", 3).name == f"{number:04}_{tx:04}.PNG"
    assert found.path("buildings", 3).name == f"{number:04}.PNG"
    # What is not there yet has the name that is written.
    assert found.path("k2_neg_norm", 3).name == f"{number}_{tx}.png"


@pytest.mark.parametrize("folder", ["gain/DPM", "png/buildings_complete"])
def test_two_files_of_one_map_are_named(copy, folder):
    first = sorted((copy / folder).iterdir())[0]
    shutil.copy(first, first.with_name(f"00{first.name}"))
    with pytest.raises(
        ValueError, match=rf"{folder} has two files .*, 00{first.name} and {first.name}"
    ):
        RadioMapSeer(copy, split="all", fields=("gray", "buildings"))


def test_the_k2_masks_are_found_under_both_names_of_the_cars_folder(copy):
    gain = copy / "gain"
    (gain / "DPM").rename(gain / "carsDPM")
    for name in ("carsDPM_k2_neg_norm", "DPMCAR_k2_neg_norm"):
        shutil.copytree(gain / "carsDPM", gain / name)
        source = RadioMapSeer(
            copy, simulation="carsDPM", fields=("gray", "k2_neg_norm")
        )
        np.testing.assert_array_equal(source[0]["k2_neg_norm"], source[0]["gray"])
        shutil.rmtree(gain / name)


def test_the_released_scheme_warns_that_test_maps_leak(city, caplog):
    with caplog.at_level(logging.WARNING):
        RadioMapSeer(city, split_scheme="released")
    assert "one test map is trained on" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        RadioMapSeer(city)
    assert not caplog.text


def test_irt4_with_80_transmitters_is_told_why_not(realmaps):
    with pytest.raises(ValueError, match=r"IRT4 has 2 .* 80 were asked .* costly"):
        RadioMapSeer(realmaps, simulation="IRT4", transmitters=80)
    assert len(RadioMapSeer(realmaps, simulation="IRT4", transmitters=2)) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"simulation": "DMP"}, r"unknown simulation 'DMP': did you mean 'DPM'"),
        ({"split": "valid"}, r"unknown split 'valid': did you mean 'val'"),
        ({"split_scheme": "radionet"}, r"did you mean 'radiounet'"),
        ({"fields": ("gray", "building")}, r"unknown field .*'buildings'"),
        ({"transmitters": -1}, r"transmitters=-1; expected 0 \(all\) or more"),
        ({"simulation": "carsIRT4", "transmitters": 3}, r"carsIRT4 has 2 transm"),
    ],
)
def test_a_wrong_option_is_named(city, options, message):
    with pytest.raises(ValueError, match=message):
        RadioMapSeer(city, **options)


def test_a_missing_root_says_where_to_get_the_data(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"nowhere: get it from radiomapseer.github.io .*10.21227/0gtx-6v30"
        r".*data.source=synthetic",
    ):
        RadioMapSeer(tmp_path / "nowhere")


def test_a_missing_simulation_says_which_are_there(city, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"gain/IRT2 \(gain/ holds DPM\): .*radiomapseer"
    ):
        RadioMapSeer(city, simulation="IRT2")
    with pytest.raises(FileNotFoundError, match=r"gain/DPM \(there is no gain/\)"):
        RadioMapSeer(tmp_path)
    (tmp_path / "RadioMapSeer" / "gain").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no gain/, but .*RadioMapSeer/gain\)"):
        RadioMapSeer(tmp_path)
    (tmp_path / "gain" / "DPM").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"holds no file named {map}_{tx}.png"):
        RadioMapSeer(tmp_path)


def test_an_empty_split_says_what_was_found(realmaps):
    with pytest.raises(
        ValueError,
        match=r"split 'test' is empty in .*gain/DPM: .* positions 601-699 .*25 maps in "
        r"train, 6 maps in val, 0 maps in test, 32 in all; .*split='all'",
    ):
        RadioMapSeer(realmaps, split="test")


def test_too_few_transmitters_say_which_were_found(realmaps):
    with pytest.raises(ValueError, match=r"below 1: found 1 to 1; set transmitters=0"):
        RadioMapSeer(realmaps, simulation="IRT2", transmitters=1)


def test_maps_left_out_by_their_transmitters_are_not_counted(realmaps):
    # Of transmitter 0, 1 and 2 the sample has maps 0 (no split), 11 (train), 363.
    with pytest.raises(
        ValueError, match=r"2 maps in train, 0 maps in val, 0 maps in test, 3 in all"
    ):
        RadioMapSeer(realmaps, split="val", transmitters=3)


def test_a_field_that_is_missing_fails_at_once_and_names_the_file(copy):
    first = RadioMapSeer(copy, split="all").names[0][0]
    (copy / "png" / "buildings_complete" / f"{first}.png").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=rf"field 'buildings': 1 of 10 files are missing, .*/{first}.png; copy",
    ):
        RadioMapSeer(copy, split="all", fields=("gray", "buildings"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*png/cars for field"):
        RadioMapSeer(copy, fields=("cars",))


def test_a_wrongly_sized_png_is_named_with_its_size(copy):
    source = RadioMapSeer(copy)
    radiomap.write_png(source.path("gray", 3), np.zeros((32, 64), np.uint8))
    with pytest.raises(ValueError, match=r"_1.png is 32x64x1, expected 64x64x1 like"):
        source[3]


def test_a_truncated_png_is_named(copy):
    source = RadioMapSeer(copy)
    path = source.path("gray", 3)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{path} is truncated .* copy it again"):
        source[3]


@pytest.mark.parametrize("fields", [("gray", "buildings"), ("buildings",)])
def test_an_inverted_building_mask_is_named(copy, fields):
    source = RadioMapSeer(copy, fields=fields)
    path = source.path("buildings", 0)
    radiomap.write_png(path, 255 - radiomap.read_map(path))
    with pytest.raises(ValueError, match=rf"{path} is inverted: .*store 255 - mask"):
        source[0]


def test_a_smoothed_building_mask_is_refused(copy):
    source = RadioMapSeer(copy, fields=("gray", "buildings"))
    path = source.path("buildings", 0)
    mask = radiomap.read_map(path)
    mask[0, 0] = 128
    radiomap.write_png(path, mask)
    with pytest.raises(ValueError, match=r"expected 0 \(street\) and 255 \(building\)"):
        source[0]


def test_a_map_without_buildings_is_no_inverted_mask(copy):
    source = RadioMapSeer(copy, fields=("gray", "buildings"))
    radiomap.write_png(source.path("buildings", 0), np.zeros((64, 64), np.uint8))
    assert not source[0]["buildings"].any()
    radiomap.write_png(source.path("buildings", 0), np.full((64, 64), 255, np.uint8))
    with pytest.raises(ValueError, match="is inverted"):
        source[0]
