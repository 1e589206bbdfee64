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
pass for the discriminator, as the released trainer has it (the one that is compared
with the peers); and with a fixed weight instead of the adaptive one, to price that.
"""

import functools
import importlib.util
import json
import os
import pathlib
import platform
import random
import statistics
import sys
import time
import unittest.mock
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from radiovae_jax import (
    command_line,
    config_check,
    experiment,
    losses,
    provenance,
    sharding,
    train_step,
    whole_files,
)

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, maybe :VARIANT.")
STEPS = flags.DEFINE_integer("steps", 20, "Timed steps of each.", lower_bound=1)
PEER = flags.DEFINE_enum("peer", "none", ["none", "torch"], "What to time beside ours.")
COMPILED = flags.DEFINE_bool("compiled", True, "Time compiled PyTorch as well.")
PARTS = flags.DEFINE_bool("parts", True, "Time parts and variants of the step.")
PHASE = flags.DEFINE_enum(
    "phase", "both", ["both", "autoencoder", "adversarial"], "Which steps to time."
)
DATA = flags.DEFINE_bool("data", False, "Time the config's data as well.")
OUT = flags.DEFINE_string("out", "benchmark.json", "The record; empty: none.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")

PHASES = {"autoencoder": False, "adversarial": True}
WARM_UP, TURN = 2, 5
# Sums in another order: of the first step's numbers, relative.
AGREE = {"float32": 2e-3, "bfloat16": 0.1}


class Program(NamedTuple):
    """A compiled executable and what XLA says of it."""

    run: Callable
    compile_seconds: float
    flops: float
    bytes_accessed: float
    peak_bytes: int


class Ours:
    """Our step of one phase: `step()` takes one and waits for it.

    Args:
      fresh: runs the fresh forward pass for the discriminator anyway.
      fixed_weight: puts the number 1 in the place of the adaptive weight.
    """

    def __init__(
        self, config, built, raw, *, adversarial: bool, fresh=False, fixed_weight=False
    ):
        self.built, self.raw = built, raw
        settings = built.settings
        if fresh:
            settings = settings._replace(fresh_reconstruction=True)
        self.key = jax.random.key(config.seed)
        self.state = jax.jit(lambda key: experiment.init_state(config, built, key))(
            jax.random.key(1)
        )
        self.weights = jax.device_put(built.perceptual_weights)

        def step(weights, state, raw, key):
            return train_step.train_step(
                built.networks,
                built.opt,
                built.schedules,
                settings,
                weights,
                state,
                built.to_batch(raw),
                key,
                adversarial=adversarial,
            )

        arguments = (self.weights, self.state, self.raw, self.key)
        weight = losses.adaptive_weight
        if fixed_weight:
            weight = lambda nll_grad, g_grad: jnp.ones(())  # noqa: E731
        with unittest.mock.patch.object(losses, "adaptive_weight", weight):
            self.program = compiled(step, *arguments, donate_argnums=1)

    def step(self) -> dict[str, Any]:
        self.state, logs = self.program.run(
            self.weights, self.state, self.raw, self.key
        )
        jax.block_until_ready((self.state, logs))
        return logs


def compiled(function: Callable, *arguments, **options) -> Program:
    lowered = jax.jit(function, **options).lower(*arguments)
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    cost, memory = program.cost_analysis(), program.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Program(
        program, seconds, cost["flops"], cost.get("bytes accessed", np.nan), peak
    )


def seconds_of(call: Callable, repeats: int) -> list[float]:
    """Returns the wall time of each call, which must wait for its result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def in_turns(steppers: dict[str, Callable], steps: int) -> dict[str, list[float]]:
    """Times each `steps` times, warmed up, by turns.

    The first steps of a turn do not count: PyTorch's threads go on spinning for a while
    when it is done, and caches hold what the one before used. The order of the turns is
    random, for it matters who was before.
    """
    times: dict[str, list[float]] = {name: [] for name in steppers}
    order = random.Random(0)
    for call in steppers.values():
        seconds_of(call, WARM_UP)
    while any(len(taken) < steps for taken in times.values()):
        for name in order.sample(list(steppers), len(steppers)):
            times[name] += seconds_of(steppers[name], WARM_UP + TURN)[WARM_UP:]
    return times


