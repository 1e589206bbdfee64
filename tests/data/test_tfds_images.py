"""TFDS image data sets: tiny ones, prepared here from PNG files."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny
from PIL import Image

from radiovae_jax.data import datasets, pipeline
from radiovae_jax.data.tfds_images import TfdsImages
from radiovae_jax.vae import experiment


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
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds_images")
    TinyImages.folder = tmp_path_factory.mktemp("png")
    for builder in (TinyImages, TinyColours, TinyRagged, TinyPairs):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize("name, channels", [("tiny_images", 1), ("tiny_colours", 3)])
def test_the_records_are_the_images_that_were_prepared(data_dir, name, channels):
    source = TfdsImages(data_dir, name=name, split="test")
    assert len(source) == 3
    assert source.shape == (28, 28, channels)
    for i in range(3):
        expected = pixels(6 + i, 28, channels).reshape(28, 28, channels)
        np.testing.assert_array_equal(source[i]["gray"], expected)
        assert source[i]["gray"].dtype == np.uint8
    assert str(source[-1]["name"]) == "test_2"
    with pytest.raises(IndexError):
        source[3]


def test_a_slice_is_a_split_and_all_is_every_image(data_dir):
    assert len(TfdsImages(data_dir, name="tiny_images", split="train[:50%]")) == 3
    everything = TfdsImages(data_dir, name="tiny_images:1.0.0", split="all")
    assert len(everything) == 9


def test_the_config_reads_it_and_resizes_28_to_32(data_dir):
    config = tiny.config(data_dir)
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


def test_tensorflow_is_never_imported(data_dir):
    code = f"""
import sys
from radiovae_jax.data.tfds_images import TfdsImages
source = TfdsImages({str(data_dir)!r}, name="tiny_images")
print("found", source[0]["gray"].shape, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "found (28, 28, 1) False" in done.stdout, done.stderr


def test_what_cannot_be_read_is_named_with_a_remedy(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'mnist' in .*download_and_prepare"):
        TfdsImages(tmp_path, name="mnist")
    with pytest.raises(FileNotFoundError, match=r"it holds tiny_colours, tiny_images,"):
        TfdsImages(data_dir, name="no_such_set")
    with pytest.raises(ValueError, match=r"no split 'val': it has train, test"):
        TfdsImages(data_dir, name="tiny_images", split="val")
    with pytest.raises(ValueError, match=r"2 images a record .label, left, more"):
        TfdsImages(data_dir, name="tiny_pairs")
    ragged = TfdsImages(data_dir, name="tiny_ragged")
    with pytest.raises(ValueError, match=r"image 2 .* is 20x20x1 and the first 28x28"):
        ragged[2]
    with pytest.raises(ValueError, match=r"images only, and fields=\['gray', 'cars'\]"):
        TfdsImages(data_dir, name="tiny_images", fields=("gray", "cars"))
    shutil.copytree(data_dir / "tiny_images", tmp_path / "tiny_images")
    info = tmp_path / "tiny_images" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"holds tfrecord files.*array_record"):
        TfdsImages(tmp_path, name="tiny_images")
