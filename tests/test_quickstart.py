"""The README's first command, whole."""

import time

import command
import pytest

import radiovae_jax
from radiovae_jax.training import logbook


@pytest.mark.processes
def test_the_quickstart_ends_within_five_minutes_with_numbers_and_a_picture(tmp_path):
    started = time.monotonic()
    done = command.main(
        "--config=quickstart",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={tmp_path / 'city'}",
        timeout=900,
    )
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr  # the progress bar
    assert "PSNR" in done.stdout and "RMSE" in done.stdout
    picture = done.stdout.split("picture:")[1].split()[0]
    assert picture.endswith(".png")
    assert (tmp_path / "run" / "images").joinpath(picture.split("/")[-1]).exists()
    assert (tmp_path / "run" / "report.html").stat().st_size > 200_000
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"figure_5_training_summary", "latent_channels"} <= drawn
    lines = logbook.read(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["train/disc_factor"] == 0
    assert lines[-1]["train/disc_factor"] == 1
    validations = [line["val/nmse"] for line in lines if "val/nmse" in line]
    assert validations[-1] < 0.7 * validations[0]
    radiovae_jax.load(tmp_path / "run")
    assert seconds < 300