def matrix_peak(dtype) -> tuple[float, float]:
    """Returns FLOP/s in a large matrix product, and bytes/s in a large copy."""
    side = 2048 if jax.default_backend() == "cpu" else 16384
    # Random, for a GPU draws less power on equal numbers and is faster; and larger
    # than any cache.
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    b = jnp.zeros(2**26)
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda b: b + 1)
    product(a).block_until_ready(), copy(b).block_until_ready()
    fastest = min(seconds_of(lambda: product(a).block_until_ready(), 10))
    copied = min(seconds_of(lambda: copy(b).block_until_ready(), 10))
    return 2 * side**3 / fastest, 2 * b.nbytes / copied


def data_rate(config, batches: int = 200) -> float:
    """Returns images/s of the config's data, to the device, with no step beside it."""
    source = experiment.open_data(config, "train")
    stream = experiment.train_batches(config, source)
    mesh = sharding.make_mesh(config.train.batch_size)

    def take():
        jax.block_until_ready(sharding.to_devices(next(stream), mesh))

    seconds_of(take, 2 * config.data.prefetch)  # what lay ready
    seconds = sum(seconds_of(take, batches))
    stream.close()
    return batches * config.train.batch_size / seconds


def parts_of(ours: Ours, steps: int, *, adversarial: bool) -> dict[str, float]:
    """Returns the median seconds of the step's pieces, each compiled by itself.

    XLA fuses and shares across them in the whole step, so they need not add up.
    """
    built, state = ours.built, ours.state
    networks, opt = built.networks, built.opt
    batch = jax.jit(built.to_batch)(ours.raw)
    x, cond = batch.target, batch.cond

    def reconstruct(params):
        apply = functools.partial(
            networks.autoencoder.apply, {"params": params}, rngs={"dropout": ours.key}
        )
        posterior = apply(batch.image, True, method="encode")
        recon = apply(posterior.sample(ours.key), True, method="decode")
        return recon, posterior.kl().mean()

    def autoencoder_loss(params):
        recon, kl = reconstruct(params)
        return losses.sum_per_image(losses.reconstruction(x, recon)) + kl

    def judge(params, image):
        variables = {"params": params, "batch_stats": state.disc_stats}
        shown = jnp.concatenate([image, cond], axis=-1)
        return networks.discriminator.apply(
            variables, shown, train=True, mutable=["batch_stats"]
        )[0]

    def discriminator_loss(params, recon):
        return losses.discriminator_hinge(judge(params, x), judge(params, recon))

    def optimise(params, opt_state):
        return opt.autoencoder.update(params, opt_state, params)

    def optimise_discriminator(params, opt_state):
        return opt.discriminator.update(params, opt_state, params)

    parts = {
        "autoencoder forward": (reconstruct, state.params["autoencoder"]),
        "autoencoder forward and backward": (
            jax.grad(autoencoder_loss),
            state.params["autoencoder"],
        ),
        "autoencoder's optimiser": (optimise, state.params, state.opt_state),
    }
    if adversarial:
        parts |= {
            "generator's pass through the discriminator": (
                jax.grad(lambda image: -judge(state.disc_params, image).mean()),
                x,
            ),
            "discriminator forward and backward": (
                jax.grad(discriminator_loss),
                state.disc_params,
                x,
            ),
            "discriminator's optimiser": (
                optimise_discriminator,
                state.disc_params,
                state.disc_opt_state,
            ),
        }
    if ours.built.settings.perceptual_weight:
        parts["LPIPS forward and backward"] = (
            jax.grad(lambda image, w: networks.perceptual(w, x, image).sum()),
            x,
            ours.weights,
        )
    medians = {}
    for name, (function, *arguments) in parts.items():
        call = jax.jit(function)

        def waited(call=call, arguments=arguments):
            jax.block_until_ready(call(*arguments))

        seconds_of(waited, WARM_UP)
        medians[name] = statistics.median(seconds_of(waited, steps))
    return medians


def first_noise(ours: Ours) -> tuple[np.ndarray, np.ndarray]:
    """Returns the posterior noise of step 0, and of its fresh forward pass."""
    step_key = jax.random.fold_in(ours.key, 0)
    sample_key, _, fresh_key = jax.random.split(step_key, 3)
    shape = (len(ours.raw["gray"]), *ours.built.latent_shape)
    return tuple(
        np.asarray(jax.random.normal(key, shape)) for key in (sample_key, fresh_key)
    )


