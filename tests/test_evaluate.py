"""Evaluation of a tiny run: the same numbers as validation, honest records."""

import csv
import json

import command
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from radiovae_jax import baselines, evaluate, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    config = tiny.config(folder / "city", steps=3)
    validation = train.run(config, folder / "run")
    record = evaluate.evaluate(folder / "run", batch_size=3, baseline="pca")
    return folder, validation, record


def test_the_numbers_are_those_of_the_validation(run):
    _, validation, record = run
    numbers = record["rows"]["autoencoder"]["raw"]["all"]
    for name in ("nmse", "rmse_db", "psnr", "ssim", "nmse_pooled"):
        np.testing.assert_allclose(numbers[name], validation[name], rtol=1e-4)


def test_regions_add_up_to_the_whole(run):
    regions = run[2]["rows"]["autoencoder"]["raw"]
    # Squared errors over pixels: the whole lies between its two parts.
    whole, *parts = (
        regions[name]["rmse_pooled"] for name in ("all", "street", "building")
    )
    assert min(parts) <= whole <= max(parts)


def test_the_record_says_what_was_measured_and_every_map_has_a_row(run):
    folder, _, record = run
    written = json.loads((folder / "run" / "evaluation" / "val.json").read_text())
    assert written["step"] == 3
    assert written["size"] == [32, 32, 1]
    assert written["split"] == "val"
    assert set(written["rows"]["pca"]) == {"raw", "thresholded_0.2"}
    with (folder / "run" / "evaluation" / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == record["images"] == 2
    mean = np.mean([float(row["nmse"]) for row in rows])
    numbers = record["rows"]["autoencoder"]["raw"]["all"]
    np.testing.assert_allclose(mean, numbers["nmse"], rtol=1e-5)


def test_the_command_prints_a_table_and_names_a_missing_run(run, tmp_path):
    folder, *_ = run
    done = command.module(
        "evaluate", f"--workdir={folder / 'run'}", "--split=test", "--weights=live"
    )
    assert done.returncode == 0, done.stderr
    assert "autoencoder raw              street" in done.stdout
    assert "split test" in done.stdout
    for arguments, words in (
        ([f"--workdir={tmp_path}"], "is not the folder of a run"),
        ([f"--workdir={folder / 'run'}", "--split=vall"], "'val'"),
        ([f"--workdir={folder / 'run'}", "--step=2"], "no checkpoint of step 2"),
    ):
        failed = command.module("evaluate", *arguments)
        assert failed.returncode == 1
        assert words in failed.stderr
        assert "Traceback" not in failed.stderr


class Pair:
    """One record whose encoded image is not its target, as dpm2irt4 has it."""

    shape = (16, 16, 1)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        gray = np.full(self.shape, 200, np.uint8)
        return {"name": np.str_("1_0"), "gray": gray, "DPM": gray // 2}

    def summary(self):
        return "one pair"


def test_what_is_encoded_is_what_training_encodes():
    measured, _ = evaluate.measure(
        lambda weights, f: f,
        (),
        source=Pair(),
        config=tiny.config("unused"),
        regions=("all",),
        batch_size=1,
    )
    # The encoded image comes back: 100 against a target of 200 grays.
    np.testing.assert_allclose(measured["raw"]["all"]["nmse"], 0.25, rtol=1e-5)


def test_pca_with_all_components_is_exact_and_with_one_keeps_the_mean_direction():
    maps = jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 2)), jnp.float32)
    full = baselines.fit_pca([maps[:2], maps[2:]], patch=2, components=8)
    np.testing.assert_allclose(baselines.reconstruct(full, maps), maps, atol=1e-5)
    # Patches a * (1, 2, 3, 4): one direction holds them all.
    scale = jnp.asarray([1.0, 2.0, 5.0]).reshape(3, 1, 1, 1)
    line = scale * jnp.asarray([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    one = baselines.fit_pca([line], patch=2, components=1)
    np.testing.assert_allclose(baselines.reconstruct(one, line), line, atol=1e-5)
    direction = np.abs(one.directions[0])
    np.testing.assert_allclose(direction, np.arange(1, 5) / np.sqrt(30), atol=1e-5)
