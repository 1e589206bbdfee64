"""The benchmark: it times the same work on both sides, or says that it does not."""

import json
import math
import os
import shutil
import subprocess
import sys
import types
import weakref

import command
import jax
import numpy as np
import peers
import pytest
import records
import timed_step
import timing
import tiny

from radiovae_jax.vae import experiment

pytestmark = pytest.mark.benchmark

CORES = str(len(os.sched_getaffinity(0)))
TINY = (
    "--config=configs/quickstart.py",
    "--config.autoencoder.ch_mult=(1,)",
    "--config.loss.disc_num_layers=1",
    "--config.loss.disc_ndf=8",
    "--config.data.image_size=16",
    "--steps=1",
)
# Peers that are not timed, by what is said of them. The first two would not be found
# out by their losses: half of the trunk's gradient is lost on the way back, or steps
# have half the length.
WRONG = {
    "in the first step (ae_grad_norm)": """
import torch_networks
right = torch_networks.Trunk.forward
def forward(self, x, noise):
    h, mean, logvar = right(self, x, noise)
    return h.detach() + 0.5 * (h - h.detach()), mean, logvar
torch_networks.Trunk.forward = forward
""",
    "in the first step (ae_update_norm)": """
import torch
right = torch.optim.AdamW.__init__
def init(self, weights, lr, **more):
    right(self, weights, lr=0.5 * lr, **more)
torch.optim.AdamW.__init__ = init
""",
    "CUDA out of memory": """
import torch_peer
def step(self, *given):
    raise RuntimeError("CUDA out of memory")
torch_peer.Peer.step = step
""",
}
BESIDE = "import sys; sys.path[:0] = ['benchmarks']"
RUN = """
import runpy
runpy.run_path("benchmarks/benchmark.py", run_name="__main__")
"""

# What a GPU image with jax, flax, optax, orbax, torch and matplotlib lacks, but for
# ml_collections, which holds the config.
BARE = """
import runpy, sys
absent = "grain tensorflow_datasets lpips_j flaxmodels dm_pix tensorboardX h5py tqdm "
absent += "huggingface_hub requests diffusers safetensors regex filelock"
sys.modules.update(dict.fromkeys(absent.split()))
# As PYTHONPATH=. and no installation leave it.
sys.meta_path = [f for f in sys.meta_path if "editable" not in str(f)]
sys.path[:0] = ["benchmarks"]
runpy.run_path("benchmarks/benchmark.py", run_name="__main__")
"""


