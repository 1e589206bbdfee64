"""Evaluation of a tiny run: the same numbers as validation, honest records."""

import csv
import json
import os
import pathlib
import shutil

import command
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import radiovae_jax
from radiovae_jax import evaluate, metrics
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.evaluation import baselines, evaluator, record
from radiovae_jax.evaluation.evaluator import EvalSpec, PerMap, Reconstructed
from radiovae_jax.nn import lpips
from radiovae_jax.reporting import report_page
from radiovae_jax.training import logbook, run_folder, schema
from radiovae_jax.vae import eval_rows

STEP = 6  # of `trained`: its last validation


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A folder with run/, to be written to, the last validation, and an evaluation."""
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copytree(trained / "run", folder / "run")
    lines = logbook.read(folder / "run" / "metrics.jsonl")
    validation = next(line for line in lines if line["step"] == STEP)
    found = evaluate.evaluate(
        folder / "run",
        step=STEP,
        batch_size=3,
        baseline="pca",
        perceptual_weights="none",
    )
    return folder, validation, found


def test_the_numbers_are_those_of_the_validation(run):
    _, validation, found = run
    numbers = found["rows"]["autoencoder"]["raw"]["all"]
    for name in ("nmse", "rmse_db", "psnr", "ssim", "nmse_pooled"):
        np.testing.assert_allclose(numbers[name], validation[f"val/{name}"], rtol=1e-4)


def test_regions_add_up_to_the_whole(run):
    folder, _, found = run
    source = datasets.open_data(
        run_folder.read_config(folder / "run"), "val", also=("buildings",)
    )
    inside = np.mean([source[i]["buildings"] > 0 for i in range(len(source))])
    assert 0.1 < inside < 0.9
    for row in found["rows"].values():
        whole, street, building = (
            row["raw"][name]["rmse_pooled"] ** 2
            for name in ("all", "street", "building")
        )
        parts = (1 - inside) * street + inside * building
        np.testing.assert_allclose(parts, whole, rtol=1e-4)


def test_the_record_says_what_was_measured_and_every_map_has_a_row(run):
    folder, _, found = run
    written = json.loads((folder / "run" / "evaluation" / "val.json").read_text())
    assert written["step"] == STEP
    assert written["size"] == [32, 32, 1]
    assert written["split"] == "val"
    assert set(written["rows"]["pca"]) == {"raw", "thresholded_0.2"}
    assert written["data_range"] == 1.0
    assert written["commit"]
    assert written["config"]["seed"] == 42
    assert written["regions"] == ["all", "street", "building"]
    assert written["scales"]["thresholded_0.2"] == {"threshold": 0.2, "db_per_unit": 80}
    with (folder / "run" / "evaluation" / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["images"] == 2
    for row in ("autoencoder", "autoencoder_sample", "pca"):
        for scale in ("raw", "thresholded_0.2"):
            for region in ("all", "street", "building"):
                for name in ("nmse", "rmse_db", "mae_db", "psnr", "ssim"):
                    column = f"{row}/{scale}/{region}/{name}"
                    values = np.array([float(line[column]) for line in rows])
                    if name == "nmse" and region == "building":
                        # The city has no signal under roofs: of no map a number.
                        assert not np.isfinite(values).any() or not values.any()
                        power = found["power"][scale][region]
                        assert power["without"] == [line["name"] for line in rows]
                        values = np.array([np.nan])
                    mean = np.mean(values)
                    whole = found["rows"][row][scale][region][name]
                    np.testing.assert_allclose(mean, whole, rtol=1e-4, err_msg=column)
    assert (folder / "run" / "evaluation" / "val_best_worst.png").exists()


def test_the_latent_is_described_as_its_encoder_makes_it(run):
    folder, _, found = run
    source = datasets.open_data(run_folder.read_config(folder / "run"), "val")
    gray = np.stack([source[i]["gray"] for i in range(len(source))])
    model, params = radiovae_jax.load(folder / "run", step=STEP)
    x = radiomap.f_to_model(radiomap.gray_to_f(gray))
    posterior = model.apply(params, x, method="encode")
    latent = found["latent"]
    kl = float(np.mean(posterior.kl()))
    np.testing.assert_allclose(latent["kl_nats_per_image"], kl, rtol=1e-4)
    per_entry = kl / posterior.mean[0].size
    np.testing.assert_allclose(latent["kl_nats_per_entry"], per_entry, rtol=1e-4)
    channels = latent["of_each_channel"]
    mean = np.mean(np.float64(posterior.mean), axis=(0, 1, 2))
    np.testing.assert_allclose(channels["mean"], mean, rtol=1e-4, atol=1e-6)
    # KL of the channels and of the images are two roads to one number.
    np.testing.assert_allclose(np.mean(channels["kl_nats"]), per_entry, rtol=1e-4)


def test_the_frechet_distance_of_prior_samples_is_that_of_latents_of_normal_noise(run):
    folder, _, found = run
    assert list(found["frechet"]["rows"]) == [*found["rows"], "prior_samples"]
    assert "prior_samples" not in found["rows"]
    model, params = radiovae_jax.load(folder / "run", step=STEP)
    noise = [
        jax.random.normal(
            jax.random.fold_in(jax.random.key(eval_rows.PRIOR_SEED), i), (16, 16, 3)
        )
        for i in range(2)
    ]
    x = model.apply(params, jnp.stack(noise), method="decode")
    samples = np.clip(radiomap.model_to_f(x), 0, 1)
    source = datasets.open_data(run_folder.read_config(folder / "run"), "val")
    maps = np.stack([source[i]["gray"] for i in range(2)]) / 255
    # Of two maps each, so that a covariance is one direction c, or d, the difference
    # over 2^(1/2): tr(C + D - 2 (C D)^(1/2)) = |c|^2 + |d|^2 - 2 |c d|.
    one, other = (
        np.float64(evaluator.features_of("pixels_8x8", (), jnp.float32(f)))
        for f in (maps, samples)
    )
    c, d = ((v[1] - v[0]) / 2**0.5 for v in (one, other))
    expected = np.sum((one.mean(0) - other.mean(0)) ** 2)
    expected += c @ c + d @ d - 2 * abs(c @ d)
    rows = found["frechet"]["rows"]
    assert rows["prior_samples"] == pytest.approx(expected, rel=1e-3)
    assert any("prior_samples: decoded from N(0, 1)" in s for s in found["summary"])


def test_a_sample_is_worse_than_the_mode_by_the_posteriors_noise_alone(run):
    mode, sample = (
        run[2]["rows"][row]["raw"]["all"]
        for row in ("autoencoder", "autoencoder_sample")
    )
    assert sample["nmse"] != mode["nmse"]
    assert sample["nmse"] == pytest.approx(mode["nmse"], rel=0.5)


@pytest.mark.slow
def test_four_devices_and_a_last_batch_mostly_of_filling_give_the_numbers_of_one(run):
    folder, *_ = run
    one = evaluate.evaluate(
        folder / "run",
        split="train",
        batch_size=3,
        baseline="pca",
        perceptual_weights="none",
    )
    done = command.module(
        "evaluate",
        f"--workdir={folder / 'run'}",
        "--split=train",
        "--batch_size=12",
        "--baseline=pca",
        "--perceptual_weights=none",
        devices=4,
    )
    assert done.returncode == 0, done.stderr
    assert one["images"] == 16  # 12 + 4 on four devices, five times 3 + 1 on one
    assert "no LPIPS: not asked for" in done.stdout
    path = folder / "run" / "evaluation" / "train.json"
    four = json.loads(path.read_text())
    for part in ("rows", "frechet", "latent"):
        ours, theirs = (schema.flat({part: r[part]}) for r in (one, four))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, float):  # NaN and infinity are null
                close = dict(rtol=1e-3, atol=1e-6, err_msg=name)
                np.testing.assert_allclose(value, ours[name], **close)


def test_the_command_prints_a_table_and_names_what_is_missing(run, tmp_path, capsys):
    workdir = run[0] / "run"
    flags = [f"--workdir={workdir}", f"--step={STEP}"]
    report = report_page.write(workdir)
    more = ["--split=test", "--weights=live", f"--perceptual_weights={tmp_path}"]
    assert evaluate.main([*flags, *more]) == 0
    printed = capsys.readouterr().out
    words = [line.split()[:3] for line in printed.splitlines()]
    assert ["autoencoder", "raw", "street"] in words
    assert "no LPIPS" in printed and "vgg16_weights.h5 is missing" in printed
    assert "split test" in printed
    assert f"renewed: {report}" in printed
    assert f"<h3>test, step {STEP}, live weights</h3>" in report.read_text()
    wrong = tmp_path / "wrong"
    for arguments, error in (
        ([flags[0], "--step=2"], "no checkpoint of step 2; it has those of ["),
        ([f"--workdir={tmp_path}"], "is not the folder of a run"),
        ([*flags, "--split=vall"], "'val'"),
        ([*flags, f"--data_root={wrong}"], f"no folder {wrong}; give the one"),
    ):
        assert evaluate.main(arguments) == 1
        assert error in capsys.readouterr().err
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint under"):
        evaluate.evaluate(tmp_path)
    assert not wrong.exists() and not (tmp_path / "evaluation").exists()


def test_maps_that_would_be_squashed_are_refused(trained_copy, tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((16, 32, 1), np.float32))
    path = trained_copy / "config.json"
    config = json.loads(path.read_text())
    config["data"] |= dict(source="folder", root=str(tmp_path), image_size=16)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"16x32 are not square, and data.image_size"):
        evaluate.evaluate(trained_copy, split="all")


def test_a_record_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    values = np.float32([[0.1], [np.inf]])
    record.write(tmp_path, "val", {"nmse": np.inf}, PerMap(["a", "b"], ("kl",), values))
    whole = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert whole == {
        "val.csv": "name,kl\na,0.1\nb,inf\n",
        "val.json": '{\n  "nmse": null\n}\n',
    }
    with pytest.raises(ValueError, match="zip"):
        record.write(tmp_path, "val", {}, PerMap(["c", "d"], ("kl",), values[:1]))

    def half(path, text):
        path.write_bytes(text[:1].encode())
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_text", half)
    lines = PerMap(["a", "b"], ("kl",), values)
    with pytest.raises(OSError, match="full"):
        record.write(tmp_path, "val", {}, lines)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == whole


class Maps:
    """Records of one gray value each; what is encoded is not the target.

    As dpm2irt4 has it: DPM goes in, and `gray` is to come out.
    """

    def __init__(self, *pairs):
        self.pairs, self.shape = pairs, (16, 16, 1)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        image, target = (
            np.full(self.shape, gray, np.uint8) for gray in self.pairs[index]
        )
        return {"name": np.str_(f"map {index}"), "gray": target, "DPM": image}

    def summary(self):
        return "maps of one value"


def as_it_came(
    source, *, features="pixels_8x8", db=radiomap.RADIOMAPSEER_DB, **options
):
    """Measures what gives back the image that is encoded."""
    spec = EvalSpec(
        db=db,
        rows=("same",),
        regions=("all",),
        image_size=0,
        stored=False,
        perceptual="lpips_weights" in options,
        features=features,
    )
    same = lambda weights, image, raw: Reconstructed({"same": image}, None)  # noqa: E731
    return evaluator.evaluate(same, (), source, spec, batch_size=2, **options)


def test_what_is_encoded_is_what_training_encodes():
    found = as_it_came(Maps((100, 200)))
    # The encoded image comes back: 100 against a target of 200 grays.
    numbers = found.table["same"]["raw"]["all"]
    np.testing.assert_allclose(numbers["nmse"], 0.25, rtol=1e-5)
    assert found.latent is None


def test_the_best_maps_and_the_worst_are_ranked_and_none_is_both():
    # Off by 5, 1, 3, 2 and 4 grays of 100.
    source = Maps(*((100 + off, 100) for off in (5, 1, 3, 2, 4)))
    found = as_it_came(source, show=2)
    assert [one.name for one in found.best] == ["map 1", "map 3"]
    assert [one.name for one in found.worst] == ["map 0", "map 4"]
    assert found.maps.names == [f"map {i}" for i in range(5)]
    assert found.maps.values.dtype == np.float32
    np.testing.assert_allclose(found.best[0].images["recon"], 101 / 255, rtol=1e-6)
    # Of all five, in three batches: 3 grays of 255 in the mean, 11 in the mean square.
    numbers = found.table["same"]["raw"]["all"]
    assert numbers["mae_db"] == pytest.approx(100 * 3 / 255, rel=1e-4)
    assert numbers["rmse_db_pooled"] == pytest.approx(100 * 11**0.5 / 255, rel=1e-4)
    few = as_it_came(Maps((101, 100), (102, 100), (103, 100)), show=3)
    assert [one.name for one in few.best] == ["map 0", "map 1"]
    assert [one.name for one in few.worst] == ["map 2"]
    single = as_it_came(Maps((101, 100)))
    assert len(single.best) == 1
    assert not single.worst


def test_errors_are_in_the_unit_of_the_maps_or_in_f():
    # 3 grays of 255 off, of 1.25 dB each; on the cut scale as many dB.
    source = Maps((103, 100), (103, 100))
    found = as_it_came(source, db=radiomap.DbRange(-318.75, 318.75))
    for scale in ("raw", "thresholded_0.2"):
        numbers = found.table["same"][scale]["all"]
        assert numbers["rmse_db"] == pytest.approx(3.75, rel=1e-4)
        column = found.maps.mean(f"same/{scale}/all/rmse_db")
        assert column == pytest.approx(3.75, rel=1e-4)
    bare = as_it_came(source, db=radiomap.NO_DB)
    numbers = bare.table["same"]["raw"]["all"]
    assert numbers["rmse"] == pytest.approx(3 / 255, rel=1e-4)
    assert bare.maps.mean("same/raw/all/mae") == pytest.approx(3 / 255, rel=1e-4)
    assert not [name for name in (*numbers, *bare.maps.columns) if "_db" in name]


def a_record(**fields):
    """A record of one row, that says what a test does not ask about."""
    frechet = dict.fromkeys(("features", "dimensions", "images"), 1)
    channels = {"mean": [0.0], "std": [1.0], "kl_nats": [0.5]}
    latent = {"shape": (1, 1, 1), "of_each_channel": channels}
    return {
        "data": "maps",
        "step": 1,
        "weights": "ema",
        "size": [8, 8, 1],
        "metrics_size": "stored",
        "commit": "abc",
        "power": {},
        "lpips": {"rows": {}},
        "frechet": frechet | {"covariance_is_singular": True, "rows": {"row": 1.0}},
        "latent": latent | {"kl_nats_per_image": 0.5, "kl_nats_per_entry": 0.5},
        "notes": [],
    } | fields


@pytest.mark.parametrize("unit", [{"db_per_unit": 318.75}, {}])
def test_the_table_says_db_where_there_are_any(unit):
    numbers = metrics.result(metrics.Sums(*range(1, 13)), db_per_unit=100 * len(unit))
    scales = {"raw": {"threshold": 0.0} | unit}
    rows = {"autoencoder": {"raw": {"all": numbers}}}
    words = record.table(a_record(scales=scales, rows=rows)).split()
    assert ("rmse_db" in words, "rmse" in words) == (bool(unit), not unit)


def test_the_frechet_distance_of_maps_of_one_value_is_the_closed_form():
    # Targets of 0, 30 and 90 grays, doubled: mean 40 and variance 2100 (of three, less
    # one) become 80 and 8400. The 64 pixels are as one: 64 (40^2 + (2 - 1)^2 2100).
    found = as_it_came(Maps((0, 0), (60, 30), (180, 90)))
    assert found.feature_count == 64
    expected = 64 * (40**2 + 2100) / 255**2
    assert found.frechet["same"] == pytest.approx(expected, rel=1e-5)


def test_lpips_and_features_of_vgg_are_nothing_for_equal_maps():
    weights = lpips.random_weights(0)
    source = Maps((100, 100), (200, 200), (30, 30))
    found = as_it_came(source, features="vgg16_relu5_3", lpips_weights=weights)
    assert found.perceptual == {"same": pytest.approx(0, abs=1e-6)}
    assert found.feature_count == 512
    assert found.frechet["same"] == pytest.approx(0, abs=1e-6)


def test_random_lpips_weights_are_called_so_wherever_they_show():
    notes = []
    assert evaluate.perceptual("random", (32, 32, 5), notes)
    assert "random weights" in notes[0]
    perceptual = {"weights": "random", "rows": {"autoencoder": 0.1}}
    lines = record.summary(a_record(lpips=perceptual, notes=notes))
    assert lines[0].startswith("LPIPS on RANDOM weights")
    assert lines[-1] == notes[0]


def test_maps_without_power_have_no_nmse_and_are_named_for_each_scale():
    # f of 0, 0.5 and 0.1: the last is 0 too once thresholded at 0.2.
    gray = 0, 128, 26
    found = as_it_came(Maps(*((value + 10, value) for value in gray)))
    numbers = {scale: found.table["same"][scale]["all"] for scale in evaluator.SCALES}
    expected = ((10 / 128) ** 2 + (10 / 26) ** 2) / 2
    np.testing.assert_allclose(numbers["raw"]["nmse"], expected, rtol=1e-5)
    pooled = 3 * 10**2 / (128**2 + 26**2)
    np.testing.assert_allclose(numbers["raw"]["nmse_pooled"], pooled, rtol=1e-5)
    kept = (10 / (128 - 0.2 * 255)) ** 2
    np.testing.assert_allclose(numbers["thresholded_0.2"]["nmse"], kept, rtol=1e-5)
    assert found.powered == {
        "raw": {"all": (3, ["map 0"])},
        "thresholded_0.2": {"all": (3, ["map 0", "map 2"])},
    }
    power = {
        scale: {"all": by_region["all"]._asdict()}
        for scale, by_region in found.powered.items()
    }
    assert record.explained(power) == [
        "raw, all: NMSE over 2 of 3 maps; without power: map 0",
        "thresholded_0.2, all: NMSE over 1 of 3 maps; without power: map 0, map 2",
    ]
    power["raw"]["all"]["without"] = []
    assert len(record.explained(power)) == 1


def test_lpips_that_cannot_be_is_left_out_with_a_reason(tmp_path):
    for source, shape, words in (
        (str(tmp_path), (32, 32, 1), "vgg16_weights.h5 is missing"),
        ("random", (8, 32, 1), "at least 16x16"),
        ("none", (32, 32, 1), "not asked for"),
    ):
        notes = []
        assert evaluate.perceptual(source, shape, notes) == ()
        assert words in notes[0]


@pytest.mark.parametrize("given, asks", [("", False), ("hub", True)])
def test_a_run_without_lpips_asks_the_hub_only_where_it_is_told(
    given, asks, run, monkeypatch
):
    asked = []

    def nothing(filename, ask):
        asked.append(ask)
        raise FileNotFoundError(filename)

    def measured(*arguments, **options):
        raise InterruptedError

    monkeypatch.setattr(lpips, "_from_hub", nothing)
    monkeypatch.setattr(evaluator, "evaluate", measured)
    with pytest.raises(InterruptedError):
        evaluate.evaluate(run[0] / "run", perceptual_weights=given)
    assert asked == [asks]


def test_names_that_are_no_utf8_are_in_the_csv(tmp_path):
    names = [os.fsdecode(b"gr\xf6\x1b[31m"), "图" * 100]
    record.write(tmp_path, "val", {}, PerMap(names, ("kl",), np.float32([[1], [2]])))
    with (tmp_path / "val.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == ["gr\\xf6\\x1b[31m", "图" * 100]


def test_a_data_set_without_buildings_has_one_region_and_says_so(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((16, 16, 1), np.float32))
    config, notes = tiny.config(tmp_path), []
    config.data.update(source="folder", root=str(tmp_path))
    source, regions = evaluate.open_with_regions(config, "all", notes)
    assert (len(source), regions) == (1, ("all",))
    assert notes[0].startswith("no regions, for want of buildings")


def test_pca_with_all_components_is_exact_and_with_one_keeps_the_mean_direction():
    maps = jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 2)), jnp.float32)
    full = baselines.fit_pca([maps[:2], maps[2:]], patch=2, components=8)
    np.testing.assert_allclose(baselines.reconstruct(full, maps), maps, atol=1e-5)
    # Patches a * (1, 2, 3, 4): one direction holds them all.
    scale = jnp.asarray([1.0, 2.0, 5.0]).reshape(3, 1, 1, 1)
    line = scale * jnp.asarray([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    one = baselines.fit_pca([line], patch=2, components=1)
    np.testing.assert_allclose(baselines.reconstruct(one, line), line, atol=1e-5)
    with pytest.raises(ValueError, match=r"maps of 8x6 cannot be cut .* 4x4"):
        baselines.fit_pca([maps[:, :, :6]], patch=4, components=1)
    direction = np.abs(one.directions[0])
    np.testing.assert_allclose(direction, np.arange(1, 5) / np.sqrt(30), atol=1e-5)