def peers(config, ours: Ours, *, adversarial: bool) -> tuple[dict[str, Any], list[Any]]:
    """Returns PyTorch's trainers, by name, and what they are given at every step."""
    import torch
    import torch_peer  # beside this file

    loss, o = config.loss, config.optimizer
    settings = torch_peer.Settings(
        kl_weight=loss.kl_weight,
        disc_factor=loss.disc_factor,
        disc_weight=loss.disc_weight,
        perceptual_weight=loss.perceptual_weight,
        learning_rate=float(ours.built.schedules.learning_rate(0)),
        disc_learning_rate=float(ours.built.schedules.disc_rate(0)),
        beta1=o.beta1,
        beta2=o.beta2,
        eps=o.eps,
        weight_decay=o.weight_decay,
        clip_norm=o.clip_norm,
        fresh_reconstruction=True,  # the released order, whatever ours does
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = jax.device_get(ours.state)
    x = np.asarray(jax.jit(ours.built.to_batch)(ours.raw).image)
    placed = [torch_peer.images(a, device) for a in (x, *first_noise(ours))]
    found = {}
    for compile_it in (False, True)[: 1 + COMPILED.value]:
        peer = torch_peer.Peer(
            state.params,
            {"params": state.disc_params, "batch_stats": state.disc_stats},
            ours.built.perceptual_weights or None,
            settings,
            adversarial=adversarial,
            compiled=compile_it,
            device=device,
            bfloat16=experiment.compute_dtype(config.train.dtype) == jnp.bfloat16,
        )

        found["torch, compiled" if compile_it else "torch, eager"] = peer
    return found, placed


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, str]:
    """Returns the largest relative difference of what both log, and whose it is.

    What is not a number is infinitely far from anything.
    """
    found = {}
    for name, value in theirs.items():
        a, b = float(ours[name]), float(value)
        apart = abs(a - b) / max(abs(b), 1e-6)
        found[name] = apart if apart < np.inf else np.inf
    worst = max(found, key=found.__getitem__)
    return found[worst], worst


def check(config) -> None:
    """Refuses what would be timed as something else, or not at all.

    Raises:
      ValueError: the field, and what to do.
    """
    loss = config.loss
    plain = {
        "loss.objective": (loss.objective, "base"),
        "loss.pixel_weights": (loss.pixel_weights, "none"),
        "loss.disc_conditional": (loss.disc_conditional, False),
    }
    if PEER.value == "torch":
        missing = [n for n in ("torch", "diffusers") if not importlib.util.find_spec(n)]
        if missing:
            raise ValueError(
                f"--peer torch needs {' and '.join(missing)}: pip install -e '.[torch]'"
            )
        plain |= {
            "loss.reconstruction": (loss.reconstruction, "l1_mse"),
            "loss.reduction": (loss.reduction, "sum"),
            "loss.disc_loss": (loss.disc_loss, "hinge"),
            "loss.use_actnorm": (loss.use_actnorm, False),
            "loss.loss_scale": (loss.loss_scale, 1.0),
            "loss.free_bits": (loss.free_bits, 0.0),
            "loss.pixelloss_weight": (loss.pixelloss_weight, 1.0),
            "optimizer.clip_weights": (config.optimizer.clip_weights, 0.0),
            "train.accumulate_steps": (config.train.accumulate_steps, 1),
            "autoencoder.dropout": (config.autoencoder.dropout, 0.0),
        }
        plain |= {
            f"loss.{name}_weight": (loss[f"{name}_weight"], 0.0)
            for name in ("ssim", "feature_matching", "r1", "lecam")
        }
    for name, (value, wanted) in plain.items():
        if value != wanted:
            raise ValueError(
                f"{name} is {value!r}, which the benchmark"
                f"{' with --peer' * (PEER.value != 'none')} does not have; give "
                f"--config.{name}={wanted}"
            )


