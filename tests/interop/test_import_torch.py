"""tools/import_torch.py: every kind of file to a run that computes and goes on."""

import hashlib
import json
import re
import shlex
import subprocess
import sys

import command
import jax
import numpy as np
import pytest
import tool

import radiovae_jax
from radiovae_jax.interop import diffusers_weights, torch_structure, torch_weights
from radiovae_jax.training import logbook, run_folder, schema
from radiovae_jax.vae import codec

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")
safetensors = pytest.importorskip("safetensors.torch")

FIRST = "encoder.conv_in.weight"
FIELDS = dict(ch_mult=(1, 1), num_res_blocks=1)
import_torch = tool.load("import_torch")


def published(seed: int):
    """Returns the published autoencoder, and its state with three copies of a loss."""
    torch.manual_seed(seed)
    model = torch_models.AutoencoderKL(attends=(False, False), **FIELDS)
    state = model.state_dict()
    for copy in ("loss", "loss_pinn", "loss_pinn_dpm2irt4"):
        loss = torch_models.Loss(ndf=8, layers=2)
        with torch.no_grad():
            loss.logvar += len(copy)
        state |= {f"{copy}.{k}": v for k, v in loss.state_dict().items()}
        state[f"{copy}.perceptual_loss.net.slice1.0.weight"] = torch.zeros(3)
    return model, state


@pytest.fixture
def radiodiff(tmp_path):
    """A file as the released trainer writes it; the average is another model."""
    live, live_state = published(seed=1)
    average, average_state = published(seed=2)
    ema = {f"ema_model.{name}": value for name, value in average_state.items()}
    ema |= {f"online_model.{name}": value for name, value in live_state.items()}
    ema |= {"initted": torch.tensor([True]), "step": torch.tensor([30])}
    content = {"step": 30, "model": live_state, "ema": ema, "scaler": None}
    torch.save(content, tmp_path / "model-30.pt")
    return live, average, live_state, average_state


def run(tmp_path, file: str, *arguments: str, name: str = "run") -> int:
    return import_torch.main(
        [
            str(tmp_path / file),
            f"--workdir={tmp_path / name}",
            f"--config={command.PROJECT / 'configs' / 'quickstart.py'}",
            *arguments,
        ]
    )


def assert_computes_what(expected, folder) -> None:
    model, params = radiovae_jax.load(folder)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 1)).astype(np.float32)
    posterior = model.apply(params, x, method="encode")
    recon = model.apply(params, posterior.mode(), method="decode")
    with torch.no_grad():
        moments = expected.encode(torch_models.nchw(x))
        decoded = expected.decode(moments.chunk(2, dim=1)[0])
    moments, decoded = torch_models.nhwc(moments), torch_models.nhwc(decoded)
    ours = np.concatenate([posterior.mean, posterior.logvar], axis=-1)
    np.testing.assert_allclose(ours, moments, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(recon, decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_average_of_a_radiodiff_file_is_taken(radiodiff, tmp_path, capsys):
    live, average, *_ = radiodiff
    assert run(tmp_path, "model-30.pt") == 0
    assert_computes_what(average, tmp_path / "run")
    assert '"ch_mult": [' in capsys.readouterr().out  # the inferred config
    assert run(tmp_path, "model-30.pt", "--weights=model", name="live") == 0
    assert_computes_what(live, tmp_path / "live")


@pytest.mark.parametrize("copy", ["loss", "loss_pinn"])
def test_discriminator_and_logvar_come_from_the_asked_copy(radiodiff, tmp_path, copy):
    state = radiodiff[3]
    assert run(tmp_path, "model-30.pt", "--with-loss", copy) == 0
    logvar, disc = codec.load_loss(tmp_path / "run")
    assert float(logvar) == state[f"{copy}.logvar"].item() == 0.25 + len(copy)
    found = torch_weights.discriminator_to_torch(disc)
    for name in ("main.0.weight", "main.3.running_var", "main.8.bias"):
        expected = state[f"{copy}.discriminator.{name}"].numpy()
        np.testing.assert_array_equal(found[name], expected)
    loss = json.loads((tmp_path / "run" / "config.json").read_text())["loss"]
    assert (loss["disc_ndf"], loss["disc_num_layers"]) == (8, 2)


def test_without_the_loss_both_start_afresh(radiodiff, tmp_path):
    assert run(tmp_path, "model-30.pt") == 0
    logvar, disc = codec.load_loss(tmp_path / "run")
    assert logvar == 0.0
    assert disc["params"]["conv_0"]["kernel"].shape[-1] == 16  # the quickstart's


@pytest.mark.slow
def test_latent_diffusion_files_and_safetensors_are_read(tmp_path):
    model, state = published(seed=3)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "vae.ckpt")
    assert run(tmp_path, "vae.ckpt", name="ckpt") == 0
    assert_computes_what(model, tmp_path / "ckpt")

    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    safetensors.save_file(halves, tmp_path / "half.safetensors")
    assert run(tmp_path, "half.safetensors", name="half") == 0
    rounded = {k: v.float() for k, v in halves.items() if not k.startswith("loss")}
    model.load_state_dict(rounded)
    assert_computes_what(model, tmp_path / "half")

    inside = {f"first_stage_model.{k}": v for k, v in rounded.items()}
    inside["model.diffusion_model.out.weight"] = torch.zeros(2)
    torch.save({"state_dict": inside}, tmp_path / "ldm.ckpt")
    assert run(tmp_path, "ldm.ckpt", name="ldm") == 0
    assert_computes_what(model, tmp_path / "ldm")


def test_a_diffusers_folder_is_read(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(4)
    theirs = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64),
        latent_channels=2,
    )
    theirs.save_pretrained(tmp_path / "vae")
    assert run(tmp_path, "vae") == 0
    model, params = radiovae_jax.load(tmp_path / "run")
    assert model.attn_resolutions  # of the second level
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 1)).astype(np.float32)
    mean = model.apply(params, x, method="encode").mean
    recon = model.apply(params, mean, method="decode")
    with torch.no_grad():
        expected = theirs.encode(torch_models.nchw(x)).latent_dist.mean
        decoded = theirs.decode(expected).sample
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, torch_models.nhwc(expected), **close)
    np.testing.assert_allclose(recon, torch_models.nhwc(decoded), **close)


