"""tools/export_torch.py: what it writes, PyTorch loads, and computes the same with."""

import json
import pathlib

import command
import jax
import numpy as np
import pytest
import tiny
import tool

import radiovae_jax
from radiovae_jax.interop import torch_tables
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec, experiment

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")
safetensors = pytest.importorskip("safetensors.torch")

import_torch, export_torch = tool.load("import_torch"), tool.load("export_torch")


def make_run(folder, **fields):
    """Makes a run by importing published networks, saved as a file."""
    torch.manual_seed(0)
    fields = dict(ch_mult=(1, 2), num_res_blocks=1) | fields
    attends = tuple(False for _ in fields["ch_mult"])
    model = torch_models.AutoencoderKL(attends=attends, **fields)
    loss = torch_models.Loss(ndf=8, layers=2)
    state = model.state_dict() | {
        f"loss.{name}": value for name, value in loss.state_dict().items()
    }
    torch.save({"state_dict": state}, folder / "made.pt")
    config = command.PROJECT / "configs" / "quickstart.py"
    arguments = [str(folder / "made.pt"), "--with-loss", f"--config={config}"]
    assert import_torch.main([*arguments, f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"))


def outputs(workdir):
    """Returns x, moments, and the reconstruction of the mode, of the run itself."""
    model, params = radiovae_jax.load(workdir)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 1)).astype(np.float32)
    posterior = model.apply(params, x, method="encode")
    recon = model.apply(params, posterior.mode(), method="decode")
    moments = np.concatenate([posterior.mean, posterior.logvar], axis=-1)
    return x, moments, recon


