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

import argparse
import functools
import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import peers
import records  # this and the next four are beside this file
import step_parts
import timed_step
import timing
from absl import logging
from records import OURS

from radiovae_jax import cli, files, sharding
from radiovae_jax.nn import layers
from radiovae_jax.training import schema
from radiovae_jax.vae import experiment

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


def check(config, args: argparse.Namespace) -> None:
    """Refuses what would be timed as something else, or not at all.

    Raises:
      ValueError: the field, and what to do.
    """
    # JAX before PyTorch, which brings a cuDNN: the first one is loaded for both.
    backend = jax.default_backend()
    wanted = {
        "--data": ["grain"] * args.data,
        "--peer torch": ["torch", "diffusers"] * (args.peer != "none"),
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
    if args.peer == "none":
        timed_step.check_plain(config, {})
        return
    if not modes(args):
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


def measure(config, phase: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the record of one phase."""
    adversarial = timed_step.PHASES[phase]
    config = timed_step.in_phase(config, adversarial=adversarial)
    shape, batch = timed_step.image_shape(config), config.train.batch_size
    dtype = layers.compute_dtype(config.train.dtype)
    peak, bandwidth = timing.matrix_peak(dtype)  # now, while there is memory for it
    programs = our_programs(config, shape, args, adversarial=adversarial)
    released = "ours, fresh forward"  # the released order, as PyTorch has it
    if released not in programs:
        released = OURS
    race = peers.raced(config, programs[released], modes(args), adversarial=adversarial)
    for name, reason in race.not_timed.items():
        logging.warning("%s is not timed: %s", name, reason)
    found = step_times(programs, race, released, args.steps)
    program = programs[OURS].program
    planned = {name: ours.program.peak_bytes for name, ours in programs.items()}
    allocated = {name: t.peak_bytes(*race.given) for name, t in race.trainers.items()}
    parts = {}
    if args.parts:
        parts = step_parts.seconds_of(
            programs[OURS], args.steps, adversarial=adversarial
        )
    if args.trace:
        trace(programs[OURS], pathlib.Path(args.trace) / phase)
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


def step_times(
    programs, race: peers.Raced, released: str, steps: int
) -> dict[str, Any]:
    """Returns the record of the times of ours and of the peers, by turns.

    Args:
      released: which of our programs does what the peers do.
    """
    steppers = {name: program.step for name, program in programs.items()}
    rows = {OURS: (programs[OURS].launch, programs[OURS].wait)}
    for name, trainer in race.trainers.items():
        steppers[name] = functools.partial(trainer.waited_step, *race.given)
        rows[name] = functools.partial(trainer.step, *race.given), trainer.wait
    times = timing.in_turns(steppers, steps)
    return {
        **records.speeds(times, race.trainers, released),
        "in_a_row_seconds": timing.in_rows(rows, min(ROW, steps)),
    }


def modes(args: argparse.Namespace) -> dict[str, str]:
    """Returns what --peer asks for: torch.compile's mode by the trainer's name."""
    if args.peer == "none":
        return {}
    eager = {"torch, eager": ""} if args.eager else {}
    return eager | ({"torch, compiled": args.torch_mode} if args.compiled else {})


def trace(ours: timed_step.Ours, folder: pathlib.Path) -> None:
    """Writes a profile of a few steps."""
    with jax.profiler.trace(str(folder)):
        for _ in range(TRACED):
            ours.step()
    print(f"profile: {folder}")


def our_programs(
    config, shape, args, *, adversarial: bool
) -> dict[str, timed_step.Ours]:
    """Returns our step as configured, and what is timed beside it, by name."""
    kinds = {OURS: {}}
    if adversarial and (args.parts or args.peer != "none"):
        kinds["ours, fresh forward"] = {"fresh": True}
    if adversarial and args.parts:
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


def parser() -> cli.ConfigParser:
    parser = cli.ConfigParser(doc=__doc__)
    add = parser.add_argument
    add("--config", required=True, help="name or path of a config, maybe :VARIANT")
    words = "timed steps of each, default 20"
    add("--steps", type=cli.at_least(1), default=20, metavar="N", help=words)
    add("--peer", choices=("none", "torch"), default="none", help="to time beside ours")
    for name, words in {
        "eager": "eager PyTorch",
        "compiled": "compiled PyTorch",
        "parts": "parts and variants of the step",
    }.items():
        add(f"--{name}", action="store_true", default=True, help=f"time {words}")
        add(f"--no{name}", dest=name, action="store_false", help=f"leave out {words}")
    modes = ("default", "max-autotune-no-cudagraphs")
    words = "what torch.compile is told"
    add("--torch_mode", choices=modes, default=modes[0], help=words)
    phases = ("both", *timed_step.PHASES)
    add("--phase", choices=phases, default="both", help="which steps to time")
    add("--data", action="store_true", help="time the config's data as well")
    words = "the record, default benchmark.json; empty: none"
    add("--out", default="benchmark.json", help=words)
    words = "folder for a profile of our steps, for xprof or ui.perfetto.dev"
    add("--trace", default="", metavar="DIR", help=words)
    parser.add_debug()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    args = parser().parse_args(argv)
    cli.log_plainly(logging.INFO)
    return cli.status(lambda: benchmark(args), debug=args.debug)


def benchmark(args: argparse.Namespace) -> None:
    if args.peer != "none":  # else XLA takes most of a GPU before PyTorch starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # What was compiled before would be read, and its time called compiling.
    jax.config.update("jax_enable_compilation_cache", False)
    cli.start_jax()
    config = schema.read(args.config, args.overrides)
    check(config, args)
    phases = timed_step.phases_of(config, args.phase)
    if config.train.accumulate_steps > 1 or config.autoencoder.attention_chunk:
        logging.warning(
            "a loop's body is counted once, on a GPU not at all: with "
            "train.accumulate_steps or autoencoder.attention_chunk FLOPs, bytes "
            "and floors are too low"
        )
    out = pathlib.Path(args.out)
    if args.out:
        if out.is_dir():
            raise ValueError(f"{out} is a folder; give another --out, a file")
        cli.folder(out.parent, flag="--out")
    record = records.described(torch_mode=args.torch_mode * (args.peer != "none"))
    record |= {"phases": {}}
    print(records.header(record), flush=True)
    if args.data:
        record["data_images_per_second"] = rate = data_rate(config)
        print(f"data: {rate:.0f} images/s")
    for phase in phases:
        record["phases"][phase] = measure(config, phase, args)
        print(records.table(phase, record["phases"][phase]), flush=True)
        if args.out:  # now, for the next phase may be too large
            files.write_json(out, record)
        peers.release()
    if args.out:
        print(f"record: {out}")
    missed = {
        f"{name} ({phase}): {reason}"
        for phase, found in record["phases"].items()
        for name, reason in found["not_timed"].items()
    }
    if missed:
        raise ValueError("not timed: " + "; ".join(sorted(missed)))


if __name__ == "__main__":
    cli.with_huge_pages()
    sys.exit(main())