def measure(config, *, adversarial: bool) -> dict[str, Any]:
    """Returns the record of one phase.

    Raises:
      ValueError: ours and PyTorch's first step differ.
    """
    config.loss.disc_start = 0 if adversarial else config.train.steps
    side = config.data.image_size or config.data.crop
    size = (side, side) if side else tuple(config.autoencoder.resolution)
    shape = (*size, config.autoencoder.in_channels)
    batch = config.train.batch_size
    built = experiment.build(config, shape)
    gray = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
    dtype = experiment.compute_dtype(config.train.dtype)
    raw = {"gray": jax.device_put(gray)}
    kinds = {"radiovae_jax": {}}
    if adversarial and (PARTS.value or PEER.value != "none"):
        kinds["ours, fresh forward"] = {"fresh": True}
    if adversarial and PARTS.value:
        kinds["ours, fixed weight"] = {"fixed_weight": True}
    programs = {
        name: Ours(config, built, raw, adversarial=adversarial, **kind)
        for name, kind in kinds.items()
    }
    ours = programs["radiovae_jax"]
    same = programs.get("ours, fresh forward", ours)  # the released order
    trainers, given, agreement = {}, (), {}
    if PEER.value == "torch":
        trainers, given = peers(config, same, adversarial=adversarial)
    first = same.step()
    for name, trainer in trainers.items():
        apart, number = difference(first, trainer.step(*given) | trainer.grad_norms())
        agreement[name] = apart
        logging.info("%s: first step within %.1e of ours (%s)", name, apart, number)
        if apart > AGREE[dtype.name]:
            raise ValueError(
                f"{name} and ours differ by {apart:.1e} in the first step ({number}); "
                "they do not do the same work, so their times say nothing"
            )
    steppers = {name: program.step for name, program in programs.items()}
    for name, trainer in trainers.items():
        steppers[name] = functools.partial(trainer.waited_step, *given)
    times = in_turns(steppers, STEPS.value)
    peak, bandwidth = matrix_peak(dtype)
    seconds = statistics.median(times["radiovae_jax"])
    program = ours.program
    return {
        "size": list(size),
        "batch": batch,
        "dtype": dtype.name,
        "compile_seconds": program.compile_seconds,
        "step_seconds": {name: statistics.median(t) for name, t in times.items()},
        "quartiles": {
            name: np.quantile(t, [0.25, 0.75]).tolist() for name, t in times.items()
        },
        "ratio_to_ours": {
            name: statistics.median(t) / seconds for name, t in times.items()
        },
        "first_step_differs_by": agreement,
        "images_per_second": batch / seconds,
        "flops_per_image": program.flops / batch,
        "matrix_peak_flops": peak,
        "share_of_peak": program.flops / seconds / peak,
        "bytes_per_second": bandwidth,
        "floor_seconds": {
            "flops": program.flops / peak,
            "bytes": program.bytes_accessed / bandwidth,
        },
        "peak_bytes": program.peak_bytes,
        "parts_seconds": parts_of(ours, STEPS.value, adversarial=adversarial)
        if PARTS.value
        else {},
    }


def table(phase: str, record: dict[str, Any]) -> str:
    rows = [
        f"{phase} step: {record['size'][0]}x{record['size'][1]}, batch "
        f"{record['batch']}, {record['dtype']}"
    ]
    for name, seconds in record["step_seconds"].items():
        ratio = record["ratio_to_ours"][name]
        rate = record["batch"] / seconds
        rows.append(
            f"  {name:<20}{seconds * 1e3:>10.1f} ms {rate:>9.1f} images/s{ratio:>8.2f}x"
        )
    floors = record["floor_seconds"]
    rows += [
        f"  {'compile time':<44}{record['compile_seconds']:>10.1f} s",
        f"  {'FLOPs an image':<44}{record['flops_per_image'] / 1e9:>10.2f} G",
        f"  {'share of the matrix peak':<44}{record['share_of_peak']:>10.1%}",
        f"  {'floor by FLOPs':<44}{floors['flops'] * 1e3:>10.1f} ms",
        f"  {'floor by bytes':<44}{floors['bytes'] * 1e3:>10.1f} ms",
        f"  {'memory that XLA plans':<44}{record['peak_bytes'] / 2**20:>10.0f} MiB",
    ]
    rows += [
        f"  {name:<44}{seconds * 1e3:>10.1f} ms"
        for name, seconds in record["parts_seconds"].items()
    ]
    return "\n".join(rows)


def machine() -> dict[str, Any]:
    """Returns where and with what the numbers were made."""
    found = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": provenance.commit(),
        "command": sys.argv,
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
    if len(argv) > 1:
        raise app.UsageError(f"unexpected {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(command_line.not_chatter)
    with command_line.one_message(debug=DEBUG.value):
        config = CONFIG.value
        config_check.check(config)
        check(config)
        out = pathlib.Path(OUT.value)
        command_line.folder(out.parent, flag="--out")
        if PEER.value != "none":  # else XLA takes most of a GPU before PyTorch starts
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        record = machine() | {"phases": {}}
        if DATA.value:
            record["data_images_per_second"] = rate = data_rate(config)
            print(f"data: {rate:.0f} images/s")
        for phase, adversarial in PHASES.items():
            if PHASE.value not in ("both", phase):
                continue
            record["phases"][phase] = measure(config, adversarial=adversarial)
            print(table(phase, record["phases"][phase]), flush=True)
        if OUT.value:
            with whole_files.written(out) as partial:
                partial.write_text(json.dumps(record, indent=1))
            print(f"record: {out}")


if __name__ == "__main__":
    command_line.with_huge_pages()
    app.run(main, flags_parser=command_line.parse)
