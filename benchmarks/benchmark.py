"""Times a training step, its parts and its floors; beside PyTorch where asked.

    python benchmarks/benchmark.py --config configs/quickstart.py
    python benchmarks/benchmark.py --config configs/radio.py:native --peer torch \\
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

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import functools
import importlib
import os
import pathlib
from typing import Any

import jax
import numpy as np
import peers
import records  # this and the next four are beside this file
import step_parts
import timed_step
import timing
from absl import app, flags, logging
from ml_collections import config_flags
from records import OURS

from radiovae_jax import cli, files, sharding
from radiovae_jax.training import config_check
from radiovae_jax.vae import experiment

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, maybe :VARIANT.")
STEPS = flags.DEFINE_integer("steps", 20, "Timed steps of each.", lower_bound=1)
PEER = flags.DEFINE_enum("peer", "none", ["none", "torch"], "What to time beside ours.")
EAGER = flags.DEFINE_bool("eager", True, "Time eager PyTorch.")
COMPILED = flags.DEFINE_bool("compiled", True, "Time compiled PyTorch.")
MODE = flags.DEFINE_enum(
    "torch_mode",
    "default",
    ["default", "max-autotune-no-cudagraphs"],
    "What torch.compile is told.",
)
PARTS = flags.DEFINE_bool("parts", True, "Time parts and variants of the step.")
PHASE = flags.DEFINE_enum(
    "phase", "both", ["both", *timed_step.PHASES], "Which steps to time."
)
DATA = flags.DEFINE_bool("data", False, "Time the config's data as well.")
OUT = cli.define_path("out", "benchmark.json", "The record; empty: none.")
TRACE = cli.define_path(
    "trace", "", "Folder for a profile of our steps, for xprof or ui.perfetto.dev."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")

ROW = 10  # steps that are waited for together, at most
TRACED = 5


def data_rate(config, batches: int = 200) -> float:
    """Returns images/s of the config's data, to the device, with no step beside it."""
    from radiovae_jax.data import datasets

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
    # JAX before PyTorch, which brings a cuDNN: the first one is loaded for both.
    backend = jax.default_backend()
    wanted = {
        "--data": ["grain"] * DATA.value,
        "LPIPS (loss.perceptual_weight)": ["flaxmodels.vgg.vgg"]
        * (config.loss.perceptual_weight > 0),
        "--peer torch": ["torch", "diffusers"] * (PEER.value != "none"),
    }
    for name, modules in wanted.items():
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(
                    f"{name} needs {module} ({error}); in a checkout pip install -e "
                    "'.[torch]' has everything, with a GPU '.[cuda,torch]'"
                ) from error
    if PEER.value == "none":
        timed_step.check_plain(config, {})
        return
    if not modes():
        raise ValueError(
            "--peer torch with --noeager and --nocompiled leaves nothing to time "
            "beside ours; leave out one of them, or --peer"
        )
    import torch

    if backend not in ("cpu", "gpu"):
        raise ValueError(
            f"JAX runs on {backend}, where PyTorch does not: no comparison; leave out "
            "--peer"
        )
    if (backend == "gpu") != torch.cuda.is_available():
        raise ValueError(
            f"JAX runs on {backend} and PyTorch "
            f"{'on a GPU' if torch.cuda.is_available() else 'finds no GPU'}: no "
            "comparison; install both for it (pip install -e '.[cuda,torch]'), or hide "
            "it (CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu)"
        )
    ours, theirs = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if backend == "cpu" and ours != theirs:
        raise ValueError(
            f"XLA takes {ours} cores and PyTorch {theirs} threads; start both with as "
            f"many: OMP_NUM_THREADS={ours}, and taskset -c for fewer cores"
        )
    timed_step.check_plain(config, peers.HAS)


def measure(config, phase: str) -> dict[str, Any]:
    """Returns the record of one phase."""
    adversarial = timed_step.PHASES[phase]
    config = timed_step.in_phase(config, adversarial=adversarial)
    shape, batch = timed_step.image_shape(config), config.train.batch_size
    dtype = experiment.compute_dtype(config.train.dtype)
    peak, bandwidth = timing.matrix_peak(dtype)  # now, while there is memory for it
    programs = our_programs(config, shape, adversarial=adversarial)
    released = "ours, fresh forward"  # the released order, as PyTorch has it
    if released not in programs:
        released = OURS
    race = peers.raced(config, programs[released], modes(), adversarial=adversarial)
    for name, reason in race.not_timed.items():
        logging.warning("%s is not timed: %s", name, reason)
    found = step_times(programs, race, released)
    program = programs[OURS].program
    planned = {name: ours.program.peak_bytes for name, ours in programs.items()}
    allocated = {name: t.peak_bytes(*race.given) for name, t in race.trainers.items()}
    parts = {}
    if PARTS.value:
        parts = step_parts.seconds_of(
            programs[OURS], STEPS.value, adversarial=adversarial
        )
    if TRACE.value:
        trace(programs[OURS], pathlib.Path(TRACE.value) / phase)
    return {
        "size": list(shape[:2]),
        "batch": batch,
        "dtype": dtype.name,
        "trace_seconds": program.trace_seconds,
        "compile_seconds": program.compile_seconds,
        "first_step_seconds": race.first_seconds,
        "first_step_differs_by": race.apart,
        "not_timed": race.not_timed,
        **found,
        **records.floors(program, found["step_seconds"][OURS], batch, peak, bandwidth),
        "peak_bytes": planned | allocated,
        "uncounted": program.uncounted,
        "parts_seconds": parts,
    }


