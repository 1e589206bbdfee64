"""Runs of the training command in processes that may be killed, without their start.

A process is forked from one that has imported everything and computed nothing, so a
life of a run costs what it does and not what it imports.
"""

import logging
import multiprocessing
import os
import pathlib
import sys

import command
import jax

from radiovae_jax import main
from radiovae_jax.training import trainer  # noqa: F401


def start(folder: pathlib.Path, *arguments: str):
    """Starts `python -m radiovae_jax.main` with its city and run under `folder`.

    Args:
      *arguments: of a config of its own, or of a tiny quickstart.

    Returns:
      the process; its output is in `folder`/output.txt.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lives"])
    process = context.Process(target=live, args=(folder, arguments))
    process.start()
    return process


def live(folder, arguments) -> None:
    output = os.open(folder / "output.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", str(command.PROJECT / ".jax_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    os.chdir(command.PROJECT)
    logging.root.handlers.clear()  # of the process that this one is forked from
    if not any(flag.startswith("--config=") for flag in arguments):
        arguments = (*command.tiny_quickstart(folder), *arguments)
    places = [f"--workdir={folder / 'run'}", f"--config.data.root={folder / 'city'}"]
    sys.exit(main.main([*arguments, *places, "--config.train.images=1"]))


def ended(process, folder: pathlib.Path) -> tuple[int, str]:
    """Waits; returns the status and what it wrote."""
    process.join(1200)
    process.kill()  # what hangs shall not outlive the test
    return process.exitcode, (folder / "output.txt").read_text()
