"""The benchmark: it times the same work on both sides, or says that it does not."""

import json
import math
import os
import shutil
import subprocess
import sys

import benchmark
import command
import jax
import numpy as np
import peers
import planted_faults
import pytest
import records
import timed_step
import timing
import tiny

from radiovae_jax.vae import experiment

pytestmark = pytest.mark.benchmark

CORES = len(os.sched_getaffinity(0))
TINY = (
    "--config=quickstart",
    "--config.autoencoder.ch_mult=(1,)",
    "--config.loss.disc_num_layers=1",
    "--config.loss.disc_ndf=8",
    "--config.data.image_size=16",
    "--steps=1",
)


@pytest.fixture(autouse=True)
def cache():
    yield
    jax.config.update("jax_enable_compilation_cache", True)  # the command has none


@pytest.fixture
def torch():
    """PyTorch on as many threads as XLA's: it takes the physical cores itself."""
    pytest.importorskip("diffusers")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield torch
    torch.set_num_threads(threads)


def run(*arguments: object) -> command.Done:
    return command.call(benchmark, *TINY, *arguments)


def recorded(out, *arguments: object) -> dict:
    """Returns the record of a command that ends well."""
    done = run(f"--out={out}", *arguments)
    assert done.status == 0, done.stderr
    return json.loads(out.read_text())


def test_the_first_step_has_pytorch_s_losses_and_gradients(torch, tmp_path):
    record = recorded(tmp_path / "new" / "record.json", "--peer=torch", "--nocompiled")
    for phase in ("autoencoder", "adversarial"):
        found = record["phases"][phase]
        assert found["size"] == [16, 16]
        # Measured: 1e-6; sums in another order.
        assert found["first_step_differs_by"]["torch, eager"] < 1e-4
        assert found["step_seconds"]["torch, eager"] > 0
        assert found["peak_bytes"]["radiovae_jax"] > 0
        parts = found["parts_seconds"]
        assert {"autoencoder forward", "autoencoder backward"} < set(parts)
        assert ("discriminator's optimiser" in parts) == (phase == "adversarial")


# With an enlargement, LPIPS, and both ways to run PyTorch. Measured: float32 4e-6 (sums
# in another order), bfloat16 0.015 (roundings at other places).
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_bfloat16_lpips_and_compiled_pytorch_take_the_same_first_step(
    torch, tmp_path, dtype, most
):
    compiler = shutil.which("g++") or shutil.which("clang++")  # torch.compile's
    record = recorded(
        tmp_path / "record.json",
        "--peer=torch",
        f"--{'' if compiler else 'no'}compiled",
        "--phase=adversarial",
        "--config.autoencoder.ch_mult=(1,2)",
        "--config.loss.perceptual_weight=1",
        "--config.loss.perceptual_weights=random",
        f"--config.train.dtype={dtype}",
    )
    assert record["jaxlib"] and record["torch"] and record["command"]
    found = record["phases"]["adversarial"]
    assert not found["not_timed"]
    apart = found["first_step_differs_by"]
    assert len(apart) == (2 if compiler else 1)
    assert all(difference < most for difference in apart.values()), apart
    assert {"LPIPS forward and backward", "discriminator's optimiser"} < set(
        found["parts_seconds"]
    )


# Neither of the first two is seen in the losses: half of the trunk's gradient is lost
# on the way back, or steps have half the length.
@pytest.mark.parametrize("reason", ["ae_grad_norm", "ae_update_norm", "out of memory"])
def test_a_peer_of_other_work_or_none_is_not_timed_and_ours_is(
    torch, tmp_path, monkeypatch, reason
):
    import torch_networks
    import torch_peer

    trunk, adamw = torch_networks.Trunk.forward, torch.optim.AdamW.__init__

    def half_lost(self, x, noise):
        h, mean, logvar = trunk(self, x, noise)
        return h.detach() + 0.5 * (h - h.detach()), mean, logvar

    def half_as_far(self, weights, lr, **more):
        adamw(self, weights, lr=0.5 * lr, **more)

    def fails(self, *given):
        raise RuntimeError("CUDA out of memory")

    owner, name, harmed = {
        "ae_grad_norm": (torch_networks.Trunk, "forward", half_lost),
        "ae_update_norm": (torch.optim.AdamW, "__init__", half_as_far),
        "out of memory": (torch_peer.Peer, "step", fails),
    }[reason]
    monkeypatch.setattr(owner, name, harmed)
    out = tmp_path / "record.json"
    asked = ("--peer=torch", "--nocompiled", "--noparts", "--phase=autoencoder")
    done = run(*asked, f"--out={out}")
    assert done.status == 1
    assert reason in done.stderr, done.stderr
    found = json.loads(out.read_text())["phases"]["autoencoder"]
    assert set(found["step_seconds"]) == {"radiovae_jax"}
    assert set(found["not_timed"]) == {"torch, eager"}


def test_data_and_profile(tmp_path):
    record = recorded(
        tmp_path / "record.json",
        "--data",
        f"--config.data.root={tmp_path / 'city'}",
        "--config.data.synthetic.maps=10",
        "--config.data.synthetic.size=16",
        f"--trace={tmp_path / 'profile'}",
        "--noparts",
        "--phase=autoencoder",
    )
    assert record["data_images_per_second"] > 0
    assert list((tmp_path / "profile" / "autoencoder").rglob("*.xplane.pb"))


