"""The engine with a stage that it does not know: the linear denoiser of toy.py.

Kills and full disks are in test_survival.py, signals in test_preemption.py, early ends
and batches that are not finite in test_stopping.py: all of them with this stage.
"""

import jax
import numpy as np
import pytest
import tiny
import toy
from whole_runs import log, saved

from radiovae_jax import training
from radiovae_jax.reporting import artifacts
from radiovae_jax.training import dry_run, logbook, run_folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = tiny.config(tmp_path_factory.mktemp("data") / "city", histogram_every=3)
    config.optimizer.learning_rate = 0.5
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The folder of a run of six steps, and the numbers of its last validation."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return folder, training.run(toy.make, config, folder)


def test_a_stage_of_its_own_trains_validates_and_draws(run):
    folder, numbers = run
    lines = log(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["train/loss"] < 0.5 * lines[0]["train/loss"]
    assert lines[-1]["val/best"] == numbers["best"] < lines[2]["val/best"]
    assert logbook.last_validation(folder / "metrics.jsonl") == numbers
    assert (folder / "images" / "denoised_0000006.png").stat().st_size > 1000
    assert run_folder.best_step(folder) == 6


def test_a_stage_of_its_own_goes_on_bit_for_bit(config, run, tmp_path):
    for stop in (4, 0):
        config = config.copy_and_resolve_references()
        config.train.stop_at = stop
        training.run(toy.make, config, tmp_path)
    one, two = (saved(folder, config, toy.make) for folder in (run[0], tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert one[1]["position"] == 6
    lines = [log(run[0]), log(tmp_path)]
    # The stop itself adds a validation; everything else is the same.
    lines[1][3] = {k: v for k, v in lines[1][3].items() if not k.startswith("val/")}
    assert lines[0] == lines[1]


def test_the_dry_run_of_a_stage_of_its_own_counts_it(config):
    page = dry_run.run(toy.make, config)
    assert "denoiser                   2 parameters" in page
    assert "denoising " in page
    assert page.splitlines()[-1].split() == ["last", "5", "0.5"]


def test_a_stage_of_its_own_has_its_report(run):
    folder, _ = run
    written = artifacts.after_training(folder)
    assert folder / "report.html" in written
    assert "train/loss" in (folder / "report.html").read_text()


def test_a_stage_that_takes_no_weights_says_so_before_the_folder_is_made(
    config, run, tmp_path
):
    config = config.copy_and_resolve_references()
    config.train.init_from = str(run[0])
    with pytest.raises(ValueError, match=r"train.init_from=.*toy: this stage takes no"):
        training.run(toy.make, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
