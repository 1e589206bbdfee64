"""Several processes as one run, through JAX's own distributed runtime."""

import atexit
import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from radiovae_jax.training import partners

# Longer than any two compilations of one step may differ. A dead process ends the wait
# much sooner: the runtime ends those who wait.
BARRIER_S = 1800
# What a collective or a barrier says when another process is gone.
LOST = re.compile(
    "Gloo|NCCL|RCCL|[Cc]oordination|UNAVAILABLE|[Bb]arrier|"
    "[Ss]ocket closed|Connection (closed|reset)"
)
# The runtime's way to end a process is an abort, so its own heartbeat shall be later
# than ours. It may have heard of a process half of its time before that one died.
SPARE_S = 30

_watch: partners.Watch | None = None  # of this process, once it has joined the others


def start(
    *,
    automatic: bool = False,
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    heartbeat_s: int = 60,
    connect_s: int = 300,
) -> None:
    """Joins this process to the others, by main's flags; with none it stays alone.

    Comes before anything that asks JAX for its devices.

    Args:
      automatic: JAX finds the others itself: Cloud TPU, Slurm (one process a GPU),
        Open MPI, Kubernetes.

    Raises:
      ValueError: half of the coordinates, or no cluster to be found.
      OSError: the coordinator's port is not to be had.
    """
    explicit = bool(coordinator) or processes != 0 or process != -1
    if min(heartbeat_s, connect_s) < 1:
        raise ValueError(
            f"--heartbeat_s={heartbeat_s} and --connect_s={connect_s}: a process is "
            "given a second at least"
        )
    if automatic and explicit:
        raise ValueError(
            "--distributed finds the processes by itself; leave it out, or all of "
            "--coordinator, --processes and --process"
        )
    if not automatic and not explicit:
        return
    who, coordinates = "as the cluster's variables say", {}
    if explicit:
        host, _, port = coordinator.rpartition(":")
        named = host and port.isdigit() and 0 < int(port) < 65536
        if not named or not 0 <= process < processes:
            raise ValueError(
                f"--coordinator={coordinator} --processes={processes} "
                f"--process={process} do not name a process: give HOST:PORT of process "
                "0, how many there are, and which this is, from 0 to one less"
            )
        who = f"process {process} of {processes}, coordinator {coordinator}"
        coordinates = dict(
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=process,
            # What is said goes, inside a Slurm job too: all devices that are seen.
            cluster_detection_method="deactivate",
        )
    with _at_most(connect_s, who):
        try:
            jax.distributed.initialize(
                **coordinates,
                heartbeat_timeout_seconds=2 * heartbeat_s + SPARE_S,
                initialization_timeout=connect_s + 60,
            )
        except ValueError as error:
            raise ValueError(
                f"--distributed found no cluster ({error}); name the processes with "
                "--coordinator=HOST:PORT --processes=N --process=I"
            ) from error
        except jax.errors.JaxRuntimeError as error:
            raise OSError(
                f"the processes cannot be joined ({who}): {error}. Is the port free, "
                "and --coordinator an address of the machine of process 0?"
            ) from error
    global _watch
    _watch = partners.watch(heartbeat_s)
    atexit.register(_watch.finish)  # before the runtime's own end, in which all wait


@contextlib.contextmanager
def _at_most(seconds: int, who: str) -> Iterator[None]:
    """Ends this process if the inside takes longer, before the runtime aborts it."""
    problem = (
        f"the processes did not find each other within {seconds} s ({who}): start all "
        "of them, with one --coordinator that they reach, and a port that is free "
        "there; --connect_s waits longer"
    )
    timer = threading.Timer(seconds, partners.end, (problem,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first() -> bool:
    """Whether this process writes what is written once: logs and pictures."""
    return jax.process_index() == 0


def wait_for_all(reason: str) -> None:
    """Returns when every process has come here."""
    # A collective of the devices would give up after half a minute on the CPU.
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=reason, timeout_ms=1000 * BARRIER_S)


def gathered(text: str) -> list[str]:
    """Returns the text of every process; all must call it together."""
    if jax.process_count() == 1:
        return [text]
    wait_for_all("a text")
    raw = np.frombuffer(text.encode(errors="backslashreplace") + b"\0", np.uint8)
    longest = multihost_utils.process_allgather(np.int32(raw.size)).max()
    rows = multihost_utils.process_allgather(np.pad(raw, (0, longest - raw.size)))
    return [row.tobytes().rstrip(b"\0").decode() for row in rows]


def check_same(values: Mapping[str, str], remedy: str) -> None:
    """Raises a ValueError where a process has another value than the first.

    All must call it together, with short values by what they are called.
    """
    first, *others = map(json.loads, gathered(json.dumps(values)))
    for name, value in first.items():
        differing = [n for n, other in enumerate(others, 1) if other[name] != value]
        if differing:
            raise ValueError(
                f"the {name} of process {', '.join(map(str, differing))} is not that "
                f"of process 0 ({others[differing[0] - 1][name]}, there {value}); "
                f"{remedy}"
            )


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Raises the error of what is inside, in any process, as a ValueError in all.

    What is inside may wait for no other process.
    """
    failure = None
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        failure = error
    texts = gathered("" if failure is None else str(failure) or repr(failure))
    failed = {process: text for process, text in enumerate(texts) if text}
    if failed:
        which, text = ", ".join(map(str, failed)), next(iter(failed.values()))
        raise ValueError(f"process {which} of {len(texts)}: {text}") from failure


class BarrierJit:
    """A jitted function that no process runs before all have compiled it.

    The first collective of a program waits for the other processes, but not for as
    long (30 s on the CPU) as their compilations may take longer than this one's.

    Args:
      first: arguments that stand before those of every call.
    """

    def __init__(self, jitted: Any, *first: Any):
        self._jitted, self._first, self.ready = jitted, first, False

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """Returns the executable for such arguments, which may be shapes alone."""
        return self._jitted.lower(*self._first, *arguments).compile()

    def make_ready(self, *arguments: Any) -> None:
        """Compiles what the calls will run, in all processes; the first time only."""
        if not self.ready:
            self.compile(*arguments)  # JAX keeps it for the call
            wait_for_all("a step")
            self.ready = True

    def __call__(self, *arguments: Any) -> Any:
        self.make_ready(*arguments)
        return self._jitted(*self._first, *arguments)


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Ends this process with one message where another one's death breaks the inside.

    Raises:
      OSError: in process 0, which may still write; the others end here, before the
        runtime, whose service may have died with process 0, aborts them.
    """
    try:
        yield
    except BaseException as error:
        if _watch is None:
            raise
        lost = isinstance(error, ValueError | RuntimeError) and LOST.search(str(error))
        line = str(error).partition("\n")[0][:200]
        problem = (
            f"another process has ended or cannot be reached ({line}); its own output "
            f"may say why; {partners.AGAIN}"
        )
        if lost and not is_first():
            partners.end(problem)
        _watch.stop()  # how this process ends is its own now
        if lost:
            raise OSError(problem) from error
        raise


def leave(status: int, reason: str = "") -> None:
    """Ends this process at once where an error ends one of several; else returns.

    The way out through Python would wait for the others, and they may stand in a
    collective that waits for this one. They are told the reason.
    """
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if _watch is not None:
            _watch.stop()
            _watch.tell(f"process {jax.process_index()} has ended: {reason or status}")
        os._exit(status)
