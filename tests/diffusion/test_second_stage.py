"""A tiny second stage on the tests' first one: it trains, resumes, predicts."""

import json
import shutil

import command
import jax
import numpy as np
import pytest
import tiny
import tool
from whole_runs import log

import radiovae_jax
from radiovae_jax import evaluate, stages, training
from radiovae_jax.data import datasets, pipeline, radiomap, sionna
from radiovae_jax.diffusion import task as diffusion_task
from radiovae_jax.diffusion import train_step
from radiovae_jax.training import dry_run, run_folder, schema
from radiovae_jax.vae import codec


def make_config(trained, **train):
    config = tiny.read("quickstart_ldm")
    config.first_stage.run = str(trained / "run")
    config.denoiser.update(mult=(1,), blocks=1, attention_side=0)
    config.optimizer.warmup_steps = 2
    config.data.update(
        root=str(trained / "city"), synthetic=dict(maps=10, transmitters=2, size=32)
    )
    config.train.update(tiny.config(trained / "city", **train).train)
    del config.train["stop_on_kl_below"]
    schema.check(config)
    return config


def train(config, folder):
    return training.run(stages.make(config, folder), config, folder)


@pytest.fixture(scope="module")
def second(trained, tmp_path_factory):
    """(config, folder, numbers of the last validation) of six steps."""
    config = make_config(trained)
    folder = tmp_path_factory.mktemp("second") / "run"
    return config, folder, train(config, folder)


@pytest.fixture(scope="module")
def predictor(second):
    return radiovae_jax.load_predictor(second[1])


@pytest.fixture(scope="module")
def place(second):
    """Buildings, a transmitter (x, y) and the true map in dB of a validation record."""
    source = datasets.open_data(second[0], "val", also=("buildings", "antenna"))
    row, column, _ = np.unravel_index(source[0]["antenna"].argmax(), (32, 32, 1))
    return source[0]["buildings"], (int(column), int(row))


def test_it_trains_on_latents_and_is_validated_on_maps(second, trained):
    _, folder, numbers = second
    lines = log(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"train/loss", "train/v_loss", "train/denoiser_grad_norm"} < lines[0].keys()
    assert 0 < numbers["nmse_pooled"] < 2 and 0 < numbers["rmse_db"] < 100
    assert (folder / "images" / "predictions_0000006.png").stat().st_size > 1000
    record = json.loads((folder / "first_stage.json").read_text())
    assert record["run"] == str(trained / "run") and record["step"] == 6
    # What the process sees has mean 0 and deviation 1 over the training split.
    run = codec.load(trained / "run")
    source = datasets.open_data(second[0], "train")
    gray = np.stack([source[i]["gray"] for i in range(len(source))])
    posterior = run.encode(gray)
    z = np.asarray(posterior.sample(jax.random.key(0))).reshape(-1, 3)
    np.testing.assert_allclose(z.mean(0), record["mean"], atol=0.1)
    np.testing.assert_allclose(z.std(0), record["std"], rtol=0.1)


def test_it_goes_on_bit_for_bit(second, trained, tmp_path):
    _, folder, _ = second
    for stop in (4, 0):
        train(make_config(trained, stop_at=stop), tmp_path / "run")
    lines = [log(folder), log(tmp_path / "run")]
    lines[1][3] = {k: v for k, v in lines[1][3].items() if not k.startswith("val/")}
    assert lines[0] == lines[1]


