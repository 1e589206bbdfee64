"""tools/sweep.py: its measures by hand, and that what is done is not done again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tool

from radiovae_jax import AutoencoderKL, DiagonalGaussian
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.training import run_folder
from radiovae_jax.vae.codec import Codec

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


RUN = ("bce", 1.0, "linear")


@pytest.fixture
def counted(monkeypatch):
    """The grid without the training: every run has the same numbers."""
    trained = []
    numbers = dict.fromkeys(sweep.COLUMNS, 0.5)

    def train(make, config, folder):
        run_folder.claim(folder, config)
        trained.append(folder.name)

    monkeypatch.setattr(sweep.training, "run", train)
    monkeypatch.setattr(sweep, "measure", lambda config, folder: dict(numbers))
    return trained


def test_a_finished_run_is_not_run_again(counted, tmp_path):
    nine = sweep.Sweep(tmp_path, 9, 32)
    sweep.train_all(nine, [RUN])
    sweep.train_all(nine, [RUN, ("mse", 0.1, "cyclical")])
    assert counted == ["bce_1_linear", "mse_0.1_cyclical"]
    with pytest.raises(ValueError, match=r"another config[^$]*or another --out"):
        sweep.train_all(nine._replace(steps=10), [RUN])

    records = sweep.collect(tmp_path)
    sweep.write(tmp_path, records)
    assert [record["beta"] for record in records] == [1.0, 0.1]
    assert json.loads((tmp_path / "sweep.json").read_text()) == records
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 3
    assert "| bce | 1 | linear | 0.5 |" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_configs_are_the_grids(tmp_path):
    config = sweep.configure(sweep.Sweep(tmp_path, 150, 32), "mse", 4.0, "cyclical")
    assert config.loss.reconstruction == "mse"
    assert (config.loss.kl_weight, config.loss.kl_schedule) == (4.0, "cyclical")
    assert config.loss.disc_factor == config.loss.perceptual_weight == 0
    assert (config.train.steps, config.train.log_every) == (150, 15)
    assert config.autoencoder.resolution == (32, 32)
    assert config.data.root == str(tmp_path / "city")


def test_runs_that_do_not_go_into_one_table_are_refused(counted, tmp_path):
    nine = sweep.Sweep(tmp_path, 9, 32)
    sweep.train_all(nine, [RUN])
    sweep.check_finished(nine)
    for other in (dict(steps=10), dict(overrides={"data.source": "folder"})):
        with pytest.raises(ValueError, match=r"holds runs of --steps 9 .*32.*--out"):
            sweep.check_finished(nine._replace(**other))
    record = tmp_path / "bce_1_linear" / "sweep.json"
    for text in ('{"steps": 9', '{"steps": 9}'):
        record.write_text(text)
        with pytest.raises(ValueError, match=r"linear/sweep.json .*; delete it"):
            sweep.check_finished(nine)


def test_a_beta_of_0_is_in_the_figure(counted, tmp_path):
    runs = [("mse", beta, "linear") for beta in (0.0, 0.5, 4.0)]
    sweep.train_all(sweep.Sweep(tmp_path, 9, 32), runs)
    axis = sweep.draw(sweep.collect(tmp_path)).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "0.5", "4"]
    ends = axis.transData.transform([(0, 0.5), (0.5, 0.5), (4, 0.5)])[:, 0]
    assert np.isfinite(ends).all() and (np.diff(ends) > 20).all()  # in pixels


@pytest.mark.parametrize(
    "steps, beta, words", [(-1, 1.0, r"train\.steps"), (9, -1.0, r"kl_weight=-1.0")]
)
def test_what_cannot_be_is_refused_before_anything_runs(
    counted, tmp_path, steps, beta, words
):
    with pytest.raises(ValueError, match=words):
        runs = [RUN, ("bce", beta, "linear")]
        sweep.train_all(sweep.Sweep(tmp_path / "out", steps, 32), runs)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match=r"file cannot be made or .*another --out"):
        sweep.train_all(sweep.Sweep(tmp_path / "file", 9, 32), [RUN])
    assert not counted and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def images(tmp_path):
    """The fields of a folder of images, six to train on and three to test on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (28, 28), np.uint8)
            radiomap.write_png(tmp_path / "images" / split / f"{i}.png", image)
    fields = dict(source="folder", root=tmp_path / "images", val_split="test")
    return {f"data.{name}": str(value) for name, value in fields.items()}


class Halving(Codec):
    """Latents are the pixels, at half the size where they come back."""

    def posterior(self, params, x):
        return DiagonalGaussian(x, jnp.zeros_like(x))

    def image(self, params, z):
        return z / 2

    output = image


def halving(folder) -> Halving:
    db = datasets.db_range(run_folder.read_config(folder))
    return Halving(AutoencoderKL(), {}, 32, (32, 32), "", db, 0, "")


def test_any_images_can_be_compared(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep.radiovae_jax, "load_codec", halving)
    monkeypatch.setattr(
        sweep.training, "run", lambda make, config, to: run_folder.claim(to, config)
    )
    grid = "--steps 2 --reconstruction mse --beta 4 --schedule constant".split()
    fields = images | {"autoencoder.ch_mult": "(1,1)"}
    words = [f"--config.{name}={text}" for name, text in fields.items()]
    out = tmp_path / "out"
    sweep.compare(sweep.parse(["--out", str(out), *grid, *words]))
    (record,) = sweep.collect(out)
    config = run_folder.read_config(out / "mse_4_constant")
    assert (config.loss.kl_weight, list(config.autoencoder.ch_mult)) == (4.0, [1, 1])
    # 28 x 28 as stored, resized to the sweep's size; no buildings, no transmitters.
    codec = halving(out / "mse_4_constant")
    whole = sweep.read(config, codec, "all")["image"]
    assert whole.shape == (9, 32, 32, 1)
    assert record["silhouette"] is record["mantel"] is None
    # By hand: x / 2 for x, and the KL of unit variances at x, of the test split.
    x = np.asarray(sweep.read(config, codec, "test")["image"], np.float64)
    np.testing.assert_allclose(record["kl"], (x**2).sum() / 2 / 3, rtol=1e-5)
    psnr = -10 * np.log10(((x / 4) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(record["psnr"], psnr.mean(), rtol=1e-5)
    assert "SSIM" in capsys.readouterr().out
    assert "silhouette" not in (out / "sweep.md").read_text()
    with pytest.raises(ValueError, match=r"and these are of .* --config.data.source="):
        sweep.check_finished(sweep.Sweep(out, 2, 32, images))
    # A large set is measured in part.
    monkeypatch.setattr(sweep, "MOST", 4)
    monkeypatch.setattr(sweep, "TOGETHER", 2)
    part = sweep.read(config, codec, "all")["image"]
    np.testing.assert_array_equal(part, whole[np.array([0, 1, 4, 5])])


@pytest.mark.parametrize(
    "words, message",
    [
        ("--config.data.sourc=folder", "did you mean data.source?"),
        ("--config.train.batch_size=x", "train.batch_size='x'"),
        ("--config.train.steps=4", "the sweep sets this field by --steps"),
        ("--colour=red", "unexpected '--colour=red'"),
        ("--schedule=sine", "invalid choice: 'sine'"),
    ],
)
def test_a_word_that_cannot_be_is_named(tmp_path, capsys, words, message):
    with pytest.raises((SystemExit, ValueError)) as end:
        sweep.compare(sweep.parse(["--out", str(tmp_path), words]))
    assert message in f"{end.value}{capsys.readouterr().err}"
