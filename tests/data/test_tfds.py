import shutil
import subprocess
import sys

import numpy as np
import pytest

from radiovae_jax.data import pipeline, radiomap, radiomapseer_tfds, sources
from radiovae_jax.data.radiomapseer import RadioMapSeer
from radiovae_jax.data.radiomapseer_tfds import TfdsSource

FIELDS = ("gray", "buildings", "antenna")


@pytest.fixture(scope="module")
def data_dir(city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    radiomapseer_tfds.prepare(city, folder)
    return folder


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_prepared_records_are_those_of_the_folder(city, data_dir, split):
    stored = TfdsSource(data_dir, split=split, fields=FIELDS)
    source = RadioMapSeer(city, split=split, fields=FIELDS)
    assert len(stored) == len(source)
    assert stored.shape == source.shape
    for index in range(len(source)):
        found, expected = stored[index], source[index]
        assert found.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])
            assert found[key].dtype == expected[key].dtype


def test_all_is_every_map_with_those_of_no_split(realmaps, tmp_path):
    # Map 0, of no split, has 10 of the sample's 41; test has none and is left out.
    radiomapseer_tfds.prepare(realmaps, tmp_path, "DPM")
    source = TfdsSource(tmp_path, split="all")
    found = {str(source[index]["name"]) for index in range(len(source))}
    wanted = RadioMapSeer(realmaps, split="all").names
    assert found == {f"{city}_{tx}" for city, tx in wanted}
    with pytest.raises(
        ValueError, match=r"'test' is empty .*found 25 in train, 6 in val, 10 in rest"
    ):
        TfdsSource(tmp_path, split="test")
    with pytest.raises(IndexError):
        source[41]


def test_simulations_with_cars_have_the_cars(realmaps, tmp_path):
    radiomapseer_tfds.prepare(realmaps, tmp_path, "carsDPM")
    fields = ("gray", "cars")
    found = TfdsSource(tmp_path, simulation="carsDPM", fields=fields)[0]
    expected = RadioMapSeer(realmaps, simulation="carsDPM", fields=fields)[0]
    np.testing.assert_array_equal(found["cars"], expected["cars"])


def test_the_pipeline_reads_it(data_dir):
    source = sources.open_source("tfds", data_dir, split="train", fields=("gray",))
    batches = pipeline.train_batches(source, batch_size=4, seed=0, augment="dihedral")
    assert next(batches)["gray"].shape == (4, 64, 64, 1)
    batches.close()


def test_preparing_twice_writes_once(city, data_dir):
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_rec*")}
    radiomapseer_tfds.prepare(city, data_dir)
    assert before
    assert before == {
        path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_rec*")
    }


def test_tensorflow_is_never_imported(city, tmp_path):
    # In a process of its own, since others may have imported it in this one. Where it
    # is not installed, trying to import it fails: an array instead of a path in an
    # Image feature does.
    code = f"""
import sys
from radiovae_jax.data import radiomapseer_tfds
radiomapseer_tfds.prepare({str(city)!r}, {str(tmp_path)!r})
source = radiomapseer_tfds.TfdsSource({str(tmp_path)!r}, split="val")
print("found", source[0]["gray"].shape, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "found (64, 64, 1) False" in done.stdout, done.stderr


def test_a_damaged_file_is_found_when_preparing(city, tmp_path):
    copy = shutil.copytree(city, tmp_path / "copy")
    path = RadioMapSeer(copy).path("gray", 5)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{path} is truncated"):
        radiomapseer_tfds.prepare(copy, tmp_path / "data")
    radiomap.write_png(path, np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"is 8x8x1, expected 64x64x1"):
        radiomapseer_tfds.prepare(copy, tmp_path / "data")


def test_what_is_not_there_is_named_with_a_remedy(city, data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: get it from radiomapseer"):
        radiomapseer_tfds.prepare(tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*gain/IRT2"):
        radiomapseer_tfds.prepare(city, tmp_path, "IRT2")
    with pytest.raises(ValueError, match=r"unknown simulation 'DMP': did you mean"):
        radiomapseer_tfds.prepare(city, tmp_path, "DMP")
    with pytest.raises(
        FileNotFoundError,
        match=r"no .*IRT2/1.0.0: write it with python -m radiovae_jax.data.radiomapsee",
    ):
        TfdsSource(data_dir, simulation="IRT2")
    with pytest.raises(ValueError, match=r"unknown field 'cars'"):
        TfdsSource(data_dir, fields=("cars",))
    with pytest.raises(ValueError, match=r"unknown split 'training'"):
        TfdsSource(data_dir, split="training")
