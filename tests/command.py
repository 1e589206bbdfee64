"""Runs the commands that users run, at the tests' size."""

import os
import pathlib
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[1]

TINY = [
    "--config.autoencoder.ch_mult=(1,1)",
    "--config.loss.disc_ndf=8",
    "--config.data.synthetic.maps=10",
    "--config.data.synthetic.transmitters=2",
    "--config.data.synthetic.size=32",
    "--config.train.log_every=1",
    "--config.train.images=2",
]


def main(*arguments: str, **options):
    """Runs `python -m radiovae_jax.main`."""
    return module("main", *arguments, **options)


def environment(devices: int = 1) -> dict[str, str]:
    """Returns what a process of the tests' kind needs, on virtual CPU devices."""
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_COMPILATION_CACHE_DIR": str(PROJECT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }


def module(name: str, *arguments: str, devices: int = 1, timeout: int = 300):
    """Runs a module of the project on so many virtual CPU devices."""
    return subprocess.run(
        [sys.executable, "-m", f"radiovae_jax.{name}", *arguments],
        cwd=PROJECT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def quickstart(folder: pathlib.Path, *arguments: str, **options):
    """Runs a tiny quickstart whose city and run lie under `folder`."""
    return main(
        "--config=configs/quickstart.py",
        f"--workdir={folder / 'run'}",
        f"--config.data.root={folder / 'city'}",
        *TINY,
        *arguments,
        **options,
    )
