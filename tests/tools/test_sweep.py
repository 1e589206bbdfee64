"""tools/sweep.py: its measures by hand, and that what is done is not done again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tool
from test_tfds_images import TinyImages

from radiovae_jax import DiagonalGaussian
from radiovae_jax.training import run_folder, schema

sweep = tool.load("sweep")


def test_a_unit_is_active_if_its_mean_varies_over_the_maps():
    # Variances 0, 0.0099 (0.0995^2) and 0.0101: Burda et al.'s threshold is 0.01.
    sides = np.array([[1.0], [-1.0]])
    means = sides * np.array([0.0, 0.0995, 0.1005])
    np.testing.assert_allclose(sweep.active_units(means), 1 / 3)


def test_the_silhouette_by_hand():
    # On a line: buildings 1 at 0 and 1, buildings 2 at 4 and 6.
    # a = 1, 1, 2, 2; b = 5, 4, 3.5, 5.5; (b - a) / max = 0.8, 0.75, 1.5/3.5, 3.5/5.5.
    means = np.array([[0.0], [1.0], [4.0], [6.0]])
    label = np.array([1, 1, 2, 2])
    expected = np.mean([0.8, 0.75, 1.5 / 3.5, 3.5 / 5.5])
    np.testing.assert_allclose(sweep.silhouette(means, label), expected)
    # A map alone with its buildings has 0 by Rousseeuw's convention.
    alone = sweep.silhouette(means[:3], label[:3])
    np.testing.assert_allclose(alone, (0.75 + (3 - 1) / 3 + 0) / 3)


def test_the_correlation_is_one_where_latents_follow_the_transmitter():
    place = np.array([[0.0, 0], [0, 3], [4, 0], [9, 9], [9, 1], [2, 2]])
    label = np.array([1, 1, 1, 2, 2, 2])
    assert sweep.mantel(5 * place, place, label) == pytest.approx(1)
    # Pairs of other buildings do not count.
    elsewhere = place + 100.0 * label[:, None]
    assert sweep.mantel(elsewhere, place, label) == pytest.approx(1)
    assert sweep.mantel(np.ones((6, 4)), place, label) == 0
    assert sweep.mantel(place, place, np.arange(6)) == 0  # no pairs


@pytest.fixture
def counted(monkeypatch):
    """The grid without the training: every run has the same numbers."""
    trained = []
    numbers = dict.fromkeys(sweep.COLUMNS, 0.5)

    def train(config, folder):
        run_folder.claim(folder, config)
        trained.append(folder.name)

    monkeypatch.setattr(sweep.train, "run", train)
    monkeypatch.setattr(sweep, "measure", lambda config, folder: dict(numbers))
    return trained


def test_a_finished_run_is_not_run_again(counted, tmp_path):
    runs = [("bce", 1.0, "linear"), ("mse", 0.1, "cyclical")]
    sweep.sweep(tmp_path, runs[:1], steps=9, size=32)
    sweep.sweep(tmp_path, runs, steps=9, size=32)
    assert counted == ["bce_1_linear", "mse_0.1_cyclical"]
    with pytest.raises(ValueError, match=r"another config[^$]*or another --out"):
        sweep.sweep(tmp_path, runs, steps=10, size=32)

    records = sweep.collect(tmp_path)
    sweep.write(tmp_path, records)
    assert [record["beta"] for record in records] == [1.0, 0.1]
    assert json.loads((tmp_path / "sweep.json").read_text()) == records
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 3
    assert "| bce | 1 | linear | 0.5 |" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_configs_are_the_grids(tmp_path):
    config = sweep.configure("mse", 4.0, "cyclical", steps=150, size=32, city=tmp_path)
    assert config.loss.reconstruction == "mse"
    assert (config.loss.kl_weight, config.loss.kl_schedule) == (4.0, "cyclical")
    assert config.loss.disc_factor == config.loss.perceptual_weight == 0
    schema.check(config)


def test_runs_that_do_not_go_into_one_table_are_refused(counted, tmp_path):
    sweep.sweep(tmp_path, [("bce", 1.0, "linear")], steps=9, size=32)
    sweep.check_finished(tmp_path, steps=9, size=32)
    with pytest.raises(ValueError, match=r"holds runs of --steps 9 --size 32.*--out"):
        sweep.check_finished(tmp_path, steps=10, size=32)
    record = tmp_path / "bce_1_linear" / "sweep.json"
    for text in ('{"steps": 9', '{"steps": 9}', "[]"):
        record.write_text(text)
        with pytest.raises(ValueError, match=r"linear/sweep.json is no record.*delete"):
            sweep.check_finished(tmp_path, steps=9, size=32)


def test_a_beta_of_0_is_in_the_figure(counted, tmp_path):
    runs = [("mse", beta, "linear") for beta in (0.0, 0.5, 4.0)]
    sweep.sweep(tmp_path, runs, steps=9, size=32)
    axis = sweep.draw(sweep.collect(tmp_path)).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "0.5", "4"]
    ends = axis.transData.transform([(0, 0.5), (0.5, 0.5), (4, 0.5)])[:, 0]
    assert np.isfinite(ends).all() and (np.diff(ends) > 20).all()  # in pixels


def test_a_folder_that_cannot_be_written_is_named(counted, tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(OSError, match=r"file is no folder that can be .*another --out"):
        sweep.sweep(path, [("bce", 1.0, "linear")], steps=9, size=32)
    assert path.read_text() == "kept" and not counted


def test_what_cannot_be_is_refused_before_anything_runs(counted, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"train\.steps"):
        sweep.sweep(tmp_path, [("bce", 1.0, "linear")], steps=-1, size=32)
    runs = [("bce", 1.0, "linear"), ("bce", -1.0, "linear")]
    with pytest.raises(ValueError, match=r"kl_weight=-1.0"):
        sweep.sweep(tmp_path, runs, steps=9, size=32)
    with pytest.raises(SystemExit):
        sweep.parser().parse_args(["--schedule", "sine"])
    assert "invalid choice: 'sine'" in capsys.readouterr().err
    assert not counted and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The fields of a tiny TFDS data set: six images to train on, three to test on."""
    folder = tmp_path_factory.mktemp("tfds_images")
    TinyImages.folder = tmp_path_factory.mktemp("png")
    TinyImages(data_dir=folder, file_format="array_record").download_and_prepare()
    fields = dict(source="tfds_images", root=folder, dataset="tiny_images")
    fields |= dict(val_split="test", augment="none")
    return {f"data.{name}": str(value) for name, value in fields.items()}