@pytest.mark.parametrize("form", ["npz", "array_record"])
@pytest.mark.parametrize("draw", [(), ("--sample",)])
def test_exported_latents_are_those_that_it_would_encode(
    trained, trained_copy, tmp_path, form, draw, request
):
    folder = tmp_path / "latents"
    done = command.call(
        tool.load("export_latents"),
        *(trained_copy, "--out", folder, "--format", form, *draw),
    )
    assert done.status == 0, done.stderr
    config = make_config(trained)
    config.data.augment, config.first_stage.latents = "none", str(folder)
    source = datasets.open_training(config)
    raw = pipeline.stack([source[i] for i in (3, 0)])
    raw.pop("name")
    run = codec.load(trained / "run")
    found = train_step.exported(raw)
    encoded = run.encode(raw["gray"])
    if draw:
        off = np.abs(found[0] - encoded.mean) / encoded.std
        assert 0.5 < off.mean() < 1.1 and np.isneginf(found[1]).all()
    else:
        np.testing.assert_allclose(found, [*encoded], atol=1e-5)
    if request.node.callspec.id == "draw0-npz":
        numbers = train(config, tmp_path / "second")
        assert 0 < numbers["nmse_pooled"] < 2
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, words in [
        ({"weights_sha256": "another"}, "latents of step 6, ema weights, of another"),
        ({"names_sha256": "another"}, "latents of other maps than synthetic city"),
    ]:
        other = manifest | {"identity": manifest["identity"] | change}
        (folder / "manifest.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match=words):
            train(config, tmp_path / "refused")
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished export of latents"):
        train(config, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_another_first_stage_is_refused_and_nothing_is_lost(second, trained, tmp_path):
    config, folder, _ = second
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "first_stage.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"identity": "another"}))
    with pytest.raises(ValueError, match=r"first stage in .* has changed"):
        train(config, tmp_path / "run")
    path.write_text(json.dumps({"identity": record["identity"]}))
    with pytest.raises(ValueError, match="lacks mean, run, std, step"):
        radiovae_jax.load_predictor(tmp_path / "run")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks first_stage.json"):
        radiovae_jax.load_predictor(tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.first_stage.run = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no folder of a trained first stage"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_starts_from_the_average_of_another(second, trained, tmp_path):
    _, folder, _ = second
    config = make_config(trained, steps=2, init_from=str(folder))
    config.process.kind = "regression"  # one head, as rectified
    config.optimizer.learning_rate = 0.0
    # Statistics would be others: those of the first run count.
    record = json.loads((folder / "first_stage.json").read_text())
    config.first_stage.maps = 1
    train(config, tmp_path / "run")
    there = json.loads((tmp_path / "run" / "first_stage.json").read_text())
    assert there == record
    one, two = (radiovae_jax.load_predictor(f) for f in (folder, tmp_path / "run"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one.params, two.params
    )
    for change, words in [
        (("process.kind", "decoupled"), "heads of process.kind: 1 there, 2 here"),
        (("denoiser.width", 64), "denoiser.width: 32 there, 64 here"),
        (("train.init_from", str(trained / "run")), "is a first stage"),
        (("train.init_from", str(tmp_path / "no")), "no run in"),
    ]:
        other = config.copy_and_resolve_references()
        schema.put(other, *change)
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            train(other, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_size_decides_once_which_levels_attend(trained, place, tmp_path):
    # Of latents of 16x16 and 8x8 the coarser alone; whatever is predicted later.
    config = make_config(trained, steps=1)
    config.denoiser.update(mult=(1, 1), attention_side=8)
    train(config, tmp_path / "run")
    run = radiovae_jax.load_predictor(tmp_path / "run")
    assert run.built.denoiser.attention_levels == 1
    assert "down_1_0_attention" in run.params["params"]["unet"]
    assert "down_0_0_attention" not in run.params["params"]["unet"]
    assert run.predict(*place).shape == (1, 1, 32, 32)
    wide = np.tile(place[0], (2, 2, 1))
    assert run.predict(wide, place[1]).shape == (1, 1, 64, 64)


def test_pixels_need_no_first_stage(trained, place, tmp_path):
    config = make_config(trained)
    config.first_stage.run, config.process.kind = "pixels", "regression"
    config.data.image_size = 0
    numbers = train(config, tmp_path / "run")
    assert 0 < numbers["nmse_pooled"] < 2
    found = radiovae_jax.load_predictor(tmp_path / "run").predict(*place)
    assert found.shape == (1, 1, 32, 32)
    done = command.call("evaluate", "--workdir", tmp_path / "run")
    assert done.status == 0, done.stderr
    (tmp_path / "points.csv").write_text("3,4,-90\n")
    flags = ("--measurements", tmp_path / "points.csv", "--method", "descent")
    done = command.call("apply", "complete", *flags, "--workdir", tmp_path / "run")
    assert done.status and "has no first stage to descend" in done.stderr


def test_a_first_stage_that_is_not_there_is_to_be_trained_before(trained, tmp_path):
    config = make_config(trained)
    assert not [*stages.lacking(config)]  # it is there, and at its end
    config.first_stage.run = str(tmp_path / "first")
    ((first, folder),) = stages.lacking(config)
    assert folder == tmp_path / "first" and first.stage == "vae"
    assert first.data.synthetic == config.data.synthetic
    assert first.data.root == config.data.root
    shutil.copytree(trained / "run", folder)
    shutil.rmtree(folder / "checkpoints" / "6")  # as after an interruption
    ((first, _),) = stages.lacking(config)
    assert first.autoencoder == run_folder.read_config(folder).autoencoder
    for field, value in (("run", "pixels"), ("config", "")):
        config.first_stage[field] = value
        assert not [*stages.lacking(config)]


def test_another_process_knows_the_first_stage_again(second, place, tmp_path):
    radiomap.write_png(tmp_path / "b.png", place[0][..., 0])
    x, y = place[1]
    flags = ("--buildings", tmp_path / "b.png", "--tx", f"{x},{y}")
    out = ("--workdir", second[1], "--out", tmp_path / "out")
    done = command.module("apply", "predict", *flags, *out)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("data.image_size", 31, "maps of 31x31 are no multiple of"),
        ("denoiser.mult", (1, 1, 1, 1, 1, 1), "no multiple of 64"),
    ],
)
def test_what_does_not_fit_the_first_stage_is_refused(second, field, value, words):
    config = second[0].copy_and_resolve_references()
    schema.put(config, field, value)
    with pytest.raises(ValueError, match=words):
        dry_run.run(stages.make(config, None), config)


def test_a_first_stage_gets_maps_of_the_size_that_it_was_trained_at(second):
    config = second[0].copy_and_resolve_references()
    first = stages.first_stage(config, None)._replace(image_size=64)
    with pytest.raises(ValueError, match=r"trained at 64: set data.image_size=64"):
        diffusion_task.make(config, (32, 32, 1), first)


def test_the_dry_run_counts_both_stages(second):
    page = dry_run.run(stages.make(second[0], None), second[0])
    assert "denoiser" in page and "first stage, fixed" in page
    assert "diffusion " in page


def test_predictions_are_maps_in_db_and_their_noise_is_the_key_s(predictor, place):
    buildings, tx = place
    found = predictor.predict(buildings, tx, samples=2)
    assert found.shape == (2, 1, 32, 32)
    assert found.min() >= -147 and found.max() <= -47
    assert np.abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_array_equal(found, predictor.predict(buildings, tx, samples=2))
    other = predictor.predict(buildings, tx, jax.random.key(7), samples=2)
    assert np.abs(found - other).max() > 0.1
    several = predictor.predict(buildings > 0, [tx, tx], calls=2, unit="f")
    assert several.shape == (1, 2, 32, 32)
    assert several.min() >= 0 and several.max() <= 1


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(tx=(40, 3)), r"transmitter at \(40, 3\) is off the map of 32x32"),
        (dict(tx=(-1, 3)), "off the map"),
        (dict(tx=(np.nan, 3)), "off the map"),
        (dict(tx=(1, 2, 3)), "expected"),
        (dict(buildings=np.full((32, 32), 255)), "inside a building.*inverted"),
        (dict(buildings=np.arange(1024).reshape(32, 32)), "expected a mask"),
        (dict(buildings=np.zeros((32, 33))), "no multiple of"),
        (dict(buildings=np.zeros(32)), r"shape \(32,\), expected \[h, w\]"),
        (dict(calls=0), "calls=0"),
        (dict(samples=0), "samples=0"),
        (dict(unit="watt"), "unit='watt'"),
        (dict(measurements=([[1, 1]], [-90.0])), "trained without measurements"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(
    predictor, place, change, words
):
    arguments = {"buildings": place[0], "tx": place[1]} | change
    with pytest.raises(ValueError, match=words) as error:
        predictor.predict(arguments.pop("buildings"), arguments.pop("tx"), **arguments)
    assert "\n" not in str(error.value)


def test_a_run_of_the_other_stage_is_refused(trained, second):
    with pytest.raises(ValueError, match="run of a first stage"):
        radiovae_jax.load_predictor(trained / "run")
    with pytest.raises(ValueError, match="run of a second stage"):
        radiovae_jax.load_codec(second[1])


def test_its_evaluation_has_calls_samples_floor_and_baselines(second):
    _, folder, numbers = second
    done = command.call(
        "evaluate",
        *("--workdir", folder, "--calls", "1,2", "--samples", 3),
        *("--baseline", "predictors", "--step", 6),
    )
    assert done.status == 0, done.stderr
    record = json.loads((folder / "evaluation" / "val.json").read_text())
    assert list(record["rows"]) == [
        *("calls_1", "calls_2", "mean_of_3", "first_stage"),
        *("mean_map", "log_distance", "nearest"),
    ]
    street = {row: of["raw"]["street"] for row, of in record["rows"].items()}
    assert street["first_stage"]["rmse_db"] > 0
    assert 0 <= record["calibration"]["coverage"] <= 1
    assert "the 90% interval of the samples' deviation covers" in done.stdout
    assert record["ms_a_map"].keys() == {"calls_1", "calls_2"}
    assert min(record["ms_a_map"].values()) > 0
    for picture in ("best_worst", "prediction_error"):
        assert (folder / "evaluation" / f"val_{picture}.png").stat().st_size > 1000
    # The noise differs from the validation's, the network and the maps do not.
    rmse = record["rows"]["calls_1"]["raw"]["all"]["rmse_db"]
    np.testing.assert_allclose(rmse, numbers["rmse_db"], rtol=0.1)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--baseline", "pca"], "predictors of this one"),
        (["--measurements", "5"], "trained without measurements"),
        (["--calls", "0"], "no whole number from 1"),
        (["--config.denoiser.width=64"], "denoiser.width is what the run was trained"),
        (["--config.data.sauce=folder"], "no field; did you mean data.source"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(second, flags, words):
    done = command.call("evaluate", "--workdir", second[1], *flags)
    assert done.status and words in done.stderr


def test_it_is_evaluated_on_other_data_by_name(second, trained):
    records = {}
    for name, source in (("same", "synthetic"), ("other", "radiomapseer")):
        metres = 1 if source == "synthetic" else 4
        done = command.call(
            *("evaluate", "--workdir", second[1], "--name", name),
            *(f"--config.data.source={source}", "--step", 6),
            f"--config.condition.pixel_metres={metres}",
        )
        assert done.status == 0, done.stderr
        path = second[1] / "evaluation" / f"{name}.json"
        records[name] = json.loads(path.read_text())
    same, other = (records[name]["rows"] for name in ("same", "other"))
    assert records["other"]["data"].startswith("RadioMapSeer")
    assert same["first_stage"] == other["first_stage"]
    assert same["calls_1"] != other["calls_1"]  # it is told other distances


def test_it_is_validated_at_best_as_its_folder_says(second):
    assert run_folder.best_step(second[1]) in (3, 6)
    assert evaluate.stages.charts(second[1]).columns["Loss"] == (
        "train/loss",
        "val/loss",
    )


@pytest.fixture
def files(place, tmp_path):
    """b.png, the buildings of the place, and the flags of apply predict for it."""
    radiomap.write_png(tmp_path / "b.png", place[0][..., 0])
    x, y = place[1]
    return tmp_path, ["--buildings", tmp_path / "b.png", "--tx", f"{x},{y}"]


def test_apply_predict_writes_mean_deviation_and_a_picture(
    second, predictor, place, files
):
    folder, flags = files
    out = folder / "out"
    given = ("--workdir", second[1], "--out", out, "--samples", 3, "--seed", 5)
    done = command.call("apply", "predict", *flags, *given)
    assert done.status == 0, done.stderr
    x, y = place[1]
    mean = np.load(out / f"predicted_{x}_{y}.npy")
    samples = predictor.predict(*place, jax.random.key(5), samples=3)
    np.testing.assert_allclose(mean, samples.mean(axis=0)[0], atol=1e-3)
    deviation = np.load(out / f"predicted_{x}_{y}_deviation.npy")
    np.testing.assert_allclose(deviation, samples.std(axis=0, ddof=1)[0], atol=1e-3)
    assert (out / "predicted.png").stat().st_size > 1000
    again = command.call("apply", "predict", *flags, *given)
    assert again.status and "are there already" in again.stderr
    png = ("--workdir", second[1], "--out", folder / "png", "--format", "png")
    assert command.call("apply", "predict", *flags, *png).status == 0
    f = radiomap.gray_to_f(radiomap.read_map(folder / "png" / f"predicted_{x}_{y}.png"))
    assert f.shape == (32, 32, 1)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--tx", "1;2"], "'1;2' is not X,Y"),
        (["--tx", "99,2"], "off the map of 32x32"),
        (["--samples", "0"], "no whole number from 1"),
        (["--buildings", "nowhere.png"], "nowhere.png"),
        (["--measurements", "{folder}/empty.csv"], "holds no measurements"),
        (["--measurements", "{folder}/words.csv"], "line 2: 'a,b' is not x,y,value"),
        (["--measurements", "{folder}/one.csv"], "trained without measurements"),
    ],
)
def test_apply_predict_refuses_what_cannot_be(second, files, flags, words):
    folder, given = files
    texts = {"empty": "x,y,dB\n", "words": "x,y,dB\na,b\n", "one": "1,1,-90\n"}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    flags = [flag.format(folder=folder) for flag in flags]
    out = ("--workdir", second[1], "--out", folder / "out")
    done = command.call("apply", "predict", *given, *flags, *out)
    assert done.status and words in done.stderr
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())


def test_measurements_are_trained_with_measured_and_completed_from(
    trained, files, place, tmp_path
):
    folder, flags = files
    config = make_config(trained)
    config.optimizer.learning_rate = 0.01  # so that six steps are of some use
    config.condition.update(
        planes=("buildings", "log_distance", "measurements"),
        measurements=20,
        buildings_missing=0.5,
    )
    train(config, tmp_path / "run")
    run = radiovae_jax.load_predictor(tmp_path / "run")
    points, db = [(3, 4), (20, 9)], [-90.0, -95.5]
    without = run.predict(*place)
    np.testing.assert_array_equal(without, run.predict(*place, measurements=([], [])))
    with_two = run.predict(*place, measurements=(points, db))
    assert np.abs(with_two - without).max() > 0.01
    (folder / "points.csv").write_text("3,4,-90\n20,9,-95.5\n")
    given = ("--measurements", folder / "points.csv", "--workdir", tmp_path / "run")
    done = command.call(
        "apply", "complete", *flags, *given, "--out", folder / "out", "--samples", 2
    )
    assert done.status == 0, done.stderr
    key = jax.random.key(0)
    expected = run.predict(*place, key, measurements=(points, db), samples=2)
    completed = np.load(folder / "out" / "completed.npy")
    np.testing.assert_allclose(completed, expected.mean(axis=0)[0], atol=1e-3)
    done = command.call("apply", "complete", *given, "--out", folder / "other")
    assert done.status and "give both, or --method descent" in done.stderr
    maps = {}
    for count, batch in ((0, 8), (5, 8), (5, 1)):
        name = f"{count}_{batch}"
        done = command.call(
            *("evaluate", "--workdir", tmp_path / "run", "--measurements", count),
            *("--batch_size", batch, "--name", name),
        )
        assert done.status == 0, done.stderr
        record = json.loads((tmp_path / f"run/evaluation/{name}.json").read_text())
        assert record["measurements"] == count
        maps[count, batch] = record["rows"]["calls_1"]["raw"]["all"]["rmse_db"]
    # Which points are drawn goes by the map, not by its place in a batch.
    np.testing.assert_allclose(maps[5, 8], maps[5, 1], rtol=1e-6)
    assert abs(maps[0, 8] / maps[5, 8] - 1) > 1e-5


@pytest.mark.parametrize("stage", ["first", "second"])
def test_apply_complete_descends_through_any_first_stage(
    second, trained, files, place, stage
):
    folder, flags = files
    (folder / "points.csv").write_text("x,y,dB\n3,4,-90\n20,9,-95.5\n")
    workdir = trained / "run" if stage == "first" else second[1]
    done = command.call(
        *("apply", "complete", "--measurements", folder / "points.csv"),
        *("--workdir", workdir, "--out", folder / "out", "--method", "descent"),
        *("--steps", 5, "--samples", 2, "--format", "npz"),
        *(flags if stage == "second" else ()),
    )
    assert done.status == 0, done.stderr
    assert (folder / "out" / "completed.png").stat().st_size > 1000
    found = np.load(folder / "out" / "completed.npz")
    assert found["path_gain"].shape == found["deviation_db"].shape == (1, 32, 32)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--method", "conditioned"], "run of a first stage"),
        (["--samples", "0"], "no whole number from 1"),
        (["--buildings", "{folder}/wide.png"], "crop or resize the map"),
        (["--tx_frame", "up"], "invalid choice"),
        (["--measurements", "{folder}/off.csv"], "lie outside the map of 32x32"),
        (["--measurements", "{folder}/loud.csv"], "outside the range of the maps"),
    ],
)
def test_apply_complete_refuses_what_cannot_be(trained, files, flags, words):
    folder, _ = files
    texts = {"points": "3,4,-90\n", "off": "3,40,-90\n", "loud": "3,4,20\n"}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    radiomap.write_png(folder / "wide.png", np.zeros((64, 64), np.uint8))
    flags = [flag.format(folder=folder) for flag in flags]
    given = ["--measurements", folder / "points.csv", "--steps", 1, "--samples", 1]
    out = ("--workdir", trained / "run", "--out", folder / "out")
    done = command.call("apply", "complete", *given, *flags, *out)
    assert done.status and words in done.stderr
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())


