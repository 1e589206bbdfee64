"""Times a training step, its parts and its floors; beside PyTorch where asked.

    python tools/benchmark.py --config configs/quickstart.py
    python tools/benchmark.py --config configs/radio.py:native --peer torch \\
        --config.loss.perceptual_weights=random --config.train.batch_size=8

Sizes, widths, batch and dtype are the config's; the maps are random, on the device as
uint8. Every step is waited for; medians of many, after warming up. Ours and the peers
take turns in one process, so that a noisy machine is noisy to both. The first step of
both is compared before anything is timed: the same weights, noise and maps must give
the same losses and gradients. On a CPU set OMP_NUM_THREADS to the cores that PyTorch
may have.

In the adversarial phase ours runs three times: as the config says; with a fresh forward
pass for the discriminator, as the released trainer has it (like for like: what the
peers' first step is compared with); and with a fixed weight instead of the adaptive
one, to price that.
"""

import functools
import importlib.util
import os
import pathlib
from typing import Any

import jax
import numpy as np
import peers  # this and the next four are beside this file
import step_parts
import step_record
import timed_step
import timing
from absl import app, flags, logging
from ml_collections import config_flags
from step_record import OURS

from radiovae_jax import (
    command_line,
    config_check,
    experiment,
    sharding,
    whole_files,
)

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, maybe :VARIANT.")
STEPS = flags.DEFINE_integer("steps", 20, "Timed steps of each.", lower_bound=1)
PEER = flags.DEFINE_enum("peer", "none", ["none", "torch"], "What to time beside ours.")
COMPILED = flags.DEFINE_bool("compiled", True, "Time compiled PyTorch as well.")
PARTS = flags.DEFINE_bool("parts", True, "Time parts and variants of the step.")
PHASE = flags.DEFINE_enum(
    "phase", "both", ["both", *timed_step.PHASES], "Which steps to time."
)
DATA = flags.DEFINE_bool("data", False, "Time the config's data as well.")
OUT = flags.DEFINE_string("out", "benchmark.json", "The record; empty: none.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")


def data_rate(config, batches: int = 200) -> float:
    """Returns images/s of the config's data, to the device, with no step beside it."""
    from radiovae_jax import datasets  # with Grain, which a bare GPU image lacks

    source = datasets.open_data(config, "train")
    stream = datasets.train_batches(config, source)
    mesh = sharding.make_mesh(config.train.batch_size)

    def take():
        jax.block_until_ready(sharding.to_devices(next(stream), mesh))

    timing.seconds_of(take, 2 * config.data.prefetch)  # what lay ready
    seconds = sum(timing.seconds_of(take, batches))
    stream.close()
    return batches * config.train.batch_size / seconds


def check(config) -> None:
    """Refuses what would be timed as something else, or not at all.

    Raises:
      ValueError: the field, and what to do.
    """
    if PEER.value == "none":
        timed_step.check_plain(config, {})
        return
    missing = [n for n in ("torch", "diffusers") if not importlib.util.find_spec(n)]
    if missing:
        raise ValueError(
            f"--peer torch needs {' and '.join(missing)}: pip install -e '.[torch]'"
        )
    import torch

    if (jax.default_backend() == "gpu") != torch.cuda.is_available():
        raise ValueError(
            f"JAX runs on {jax.default_backend()} and PyTorch "
            f"{'on a GPU' if torch.cuda.is_available() else 'finds no GPU'}: no "
            "comparison; install both for the same device, or hide it "
            "(CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu)"
        )
    ours, theirs = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if jax.default_backend() == "cpu" and ours != theirs:
        raise ValueError(
            f"XLA takes {ours} cores and PyTorch {theirs} threads; start both with as "
            f"many: OMP_NUM_THREADS={ours}, and taskset -c for fewer cores"
        )
    timed_step.check_plain(config, peers.HAS)