def test_the_fixed_weight_is_fixed():
    config = tiny.read("quickstart")
    config.autoencoder.update(ch_mult=(1,), num_res_blocks=1, resolution=(16, 16))
    config.data.image_size = 16
    config.loss.update(disc_start=0, disc_ndf=8, disc_num_layers=1, disc_weight=0.5)
    built = experiment.build(config, (16, 16, 1))
    raw = {"gray": np.arange(512, dtype=np.uint8).reshape(2, 16, 16, 1)}
    state = experiment.drawn_state(config, built, jax.random.key(1))
    weights = [
        timed_step.Ours(
            config, built, raw, state, adversarial=True, fixed_weight=fixed
        ).step()["d_weight"]
        for fixed in (True, False)
    ]
    assert weights[0] == 0.5
    assert weights[1] != 0.5


# What a GPU image with jax, flax, optax, orbax, torch and matplotlib lacks, but for
# ml_collections, which holds the config.
BARE = """
import runpy, sys
absent = "grain tensorflow_datasets lpips_j dm_pix tensorboardX h5py tqdm "
absent += "huggingface_hub requests diffusers safetensors regex filelock"
sys.modules.update(dict.fromkeys(absent.split()))
# As PYTHONPATH=. and no installation leave it.
sys.meta_path = [f for f in sys.meta_path if "editable" not in str(f)]
sys.path[:0] = ["benchmarks"]
runpy.run_path("benchmarks/benchmark.py", run_name="__main__")
"""


def test_it_runs_where_the_data_s_libraries_are_not_installed(tmp_path):
    out = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, "-c", BARE, *TINY, "--noparts", f"--out={out}"],
        cwd=command.PROJECT,
        env=command.environment() | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    phases = json.loads(out.read_text())["phases"]
    assert set(phases) == {"autoencoder", "adversarial"}


def test_how_many_times_as_long_each_takes():
    times = {
        "radiovae_jax": [2.0, 1.0, 9.0],
        "ours, fresh forward": [3.0, 4.0, 5.0],
        "torch, eager": [6.0, 6.0, 7.0],
    }
    found = records.speeds(times, ["torch, eager"], "ours, fresh forward")
    assert found["step_seconds"]["radiovae_jax"] == 2.0
    assert found["ratio_to_ours"]["torch, eager"] == 3.0
    assert found["ratio_like_for_like"] == {"torch, eager": 1.5}
    assert found["quartiles"]["ours, fresh forward"] == [3.5, 4.5]


def test_floors_are_what_the_device_could_do():
    program = timing.Program(None, 1.0, 2.0, 6e9, 4e9, 0)
    found = records.floors(program, 0.5, batch=4, peak=24e9, bandwidth=8e9)
    assert found["images_per_second"] == 8.0
    assert found["flops_per_image"] == 1.5e9
    assert found["share_of_peak"] == 0.5
    assert found["floor_seconds"] == {"flops": 0.25, "bytes": 0.5}


def test_the_first_steps_are_compared_by_the_worst_number():
    ours = {"nll_loss": 10.0, "g_loss": 1e-4, "recon_min": 0.0, "ours_alone": 7.0}
    theirs = {"nll_loss": 10.1, "g_loss": 3e-4, "recon_min": 1e-3}
    apart, number = peers.difference(ours, theirs)
    assert (number, apart) == ("nll_loss", pytest.approx(0.1 / 10.1))
    # g_loss is a mean of logits of both signs, of size 0.1.
    apart, number = peers.difference(ours, {"g_loss": 3e-4})
    assert apart == pytest.approx(2e-3)
    assert peers.difference(ours, {"nll_loss": math.nan}) == (math.inf, "nll_loss")


def test_all_are_timed_as_often_and_in_rows():
    calls = []
    steppers = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.in_turns(steppers, 7)
    assert [len(times[name]) for name in "ab"] == [10, 10]  # turns of five
    assert calls.count("a") == calls.count("b") > 10  # with those that warm up
    started, waited = [], []
    timing.in_rows({"a": (lambda: started.append(1), lambda: waited.append(1))}, 4)
    assert (len(started), len(waited)) == (timing.ROWS * (4 + 2), timing.ROWS * 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out={}/file/x.json"], "give another --out"),
        (["--out=", "--config.loss.disc_conditional=True"], "disc_conditional is True"),
        (
            ["--out=", "--peer=torch", "--config.loss.reconstruction=l1"],
            "--config.loss.reconstruction=l1_mse",
        ),
        (
            ["--out=", "--peer=torch", "--noeager", "--nocompiled"],
            "leave out one of them",
        ),
    ],
)
def test_what_it_would_time_as_something_else_is_refused_at_once(
    torch, tmp_path, arguments, message
):
    (tmp_path / "file").touch()
    done = run(*(word.format(tmp_path) for word in arguments))
    assert done.status == 1
    assert message in done.stderr


def test_other_threads_than_xla_s_are_refused(torch):
    torch.set_num_threads(CORES + 1)
    done = run("--peer=torch", "--out=")
    assert f"XLA takes {CORES} cores and PyTorch {CORES + 1} threads" in done.stderr


def test_every_planted_fault_s_text_stands_once_in_its_file():
    for fault in planted_faults.FAULTS:
        harmed = planted_faults.planted(command.PROJECT, fault)
        assert fault.replacement in harmed
        for file in fault.tests.split():
            assert (command.PROJECT / "tests" / file).exists(), fault.name
