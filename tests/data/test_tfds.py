"""TFDS data sets, prepared here: RadioMapSeer's, and tiny ones of images."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny
from PIL import Image

from radiovae_jax.data import datasets, pipeline, radiomap, radiomapseer_tfds
from radiovae_jax.data.radiomapseer import RadioMapSeer
from radiovae_jax.data.radiomapseer_tfds import TfdsSource
from radiovae_jax.data.tfds_images import TfdsImages
from radiovae_jax.vae import experiment

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
    assert (len(stored), stored.shape) == (len(source), source.shape)
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
    expected = RadioMapSeer(realmaps, split="all").names
    assert found == {f"{city}_{tx}" for city, tx in expected}
    message = r"'test' is empty .*found 25 in train, 6 in val, 10 in rest"
    with pytest.raises(ValueError, match=message):
        TfdsSource(tmp_path, split="test")
    with pytest.raises(IndexError):
        source[41]
    radiomapseer_tfds.prepare(realmaps, tmp_path, "carsDPM")
    options = dict(simulation="carsDPM", fields=("gray", "cars"))
    cars, expected = TfdsSource(tmp_path, **options), RadioMapSeer(realmaps, **options)
    np.testing.assert_array_equal(cars[0]["cars"], expected[0]["cars"])


def test_the_config_reads_it_and_preparing_again_writes_nothing(city, data_dir):
    config = tiny.config(data_dir)
    config.data.source = "tfds"
    batches = datasets.train_batches(config, datasets.open_data(config, "train"))
    assert next(batches)["gray"].shape == (4, 64, 64, 1)
    batches.close()
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_rec*")}
    radiomapseer_tfds.prepare(city, data_dir)
    after = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_rec*")}
    assert before == after != {}


def test_tensorflow_is_never_imported(city, images, tmp_path):
    # In a process of its own, since others may have imported it in this one. Where it
    # is not installed, trying to import it fails: an array instead of a path in an
    # Image feature does.
    code = f"""
import sys
from radiovae_jax.data import radiomapseer_tfds, tfds_images
radiomapseer_tfds.prepare({str(city)!r}, {str(tmp_path)!r})
source = radiomapseer_tfds.TfdsSource({str(tmp_path)!r}, split="val")
images = tfds_images.TfdsImages({str(images)!r}, name="tiny_images")
shapes = source[0]["gray"].shape, images[0]["gray"].shape
print("found", *shapes, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "found (64, 64, 1) (28, 28, 1) False" in done.stdout, done.stderr


def test_a_damaged_file_is_found_when_preparing(city, tmp_path):
    copy = shutil.copytree(city, tmp_path / "copy")
    path = RadioMapSeer(copy).path("gray", 5)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{path} is truncated"):
        radiomapseer_tfds.prepare(copy, tmp_path / "data")
    radiomap.write_png(path, np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"is 8x8x1, expected 64x64x1"):
        radiomapseer_tfds.prepare(copy, tmp_path / "data")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"simulation": "IRT2"}, FileNotFoundError, r"IRT2/1.0.0: write it with pytho"),
        ({"fields": ("cars",)}, ValueError, r"unknown field 'cars'"),
        ({"split": "training"}, ValueError, r"unknown split 'training'"),
    ],
)
def test_what_is_not_there_is_named_with_a_remedy(data_dir, options, error, message):
    with pytest.raises(error, match=message):
        TfdsSource(data_dir, **options)
    with pytest.raises(FileNotFoundError, match=r"nowhere: get it from radiomapseer"):
        radiomapseer_tfds.prepare(data_dir / "nowhere", data_dir)


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Six images to train on, three to test on, made of their number."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    folder = pathlib.Path()  # where its PNG files are
    channels, image_features, sizes = 1, ("image",), (28,)

    def _info(self):
        image = tfds.features.Image(shape=(None, None, self.channels))
        features = dict.fromkeys(self.image_features, image)
        label = tfds.features.ClassLabel(num_classes=10)
        more = {"by": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {**features, "label": label, "more": more}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, _):
        return {
            "train": self._generate_examples(range(6)),
            "test": self._generate_examples(range(6, 9)),
        }

    def _generate_examples(self, numbers):
        for i in numbers:
            path = self.folder / f"{self.name}_{i}.png"
            side = self.sizes[i % len(self.sizes)]
            Image.fromarray(pixels(i, side, self.channels)).save(path)
            images = dict.fromkeys(self.image_features, str(path))
            yield i, {**images, "label": i, "more": {"by": "hand"}}


