"""tools/import_torch.py: every kind of file to a run that computes and goes on."""

import hashlib
import json
import re
import shlex
import sys

import command
import jax
import numpy as np
import pytest
import tool

import radiovae_jax
from radiovae_jax.interop import diffusers_weights, torch_weights
from radiovae_jax.training import logbook
from radiovae_jax.vae import codec

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")
safetensors = pytest.importorskip("safetensors.torch")

FIRST = "encoder.conv_in.weight"
FIELDS = dict(ch_mult=(1,), num_res_blocks=1)
LOSSES = ("loss", "loss_pinn", "loss_pinn_dpm2irt4")
import_torch = tool.load("import_torch")


def published(seed: int):
    """Returns the published autoencoder, and its state with three copies of a loss."""
    torch.manual_seed(seed)
    model = torch_models.AutoencoderKL(attends=(False,), **FIELDS)
    state = model.state_dict()
    for copy in LOSSES:
        loss = torch_models.Loss(ndf=8, layers=2)
        with torch.no_grad():
            loss.logvar += len(copy)
        state |= {f"{copy}.{k}": v for k, v in loss.state_dict().items()}
        state[f"{copy}.perceptual_loss.net.slice1.0.weight"] = torch.zeros(3)
    return model, state


MODEL, STATE = published(seed=1)
OTHER_MODEL, OTHER_STATE = published(seed=2)
OWN = {name: v for name, v in STATE.items() if not name.startswith("loss")}


def radiodiff(live: dict, average: dict) -> dict:
    """Returns what the released trainer saves."""
    ema = {f"ema_model.{name}": value for name, value in average.items()}
    ema |= {f"online_model.{name}": value for name, value in live.items()}
    ema |= {"initted": torch.tensor([True]), "step": torch.tensor([30])}
    return {"step": 30, "model": live, "ema": ema, "scaler": None}


def run(tmp_path, file: str, *arguments: str, name: str = "run") -> int:
    workdir = f"--workdir={tmp_path / name}"
    words = [str(tmp_path / file), workdir, "--config=quickstart", *arguments]
    return import_torch.main(words)


@pytest.fixture
def written(monkeypatch):
    """What would be written: (config, params, disc, step) of each import."""
    imports = []

    def write(folder, *rest):
        folder.mkdir()
        imports.append(rest)

    monkeypatch.setattr(import_torch, "write", write)
    return imports


def assert_holds(params, state: dict) -> None:
    """Compares ours, bit for bit and in float32, with tensors of RadioDiff's names."""
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    expected = torch_weights.autoencoder_from_torch(
        {k: v.float().numpy() for k, v in state.items() if not k.startswith("loss")}
    )
    jax.tree.map(np.testing.assert_array_equal, params, expected["params"])


def assert_computes_what(expected, folder) -> None:
    model, params = radiovae_jax.load(folder)
    torch_models.assert_same_outputs(model, params, expected.encode, expected.decode)


def test_an_imported_run_computes_what_its_file_s_average_does(tmp_path, capsys):
    torch.save(radiodiff(STATE, OTHER_STATE), tmp_path / "model-30.pt")
    assert run(tmp_path, "model-30.pt", "--with-loss", "loss_pinn") == 0
    assert '"ch_mult": [' in capsys.readouterr().out  # the inferred config
    assert_computes_what(OTHER_MODEL, tmp_path / "run")
    logvar, disc = codec.load_loss(tmp_path / "run")
    assert float(logvar) == OTHER_STATE["loss_pinn.logvar"].item() == 9.25
    found = torch_weights.discriminator_to_torch(disc)
    for name in ("main.0.weight", "main.3.running_var", "main.8.bias"):
        expected = OTHER_STATE[f"loss_pinn.discriminator.{name}"].numpy()
        np.testing.assert_array_equal(found[name], expected)
    loss = json.loads((tmp_path / "run" / "config.json").read_text())["loss"]
    assert (loss["disc_ndf"], loss["disc_num_layers"]) == (8, 2)


