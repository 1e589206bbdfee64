"""Maps of five channels, from files to pictures, by the config alone."""

import json

import numpy as np
import pytest
import tiny

from radiovae_jax import evaluate
from radiovae_jax.evaluation import record
from radiovae_jax.reporting import artifacts, charts, curves
from radiovae_jax.training import logbook
from radiovae_jax.vae import experiment
from radiovae_jax.vae.charts import CHARTS

pytestmark = pytest.mark.usefixtures("quick_compile")
CHANNELS = 5


def config(root):
    """Returns a run on a folder of maps that is tiny but for its channels."""
    several = tiny.config(root, steps=2, validate_every=2, checkpoint_every=2)
    several.data.update(source="folder", root=str(root))
    several.autoencoder.update(
        in_channels=CHANNELS, out_ch=CHANNELS, ch_mult=(1,), mid_attention=False
    )
    several.loss.update(disc_in_channels=CHANNELS, disc_start=1, disc_num_layers=1)
    return several


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run of one step in each phase, on [16, 16, 5] float maps."""
    folder, rng = tmp_path_factory.mktemp("channels"), np.random.default_rng(5)
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        (folder / "maps" / split).mkdir(parents=True)
        for i in range(count):
            f = rng.random((16, 16, CHANNELS), np.float32)
            np.save(folder / "maps" / split / f"{i}.npy", f)
    return folder / "run", tiny.train(config(folder / "maps"), folder / "run")


@pytest.mark.slow
def test_both_phases_train_and_are_judged(ran):
    workdir, metrics = ran
    lines = logbook.read(workdir / "metrics.jsonl")
    assert [line["train/disc_factor"] for line in lines] == [0, 1]
    assert all(np.isfinite(line["train/total_loss"]) for line in lines)
    assert lines[-1]["train/disc_loss"] != 0
    assert 0 < metrics["nmse"] < np.inf


@pytest.mark.slow
def test_pictures_and_latents_are_drawn(ran):
    workdir, _ = ran
    for name in ("reconstructions", "samples"):
        assert (workdir / "images" / f"{name}_0000002.png").stat().st_size > 5_000
    written = artifacts.after_training(workdir, CHARTS, latents=2)
    assert [path.name for path in written[-3:]] == [
        "latent_channels.png",
        "latent_histogram.png",
        "report.html",
    ]


@pytest.mark.slow
def test_it_can_be_evaluated_beside_a_linear_coder(ran):
    workdir, metrics = ran
    evaluate.evaluate(workdir, step=2, baseline="pca", perceptual_weights="random")
    written = json.loads((workdir / "evaluation" / "val.json").read_text())
    assert written["size"] == [16, 16, CHANNELS]
    found = written["rows"]["autoencoder"]["raw"]["all"]["nmse"]
    np.testing.assert_allclose(found, metrics["nmse"], rtol=1e-4)
    lpips, frechet = written["lpips"]["rows"], written["frechet"]
    assert lpips.keys() == written["rows"].keys() and min(lpips.values()) > 0
    assert frechet["dimensions"] == 8 * 8 * CHANNELS


@pytest.mark.slow
def test_nowhere_are_db_of_maps_whose_unit_is_not_known(ran):
    workdir, metrics = ran
    lines = logbook.read(workdir / "metrics.jsonl")
    names = [*metrics, *(name for line in lines for name in line)]
    assert {"rmse", "val/mae", "val/sample_diversity"} <= set(names)
    assert not [name for name in names if "_db" in name]
    found = evaluate.evaluate(workdir, perceptual_weights="none")
    said = record.table(found) + (workdir / "evaluation" / "val.csv").read_text()
    assert "_db" not in said + json.dumps([found["rows"], found["scales"]])
    assert "dB" not in said
    drawn, _ = charts.of(curves.read(workdir, CHARTS))
    titles = {chart.title for chart in drawn}
    assert {"RMSE and MAE (f)", "Diversity of samples (f)"} <= titles


def test_five_channels_pass_lpips_and_a_wrong_width_names_its_field(tmp_path):
    five = config(tmp_path)
    five.loss.update(perceptual_weight=1.0, perceptual_weights="random")
    experiment.build(five, (16, 16, 5))  # passes shapes through LPIPS as well
    five.loss.disc_in_channels = 1
    with pytest.raises(ValueError, match="disc_in_channels"):
        experiment.build(five, (16, 16, 5))
    five.autoencoder.in_channels = 1
    with pytest.raises(ValueError, match="in_channels"):
        experiment.build(five, (16, 16, 5))