def test_a_file_of_diffusers_needs_its_config_beside_it(tmp_path, capsys):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(32,), latent_channels=2
    )
    theirs.save_pretrained(tmp_path / "vae")
    file = "vae/diffusion_pytorch_model.safetensors"
    assert run(tmp_path, file) == 0
    path = tmp_path / "vae" / "config.json"
    config = json.loads(path.read_text())
    for content, words in (
        (config | {"norm_num_groups": 16}, "norm_num_groups=16"),
        (config | {"block_out_channels": [64]}, "[64] in config.json, [32] in the"),
        (config | {"latent_channels": 4}, "latent_channels: 4 in config.json, 2 in"),
        (config | {"latents_std": [0, 1]}, "latents_std=[0, 1] is not"),
        ("}", "config.json is damaged"),
        ([], "expected a JSON object"),
        (config | {"down_block_types": None}, "down_block_types=None, expected a list"),
        (config | {"block_out_channels": {}}, "block_out_channels: {} in config.json"),
        (config | {"scaling_factor": 10**400}, "is not a finite number"),
        ("[" * 9999, "nested too deeply"),
    ):
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text)
        assert run(tmp_path, file, name="other") == 1
        assert words in capsys.readouterr().err
    path.unlink()
    assert run(tmp_path, file, name="other") == 1
    assert "give the folder" in capsys.readouterr().err


class Trainer:
    """What a pickle may hold besides tensors."""

    def __init__(self, weights=0.0):
        self.weights = weights


