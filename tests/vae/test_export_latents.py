"""The tool that exports latents, on a tiny run, and what the next tools make of it."""

import io
import json
import shutil

import numpy as np
import pytest
import tool

import radiovae_jax
from radiovae_jax.data import datasets, radiomap, sources
from radiovae_jax.training import run_folder

export_latents = tool.load("export_latents")
export_torch = tool.load("export_torch")
STEP = 6  # the last of `trained`


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    """The trained run and its city, both to be written to; of one checkpoint."""
    folder = tmp_path_factory.mktemp("latents")
    shutil.copytree(trained / "run", folder / "run")
    shutil.copytree(trained / "city", folder / "city")
    path = folder / "run" / "config.json"
    config = json.loads(path.read_text())
    config["data"]["root"] = str(folder / "city")
    path.write_text(json.dumps(config))
    for other in (folder / "run" / "checkpoints").iterdir():
        if other.name.isdigit() and int(other.name) != STEP:
            shutil.rmtree(other)
    return folder / "run"


def run(workdir, *arguments):
    return export_latents.main([str(workdir), "--batch_size=3", *map(str, arguments)])


@pytest.fixture(scope="module")
def exported(workdir):
    assert run(workdir, "--split=train", "--shard_size=6") == 0
    return workdir / "latents" / "train"


def read(folder):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))
    return [np.load(io.BytesIO(source[i])) for i in range(len(source))]


def test_what_is_exported_is_what_the_run_encodes(workdir, exported):
    records = read(exported)
    config = run_folder.read_config(workdir)
    fields = ("buildings", "antenna")
    source = datasets.open_data(config, "train", also=fields)
    assert len(records) == len(source) == 16
    model, params = radiovae_jax.load(workdir)
    for i in (0, 7, 15):
        one = source[i]
        assert records[i]["name"] == one["name"]
        for name in fields:
            np.testing.assert_array_equal(records[i][name], one[name])
        row, column = records[i]["transmitter"]
        assert one["antenna"][row, column] == 255
        x = radiomap.f_to_model(radiomap.gray_to_f(one["gray"]))[None]
        posterior = model.apply(params, x, method="encode")
        for name in ("mean", "logvar"):
            expected = getattr(posterior, name)[0]
            np.testing.assert_allclose(records[i][name], expected, rtol=1e-4, atol=1e-5)


def test_the_factors_for_diffusers_are_those_of_the_statistics(
    workdir, exported, tmp_path
):
    pytest.importorskip("safetensors")
    assert export_torch.main([str(workdir), str(tmp_path / "vae")]) == 0
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    mean = np.stack([record["mean"] for record in read(exported)], dtype=np.float64)
    noise = np.stack([record["logvar"] for record in read(exported)], dtype=np.float64)
    # One number for all channels: the whole of the latents has mean 0 and variance 1.
    spread = mean.var() + np.exp(noise).mean()
    np.testing.assert_allclose(config["shift_factor"], mean.mean(), rtol=1e-6)
    np.testing.assert_allclose(config["scaling_factor"], spread**-0.5, rtol=1e-6)


def test_manifest_and_statistics_say_of_what_these_are_the_latents(workdir, exported):
    found = json.loads((workdir / "latents" / "statistics.json").read_text())
    assert (found["split"], found["step"], found["maps"]) == ("train", STEP, 16)
    manifest = json.loads((exported / "manifest.json").read_text())
    identity = manifest["identity"]
    assert identity["split"] == "train"
    assert (identity["step"], identity["weights"]) == (STEP, "ema")
    assert identity["config"]["autoencoder.z_channels"] == 3
    assert identity["commit"]
    assert identity["condition"] == ["buildings", "antenna"]
    assert [shard["count"] for shard in manifest["shards"]] == [6, 6, 4]
    assert manifest["shards"][0]["fields"]["mean"]["shape"] == [16, 16, 3]