def test_raw_weights_and_the_first_loss_are_taken_where_asked_for(tmp_path, written):
    torch.save(radiodiff(STATE, OTHER_STATE), tmp_path / "model-30.pt")
    assert run(tmp_path, "model-30.pt", "--weights=model", "--with-loss") == 0
    assert run(tmp_path, "model-30.pt", name="fresh") == 0
    (_, params, disc, _), (_, fresh, no_disc, _) = written
    assert_holds(params["autoencoder"], STATE)
    assert params["logvar"] == 0.25 + len("loss")
    bias = STATE["loss.discriminator.main.0.bias"]
    np.testing.assert_array_equal(disc["params"]["conv_0"]["bias"], bias)
    # Without the loss both start afresh, from the config.
    assert_holds(fresh["autoencoder"], OTHER_STATE)
    assert fresh["logvar"] == 0.0 and not no_disc


def test_without_the_loss_the_discriminator_is_the_config_s(tmp_path):
    torch.save(OWN, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt") == 0
    logvar, disc = codec.load_loss(tmp_path / "run")
    assert logvar == 0.0
    assert disc["params"]["conv_0"]["kernel"].shape[-1] == 16  # the quickstart's


class Trainer:
    """What a pickle may hold besides tensors."""

    def __init__(self, weights=0.0):
        self.weights = weights


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


# The autoencoder in pickles of public trainers; more in test_torch_copies.py.
PICKLES = {
    "lightning": {"state_dict": OWN, "callbacks": {Trainer: Trainer()}},
    "flux": {k: v for k, v in OWN.items() if "quant_conv" not in k},
}
FOLDERS = ("index", "one shard", "bin", "bin shards")


def write_diffusers(kind: str, folder) -> str:
    """Writes the weights as a folder of diffusers; returns the name to import."""
    folder.mkdir()
    ours = {name: value.numpy() for name, value in OWN.items()}
    facts = diffusers_weights.config_json(
        torch_weights.structure_of_torch(ours), sample_size=16
    )
    (folder / "config.json").write_text(json.dumps(facts))
    theirs = diffusers_weights.autoencoder_to_diffusers(
        torch_weights.autoencoder_from_torch(ours)
    )
    theirs = torch_models.tensors(theirs)
    stem = "diffusion_pytorch_model"
    if kind in ("bin", "bin file"):
        torch.save(theirs, folder / f"{stem}.bin")
        return kind + f"/{stem}.bin" * (kind == "bin file")
    suffix, save = ".safetensors", safetensors.save_file
    if kind == "bin shards":
        suffix, save = ".bin", torch.save
    names, weight_map = sorted(theirs), {}
    for i, some in enumerate((names[::2], names[1::2]), 1):
        shard = f"{stem}-{i:05}-of-00002{suffix}"
        save({key: theirs[key] for key in some}, folder / shard)
        weight_map |= dict.fromkeys(some, shard)
    if kind == "index":
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{stem}{suffix}.index.json").write_text(text)
    return f"{kind}/{shard}" if kind == "one shard" else kind


@pytest.mark.parametrize("kind", [*PICKLES, *FOLDERS])
def test_public_layouts_give_the_weights_they_hold(kind, tmp_path, written):
    expected, file = dict(OWN), f"{kind}.ckpt"
    if kind in FOLDERS:
        file = write_diffusers(kind, tmp_path / kind)
    else:
        torch.save(PICKLES[kind], tmp_path / file)
    if kind == "flux":
        for name, width in (("quant_conv", 6), ("post_quant_conv", 3)):
            expected[f"{name}.weight"] = torch.eye(width)[..., None, None]
            expected[f"{name}.bias"] = torch.zeros(width)
    assert run(tmp_path, file) == 0
    assert_holds(written[0][1]["autoencoder"], expected)


def test_numbers_of_half_precision_are_read(tmp_path, written):
    halves = {k: v.bfloat16() if v.is_floating_point() else v for k, v in STATE.items()}
    safetensors.save_file(halves, tmp_path / "half.safetensors")
    assert run(tmp_path, "half.safetensors") == 0
    assert_holds(written[0][1]["autoencoder"], halves)


def test_a_file_of_diffusers_needs_its_config_beside_it(tmp_path, capsys, written):
    file = write_diffusers("bin file", tmp_path / "bin file")
    assert run(tmp_path, file) == 0
    path = tmp_path / "bin file" / "config.json"
    made = json.loads(path.read_text())
    for content, words in (
        (made | {"norm_num_groups": 16}, "norm_num_groups=16"),
        (made | {"block_out_channels": [64]}, "[64] in config.json, [32] in the"),
        (made | {"down_block_types": None}, "down_block_types: None in config.json"),
        (made | {"latents_std": [0, 1]}, "latents_std is [0, 1], expected a list of"),
        (made | {"scaling_factor": 10**400}, "expected a list of finite numbers"),
        ([], "expected a JSON object"),
    ):
        path.write_text(json.dumps(content))
        assert run(tmp_path, file, name="other") == 1
        assert words in capsys.readouterr().err
    path.unlink()
    assert run(tmp_path, file, name="other") == 1
    assert "give the folder" in capsys.readouterr().err


def changed(state: dict, *without: str, **others) -> dict:
    return {k: v for k, v in state.items() if not k.startswith(without)} | others


@pytest.mark.parametrize(
    "content, arguments, words",
    [
        ({"trainer": Trainer()}, "", ["Trainer)", "Save the model's state_dict()"]),
        (Trainer(), "", ["holds a test_import_torch.Trainer", "state_dict()"]),
        ({3: torch.zeros(1)}, "", ["KL autoencoder", "3 (Tensor)"]),
        ({FIRST: Trainer()}, "", ["no tensors where", "test_import_torch.Trainer"]),
        ([1], "", ["list"]),
        (STATE | {FIRST: STATE[FIRST].to(torch.int8)}, "", [f"{FIRST} int8"]),
        (changed(STATE, colorize=torch.zeros(3)), "", ["extra: colorize (3,)"]),
        (
            changed(STATE, "decoder.norm_out.bias"),
            "",
            ["missing: decoder.norm_out.bias (32,)"],
        ),
        (
            changed(STATE, "loss.logvar", "loss_pinn.disc"),
            "--with-loss",
            ["it has loss_pinn_dpm2irt4"],
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    content, arguments, words, tmp_path, capsys
):
    torch.save(content, tmp_path / "bad.pt")
    assert run(tmp_path, "bad.pt", *arguments.split()) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert "\x1b" not in message and "weights_only" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content, arguments",
    [
        (changed(STATE, colorize=torch.zeros(3)), "--ignore=color"),
        (prefixed("a.", OTHER_STATE) | prefixed("b.", OWN), "--prefix=b"),  # the dot
        (prefixed("a.", OTHER_STATE) | prefixed("b.", OWN), "--ignore=a. --ignore=c"),
    ],
)
def test_what_the_refusals_advise_helps(content, arguments, tmp_path, written, capsys):
    torch.save(content, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt", *arguments.split()) == 0
    assert_holds(written[0][1]["autoencoder"], OWN)
    unused = "--ignore=c: no tensor is named c*" in capsys.readouterr().out
    assert unused == ("--ignore=c" in arguments.split())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("vae.pt --config.train.stepz=5", "stepz"),
        ("none.pt", "none.pt does not exist"),
        ("two.pt --config.data.image_size=31", "data.image_size=32"),
        ("vae.pt --step=-1", "--step=-1 is not within"),
        ("vae.pt --step=300", "train.steps=300"),
        ("vae.pt --config.loss.reconstruction=bce", "give l1_mse, l1 or mse"),
        ("vae.safetensors --weights=ema", "no average"),
        ("vae.pt --workdir={tmp_path}/full", "full holds a run already"),
    ],
)
def test_bad_arguments_end_in_one_message(tmp_path, capsys, arguments, words):
    torch.save(OWN, tmp_path / "vae.pt")
    two_levels = torch_models.AutoencoderKL(attends=(False, False), ch_mult=(1, 2))
    torch.save(two_levels.state_dict(), tmp_path / "two.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").touch()
    safetensors.save_file({FIRST: torch.zeros(1)}, tmp_path / "vae.safetensors")
    assert run(tmp_path, *arguments.format(tmp_path=tmp_path).split()) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_taken_and_what_it_is_of_is_said_and_kept(tmp_path, capsys, written):
    torch.save({"model": OWN, "ema": {"a": torch.zeros(1)}}, tmp_path / "vae.pt")
    assert run(tmp_path, "vae.pt", "--step=2") == 0
    assert written[0][-1] == 2
    printed = capsys.readouterr().out
    assert f"ema is not read: no {FIRST}" in printed
    assert "taking model (raw weights)" in printed
    # What the tensors replaced of the quickstart's network is said too.
    assert "autoencoder.ch_mult=(1, 2, 2) became (1,)" in printed
    digest = hashlib.sha256((tmp_path / "vae.pt").read_bytes()).hexdigest()
    assert f"vae.pt: sha256 {digest}" in printed
    record = json.loads((tmp_path / "run" / "imported.json").read_text())
    assert record.pop("command").endswith("--step=2")
    expected = dict(sha256={"vae.pt": digest}, weights="model", average=False)
    assert record == expected


def test_a_shard_that_is_not_there_is_named(tmp_path, capsys):
    write_diffusers("index", tmp_path / "index")
    index = tmp_path / "index" / "diffusion_pytorch_model.safetensors.index.json"
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    (tmp_path / "index" / shard).unlink()
    assert run(tmp_path, "index") == 1
    assert f"{shard} does not exist" in capsys.readouterr().err
    for names in ({}, None, {"a": "../b.bin"}, {"a": []}):
        index.write_text(json.dumps({"weight_map": names}))
        assert run(tmp_path, "index") == 1
        assert "weight_map names no files beside it" in capsys.readouterr().err


def test_an_import_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("disk on fire")

    torch.save(OWN, tmp_path / "vae.pt")
    monkeypatch.setattr(import_torch.Checkpoints, "save", fail)
    assert run(tmp_path, "vae.pt") == 1
    assert "RuntimeError: disk on fire" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["vae.pt"]


def test_without_torch_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    torch.save(OWN, tmp_path / "vae.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(tmp_path, "vae.pt") == 1
    assert "pip install -e '.[torch]'" in capsys.readouterr().err


TINY = [word for word in command.TINY if "ch_mult" not in word]
TINY += ["--config.loss.disc_num_layers=2", "--config.train.steps=9"]


@pytest.mark.slow
def test_main_goes_on_from_an_import_with_the_command_it_prints(
    tmp_path, capsys, quick_compile
):
    torch.save(STATE, tmp_path / "vae.pt")
    city = f"--config.data.root={tmp_path / 'city'}"
    assert run(tmp_path, "vae.pt", *TINY, city, "--step=7", "--with-loss") == 0
    printed = re.search(r"-m radiovae_jax.main (.*)", capsys.readouterr().out)[1]
    done = command.call("main", *shlex.split(printed))
    assert done.status == 0, done.stderr
    lines = logbook.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [8, 9]
    assert lines[0]["train/logvar"] == 0.25 + len("loss")
    before = radiovae_jax.load(tmp_path / "run", weights="live", step=9)[1]["params"]
    imported = torch_weights.autoencoder_from_torch(torch_models.arrays(MODEL))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, imported["params"])
    # Two steps of Adam at a rate of at most 1e-3 from the imported numbers.
    assert 0 < max(jax.tree.leaves(moved)) < 3e-3