class Released(torch_models.AutoencoderKL):
    """The released class, without the two further copies of the loss and LPIPS."""

    def __init__(self):
        super().__init__(attends=(False, False), ch_mult=(1, 2))
        self.loss = torch_models.Loss(ndf=8, layers=2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_exported_file_has_exactly_the_released_names_and_shapes(
    workdir, tmp_path, suffix
):
    out = tmp_path / f"out{suffix}"
    assert export_torch.main([str(workdir), str(out)]) == 0
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
    x, moments, recon = outputs(workdir)
    with torch.no_grad():
        ours = released.encode(torch_models.nchw(x))
        decoded = released.decode(ours.chunk(2, dim=1)[0])
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(torch_models.nhwc(ours), moments, **close)
    np.testing.assert_allclose(torch_models.nhwc(decoded), recon, **close)
    logvar, disc = codec.load_loss(workdir)
    assert released.loss.logvar.item() == logvar == 0.25
    kernel = released.loss.discriminator.main[5].weight.detach().permute(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, disc["params"]["conv_2"]["kernel"])


def test_the_full_size_names_are_those_of_the_released_config():
    """Shapes alone: 55,307,453 numbers under names written down in the test."""
    table = torch_tables.autoencoder_table(
        in_channels=1,
        out_ch=1,
        ch=128,
        ch_mult=(1, 2, 4),
        num_res_blocks=2,
        attn_levels=(False, False, False),
        z_channels=3,
        embed_dim=3,
        mid_attention=True,
    )
    with torch.device("meta"):
        released = torch_models.AutoencoderKL(
            attends=(False,) * 3, ch=128, ch_mult=(1, 2, 4), num_res_blocks=2
        )
    expected = {k: tuple(v.shape) for k, v in released.state_dict().items()}
    assert {entry.torch: entry.shape for entry in table} == expected
    assert sum(np.prod(shape, dtype=int) for shape in expected.values()) == 55_307_453


def test_diffusers_loads_an_exported_folder_and_computes_the_same(workdir, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    statistics = {"mean": [0.5, -0.5, 0.0], "std": [2.0, 2.0, 2.0]}
    (tmp_path / "latents.json").write_text(json.dumps(statistics))
    latents = f"--latents={tmp_path / 'latents.json'}"
    assert export_torch.main([str(workdir), str(tmp_path / "vae"), latents]) == 0
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae")
    x, moments, recon = outputs(workdir)
    with torch.no_grad():
        posterior = theirs.encode(torch_models.nchw(x)).latent_dist
        decoded = theirs.decode(posterior.mean).sample
    ours = torch_models.nhwc(torch.cat([posterior.mean, posterior.logvar], dim=1))
    np.testing.assert_allclose(ours, moments, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(torch_models.nhwc(decoded), recon, rtol=1e-4, atol=1e-5)
    # Pooled variance: 4 + (0.25 + 0.25 + 0) / 3.
    np.testing.assert_allclose(theirs.config.scaling_factor, (4 + 1 / 6) ** -0.5)
    assert theirs.config.shift_factor == 0.0
    assert theirs.config.sample_size == 64  # the quickstart's resolution


def test_without_statistics_latents_are_neither_scaled_nor_shifted(workdir, tmp_path):
    assert export_torch.main([str(workdir), str(tmp_path / "vae")]) == 0
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert config["scaling_factor"] == 1.0
    assert config["shift_factor"] is None


def test_live_and_average_weights_are_told_apart(tmp_path, monkeypatch):
    def new_state(*arguments):
        state = experiment_new_state(*arguments)
        doubled = jax.tree.map(lambda leaf: 2 * leaf, state.params)
        return state._replace(params=doubled)

    experiment_new_state = experiment.new_state
    monkeypatch.setattr(experiment, "new_state", new_state)
    workdir, states = make_run(tmp_path), {}
    for weights in ("ema", "live"):
        out = tmp_path / f"{weights}.pt"
        assert export_torch.main([str(workdir), str(out), f"--weights={weights}"]) == 0
        states[weights] = torch.load(out, weights_only=True)["state_dict"]
    name = "encoder.conv_in.weight"
    torch.testing.assert_close(states["live"][name], 2 * states["ema"][name])


def test_what_cannot_be_exported_ends_in_one_message(workdir, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert export_torch.main([str(word) for word in arguments]) == 1
        return capsys.readouterr().err

    narrow = make_run(tmp_path, embed_dim=2)
    capsys.readouterr()
    assert "no embed_dim apart" in refused(narrow, tmp_path / "vae")
    assert not (tmp_path / "vae").exists()
    assert "is not the folder of a run" in refused(tmp_path, tmp_path / "a.pt")
    assert ".safetensors" in refused(workdir, tmp_path / "a.onnx")
    (tmp_path / "there.pt").touch()
    assert "exists already" in refused(workdir, tmp_path / "there.pt")
    (tmp_path / "two.json").write_text('{"mean": [0, 0], "std": [1, 1]}')
    latents = f"--latents={tmp_path / 'two.json'}"
    assert "mean with 3 numbers" in refused(workdir, tmp_path / "vae", latents)
    assert "cannot hold the factors" in refused(workdir, tmp_path / "a.pt", latents)
    for text, words in {
        '{"mean": [0, 0, 0], "std": [1, 0, 1]}': "finite numbers above 0 as std",
        '{"mean": [0, NaN, 0], "std": [1, 1, 1]}': "finite numbers as mean",
        '{"mean": 3}': "mean with 3 numbers",
        "{": "two.json is damaged",
    }.items():
        (tmp_path / "two.json").write_text(text)
        assert words in refused(workdir, tmp_path / "vae", latents)


def test_an_export_that_fails_leaves_nothing(workdir, tmp_path, monkeypatch, capsys):
    def fail(path, content):
        path.write_text("half")
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    for out in ("a.safetensors", "vae"):
        assert export_torch.main([str(workdir), str(tmp_path / out)]) == 1
        assert "disk on fire" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_factors_that_came_with_the_weights_go_with_them(workdir, tmp_path):
    (tmp_path / "vae").mkdir()  # empty: it may be there
    assert export_torch.main([str(workdir), str(tmp_path / "vae")]) == 0
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    given = {"scaling_factor": 0.5, "shift_factor": 0.25}
    given |= {"latents_mean": [0.5, -0.5, 0.0], "latents_std": [1.0, 2.0, 3.0]}
    config |= given
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    quickstart = command.PROJECT / "configs" / "quickstart.py"
    again = tmp_path / "again"
    arguments = [str(tmp_path / "vae"), f"--workdir={again}", f"--config={quickstart}"]
    assert import_torch.main(arguments) == 0
    assert export_torch.main([str(again), str(tmp_path / "back")]) == 0
    found = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {name: found[name] for name in given} == given


def test_a_decoder_of_logits_is_refused_in_both_directions(tmp_path, capsys):
    config = tiny.config("unused")
    config.loss.reconstruction = "bce"
    run_folder.claim(tmp_path / "run", config)
    out = tmp_path / "out.pt"
    assert export_torch.main([str(tmp_path / "run"), str(out)]) != 0
    assert "gives logits, and PyTorch's classes would" in capsys.readouterr().err
    assert not out.exists()
    words = [str(tmp_path / "in.pt"), f"--workdir={tmp_path / 'new'}"]
    assert import_torch.main([*words, "--config.loss.reconstruction=bce"]) != 0
    assert "give l1_mse, l1 or mse" in capsys.readouterr().err
