"""tools/export_torch.py: what it writes, PyTorch loads, and computes the same with."""

import json
import pathlib

import numpy as np
import pytest
import tiny
import tool

import radiovae_jax
from radiovae_jax.interop import torch_weights
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")
safetensors = pytest.importorskip("safetensors.torch")

import_torch, export_torch = tool.load("import_torch"), tool.load("export_torch")


@pytest.fixture(scope="module")
def workdir(trained):
    return trained / "run"


def export(workdir, out, *arguments) -> int:
    return export_torch.main(list(map(str, (workdir, out, *arguments))))


class Released(torch_models.AutoencoderKL):
    """The released class, without the two further copies of the loss and LPIPS."""

    def __init__(self):
        super().__init__(attends=(False, False), ch_mult=(1, 1))
        self.loss = torch_models.Loss(ndf=8, layers=2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_exported_file_has_exactly_the_released_names_and_shapes(
    workdir, tmp_path, suffix
):
    out = tmp_path / f"out{suffix}"
    assert export(workdir, out) == 0
    if suffix == ".pt":
        state = torch.load(out, weights_only=True)["state_dict"]
    else:
        state = safetensors.load_file(out)
    released = Released()
    found = {name: (value.shape, value.dtype) for name, value in state.items()}
    assert found == {
        name: (value.shape, value.dtype)
        for name, value in released.state_dict().items()
    }
    released.load_state_dict(state, strict=True)
    torch_models.assert_same_outputs(
        *radiovae_jax.load(workdir), released.encode, released.decode
    )
    logvar, disc = codec.load_loss(workdir)
    assert released.loss.logvar.item() == logvar != 0.25
    kernel = released.loss.discriminator.main[5].weight.detach().permute(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, disc["params"]["conv_2"]["kernel"])


def test_diffusers_loads_an_exported_folder_and_computes_the_same(workdir, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    statistics = {"mean": [0.5, -0.5, 0.0], "std": [2.0, 2.0, 2.0]}
    (tmp_path / "latents.json").write_text(json.dumps(statistics))
    latents = f"--latents={tmp_path / 'latents.json'}"
    assert export(workdir, tmp_path / "vae", latents) == 0
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae")
    torch_models.assert_same_outputs(
        *radiovae_jax.load(workdir),
        lambda x: theirs.encode(x).latent_dist.parameters,
        lambda z: theirs.decode(z).sample,
    )
    # Pooled variance: 4 + (0.25 + 0.25 + 0) / 3.
    np.testing.assert_allclose(theirs.config.scaling_factor, (4 + 1 / 6) ** -0.5)
    assert theirs.config.shift_factor == 0.0
    assert theirs.config.sample_size == 32  # the run's resolution


def test_live_and_average_weights_are_told_apart(workdir, tmp_path):
    states = {}
    for weights in ("ema", "live"):
        out = tmp_path / f"{weights}.safetensors"
        assert export(workdir, out, f"--weights={weights}") == 0
        states[weights] = safetensors.load_file(out)
        _, params = radiovae_jax.load(workdir, weights)
        for name, array in torch_weights.autoencoder_to_torch(params).items():
            np.testing.assert_array_equal(states[weights][name], array)
    name = "encoder.conv_in.weight"
    assert not torch.equal(states["live"][name], states["ema"][name])


STATISTICS = '{"mean": [0, 0, 0], "std": [1, 1, 1]}'


@pytest.mark.parametrize(
    "run, out, statistics, words",
    [
        ("", "a.pt", "", "is not the folder of a run"),
        ("run", "a.onnx", "", ".safetensors"),
        ("run", "there.pt", "", "exists already"),
        ("run", "vae", '{"mean": [0, 0], "std": [1, 1]}', "a list of 3 finite"),
        ("run", "a.pt", STATISTICS, "cannot hold the factors"),
        ("run", "vae", STATISTICS.replace("1, 1]", "0, 1]"), "numbers above 0"),
        ("run", "vae", STATISTICS.replace("0, 0]", "NaN, 0]"), "mean is [0, nan, 0]"),
        ("run", "vae", '{"mean": 3}', "mean is 3, expected"),
    ],
)
def test_what_cannot_be_exported_ends_in_one_message(
    trained, tmp_path, capsys, run, out, statistics, words
):
    (tmp_path / "there.pt").touch()
    (tmp_path / "latents.json").write_text(statistics)
    latents = [f"--latents={tmp_path / 'latents.json'}"] if statistics else []
    assert export(trained / run, tmp_path / out, *latents) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "vae").exists() and not (tmp_path / "a.pt").exists()


def test_an_export_that_fails_leaves_nothing(workdir, tmp_path, monkeypatch, capsys):
    def fail(path, content):
        path.write_text("half")
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    for out in ("a.safetensors", "vae"):
        assert export(workdir, tmp_path / out) == 1
        assert "disk on fire" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_factors_that_came_with_the_weights_go_with_them(
    trained_copy, tmp_path, monkeypatch
):
    (tmp_path / "vae").mkdir()  # empty: it may be there
    assert export(trained_copy, tmp_path / "vae") == 0
    path = tmp_path / "vae" / "config.json"
    config = json.loads(path.read_text())  # without any they are left as they are
    assert (config["scaling_factor"], config["shift_factor"]) == (1.0, None)
    given = {"scaling_factor": 0.5, "shift_factor": 0.25}
    given |= {"latents_mean": [0.5, -0.5, 0.0], "latents_std": [1.0, 2.0, 3.0]}
    path.write_text(json.dumps(config | given))
    # What an import writes beside the run that is imported.
    monkeypatch.setattr(import_torch, "write", lambda folder, *_: folder.mkdir())
    words = [f"--workdir={tmp_path / 'again'}", "--config=quickstart"]
    assert import_torch.main([str(tmp_path / "vae"), *words]) == 0
    factors = (tmp_path / "again" / "diffusers.json").read_text()
    (trained_copy / "diffusers.json").write_text(factors)
    assert export(trained_copy, tmp_path / "back") == 0
    found = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {name: found[name] for name in given} == given


def test_a_decoder_of_logits_is_refused(tmp_path, capsys):
    config = tiny.config("unused")
    config.loss.reconstruction = "bce"
    run_folder.claim(tmp_path / "run", config)
    assert export(tmp_path / "run", tmp_path / "out.pt") == 1
    assert "gives logits, and PyTorch's classes would" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()
