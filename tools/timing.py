"""How long something takes: compiled by XLA, waited for, by turns with others."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

import hlo  # beside this file
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

WARM_UP, TURN = 2, 5


class Program(NamedTuple):
    """A compiled executable and what XLA says of it."""

    run: Callable
    compile_seconds: float
    flops: float
    bytes_accessed: float
    peak_bytes: int


def compiled(function: Callable, *arguments, **options) -> Program:
    lowered = jax.jit(function, **options).lower(*arguments)
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    flops, nbytes = cost.get("flops", np.nan), cost.get("bytes accessed", np.nan)
    if jax.default_backend() == "gpu":  # XLA counts nothing for cuDNN's convolutions
        try:
            kernels = hlo.kernels_of(program.as_text())
        except ValueError as error:  # the times are worth having without
            logging.warning("no FLOPs, no bytes: %s", error)
            return Program(program, seconds, np.nan, np.nan, peak_of(memory))
        flops = sum(kernel.flops for kernel in kernels)
        nbytes = sum(kernel.nbytes for kernel in kernels)
    return Program(program, seconds, flops, nbytes, peak_of(memory))


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


def matrix_peak(dtype) -> tuple[float, float]:
    """Returns FLOP/s in a large matrix product, and bytes/s in a large copy."""
    side = 2048 if jax.default_backend() == "cpu" else 16384
    # Random, for a GPU draws less power on equal numbers and is faster; and larger
    # than any cache.
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    b = jnp.zeros(2**26 if jax.default_backend() == "cpu" else 2**30)
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda b: b + 1)
    product(a).block_until_ready(), copy(b).block_until_ready()
    fastest = min(seconds_of(lambda: product(a).block_until_ready(), 10))
    copied = min(seconds_of(lambda: copy(b).block_until_ready(), 10))
    return 2 * side**3 / fastest, 2 * b.nbytes / copied