def step_times(programs, race: peers.Raced, released: str) -> dict[str, Any]:
    """Returns the record of the times of ours and of the peers, by turns.

    Args:
      released: which of our programs does what the peers do.
    """
    steppers = {name: program.step for name, program in programs.items()}
    rows = {OURS: (programs[OURS].launch, programs[OURS].wait)}
    for name, trainer in race.trainers.items():
        steppers[name] = functools.partial(trainer.waited_step, *race.given)
        rows[name] = functools.partial(trainer.step, *race.given), trainer.wait
    times = timing.in_turns(steppers, STEPS.value)
    return {
        **records.speeds(times, race.trainers, released),
        "in_a_row_seconds": timing.in_rows(rows, min(ROW, STEPS.value)),
    }


def modes() -> dict[str, str]:
    """Returns what --peer asks for: torch.compile's mode by the trainer's name."""
    if PEER.value == "none":
        return {}
    eager = {"torch, eager": ""} if EAGER.value else {}
    return eager | ({"torch, compiled": MODE.value} if COMPILED.value else {})


def trace(ours: timed_step.Ours, folder: pathlib.Path) -> None:
    """Writes a profile of a few steps."""
    with jax.profiler.trace(str(folder)):
        for _ in range(TRACED):
            ours.step()
    print(f"profile: {folder}")


def our_programs(config, shape, *, adversarial: bool) -> dict[str, timed_step.Ours]:
    """Returns our step as configured, and what is timed beside it, by name."""
    kinds = {OURS: {}}
    if adversarial and (PARTS.value or PEER.value != "none"):
        kinds["ours, fresh forward"] = {"fresh": True}
    if adversarial and PARTS.value:
        kinds["ours, fixed weight"] = {"fixed_weight": True}
    built = experiment.build(config, shape)
    maps = (config.train.batch_size, *shape)
    gray = np.random.default_rng(0).integers(0, 256, maps, dtype=np.uint8)
    raw = {"gray": jax.device_put(gray)}
    state = experiment.drawn_state(config, built, jax.random.key(1))
    return {
        name: timed_step.Ours(
            config, built, raw, state, adversarial=adversarial, **kind
        )
        for name, kind in kinds.items()
    }


def main(argv: list[str]) -> None:
    cli.log_plainly(logging.INFO)
    with cli.one_message(debug=DEBUG.value):
        cli.nothing_more(argv)
        if PEER.value != "none":  # else XLA takes most of a GPU before PyTorch starts
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        # What was compiled before would be read, and its time called compiling.
        jax.config.update("jax_enable_compilation_cache", False)
        cli.start_jax()
        config = CONFIG.value
        config_check.check(config)
        check(config)
        phases = timed_step.phases_of(config, PHASE.value)
        if config.train.accumulate_steps > 1 or config.autoencoder.attention_chunk:
            logging.warning(
                "a loop's body is counted once, on a GPU not at all: with "
                "train.accumulate_steps or autoencoder.attention_chunk FLOPs, bytes "
                "and floors are too low"
            )
        out = pathlib.Path(OUT.value)
        if OUT.value:
            if out.is_dir():
                raise ValueError(f"{out} is a folder; give another --out, a file")
            cli.folder(out.parent, flag="--out")
        record = records.described(torch_mode=MODE.value * (PEER.value != "none"))
        record |= {"phases": {}}
        print(records.header(record), flush=True)
        if DATA.value:
            record["data_images_per_second"] = rate = data_rate(config)
            print(f"data: {rate:.0f} images/s")
        for phase in phases:
            record["phases"][phase] = measure(config, phase)
            print(records.table(phase, record["phases"][phase]), flush=True)
            keep(record, out)
            peers.release()
        if OUT.value:
            print(f"record: {out}")
        missed = {
            f"{name} ({phase}): {reason}"
            for phase, found in record["phases"].items()
            for name, reason in found["not_timed"].items()
        }
        if missed:
            raise ValueError("not timed: " + "; ".join(sorted(missed)))


def keep(record: dict[str, Any], out: pathlib.Path) -> None:
    """Writes what is measured so far, for the next phase may be too large."""
    if OUT.value:
        files.write_json(out, record)


if __name__ == "__main__":
    cli.with_huge_pages()
    app.run(main, flags_parser=cli.parse)
