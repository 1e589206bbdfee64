"""RadioMapSeer's splits, and which files of a plain folder belong together."""

import numpy as np
import pytest

from radiovae_jax.data import splits


def test_the_order_is_the_seed_42_shuffle_of_700_plus_1():
    # RadioUNet's lib/loaders.py, in NumPy's legacy generator.
    shuffled = np.arange(700)
    np.random.RandomState(42).shuffle(shuffled)
    assert list(splits.order()) == (shuffled + 1).tolist()


def test_radiounets_splits_share_no_map_and_leave_out_map_0_only():
    parts = [splits.split_maps(name, "radiounet") for name in ("train", "val", "test")]
    # Positions 0-500, 501-600, 601-699, all inclusive.
    assert [len(part) for part in parts] == [501, 100, 99]
    assert frozenset.union(*parts) == frozenset(range(1, 701))


def test_the_released_splits_overlap_as_the_released_code_does():
    train, val, test = (
        splits.split_maps(name, "released") for name in ("train", "val", "test")
    )
    # Positions 0-600, 600-650, 600-699: position 600 is in all three.
    assert (len(train), len(val), len(test)) == (601, 51, 100)
    assert train & test == {splits.order()[600]}
    assert val < test


@pytest.mark.parametrize(
    "given, message",
    [
        ("dpm", r"unknown simulation 'dpm': did you mean 'DPM'\? There are DPM, IRT2"),
        ("zzz", r"unknown simulation 'zzz': There are DPM, IRT2"),
    ],
)
def test_a_typo_is_answered_with_the_closest_name_and_all_names(given, message):
    with pytest.raises(ValueError, match=message):
        splits.check_choice("simulation", given, ("DPM", "IRT2", "IRT4"))
    with pytest.raises(ValueError, match=r"expected a list of one or more of gray"):
        splits.check_fields((), ("gray", "cars"))


def fill(root, *names):
    for name in names:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def part(root, split="all", split_by="group"):
    return splits.split_files(root, (".png",), split=split, split_by=split_by)


@pytest.mark.parametrize(
    "names, expected",
    [
        ("7_0 7_1 8_0 9_0 9_1", "7_0 7_1 | 8_0 | 9_0 9_1"),
        ("7_3 007_04 8_1 9_1", "7_3 007_04 | 8_1 | 9_1"),
        ("m_7_t_0 m_7_t_1 m_8_t_0 m_9_t_0", "m_7_t_0 m_7_t_1 | m_8_t_0 | m_9_t_0"),
        ("7/0 7/1 8/0 9/0", "7/0 7/1 | 8/0 | 9/0"),
        # Two folders are two kinds of the same maps.
        ("dpm/7_0 irt/7_0 dpm/8_0 irt/9_0", "dpm/7_0 irt/7_0 | dpm/8_0 | irt/9_0"),
        ("0 0-(1) 0-copy 0-Copy-(2) 1 2", "0 0-(1) 0-copy 0-Copy-(2) | 1 | 2"),
        ("img_1 img_1-copy img_2 img_3", "img_1 img_1-copy | img_2 | img_3"),
        # One beginning of all, or of most, says nothing.
        ("img_1 img_2 img_3 mean std", "img_1 | img_2 | img_3 | mean | std"),
        ("7_0 7_1 8_0 8_1", "7_0 | 7_1 | 8_0 | 8_1"),
        ("7.3 7x4 m8t3 [9][1] 9+2", "7.3 7x4 | m8t3 | [9][1] 9+2"),
        ("tx0_m7 tx1_m7 tx0_m8 tx0_m9", "tx0_m7 tx1_m7 | tx0_m8 | tx0_m9"),
        ("irt2_7_0 irt4_7_0 irt2_8_0 dpm_9", "irt2_7_0 irt4_7_0 | irt2_8_0 | dpm_9"),
        # Three classes are no cities; ten words may be.
        ("cat_1 dog_1 elk_1 cat_2", "cat_1 | dog_1 | elk_1 | cat_2"),
        (
            "a_1 a_2 b_1 c_1 d_1 e_1 f_1 g_1 h_1 i_1 j_1",
            "a_1 a_2 | b_1 | c_1 | d_1 | e_1 | f_1 | g_1 | h_1 | i_1 | j_1",
        ),
        # One city of most of the files: dealt alone, the others would be all there is.
        (
            "7_0 7_1 7_2 7_3 7_4 7_5 7_6 8_0 9_0",
            "7_0 | 7_1 | 7_2 | 7_3 | 7_4 | 7_5 | 7_6 | 8_0 | 9_0",
        ),
    ],
)
def test_names_that_begin_alike_are_a_group(names, expected):
    names = names.split()
    found = splits.groups([name.replace("-", " ") for name in names])
    assert " | ".join(" ".join(names[i] for i in group) for group in found) == expected