def measure(config, *, adversarial: bool) -> dict[str, Any]:
    """Returns the record of one phase.

    Raises:
      ValueError: ours and PyTorch's first step differ.
    """
    config = timed_step.in_phase(config, adversarial=adversarial)
    shape = timed_step.image_shape(config)
    batch = config.train.batch_size
    built = experiment.build(config, shape)
    gray = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
    programs = our_programs(
        config, built, {"gray": jax.device_put(gray)}, adversarial=adversarial
    )
    released = "ours, fresh forward"  # the released order, as PyTorch has it
    if released not in programs:
        released = OURS
    same = programs[released]
    trainers, given = {}, ()
    if PEER.value == "torch":
        trainers, given = peers.trainers(
            config, same, adversarial=adversarial, compiled=COMPILED.value
        )
    dtype = experiment.compute_dtype(config.train.dtype)
    agreement, first_seconds = peers.compared(
        same, trainers, given, peers.AGREE[dtype.name]
    )
    steppers = {name: program.step for name, program in programs.items()}
    for name, trainer in trainers.items():
        steppers[name] = functools.partial(trainer.waited_step, *given)
    times = timing.in_turns(steppers, STEPS.value)
    found = step_record.speeds(times, trainers, released)
    seconds = found["step_seconds"][OURS]
    program = programs[OURS].program
    parts = {}
    if PARTS.value:
        parts = step_parts.seconds_of(
            programs[OURS], STEPS.value, adversarial=adversarial
        )
    planned = {name: ours.program.peak_bytes for name, ours in programs.items()}
    allocated = {name: peer.peak_bytes(*given) for name, peer in trainers.items()}
    return {
        "size": list(shape[:2]),
        "batch": batch,
        "dtype": dtype.name,
        "compile_seconds": program.compile_seconds,
        "first_step_seconds": first_seconds,
        "first_step_differs_by": agreement,
        **found,
        **step_record.floors(program, seconds, batch, dtype),
        "peak_bytes": planned | allocated,
        "parts_seconds": parts,
    }


def our_programs(
    config, built, raw, *, adversarial: bool
) -> dict[str, timed_step.Ours]:
    """Returns our step as configured, and what is timed beside it, by name."""
    kinds = {OURS: {}}
    if adversarial and (PARTS.value or PEER.value != "none"):
        kinds["ours, fresh forward"] = {"fresh": True}
    if adversarial and PARTS.value:
        kinds["ours, fixed weight"] = {"fixed_weight": True}
    return {
        name: timed_step.Ours(config, built, raw, adversarial=adversarial, **kind)
        for name, kind in kinds.items()
    }


def machine() -> dict[str, Any]:
    """Returns where and with what the numbers were made."""
    found = timed_step.provenance_of() | {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
    }
    if PEER.value == "torch":
        import diffusers
        import torch

        found |= {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "torch_threads": torch.get_num_threads(),
        }
    return found


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(command_line.not_chatter)
    with command_line.one_message(debug=DEBUG.value):
        command_line.nothing_more(argv)
        if PEER.value != "none":  # else XLA takes most of a GPU before PyTorch starts
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        # What was compiled before would be read, and its time called compiling.
        jax.config.update("jax_enable_compilation_cache", False)
        config = CONFIG.value
        config_check.check(config)
        check(config)
        phases = timed_step.phases_of(config, PHASE.value)
        if config.train.accumulate_steps > 1 or config.autoencoder.attention_chunk:
            logging.warning(
                "a loop's body is counted once, on a GPU nothing: with "
                "train.accumulate_steps or autoencoder.attention_chunk FLOPs, bytes "
                "and floors are too low, or nan"
            )
        out = pathlib.Path(OUT.value)
        if OUT.value:
            if out.is_dir():
                raise ValueError(f"{out} is a folder; give another --out, a file")
            command_line.folder(out.parent, flag="--out")
        record = machine() | {"phases": {}}
        if DATA.value:
            record["data_images_per_second"] = rate = data_rate(config)
            print(f"data: {rate:.0f} images/s")
        for phase, adversarial in phases.items():
            record["phases"][phase] = measure(config, adversarial=adversarial)
            print(step_record.table(phase, record["phases"][phase]), flush=True)
            keep(record, out)
        if OUT.value:
            print(f"record: {out}")


def keep(record: dict[str, Any], out: pathlib.Path) -> None:
    """Writes what is measured so far, for the next phase may be too large."""
    if OUT.value:
        whole_files.write_json(out, record)


if __name__ == "__main__":
    command_line.with_huge_pages()
    app.run(main, flags_parser=command_line.parse)
