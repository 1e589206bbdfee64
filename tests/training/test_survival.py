"""Whatever happens to a run: a clear end, and the same command goes on.

The stage is toy.py's, but for the test of 20 moments: what survives is files.
"""

import errno
import os
import pathlib
import random
import re
import shutil
import signal
import time

import command
import jax
import lives
import numpy as np
import orbax.checkpoint as ocp
import pytest
import scripted
import tiny
import toy
from whole_runs import log, saved

from radiovae_jax import files, stages
from radiovae_jax.data import synthetic
from radiovae_jax.training import logbook, run_folder


@pytest.fixture(scope="module")
def city(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("data") / "city"
    return synthetic.write_city(root, maps=10, transmitters=2, size=32, seed=42)


@pytest.fixture
def folder(city, tmp_path) -> pathlib.Path:
    """A folder with a city of its own, and room for a run."""
    shutil.copytree(city, tmp_path / "city")
    return tmp_path


def state_of(folder: pathlib.Path, config):
    return saved(folder / "run", config, toy.make)


def kill(process, folder: pathlib.Path, chance: random.Random, *, writing: bool):
    """Kills a run that has begun: at any moment, or while a checkpoint is written.

    Returns:
      whether it left a checkpoint half-written; None where it had ended already.
    """
    numbers, checkpoints = folder / "run" / "metrics.jsonl", folder / "run/checkpoints"

    def began() -> int:
        return numbers.stat().st_mtime_ns if numbers.exists() else 0

    before = began()
    while process.is_alive() and began() == before:
        time.sleep(0.01)
    while writing and process.is_alive() and not list(checkpoints.glob("*tmp*")):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.05 if writing else 1.5))
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), (folder / "output.txt").read_text()
    return None if process.exitcode == 0 else bool(list(checkpoints.glob("*tmp*")))


@pytest.mark.processes
@pytest.mark.parametrize("stage, kills", [("vae", 20), ("diffusion", 6)])
def test_a_run_that_is_killed_at_20_moments_ends_as_the_unbroken_one(
    folder, tmp_path, trained, stage, kills
):
    arguments = (
        "--config.data.val_split=",
        "--config.train.steps=150",
        "--config.train.checkpoint_every=2",
    )
    if stage == "vae":
        arguments += ("--config.loss.disc_start=40",)
    else:
        arguments = (*command.tiny_second_stage(trained / "run"), *arguments)
    whole, chance, torn = tmp_path / "whole", random.Random(0), []
    shutil.copytree(folder / "city", whole / "city")
    while len(torn) < kills:
        process = lives.start(folder, *arguments)
        torn.append(kill(process, folder, chance, writing=len(torn) % 2 == 0))
    for place in (whole, folder):
        status, output = lives.ended(lives.start(place, *arguments), place)
        assert status == 0, output
    # None: it had come to its end before the signal did.
    assert torn.count(True) >= kills / 4, torn
    assert torn.count(None) <= kills / 4, torn
    config = run_folder.read_config(whole / "run")
    make = stages.make(config, whole / "run")
    (state, data), (other, other_data) = (
        saved(place / "run", config, make) for place in (whole, folder)
    )
    jax.tree.map(np.testing.assert_array_equal, state, other)
    assert data == other_data
    assert int(state.step) == data["position"] == config.train.steps
    assert log(whole / "run") == log(folder / "run")


def few_steps(city: pathlib.Path, **fields):
    config = tiny.config(city, **{"steps": 8, "checkpoint_every": 2} | fields)
    config.data.val_split = ""
    return config


def test_a_checkpoint_without_room_ends_the_run_and_the_same_command_goes_on(
    folder, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = few_steps(folder / "city")
    with monkeypatch.context() as patch:
        fill = lambda: patch.setattr(ocp.CheckpointManager, "save", full)  # noqa: E731
        with pytest.raises(OSError, match=r"not be written \(No space .* steps \[2\]"):
            scripted.run(config, folder / "run", at=(4, fill))
    scripted.run(config, folder / "run")
    assert int(state_of(folder, config)[0].step) == 8
    steps = [line["step"] for line in logbook.read(folder / "run" / "metrics.jsonl")]
    assert steps == [*range(1, 9)]


def test_a_log_that_cannot_be_written_names_the_folder_and_saves_what_there_is(
    folder, monkeypatch
):
    def full(self, step, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = few_steps(folder / "city", log_every=3, checkpoint_every=8)
    monkeypatch.setattr(logbook.Logbook, "write", full)
    with pytest.raises(
        OSError, match=r"/run cannot be written \(No space left.*make room"
    ):
        scripted.run(config, folder / "run")
    assert int(state_of(folder, config)[0].step) == 3


def test_a_folder_that_became_read_only_ends_before_the_first_step(folder):
    """Root may write everywhere: a folder in the file's place holds root off too."""
    config = few_steps(folder / "city", stop_at=2)
    scripted.run(config, folder / "run")
    blocking = files.partial(folder / "run" / "config.json")
    blocking.mkdir()
    config.train.stop_at = 0
    with pytest.raises(OSError, match=r"/run cannot be made or written as the folder"):
        scripted.run(config, folder / "run")
    blocking.rmdir()
    scripted.run(config, folder / "run")
    assert int(state_of(folder, config)[0].step) == 8


def test_maps_that_vanish_end_the_run_saved_and_it_goes_on_when_they_are_back(folder):
    root, away = folder / "city", folder / "away"
    config = few_steps(root, steps=40, checkpoint_every=40, log_every=40)
    config.data.prefetch = 2
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        scripted.run(config, folder / "run", at=(5, lambda: root.rename(away)))
    assert re.search(r"/city/gain/DPM/\d+_\d\.png", str(error.value))
    state, position = state_of(folder, config)
    assert 5 <= int(state.step) == position["position"] < 40
    away.rename(root)
    scripted.run(config, folder / "run")
    assert int(state_of(folder, config)[0].step) == 40
