"""The benchmark: it times the same work on both sides, or says that it does not."""

import json
import os
import subprocess
import sys

import command
import pytest

CORES = str(len(os.sched_getaffinity(0)))
TINY = (
    "--config=configs/quickstart.py",
    "--config.autoencoder.ch_mult=(1,)",
    "--config.loss.disc_num_layers=1",
    "--config.loss.disc_ndf=8",
    "--config.data.image_size=16",
    "--steps=1",
)
# A peer with the right losses that loses half of the trunk's gradient on the way back.
WRONG = """
import sys
sys.path[:0] = ["tools"]
import torch_peer
right = torch_peer.Trunk.forward
def forward(self, x, noise):
    h, mean, logvar = right(self, x, noise)
    return h.detach() + 0.5 * (h - h.detach()), mean, logvar
torch_peer.Trunk.forward = forward
import runpy
runpy.run_path("tools/benchmark.py", run_name="__main__")
"""

# What a GPU image with jax, flax, optax, orbax, torch and matplotlib lacks, but for
# ml_collections, which holds the config.
BARE = """
import runpy, sys
absent = "grain tensorflow_datasets lpips_j flaxmodels dm_pix tensorboardX h5py tqdm"
sys.modules.update(dict.fromkeys(absent.split()))
sys.path[:0] = ["tools"]
runpy.run_path("tools/benchmark.py", run_name="__main__")
"""


def benchmark(*arguments, program=("tools/benchmark.py",), **environment):
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_peer_with_other_gradients_is_not_timed(tmp_path):
    pytest.importorskip("diffusers")
    done = benchmark(
        "--peer=torch",
        "--nocompiled",
        "--noparts",
        "--phase=autoencoder",
        f"--out={tmp_path / 'record.json'}",
        program=("-c", WRONG),
    )
    assert done.returncode == 1
    assert "in the first step (ae_grad_norm)" in done.stderr, done.stderr
    assert not (tmp_path / "record.json").exists()


@pytest.mark.slow
def test_it_runs_where_the_data_s_libraries_are_not_installed(tmp_path):
    out = tmp_path / "record.json"
    done = benchmark("--noparts", f"--out={out}", program=("-c", BARE))
    assert done.returncode == 0, done.stderr
    assert set(json.loads(out.read_text())["phases"]) == {"autoencoder", "adversarial"}


@pytest.mark.slow
def test_what_it_would_time_as_something_else_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    assert "give another --out" in refused(f"--out={tmp_path / 'file' / 'x.json'}")
    assert "is a folder" in refused(f"--out={tmp_path}")
    conditional = refused("--config.loss.disc_conditional=True", "--out=")
    assert "loss.disc_conditional is True" in conditional
    kind = refused("--config.loss.reconstruction=l1", "--peer=torch", "--out=")
    assert "--config.loss.reconstruction=l1_mse" in kind
    pytest.importorskip("diffusers")
    if CORES != "1":
        threads = refused("--peer=torch", "--out=", OMP_NUM_THREADS="1")
        assert f"XLA takes {CORES} cores and PyTorch 1 threads" in threads