def test_other_splits_do_not_replace_the_statistics_of_the_training(
    workdir, exported, tmp_path, capsys
):
    path = workdir / "latents" / "statistics.json"
    before = path.read_bytes()
    out = tmp_path / "drawn"
    options = ("--split=val", "--sample", "--format=npz", f"--out={out}")
    assert run(workdir, *options) == 0
    assert "statistics.json: kept" in capsys.readouterr().out
    assert path.read_bytes() == before
    with np.load(next(out.glob("*.npz"))) as drawn:
        assert drawn["z"].shape == (2, 16, 16, 3)
        assert "mean" not in drawn
    # Another draw is another export.
    assert run(workdir, *options, "--seed=1") == 1
    assert "latents.seed: 0 there, 1 here" in capsys.readouterr().err


def test_a_condition_is_whole_or_left_out_aloud_or_refused(workdir, capsys):
    city = workdir.parent / "city" / "png"
    config = run_folder.read_config(workdir)
    config.data.source, config.data.root = "radiomapseer", str(city.parent)
    one = next((city / "buildings_complete").glob("*.png"))
    away = one.rename(workdir / "away.png")
    remedy = rf"1 of \d+ files are missing.*{one.name}; copy.*move .*complete away"
    with pytest.raises(FileNotFoundError, match=remedy):
        export_latents.open_with_condition(config, "all")
    away.rename(one)
    folder = (city / "antennas").rename(city / "elsewhere")
    found, fields = export_latents.open_with_condition(config, "all")
    assert "without antenna: no folder" in capsys.readouterr().out
    assert fields == ["buildings"]
    assert set(found[0]) == {"name", "gray", "buildings"}
    folder.rename(city / "antennas")
    before = sources.names_digest(found)
    found.names[-1] = (9999, 0)  # as many maps, and another one among them
    assert sources.names_digest(found) != before


def test_maps_that_would_be_squashed_are_named_before_the_work(
    workdir, tmp_path, monkeypatch, capsys
):
    np.save(tmp_path / "a.npy", np.zeros((16, 32), np.float32))
    config = run_folder.read_config(workdir)
    config.data.update(source="folder", image_size=16, root=str(tmp_path))
    monkeypatch.setattr(run_folder, "read_config", lambda workdir: config)
    assert run(workdir, "--split=all", f"--out={tmp_path / 'out'}") == 1
    assert "maps of 16x32 are not square" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_ends_in_one_message(workdir, tmp_path, capsys):
    for arguments, words in (
        ((tmp_path,), "is not the folder of a run"),
        ((workdir, "--split=trian"), "'train'"),
        ((workdir, "--step=3"), "no checkpoint of step 3"),
    ):
        assert run(*arguments) == 1
        assert words in capsys.readouterr().err
    for flag in ("--shard_size=0", "--seed=4294967296"):
        with pytest.raises(SystemExit):
            run(workdir, flag)


def test_an_interrupted_export_goes_on_with_its_step_while_that_is_there(
    workdir, tmp_path, capsys, monkeypatch
):
    shutil.copytree(workdir, tmp_path / "run")
    out, checkpoints = tmp_path / "out", tmp_path / "run" / "checkpoints"
    arguments = ("--split=train", "--format=npz", "--shard_size=6", f"--out={out}")
    write = export_latents.shards.write

    def interrupted(path, records):
        if "00001" in path.name:
            raise KeyboardInterrupt
        write(path, records)

    monkeypatch.setattr(export_latents.shards, "write", interrupted)
    assert run(tmp_path / "run", *arguments) == 130
    monkeypatch.undo()
    shutil.copytree(checkpoints / str(STEP), checkpoints / "7")  # the training goes on
    shutil.copytree(out, tmp_path / "late")
    monkeypatch.setattr(run_folder, "best_step", lambda workdir: 7)
    assert run(tmp_path / "run", *arguments) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["identity"]["step"], manifest["count"]) == (STEP, 16)
    shutil.rmtree(checkpoints / str(STEP))
    capsys.readouterr()
    late = f"--out={tmp_path / 'late'}"
    assert run(tmp_path / "run", *arguments, late) == 1
    said = capsys.readouterr().err
    assert f"a part of the latents of step {STEP}" in said
    assert "it has those of [7]" in said and "another --out" in said