@pytest.mark.parametrize(
    "content, arguments, words",
    [
        ({"trainer": Trainer()}, [], ["Trainer)", "Save the model's state_dict()"]),
        (Trainer(), [], ["holds a test_import_torch.Trainer", "state_dict()"]),
        ({3: torch.zeros(1)}, [], ["KL autoencoder", "3 (Tensor)"]),
        ({"epoch": 3}, [], ["epoch (int)", "state_dict"]),
        ({"state_dict": {"a.b": torch.zeros(1)}}, [], ["KL autoencoder", "a.b"]),
        ({FIRST: torch.zeros(1)}, ["--weights=ema"], ["no average", "the top (raw"]),
        ({FIRST: Trainer()}, [], ["no tensors where", "test_import_torch.Trainer"]),
        ([1], [], ["list"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    content, arguments, words, tmp_path, capsys
):
    torch.save(content, tmp_path / "bad.pt")
    assert run(tmp_path, "bad.pt", *arguments) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert "\x1b" not in message and "weights_only" not in message
    assert not (tmp_path / "run").exists()


def test_a_file_of_integers_is_refused(tmp_path, capsys):
    _, state = published(seed=5)
    state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"].to(torch.int8)
    torch.save(state, tmp_path / "quantised.pt")
    assert run(tmp_path, "quantised.pt") == 1
    assert "encoder.conv_in.weight int8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_extra_and_missing_tensors_are_named_unless_ignored(tmp_path, capsys):
    model, state = published(seed=5)
    torch.save(state | {"colorize": torch.zeros(3)}, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt") == 1
    assert "extra: colorize (3,)" in capsys.readouterr().err
    assert run(tmp_path, "vae.pt", "--ignore=color") == 0
    assert_computes_what(model, tmp_path / "run")
    del state["decoder.norm_out.bias"], state["loss.logvar"]
    torch.save(state, tmp_path / "less.pt")
    assert run(tmp_path, "less.pt", name="less") == 1
    assert "missing: decoder.norm_out.bias (32,)" in capsys.readouterr().err
    state["decoder.norm_out.bias"] = torch.zeros(32)
    torch.save(state, tmp_path / "less.pt")
    assert run(tmp_path, "less.pt", "--with-loss", name="less") == 1
    assert "it has loss_pinn, loss_pinn_dpm2irt4" in capsys.readouterr().err
    half = {k: v for k, v in state.items() if "loss_pinn.disc" not in k}
    torch.save(half, tmp_path / "half.pt")
    assert run(tmp_path, "half.pt", "--with-loss", name="less") == 1
    assert "it has loss_pinn_dpm2irt4" in capsys.readouterr().err


def test_bad_arguments_end_in_one_message(tmp_path, capsys):
    torch.save(published(seed=5)[1], tmp_path / "vae.pt")
    (tmp_path / "bad.py").write_text("def get_config(:")
    safetensors.save_file({FIRST: torch.zeros(1)}, tmp_path / "vae.safetensors")
    for arguments, words in {
        ("vae.pt", "--config.train.stepz=5"): "stepz",
        ("vae.pt", "--config=nowhere.py"): "nowhere.py",
        ("none.pt",): "none.pt does not exist",
        ("vae.pt", "--config.data.image_size=31"): "data.image_size=32",
        ("vae.pt", "--step=-1"): "--step=-1 is not within",
        ("vae.pt", "--step=300"): "train.steps=300",
        ("vae.pt", "--config.train.batch_size=0"): "train.batch_size=0 must be",
        ("vae.pt", f"--config={tmp_path / 'bad.py'}"): "bad.py: SyntaxError",
        ("vae.safetensors", "--weights=ema"): "no average",
    }.items():
        assert run(tmp_path, *arguments) == 1
        assert words in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    assert run(tmp_path, "vae.pt") == 0
    assert run(tmp_path, "vae.pt") == 1
    assert "holds a run already" in capsys.readouterr().err


def test_two_encoders_in_a_file_need_a_prefix(tmp_path, capsys):
    model, state = published(seed=8)
    both = {f"a.{name}": value for name, value in published(seed=9)[1].items()}
    both |= {f"b.{name}": value for name, value in state.items()}
    torch.save(both, tmp_path / "two.pt")
    assert run(tmp_path, "two.pt") == 1
    assert "give --prefix, one of ['a.', 'b.']" in capsys.readouterr().err
    assert run(tmp_path, "two.pt", "--prefix=b") == 0  # the dot is understood
    assert_computes_what(model, tmp_path / "run")
    assert run(tmp_path, "two.pt", "--ignore=a.", "--ignore=c", name="rest") == 0
    assert_computes_what(model, tmp_path / "rest")
    assert "--ignore=c: no tensor is named c*" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vae.pt", "vae.safetensors"])
def test_a_damaged_file_is_named(name, tmp_path, capsys):
    state = {"a": torch.zeros(99)}
    save = safetensors.save_file if name.endswith("safetensors") else torch.save
    save(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", b"hello world", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(damaged)
        assert run(tmp_path, name) == 1
        message = capsys.readouterr().err
        assert f"{name} is {'damaged' if damaged else 'empty'}" in message
        assert "internal error" not in message


def test_an_average_that_does_not_fit_the_model_is_to_be_ignored(tmp_path, capsys):
    model, state = published(seed=5)
    state["model_ema.encoderconv_inweight"] = torch.zeros(2)
    torch.save({"state_dict": state}, tmp_path / "ldm.ckpt")
    assert run(tmp_path, "ldm.ckpt") == 1
    assert "--ignore=model_ema." in capsys.readouterr().err
    assert run(tmp_path, "ldm.ckpt", "--ignore=model_ema.") == 0
    assert_computes_what(model, tmp_path / "run")


def test_what_is_taken_and_what_it_is_of_is_said_and_kept(tmp_path, capsys):
    _, state = published(seed=5)
    torch.save({"model": state, "ema": {"a": torch.zeros(1)}}, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt", "--step=2") == 0
    said = capsys.readouterr().out
    assert f"ema has no {FIRST} and cannot be used" in said
    assert "taking model (raw weights)" in said
    # What the tensors replaced of the quickstart's network is said too.
    assert "autoencoder.ch_mult=(1, 2, 2) became (1, 1)" in said
    digest = hashlib.sha256((tmp_path / "vae.pt").read_bytes()).hexdigest()
    assert f"vae.pt: sha256 {digest}" in said
    record = json.loads((tmp_path / "run" / "imported.json").read_text())
    assert record.pop("command").endswith("--step=2")
    expected = dict(sha256={"vae.pt": digest}, weights="model", average=False)
    assert record == expected


def diffusers_files(state, folder):
    """Writes config.json of a diffusers folder; returns its tensors."""
    folder.mkdir()
    params = torch_weights.autoencoder_from_torch(state)
    facts = torch_structure.of_torch(state)
    facts = diffusers_weights.config_json(facts, sample_size=16)
    (folder / "config.json").write_text(json.dumps(facts))
    theirs = diffusers_weights.autoencoder_to_diffusers(params)
    return {name: torch.tensor(value) for name, value in theirs.items()}


def shards_of(state, folder, suffix, save):
    names = sorted(state)
    for i, some in enumerate((names[::2], names[1::2]), 1):
        name = f"diffusion_pytorch_model-{i:05}-of-00002{suffix}"
        save({key: state[key] for key in some}, folder / name)
        yield {key: name for key in some}


def write_layout(kind: str, state: dict, folder) -> str:
    """Writes the weights as one of the layouts of public files; returns its name."""
    path = folder / f"{kind}.ckpt"
    if kind in ("shards", "index", "one shard", "bin", "bin file", "bin shards"):
        theirs = diffusers_files(
            {k: v.numpy() for k, v in state.items()}, folder / kind
        )
        if kind.startswith("bin") and kind != "bin shards":
            torch.save(theirs, folder / kind / "diffusion_pytorch_model.bin")
            return kind + "/diffusion_pytorch_model.bin" * (kind == "bin file")
        suffix = ".bin" if kind == "bin shards" else ".safetensors"
        save = torch.save if suffix == ".bin" else safetensors.save_file
        maps = list(shards_of(theirs, folder / kind, suffix, save))
        if kind == "index":
            text = json.dumps({"metadata": {}, "weight_map": maps[0] | maps[1]})
            name = f"diffusion_pytorch_model{suffix}.index.json"
            (folder / kind / name).write_text(text)
        one = "/diffusion_pytorch_model-00002-of-00002.safetensors"
        return kind + one * (kind == "one shard")
    content = {
        "lightning": {"state_dict": state, "callbacks": {Trainer: Trainer()}},
        "numpy": {"state_dict": state, "best": np.float64(0.3)},
        "model_state_dict": {"model_state_dict": state, "epoch": 3},
        "flux": {k: v for k, v in state.items() if "quant_conv" not in k},
        "compiled": {
            re.sub(r"^(encoder|decoder)\.", r"\1._orig_mod.", k): v
            for k, v in state.items()
        },
        "litema": {k: torch.zeros_like(v) for k, v in state.items()}
        | {f"model_ema.{k.replace('.', '')}": v for k, v in state.items()},
    }[kind]
    torch.save(content, path)
    return path.name


@pytest.mark.parametrize(
    "kind",
    "shards,index,one shard,bin,bin file,bin shards,lightning,numpy,model_state_dict,"
    "flux,compiled,litema".split(","),
)
def test_public_layouts_give_the_weights_they_hold(kind, tmp_path, monkeypatch):
    torch.manual_seed(3)
    model = torch_models.AutoencoderKL(attends=(False, False), **FIELDS)
    state = model.state_dict()
    if kind == "flux":
        for name, width in (("quant_conv", 6), ("post_quant_conv", 3)):
            state[f"{name}.weight"] = torch.eye(width)[..., None, None]
            state[f"{name}.bias"] = torch.zeros(width)
    written = []

    def write(folder, config, params, *rest):
        folder.mkdir()
        written.append(params["autoencoder"])

    monkeypatch.setattr(import_torch, "write", write)
    assert run(tmp_path, write_layout(kind, state, tmp_path)) == 0
    expected = torch_weights.autoencoder_from_torch(
        {name: value.numpy() for name, value in state.items()}
    )["params"]
    jax.tree.map(np.testing.assert_array_equal, written[0], expected)


def test_a_shard_that_is_not_there_is_named(tmp_path, capsys):
    _, state = published(seed=5)
    own = {k: v for k, v in state.items() if not k.startswith("loss")}
    write_layout("index", own, tmp_path)
    index = tmp_path / "index" / "diffusion_pytorch_model.safetensors.index.json"
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    (tmp_path / "index" / shard).unlink()
    assert run(tmp_path, "index") == 1
    assert f"{shard} does not exist" in capsys.readouterr().err
    index.unlink()
    assert run(tmp_path, "index") == 1
    assert f"{shard} does not exist" in capsys.readouterr().err
    for bad in ({}, {"weight_map": None}, {"weight_map": {"a": "../b.bin"}}):
        index.write_text(json.dumps(bad))
        assert run(tmp_path, "index") == 1
        assert "weight_map names no files beside it" in capsys.readouterr().err


def test_an_import_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("disk on fire")

    torch.save(published(seed=5)[1], tmp_path / "vae.pt")
    monkeypatch.setattr(import_torch.Checkpoints, "save", fail)
    assert run(tmp_path, "vae.pt") == 1
    assert "RuntimeError: disk on fire" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["vae.pt"]
    with pytest.raises(RuntimeError, match="on fire"):
        run(tmp_path, "vae.pt", "--debug")


def test_a_resolution_of_one_number_stays_one(tmp_path):
    quickstart = command.PROJECT / "configs" / "quickstart.py"
    config = tmp_path / "square.py"
    config.write_text(
        "import runpy\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(quickstart)!r})['get_config']()\n"
        "    with config.ignore_type():\n"
        "        config.autoencoder.resolution = 64\n"
        "    return config\n"
    )
    model, state = published(seed=5)
    torch.save(state, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt", f"--config={config}") == 0
    assert run_folder.read_config(tmp_path / "run").autoencoder.resolution == 64
    assert_computes_what(model, tmp_path / "run")


def test_the_default_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = import_torch.parse(["vae.pt", "--workdir=run"])
    assert schema.read(args.config).data.source == "radiomapseer"


def test_without_torch_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    torch.save(published(seed=5)[1], tmp_path / "vae.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(tmp_path, "vae.pt") == 1
    assert "pip install -e '.[torch]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["import_torch", "export_torch"])
def test_help_shows_the_commands(name):
    script = tool.TOOLS / f"{name}.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    )
    assert f"python tools/{name}.py" in done.stdout


TINY = [word for word in command.TINY if "ch_mult" not in word]
TINY += ["--config.loss.disc_num_layers=2", "--config.train.steps=9"]


@pytest.mark.slow
def test_main_goes_on_from_an_import_with_the_command_it_prints(tmp_path, capsys):
    _, state = published(seed=6)
    torch.save(state, tmp_path / "vae.pt")
    city = f"--config.data.root={tmp_path / 'city'}"
    assert run(tmp_path, "vae.pt", *TINY, city, "--step=7", "--with-loss") == 0
    printed = re.search(r"-m radiovae_jax.main (.*)", capsys.readouterr().out)[1]
    done = command.main(*shlex.split(printed))
    assert done.returncode == 0, done.stderr
    lines = logbook.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [8, 9]
    assert lines[0]["train/logvar"] == 0.25 + len("loss")
    before = radiovae_jax.load(tmp_path / "run", weights="live", step=9)[1]["params"]
    imported = torch_weights.autoencoder_from_torch(
        {k: v.numpy() for k, v in state.items() if not k.startswith("loss")}
    )["params"]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, imported)
    # Two steps of Adam at a rate of at most 1e-3 from the imported numbers.
    assert 0 < max(jax.tree.leaves(moved)) < 3e-3


@pytest.mark.slow
def test_fine_tuning_starts_from_imported_weights(tmp_path):
    model, state = published(seed=7)
    torch.save(state, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt", "--with-loss", name="pretrained") == 0
    done = command.quickstart(  # at command.TINY's structure, which is FIELDS'
        tmp_path,
        f"--config.train.init_from={tmp_path / 'pretrained'}",
        "--config.optimizer.learning_rate=0.0",
        "--config.train.steps=1",
    )
    assert done.returncode == 0, done.stderr
    assert "starting from the weights of" in done.stderr
    # At a rate of 0 what was started from is what is saved: the published numbers.
    assert_computes_what(model, tmp_path / "run")
    lines = logbook.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1]
    assert lines[0]["train/logvar"] == 0.25 + len("loss")
