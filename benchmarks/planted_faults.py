"""Plants faults one by one in a copy of the tree and asks the tests for each.

    python benchmarks/planted_faults.py            # all of them, a few minutes
    python benchmarks/planted_faults.py "hinge without the half" "EMA decay"

A fault is one replaced text. The test files beside it run with -x; a fault that they
let pass meets the whole quick suite. The table is to be mended where code moves: a text
that does not stand in its file exactly once is an error.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

PROJECT = pathlib.Path(__file__).resolve().parents[1]
REAL_MAPS = PROJECT.parent / "shared" / "realmaps"


class Fault(NamedTuple):
    name: str
    file: str  # below radiovae_jax/
    text: str
    replacement: str
    tests: str  # files below tests/, the likeliest first


FAULTS = [
    Fault(
        "taps of the up-sampling",
        "nn/layers.py",
        "[[1, 0, 0], [0, 1, 1]]",
        "[[1, 1, 0], [0, 0, 1]]",
        "nn/test_layers.py",
    ),
    Fault(
        "groups of GroupNorm",
        "nn/layers.py",
        "GROUPS, EPSILON = 32, 1e-6",
        "GROUPS, EPSILON = 16, 1e-6",
        "nn/test_layers.py",
    ),
    Fault(
        "asymmetric padding",
        "nn/layers.py",
        "padding = ((0, 1), (0, 1))",
        "padding = ((1, 0), (1, 0))",
        "vae/test_autoencoder.py",
    ),
    Fault(
        "padding of PatchGAN",
        "vae/discriminator.py",
        "padding=1,",
        'padding="SAME",',
        "vae/test_discriminator.py",
    ),
    Fault(
        "stored variance of BatchNorm",
        "vae/discriminator.py",
        "(stored_var, unbiased)",
        "(stored_var, var)",
        "vae/test_discriminator.py",
    ),
    Fault(
        "log-variance not clipped",
        "nn/posterior.py",
        "jnp.clip(logvar, *LOGVAR_RANGE)",
        "logvar",
        "nn/test_posterior.py",
    ),
    Fault(
        "KL without the half",
        "losses.py",
        "kl = 0.5 * (mean**2",
        "kl = 1.0 * (mean**2",
        "test_losses.py vae/test_loss_terms.py",
    ),
    Fault(
        "hinge without the half",
        "losses.py",
        "jax.nn.relu(1.0 + logits_fake)\n    return 0.5",
        "jax.nn.relu(1.0 + logits_fake)\n    return 1.0",
        "test_losses.py",
    ),
    Fault(
        "discriminator one step late",
        "losses.py",
        "jnp.where(step < threshold",
        "jnp.where(step <= threshold",
        "test_losses.py",
    ),
    Fault(
        "adaptive weight from the weighted nll",
        "vae/objectives.py",
        "balance=nothing._replace(**plain)",
        "balance=nothing._replace(**weighted)",
        "test_losses.py vae/test_step_terms.py",
    ),
    Fault(
        "noise key of the discriminator's pass used twice",
        "vae/train_step.py",
        "micro_batches(built, batch, fresh_key,",
        "micro_batches(built, batch, sample_key,",
        "vae/test_trajectory.py",
    ),
    Fault(
        "decay of the EMA",
        "training/updates.py",
        "(decay * old + (1.0 - decay) * new)",
        "((1.0 - decay) * old + decay * new)",
        "vae/test_train_step.py",
    ),
    Fault(
        "data position not restored",
        "training/trainer.py",
        "setup.batches.set_state(position)",
        "setup.batches.get_state()",
        "training/test_task.py",
    ),
    Fault(
        "checksums not compared",
        "training/checkpoint.py",
        "if saved.get(name, now[name]) != now[name]",
        "if False",
        "training/test_checkpoint.py",
    ),
    Fault(
        "mask of the last partial batch",
        "data/batch.py",
        "np.float32(position < count)",
        "np.float32(1)",
        "data/test_pipeline.py",
    ),
    Fault(
        "scale of the threshold",
        "data/radiomap.py",
        "(f.clip(min=t) - t) / (1 - t)",
        "f.clip(min=t) - t",
        "data/test_radiomap.py",
    ),
    Fault(
        "split off by one",
        "data/splits.py",
        "order()[first : last + 1]",
        "order()[first:last]",
        "data/test_splits.py",
    ),
    Fault(
        "flips not applied to the mask",
        "data/augmentation.py",
        "if np.ndim(value) == 3 else value",
        'if key == "gray" else value',
        "data/test_pipeline.py",
    ),
    Fault(
        "kernel from torch not transposed",
        "interop/torch_weights.py",
        "tensor.transpose(2, 3, 1, 0)",
        "tensor.transpose(3, 2, 1, 0)",
        "interop/test_torch_weights.py",
    ),
    Fault(
        "constants of the dB scale",
        "physics.py",
        "DbRange(-147.0, 100.0)",
        "DbRange(-127.0, 80.0)",
        "test_physics.py",
    ),
]


def planted(root: pathlib.Path, fault: Fault) -> str:
    """Returns the fault's file in `root` with the fault in it.

    Raises:
      ValueError: its text is not there exactly once.
    """
    source = (root / "radiovae_jax" / fault.file).read_text()
    if (count := source.count(fault.text)) != 1:
        raise ValueError(
            f"{fault.name!r}: {fault.text!r} stands {count} times in {fault.file}; "
            "mend FAULTS in benchmarks/planted_faults.py"
        )
    return source.replace(fault.text, fault.replacement)


def copied(folder: pathlib.Path) -> pathlib.Path:
    """Returns a copy of the working tree: what git knows, and new files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    (PROJECT / ".jax_cache").mkdir(exist_ok=True)
    (folder / ".jax_cache").symlink_to(PROJECT / ".jax_cache")
    return folder


def failure(root: pathlib.Path, *arguments: str) -> str:
    """Runs pytest in the copy; returns the first test that fails, "" if none does.

    Raises:
      ValueError: tests could not run, which says nothing about them.
    """
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("RADIOVAE_REALMAPS", str(REAL_MAPS))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise ValueError(f"pytest {' '.join(arguments)}:\n{done.stdout[-2000:]}")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else ""


def main(names: list[str]) -> int:
    """Plants all faults, or the named ones; returns how many passed all tests."""
    faults = [fault for fault in FAULTS if not names or fault.name in names]
    if unknown := set(names) - {fault.name for fault in faults}:
        raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        root = copied(pathlib.Path(folder) / "radiovae_jax")
        for fault in faults:
            start = time.monotonic()
            path = root / "radiovae_jax" / fault.file
            sound, harmed = path.read_text(), planted(root, fault)
            path.write_text(harmed)
            files = [f"tests/{file}" for file in fault.tests.split()]
            found, whole = failure(root, "-n", "0", *files), ""
            if not found:
                found, whole = failure(root), " (by the quick suite alone)"
            path.write_text(sound)
            survivors += not found
            seconds = time.monotonic() - start
            verdict = f"caught by {found}{whole}" if found else "PASSED ALL TESTS"
            print(f"{fault.name:<50}{seconds:>6.0f} s  {verdict}", flush=True)
    print(f"{len(faults) - survivors} of {len(faults)} caught")
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