def benchmark(*arguments, program=("benchmarks/benchmark.py",), **environment):
    return subprocess.run(
        [sys.executable, *program, *TINY, *map(str, arguments)],
        cwd=command.PROJECT,
        # PyTorch takes the physical cores, XLA all that the process may run on.
        env=command.environment() | {"OMP_NUM_THREADS": CORES} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def refused(*arguments, **environment):
    done = benchmark(*arguments, **environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_first_step_has_pytorch_s_losses_and_gradients(tmp_path):
    pytest.importorskip("diffusers")
    out = tmp_path / "new" / "record.json"
    done = benchmark("--peer=torch", "--nocompiled", f"--out={out}")
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
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
    tmp_path, dtype, most
):
    pytest.importorskip("diffusers")
    compiler = shutil.which("g++") or shutil.which("clang++")  # torch.compile's
    out = tmp_path / "new" / "record.json"
    done = benchmark(
        "--peer=torch",
        f"--{'' if compiler else 'no'}compiled",
        "--phase=adversarial",
        "--config.autoencoder.ch_mult=(1,2)",
        "--config.loss.perceptual_weight=1",
        "--config.loss.perceptual_weights=random",
        f"--config.train.dtype={dtype}",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["jaxlib"] and record["torch"] and record["command"]
    found = record["phases"]["adversarial"]
    assert found["size"] == [16, 16]
    assert not found["not_timed"]
    apart = found["first_step_differs_by"]
    assert len(apart) == (2 if compiler else 1)
    assert all(difference < most for difference in apart.values()), apart
    assert {"LPIPS forward and backward", "discriminator's optimiser"} < set(
        found["parts_seconds"]
    )


@pytest.mark.parametrize("reason", WRONG)
def test_a_peer_of_other_work_or_none_is_not_timed_and_ours_is(tmp_path, reason):
    pytest.importorskip("diffusers")
    out = tmp_path / "record.json"
    done = benchmark(
        "--peer=torch",
        "--nocompiled",
        "--noparts",
        "--phase=autoencoder",
        f"--out={out}",
        program=("-c", BESIDE + WRONG[reason] + RUN),
    )
    assert done.returncode == 1
    assert reason in done.stderr, done.stderr
    found = json.loads(out.read_text())["phases"]["autoencoder"]
    assert set(found["step_seconds"]) == {"radiovae_jax"}
    assert set(found["not_timed"]) == {"torch, eager"}


def test_data_and_profile(tmp_path):
    out = tmp_path / "record.json"
    done = benchmark(
        "--data",
        f"--config.data.root={tmp_path / 'city'}",
        "--config.data.synthetic.maps=10",
        "--config.data.synthetic.size=16",
        f"--trace={tmp_path / 'profile'}",
        "--noparts",
        "--phase=autoencoder",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["data_images_per_second"] > 0
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


def test_it_runs_where_the_data_s_libraries_are_not_installed(tmp_path):
    out = tmp_path / "record.json"
    done = benchmark("--noparts", f"--out={out}", program=("-c", BARE), PYTHONPATH=".")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(out.read_text())["phases"]) == {"autoencoder", "adversarial"}


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
    difference = peers.difference
    ours = {"nll_loss": 10.0, "g_loss": 1e-4, "recon_min": 0.0, "ours_alone": 7.0}
    theirs = {"nll_loss": 10.1, "g_loss": 3e-4, "recon_min": 1e-3}
    apart, number = difference(ours, theirs)
    assert (number, apart) == ("nll_loss", pytest.approx(0.1 / 10.1))
    # g_loss is a mean of logits of both signs, of size 0.1.
    apart, number = difference(ours, {"g_loss": 3e-4})
    assert apart == pytest.approx(2e-3)
    assert difference(ours, {"nll_loss": math.nan}) == (math.inf, "nll_loss")


def test_a_peer_that_failed_is_gone_when_the_next_is_made(monkeypatch):
    made = []

    class Peer:
        def first_step(self):
            raise RuntimeError("CUDA out of memory")

    def make(mode):
        assert all(peer() is None for peer in made)  # it holds a GPU's memory
        peer = Peer()
        made.append(weakref.ref(peer))
        return peer

    monkeypatch.setattr(peers, "_maker", lambda *a, **k: (make, [], "float32"))
    ours = types.SimpleNamespace(step=dict)
    found = peers.raced(None, ours, {"a": "", "b": ""}, adversarial=False)
    assert len(made) == len(found.not_timed) == 2


def test_all_are_timed_as_often_and_in_rows():
    calls = []
    steppers = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.in_turns(steppers, 7)
    assert [len(times[name]) for name in "ab"] == [10, 10]  # turns of five
    assert calls.count("a") == calls.count("b") > 10  # with those that warm up
    started, waited = [], []
    timing.in_rows({"a": (lambda: started.append(1), lambda: waited.append(1))}, 4)
    rows = timing.ROWS
    assert (len(started), len(waited)) == (rows * (4 + 2), rows * 2)


def test_what_it_would_time_as_something_else_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    assert "give another --out" in refused(f"--out={tmp_path / 'file' / 'x.json'}")
    assert "is a folder" in refused(f"--out={tmp_path}")
    conditional = refused("--config.loss.disc_conditional=True", "--out=")
    assert "loss.disc_conditional is True" in conditional
    kind = refused("--config.loss.reconstruction=l1", "--peer=torch", "--out=")
    assert "--config.loss.reconstruction=l1_mse" in kind
    data = refused("--data", "--out=", program=("-c", BARE), PYTHONPATH=".")
    assert "--data needs grain" in data
    pytest.importorskip("diffusers")
    nothing = refused("--peer=torch", "--noeager", "--nocompiled", "--out=")
    assert "leave out one of them" in nothing
    if CORES != "1":
        threads = refused("--peer=torch", "--out=", OMP_NUM_THREADS="1")
        assert f"XLA takes {CORES} cores and PyTorch 1 threads" in threads
