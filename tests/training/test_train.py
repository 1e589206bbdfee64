"""The loop on a tiny synthetic city: what a user relies on across runs."""

import functools
import json
import operator
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from whole_runs import log, saved, shapes

import radiovae_jax
from radiovae_jax.training import checkpoint, logbook, run_folder, schema
from radiovae_jax.vae import experiment


@pytest.fixture
def config(trained):
    """That of the trained run: three steps without and three with the discriminator."""
    return tiny.config(trained / "city")


@pytest.fixture(scope="module")
def lines(trained):
    return logbook.read(trained / "run" / "metrics.jsonl")


@pytest.mark.slow  # test_task.py says the same of a stage that compiles in a moment
def test_stopping_and_going_on_equals_one_unbroken_run_bit_for_bit(config, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tiny.train(config, whole)
    for stop in (4, 0):
        config.train.stop_at = stop
        tiny.train(config, broken)
    one, two = (saved(folder, config) for folder in (whole, broken))
    assert int(one[0].step) == one[1]["position"] == 6
    jax.tree.map(np.testing.assert_array_equal, one, two)
    logs = [log(whole), log(broken)]
    # The stop itself adds a validation; everything else is the same.
    logs[1][3] = {k: v for k, v in logs[1][3].items() if not k.startswith("val/")}
    assert logs[0] == logs[1]


def test_a_run_keeps_how_it_was_made_and_takes_the_home_folder(
    trained, trained_copy, tmp_path, monkeypatch
):
    found = json.loads((trained_copy / "run.json").read_text())
    assert (found["step"], found["ended"]) == (0, "done")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = run_folder.read_config("~/run")
    config.data.root = os.path.join("~", os.path.relpath(config.data.root, Path.home()))
    numbers = logbook.last_validation(trained / "run" / "metrics.jsonl")
    assert tiny.train(config, Path("~/run"))["nmse"] == numbers["nmse"]
    found = json.loads((trained_copy / "run.json").read_text())
    assert [(one["step"], one["ended"]) for one in found["resumes"]] == [(6, "done")]
    assert "~" not in run_folder.read_config(trained_copy).data.root
    assert radiovae_jax.load("~/run")[0].embed_dim == 3
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_compiling_is_logged_of_each_phase_and_is_no_time_of_a_step(lines):
    compiled = [line for line in lines if "time/compile_seconds" in line]
    assert [line["step"] for line in compiled] == [1, 4]
    for line in compiled:
        assert line["time/step_seconds"] < line["time/compile_seconds"] / 2


def test_each_step_is_logged_once_under_the_agreed_names(lines):
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    names = (
        "total_loss logvar kl_loss nll_loss rec_loss d_weight disc_factor g_loss "
        "disc_loss logits_real logits_fake"
    ).split()
    assert {f"train/{name}" for name in names} <= lines[0].keys()
    measured = ["psnr", "ssim", "nmse", "rmse_db"]
    assert {f"val/{name}" for name in names + measured} <= lines[2].keys()


def test_adversarial_numbers_are_zero_before_disc_start_and_not_after(lines):
    for name in ("d_weight", "disc_factor", "g_loss", "disc_loss", "logits_real"):
        assert [line[f"train/{name}"] for line in lines[:3]] == [0, 0, 0]
        assert all(line[f"train/{name}"] != 0 for line in lines[3:])
    for name in ("disc_factor", "g_loss", "disc_loss", "logits_real"):
        assert lines[2][f"val/{name}"] == 0
        assert lines[5][f"val/{name}"] != 0


def test_the_discriminator_does_not_move_before_disc_start(trained, config):
    parts = ("disc_params", "disc_stats", "disc_opt_state")
    like = {name: getattr(shapes(config), name) for name in parts}
    before, after = (
        checkpoint.restore_part(trained / "run", step, like) for step in (3, 6)
    )
    init_key, _, _ = jax.random.split(jax.random.key(config.seed), 3)
    fresh = experiment.drawn_state(
        config, experiment.build(config, (32, 32, 1)), init_key
    )
    for name in parts:
        jax.tree.map(np.testing.assert_array_equal, before[name], getattr(fresh, name))
    kernels = (one["disc_params"]["conv_0"]["kernel"] for one in (before, after))
    assert np.abs(np.subtract(*kernels)).max() > 0


def test_the_run_leaves_its_files_where_people_look(trained):
    workdir = trained / "run"
    config = json.loads((workdir / "config.json").read_text())
    assert config["autoencoder"]["ch"] == 32
    assert (workdir / "images" / "reconstructions_0000006.png").stat().st_size > 10_000
    assert (workdir / "images" / "samples_0000006.png").exists()
    assert np.load(workdir / "images" / "samples.npy").shape == (2, 32, 32, 1)
    assert list((workdir / "tensorboard").glob("events*"))
    assert logbook.last_validation(workdir / "metrics.jsonl")["nmse"] > 0


def test_load_gives_back_the_average_ready_to_encode_and_decode(trained, config):
    workdir = trained / "run"
    model, params = radiovae_jax.load(workdir, step=6)
    state, _ = saved(workdir, config)
    jax.tree.map(
        np.testing.assert_array_equal, params["params"], state.ema["autoencoder"]
    )
    x = np.zeros((1, 32, 32, 1), np.float32)
    z = model.apply(params, x, method="encode").mode()
    assert z.shape == (1, 16, 16, 3)
    assert model.apply(params, z, method="decode").shape == x.shape
    live = radiovae_jax.load(workdir, weights="live", step=6)[1]
    jax.tree.map(
        np.testing.assert_array_equal, live["params"], state.params["autoencoder"]
    )


def test_a_config_of_version_0_1_gets_the_fields_that_came_later(tmp_path):
    radio = tiny.read("radio")
    run_folder.claim(tmp_path, radio)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    for name in run_folder.ADDED:
        *sections, field = name.split(".")
        del functools.reduce(operator.getitem, sections, old)[field]
    # 90 fields had version 0.1; whoever adds one says there what it did without it.
    assert len(schema.flat(old)) == 90
    path.write_text(json.dumps(old))
    begun = run_folder.continued(tmp_path, radio)
    assert run_folder.jsonable(begun) == run_folder.read_config(tmp_path).to_dict()
    assert begun.data.split_by == "file" and radio.data.split_by == "group"
    for _ in range(2):  # each time that it goes on
        run_folder.claim(tmp_path, radio)
        assert run_folder.continued(tmp_path, radio).data.split_by == "file"
        assert run_folder.read_config(tmp_path).data.split_by == "file"


def test_a_torn_line_of_the_log_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n{"step": 3, "a"')
    log = logbook.Logbook(tmp_path, step=1)
    log.write(2, {"a": float("nan")})
    log.close()
    assert path.read_text() == '{"step": 1, "a": 1.0}\n{"step": 2, "a": null}\n'


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        radiovae_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds checkpoints but no config"):
        run_folder.claim(tmp_path, tiny.read("quickstart"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": []}', '{"data": null}'])
def test_a_config_that_is_none_is_one_line_with_the_remedy(tmp_path, text):
    values = tiny.read("quickstart").to_dict()
    if text.startswith('{"'):
        text = json.dumps(values | json.loads(text))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json .*put the run's config back"):
        run_folder.read_config(tmp_path)
    marked = b"\xef\xbb\xbf" + json.dumps(values).encode()  # Windows's editors
    (tmp_path / "config.json").write_bytes(marked)
    assert run_folder.read_config(tmp_path).to_dict() == json.loads(json.dumps(values))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("data.image_size", 31, r"31x31 is not a multiple of .*data.image_size=32"),
        ("data.crop", 15, r"15x15 is not a multiple"),
        ("data.source", "synthethic", "synthetic"),
        ("data.val_split", "valid", "val"),
        ("data.simulation", "DMP", "DPM"),
        ("loss.pixel_weights", "roads", "street"),
        ("ema.of", ("logvar",), "must hold 'autoencoder'"),
        ("train.log_every", 0, "log_every=0 must be a whole number from 1"),
        ("train.steps", 2**31, "steps=2147483648 must be .* to 2147483647"),
        ("seed", -1, "seed=-1 must be .* to 4294967295"),
        ("seed", 2**32, "seed=4294967296 must be .* to 4294967295"),
        ("autoencoder.ch", 48, "multiple of 32"),
        ("autoencoder.ch_mult", (1, "a"), "must be a tuple of a whole number"),
        ("autoencoder.in_channels", 3, "the image has 1 channels"),
        ("autoencoder.out_ch", 3, "set autoencoder.out_ch=1"),
        ("loss.disc_in_channels", 2, "given 1 channels"),
        ("loss.disc_num_layers", 5, "too small for a discriminator of 5 layers"),
        ("loss.kl_weight", float("nan"), "kl_weight=nan must be"),
        ("loss.kl_wieght", 1.0, "is no field; did you mean loss.kl_weight?"),
    ],
)
def test_a_bad_value_ends_in_a_message_before_the_folder_is_made(
    config, tmp_path, field, value, message
):
    schema.put(config, field, value)
    with pytest.raises(ValueError, match=message):
        tiny.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "config",
    "radio radio:native radio:f8 radio_reference quickstart vae vae:mse".split(),
)
def test_the_configs_of_the_project_pass_the_check(config):
    schema.check(tiny.read(*config.split(":")))


def test_missing_perceptual_weights_stop_the_run_and_name_both_remedies(
    config, tmp_path
):
    config.loss.update(perceptual_weight=1.0, perceptual_weights=str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        tiny.train(config, tmp_path / "run")
    assert "perceptual_weight=0" in str(error.value)
    assert "perceptual_weights" in str(error.value)
    assert not (tmp_path / "run").exists()
