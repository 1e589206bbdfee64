import logging
import pathlib
import shutil

import numpy as np
import pytest

from radiovae_jax.data import radiomap, splits
from radiovae_jax.data.radiomapseer import RadioMapSeer
from radiovae_jax.data.radiomapseer_files import SIMULATIONS

ALL = ("gray", "buildings", "antenna")


@pytest.fixture
def copy(city, tmp_path):
    """A city that a test may harm."""
    return shutil.copytree(city, tmp_path / "copy")


def test_a_partial_copy_is_indexed_as_found(realmaps):
    # The README of the sample: 25 DPM maps in positions 0-500, 6 in 501-600.
    train = RadioMapSeer(realmaps, split="train")
    assert (len(train), len(RadioMapSeer(realmaps, split="val"))) == (25, 6)
    assert train.shape == (256, 256, 1)
    assert train[0]["name"] == "11_1"  # in numerical order, not 118_15
    assert train.names == sorted(train.names)
    # 501 maps x 80 transmitters.
    assert "25 images of 25 maps found, of 40080" in train.summary()
    assert "a partial copy" in train.summary()
    everything = RadioMapSeer(realmaps, split="all")
    assert len(everything) == 41  # with map 0, of no split
    assert sum(city == 0 for city, _ in everything.names) == 10


@pytest.mark.parametrize("simulation", SIMULATIONS)
def test_every_simulation_is_read(realmaps, simulation):
    source = RadioMapSeer(realmaps, simulation=simulation, split="train")
    record = source[source.names.index((11, 1))]
    expected = radiomap.read_map(realmaps / "gain" / simulation / "11_1.png")
    np.testing.assert_array_equal(record["gray"], expected)


def test_all_masks_of_the_real_maps_pass_and_mark_what_they_say(realmaps):
    fields = (*ALL, "cars", "IRT2")
    record = RadioMapSeer(realmaps, simulation="IRT4", fields=fields)[0]
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
    both = RadioMapSeer(city, split="all")
    one = RadioMapSeer(city, split="all", transmitters=1)
    assert (len(both), len(one)) == (20, 10)
    assert {tx for _, tx in one.names} == {0}


def test_padded_and_upper_case_names_are_found_and_others_passed_over(copy):
    expected = RadioMapSeer(copy, split="all", fields=ALL)
    records = [expected[i] for i in range(len(expected))]
    for path in [*copy.glob("gain/DPM/*"), *copy.glob("png/*/*")]:
        padded = "_".join(f"{int(number):04}" for number in path.stem.split("_"))
        path.rename(path.with_name(f"{padded}.PNG"))
    for name in ("Thumbs.db", ".11_1.png.7.partial", "11_1.jpg", "x_1.png"):
        (copy / "gain" / "DPM" / name).touch()
    found = RadioMapSeer(copy, split="all", fields=ALL)
    assert found.names == expected.names
    for i, record in enumerate(records):
        assert found[i]["name"] == record["name"]
        for field in ALL:
            np.testing.assert_array_equal(found[i][field], record[field])
    number, tx = found.names[3]
    assert found.path("antenna", 3).name == f"{number:04}_{tx:04}.PNG"
    assert found.path("buildings", 3).name == f"{number:04}.PNG"
    # What is not there yet has the name that is written.
    assert found.path("k2_neg_norm", 3).name == f"{number}_{tx}.png"


def test_two_files_of_one_map_are_named(copy):
    first = min((copy / "png" / "buildings_complete").iterdir())
    shutil.copy(first, first.with_name(f"00{first.name}"))
    message = rf"complete has two files .*, 00{first.name} and {first.name}"
    with pytest.raises(ValueError, match=message):
        RadioMapSeer(copy, split="all", fields=("gray", "buildings"))


def test_the_k2_masks_are_found_under_both_names_of_the_cars_folder(copy):
    gain, fields = copy / "gain", ("gray", "k2_neg_norm")
    (gain / "DPM").rename(gain / "carsDPM")
    for name in ("carsDPM_k2_neg_norm", "DPMCAR_k2_neg_norm"):
        shutil.copytree(gain / "carsDPM", gain / name)
        source = RadioMapSeer(copy, simulation="carsDPM", fields=fields)
        np.testing.assert_array_equal(source[0]["k2_neg_norm"], source[0]["gray"])
        shutil.rmtree(gain / name)


