import json

import numpy as np
import pytest

from radiovae_jax.data import splits


def test_the_order_is_the_seed_42_shuffle_of_700_plus_1():
    # RadioUNet's lib/loaders.py, in NumPy's legacy generator.
    shuffled = np.arange(700)
    np.random.RandomState(42).shuffle(shuffled)
    assert list(splits.order()) == (shuffled + 1).tolist()


def test_the_order_is_that_of_the_sample_maps(realmaps):
    given = json.loads((realmaps.parent / "split_seed42.json").read_text())
    assert list(splits.order()) == given["order_plus1"]


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
        ("IRT3", r"did you mean 'IRT[24]'"),
        ("zzz", r"unknown simulation 'zzz': There are DPM, IRT2"),
    ],
)
def test_a_typo_is_answered_with_the_closest_name_and_all_names(given, message):
    with pytest.raises(ValueError, match=message):
        splits.check_choice("simulation", given, ("DPM", "IRT2", "IRT4"))


@pytest.mark.parametrize("fields", [(), "gray"])
def test_fields_are_a_list_of_at_least_one(fields):
    with pytest.raises(ValueError, match=r"expected a list of one or more of gray"):
        splits.check_fields(fields, ("gray", "cars"))