class TinyColours(TinyImages):
    channels = 3


class TinyRagged(TinyImages):
    sizes = (28, 28, 20)


class TinyPairs(TinyImages):
    image_features = ("left", "right")


def pixels(i: int, side: int, channels: int) -> np.ndarray:
    values = np.arange(side * side * channels) * (i + 1) % 251
    return values.reshape(side, side, channels).astype(np.uint8).squeeze()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds_images")
    TinyImages.folder = tmp_path_factory.mktemp("png")
    for builder in (TinyImages, TinyColours, TinyRagged, TinyPairs):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize("name, channels", [("tiny_images", 1), ("tiny_colours", 3)])
def test_the_records_are_the_images_that_were_prepared(images, name, channels):
    source = TfdsImages(images, name=name, split="test")
    assert len(source) == 3
    assert source.shape == (28, 28, channels)
    for i in range(3):
        expected = pixels(6 + i, 28, channels).reshape(28, 28, channels)
        np.testing.assert_array_equal(source[i]["gray"], expected)
        assert source[i]["gray"].dtype == np.uint8
    assert str(source[-1]["name"]) == "test_2"
    with pytest.raises(IndexError):
        source[3]
    assert len(TfdsImages(images, name=name, split="train[:50%]")) == 3
    assert len(TfdsImages(images, name=f"{name}:1.0.0", split="all")) == 9


def test_the_config_reads_it_and_resizes_28_to_32(images):
    config = tiny.config(images)
    config.data.update(
        source="tfds_images", dataset="tiny_images", val_split="test", image_size=32
    )
    source = datasets.open_data(config, "train")
    built = experiment.build(config, source.shape)
    batches = pipeline.train_batches(source, batch_size=2, seed=0, augment="none")
    raw = next(batches)
    batches.close()
    raw.pop("name")
    assert raw["gray"].shape == (2, 28, 28, 1)
    assert built.to_batch(raw).image.shape == (2, 32, 32, 1)
    config.data.image_size = 0
    config.autoencoder.ch_mult = (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"28x28 is not a multiple .*image_size=32"):
        experiment.build(config, source.shape)


def test_what_cannot_be_read_is_named_with_a_remedy(images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'mnist' in .*download_and_prepare"):
        TfdsImages(tmp_path, name="mnist")
    with pytest.raises(FileNotFoundError, match=r"it holds tiny_colours, tiny_images,"):
        TfdsImages(images, name="no_such_set")
    with pytest.raises(ValueError, match=r"no split 'val': it has train, test"):
        TfdsImages(images, name="tiny_images", split="val")
    with pytest.raises(ValueError, match=r"2 images a record .label, left, more"):
        TfdsImages(images, name="tiny_pairs")
    ragged = TfdsImages(images, name="tiny_ragged")
    with pytest.raises(ValueError, match=r"image 2 .* is 20x20x1 and the first 28x28"):
        ragged[2]
    with pytest.raises(ValueError, match=r"images only, and fields=\['gray', 'cars'\]"):
        TfdsImages(images, name="tiny_images", fields=("gray", "cars"))
    shutil.copytree(images / "tiny_images", tmp_path / "tiny_images")
    info = tmp_path / "tiny_images" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"holds tfrecord files.*array_record"):
        TfdsImages(tmp_path, name="tiny_images")