def test_the_released_scheme_warns_that_test_maps_leak(city, caplog):
    with caplog.at_level(logging.WARNING):
        RadioMapSeer(city)
        assert not caplog.text
        RadioMapSeer(city, split_scheme="released")
    assert "one test map is trained on" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"simulation": "DMP"}, r"unknown simulation 'DMP': did you mean 'DPM'"),
        ({"split": "valid"}, r"unknown split 'valid': did you mean 'val'"),
        ({"split_scheme": "radionet"}, r"did you mean 'radiounet'"),
        ({"fields": ("gray", "building")}, r"unknown field .*'buildings'"),
        ({"simulation": "carsIRT4", "transmitters": 3}, r"carsIRT4 has 2 transm"),
    ],
)
def test_a_wrong_option_is_named(city, options, message):
    with pytest.raises(ValueError, match=message):
        RadioMapSeer(city, **options)


@pytest.mark.parametrize(
    "folders, simulation, message",
    [
        ("", "IRT2", r"RadioMapSeer: get it from radiomapseer.github.io .*=synthetic"),
        ("gain/DPM", "IRT2", r"gain/IRT2 \(gain/ holds DPM\): .*radiom"),
        ("png", "DPM", r"gain/DPM \(there is no gain/\)"),
        ("RadioMapSeer/gain", "DPM", r"no gain/, but .*RadioMapSeer/gain\)"),
        ("gain/DPM", "DPM", r"holds no file named {map}_{tx}.png"),
    ],
)
def test_a_missing_folder_is_named_with_where_to_get_the_data(
    tmp_path, folders, simulation, message
):
    root = tmp_path / "RadioMapSeer"
    if folders:
        (root / folders).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=message):
        RadioMapSeer(root, simulation=simulation)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"split": "test"},
            r"split 'test' is empty in .*gain/DPM: it is the maps \d+, .*25 maps in "
            r"train, 6 maps in val, 0 maps in test, 32 in all; .*split='all'",
        ),
        (
            {"simulation": "IRT2", "transmitters": 1},
            r"below 1: found 1 to 1; set transmitters=0",
        ),
        # Of transmitter 0, 1 and 2 the sample has maps 0 (no split), 11 (train), 363.
        (
            {"split": "val", "transmitters": 3},
            r"2 maps in train, 0 maps in val, 0 maps in test, 3 in all",
        ),
        (
            {"simulation": "IRT4", "transmitters": 80},
            r"IRT4 has 2 .* 80 were asked .* costly",
        ),
    ],
)
def test_what_the_sample_lacks_is_said_with_what_it_has(realmaps, options, message):
    with pytest.raises(ValueError, match=message):
        RadioMapSeer(realmaps, **options)
    assert len(RadioMapSeer(realmaps, simulation="IRT4", transmitters=2)) == 1


def test_a_field_that_is_missing_fails_at_once_and_names_the_file(copy):
    first = RadioMapSeer(copy, split="all").names[0][0]
    (copy / "png" / "buildings_complete" / f"{first}.png").unlink()
    message = rf"field 'buildings': 1 of 10 files are missing, .*/{first}.png; copy"
    with pytest.raises(FileNotFoundError, match=message):
        RadioMapSeer(copy, split="all", fields=("gray", "buildings"))
    shutil.rmtree(copy / "png" / "cars")
    with pytest.raises(FileNotFoundError, match=r"no folder .*png/cars for field"):
        RadioMapSeer(copy, fields=("cars",))


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def repaint(change):
    """Returns what writes a PNG anew: `change` of its gray values."""
    return lambda path: radiomap.write_png(path, change(radiomap.read_map(path)))


def smoothed(mask):
    return np.pad(mask[1:], ((1, 0), (0, 0), (0, 0)), constant_values=128)


BOTH = ("gray", "buildings")


@pytest.mark.parametrize(
    "fields, harm, message",
    [
        (BOTH[:1], repaint(lambda gray: gray[:32]), "is 32x64x1, expected 64x64x1 lik"),
        (BOTH[:1], cut, "is truncated .* copy it again"),
        (BOTH, repaint(lambda mask: 255 - mask), "is inverted: .*store 255 - mask"),
        (BOTH[1:], repaint(lambda mask: 255 - mask), "is inverted: .*store 255 - mask"),
        (BOTH, repaint(lambda mask: 0 * mask + 255), "is inverted"),
        (BOTH, repaint(smoothed), r"holds .* 0 \(street\) and 255 \(building\) only"),
    ],
)
def test_a_harmed_file_is_named_when_it_is_read(copy, fields, harm, message):
    source = RadioMapSeer(copy, fields=fields)
    path = source.path(fields[-1], 3)
    harm(path)
    with pytest.raises(ValueError, match=rf"{path} {message}"):
        source[3]
    if fields == BOTH:  # a map without buildings is no inverted mask
        repaint(np.zeros_like)(path)
        assert not source[3]["buildings"].any()