def test_points_are_read_in_the_frame_that_is_said(second, files, place):
    folder, _ = files
    buildings, (x, y) = place
    assert x != 31 - y and not buildings[31 - y, x]  # an asymmetric place
    flags = ["--buildings", folder / "b.png", "--workdir", second[1], "--seed", 1]
    said = {"image": (x, y), "seer": (x, 31 - y), "metres": (x + 0.5, 31 - y + 0.5)}
    found = {}
    for frame, (column, row) in said.items():
        out = folder / frame
        given = ("--tx", f"{column},{row}", "--tx_frame", frame, "--out", out)
        done = command.call("apply", "predict", *flags, *given, "--format", "npz")
        assert done.status == 0, done.stderr
        found[frame] = np.load(out / "predicted.npz")
    for frame in ("seer", "metres"):
        for name, array in found["image"].items():
            np.testing.assert_array_equal(found[frame][name], array)
    # What is written is a scene as Sionna's: the reader turns it back.
    scene = sionna.read_scene(
        folder / "seer" / "predicted.npz", fields=("gray", "antenna", "buildings")
    )
    assert np.argwhere(scene.antenna[0]).tolist() == [[y, x, 0]]
    np.testing.assert_array_equal(scene.buildings, buildings)


def test_apply_predict_wants_a_second_stage(trained, files):
    _, flags = files
    done = command.call("apply", "predict", *flags, "--workdir", trained / "run")
    assert done.status and "run of a first stage" in done.stderr
