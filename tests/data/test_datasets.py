"""From a config to its data: what copies of it have in common."""

import shutil

import numpy as np
import pytest
from PIL import Image

from radiovae_jax.data import datasets, sources


def opened(root):
    parts = {"training": "train", "validation": "val"}
    source = {
        name: sources.open_source("folder", root, split=part)
        for name, part in parts.items()
    }
    return source | {"nothing": None}


@pytest.fixture
def copies(tmp_path):
    """Two folders that hold the same maps."""
    pixels = np.random.default_rng(0)
    for split, count in {"train": 20, "val": 3}.items():
        (tmp_path / "a" / split).mkdir(parents=True)
        for index in range(count):
            gray = pixels.integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(gray).save(tmp_path / "a" / split / f"{index:02d}.png")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def lacks_one(root, split="train"):
    (root / split / "02.png").unlink()


def lacks_one_of_validation(root):
    lacks_one(root, "val")


def has_another(root):
    (root / "train" / "07.png").rename(root / "train" / "07b.png")


def has_other_pixels(root):
    shutil.copy(root / "train" / "00.png", root / "train" / "19.png")


def has_another_order(root):
    for path in (root / "train").iterdir():
        path.rename(path.with_stem(str(99 - int(path.stem))))


def has_another_size(root):
    for path in root.glob("*/*.png"):
        Image.open(path).resize((16, 8)).save(path)


@pytest.mark.parametrize(
    "change, first_difference",
    [
        (lambda root: None, ""),
        (lacks_one, "training data"),
        (lacks_one_of_validation, "validation data"),
        (has_another, "list of training maps"),
        (has_other_pixels, "content of training maps"),
        (has_another_order, "list of training maps"),
        (has_another_size, "training data"),
    ],
)
def test_copies_of_data_have_one_identity_and_others_another(
    copies, change, first_difference
):
    change(copies[1])
    one, other = (datasets.identity(opened(root)) for root in copies)
    assert one["training data"] == "20 maps of 8x8x1"
    assert one.keys() == other.keys()
    differing = [name for name in one if one[name] != other[name]]
    assert [*differing, ""][0] == first_difference
