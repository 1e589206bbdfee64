"""Runs the commands that users run: in this process, or in one of their own."""

import contextlib
import importlib
import io
import logging as stdlib_logging
import os
import pathlib
import resource
import socket
import subprocess
import sys
from types import ModuleType
from typing import NamedTuple

from absl import logging

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


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


def call(name: str | ModuleType, *arguments: object) -> Done:
    """Calls main() of a command in this process; see `module` for one of its own.

    Args:
      name: of a module of radiovae_jax; or a module, of `tool.load` say.
    """
    module = name
    if isinstance(name, str):
        module = importlib.import_module(f"radiovae_jax.{name}")
    out, err = io.StringIO(), io.StringIO()
    level, handlers = logging.get_absl_logger().level, stdlib_logging.root.handlers[:]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = module.main([str(word) for word in arguments])
    except SystemExit as end:  # of the flags
        status = end.code or 0
    finally:
        stdlib_logging.root.handlers[:] = handlers
        logging.get_absl_logger().setLevel(level)
    return Done(status, out.getvalue(), err.getvalue())


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


def python(*words: object, **options) -> subprocess.Popen:
    """Starts Python with such words, in the tests' folder; its output is piped."""
    given = dict(cwd=PROJECT / "tests", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    given |= dict(env=environment(), text=True) | options
    return subprocess.Popen([sys.executable, *map(str, words)], **given)


def two(program: str, *arguments: object) -> list[subprocess.Popen]:
    """Starts a program twice: with process 0's address, a number, and arguments."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [python("-c", program, address, i, *arguments) for i in range(2)]


@contextlib.contextmanager
def full_disk(most: int):
    """Lets no file have more than so many bytes while inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tiny_second_stage(first: pathlib.Path) -> list[str]:
    """Returns the flags of a tiny second stage on the run of a first one."""
    common = [flag for flag in TINY if flag.startswith(("--config.d", "--config.t"))]
    return [
        "--config=quickstart_ldm",
        f"--config.first_stage.run={first}",
        "--config.denoiser.mult=(1,)",
        "--config.denoiser.blocks=1",
        "--config.denoiser.attention_side=0",
        "--config.train.batch_size=4",
        *common,
    ]


def tiny_quickstart(folder: pathlib.Path, *arguments: str) -> list[str]:
    """Returns the arguments of a tiny quickstart: its city and run lie in `folder`."""
    return [
        "--config=quickstart",
        f"--workdir={folder / 'run'}",
        f"--config.data.root={folder / 'city'}",
        *TINY,
        *arguments,
    ]


def quickstart(folder: pathlib.Path, *arguments: str, **options):
    """Runs a tiny quickstart in a process of its own."""
    return main(*tiny_quickstart(folder, *arguments), **options)