def test_no_city_of_a_plain_folder_is_in_two_splits(tmp_path):
    fill(tmp_path, *(f"{city}_{tx}" for city in range(10) for tx in range(8)))
    # RandomState(42).permutation(10) starts 8, 1: the fractions are of cities.
    for split, cities in {"train": "02345679", "val": "8", "test": "1"}.items():
        found = part(tmp_path, split)
        assert {name.partition("_")[0] for name in found.names} == set(cities)
        assert len(found.files) == 8 * len(cities)
        assert found.where == (
            f"{tmp_path}, dealt by group: 10 groups, 0_0 and 0_1 in one; 64 in train, "
            "8 in val, 8 in test"
        )


def test_one_by_one_the_files_are_dealt_as_ever(tmp_path):
    fill(tmp_path, *(f"{city}_{tx}" for city in range(4) for tx in range(5)))
    files = sorted(tmp_path.iterdir())
    dealt = np.random.RandomState(42).permutation(20)
    for split, expected in {"val": dealt[:2], "test": dealt[2:4]}.items():
        found = part(tmp_path, split, split_by="file")
        assert found.files == [files[i] for i in sorted(expected)]
        assert found.where == f"{tmp_path}, dealt by file"


@pytest.mark.parametrize(
    "names, split, expected, where",
    [
        ("Train/0 VALID/0 VALID/1", "val", "0 1", "by its folders Train/, VALID/"),
        ("train/a/0 train/b/0 val/0", "train", "a/0 b/0", "from 2 of its folders, sp"),
        ("training/0 Testing/5", "test", "5", "training/, Testing/"),
        (
            "train/7_0 train/8_0 val/7_1 val/9_0",
            "val",
            "7_1 9_0",
            "(names of one group are in two: 7_0 in train, 7_1 in val)",
        ),
        ("a/0 b/0 .c/0", "all", "a/0 b/0", "from 2 of its folders"),
        ("a/0 1", "all", "1", ""),
        # What our runs, and synthetic cities, leave in a folder.
        ("a/0 runs/checkpoints/0 runs/images/0", "all", "a/0", "from 1 of its folders"),
        ("a/0 city/gain/DPM/0 city/png/cars/0", "all", "a/0", "from 1 of its folders"),
    ],
)
def test_subfolders_are_splits_or_hold_the_maps(
    tmp_path, names, split, expected, where
):
    fill(tmp_path, *names.split())
    if (tmp_path / "runs").exists():
        (tmp_path / "runs" / "config.json").touch()
    found = part(tmp_path, split)
    assert (" ".join(found.names), where in found.where) == (expected, True)


@pytest.mark.parametrize(
    "names, message",
    [
        ("val/0 Valid/0", r"two folders for the split 'val', Valid/ and val/; keep"),
        ("data/train/0 data/val/0", r"the splits are folders of .*data: set data.root"),
        ("train/0 val/0", r"split 'test' of .* is empty: found 1 in train, 1 in val"),
    ],
)
def test_folders_that_cannot_be_splits_are_named(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        part(fill(tmp_path, *names.split()), "test")


def test_the_same_numbers_in_two_splits_are_no_group(tmp_path):
    fill(tmp_path, *(f"{split}/{i}" for split in ("train", "val") for i in range(5)))
    where = f"{tmp_path}, split by its folders train/, val/"
    assert part(tmp_path, "val").where == where
