"""How long something takes: compiled by XLA, waited for, by turns with others."""

import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import hlo  # beside this file
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

WARM_UP, TURN, ROWS = 2, 5, 3


class Program(NamedTuple):
    """A compiled executable and what XLA says of it."""

    run: Callable
    trace_seconds: float  # from the function to XLA's input
    compile_seconds: float
    flops: float
    bytes_accessed: float
    peak_bytes: int
    uncounted: tuple[str, ...] = ()  # what of it is not in FLOPs and bytes


def compiled(function: Callable, *arguments, **options) -> Program:
    start = time.perf_counter()
    lowered = jax.jit(function, **options).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    seconds = (traced - start, time.perf_counter() - traced)
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    flops, nbytes = cost.get("flops", np.nan), cost.get("bytes accessed", np.nan)
    uncounted: tuple[str, ...] = ()
    if jax.default_backend() == "gpu":  # XLA counts nothing for cuDNN's convolutions
        kernels = hlo.kernels_of(program.as_text(), strict=False)
        flops = sum(kernel.flops for kernel in kernels)
        nbytes = sum(kernel.nbytes for kernel in kernels)
        unknown = {kernel.layer for kernel in kernels if kernel.kind == "unknown"}
        uncounted = tuple(sorted(unknown))
        if uncounted:
            logging.warning("FLOPs, bytes and floors are too low: %s", uncounted[0])
    return Program(program, *seconds, flops, nbytes, peak_of(memory), uncounted)


def peak_of(memory) -> int:
    """Returns the bytes that XLA plans, of its `memory_analysis`."""
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
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


def in_rows(
    steppers: dict[str, tuple[Callable, Callable]], steps: int
) -> dict[str, float]:
    """Returns the seconds a call of so many that are waited for together, by turns.

    As training waits: a host that is ahead of its device costs nothing.

    Args:
      steppers: what starts a step, and what waits for all that were started.
    """
    times: dict[str, list[float]] = {name: [] for name in steppers}
    order = random.Random(0)
    for name in order.sample(ROWS * list(steppers), ROWS * len(steppers)):
        launch, wait = steppers[name]
        seconds_of(launch, WARM_UP)
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            launch()
        wait()
        times[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(taken) for name, taken in times.items()}


def matrix_peak(dtype) -> tuple[float, float]:
    """Returns FLOP/s in a large matrix product, and bytes/s in a large copy."""
    side = 2048 if jax.default_backend() == "cpu" else 16384
    # Random, for a GPU draws less power on equal numbers and is faster; and larger
    # than any cache.
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    b = jnp.zeros(2**26 if jax.default_backend() == "cpu" else 2**28)
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda b: b + 1)
    product(a).block_until_ready(), copy(b).block_until_ready()
    fastest = min(seconds_of(lambda: product(a).block_until_ready(), 10))
    copied = min(seconds_of(lambda: copy(b).block_until_ready(), 10))
    return 2 * side**3 / fastest, 2 * b.nbytes / copied