class Halving:
    """A model whose latents are the pixels, at half the size where they come back."""

    def apply(self, params, x, *, method):
        if method == "encode":
            return DiagonalGaussian(x, jnp.zeros_like(x))
        return x / 2


def test_any_images_can_be_compared(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep.run_folder, "load", lambda folder: (Halving(), {}))
    monkeypatch.setattr(
        sweep.train, "run", lambda config, folder: run_folder.claim(folder, config)
    )
    grid = "--steps 2 --reconstruction mse --beta 4 --schedule constant".split()
    fields = images | {"autoencoder.ch_mult": "(1,1)"}
    fields = [f"--config.{name}={text}" for name, text in fields.items()]
    sweep.compare(sweep.parse(["--out", str(tmp_path), *grid, *fields]))
    (record,) = sweep.collect(tmp_path)
    config = run_folder.read_config(tmp_path / "mse_4_constant")
    assert (config.loss.kl_weight, list(config.autoencoder.ch_mult)) == (4.0, [1, 1])
    # 28 x 28 as stored, seen at the sweep's size; no buildings, no transmitters.
    assert sweep.read(config, "all")["image"].shape == (9, 32, 32, 1)
    assert record["silhouette"] is record["mantel"] is None
    # By hand: x / 2 for x, and the KL of unit variances at x, of the test split.
    x = np.asarray(sweep.read(config, "test")["image"], np.float64)
    np.testing.assert_allclose(record["kl"], (x**2).sum() / 2 / 3, rtol=1e-5)
    psnr = -10 * np.log10(((x / 4) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(record["psnr"], psnr.mean(), rtol=1e-5)
    assert "SSIM" in capsys.readouterr().out
    assert "silhouette" not in (tmp_path / "sweep.md").read_text()
    with pytest.raises(ValueError, match=r"and these are of .* --config.data.source="):
        sweep.check_finished(tmp_path, steps=2, size=32, overrides=images)


def test_large_data_sets_are_measured_in_part(images, tmp_path, monkeypatch):
    given = dict(steps=2, size=32, city=tmp_path)
    config = sweep.configure("mse", 1.0, "linear", overrides=images, **given)
    whole = sweep.read(config, "all")["image"]
    monkeypatch.setattr(sweep, "MOST", 4)
    monkeypatch.setattr(sweep, "TOGETHER", 2)
    np.testing.assert_array_equal(
        sweep.read(config, "all")["image"], whole[np.array([0, 1, 4, 5])]
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ("--config.data.sourc=folder", "did you mean data.source?"),
        ("--config.train.batch_size=x", "invalid literal for int"),
        ("--config.train.steps=4", "the sweep sets this field by --steps"),
        ("--colour=red", "unexpected '--colour=red'"),
    ],
)
def test_a_field_that_cannot_be_set_is_named(tmp_path, capsys, words, message):
    with pytest.raises((SystemExit, ValueError)) as end:
        sweep.compare(sweep.parse(["--out", str(tmp_path), words]))
    assert message in f"{end.value}{capsys.readouterr().err}"
