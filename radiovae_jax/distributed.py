"""Several processes as one run, through JAX's own distributed runtime."""

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

# Longer than any two compilations of one step may differ. A dead process ends the wait
# much sooner: the runtime ends those who wait.
BARRIER_S = 1800


def start(
    *,
    automatic: bool = False,
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    heartbeat_s: int = 60,
    connect_s: int = 300,
) -> None:
    """Joins this process to the others; with no argument it stays alone.

    Comes before anything that asks JAX for its devices.

    Args:
      automatic: JAX finds the others itself: Cloud TPU, Slurm (one process a GPU),
        Open MPI, Kubernetes.
      coordinator: HOST:PORT of process 0, where that listens.
      processes: how many there are.
      process: which one this is, from 0.
      heartbeat_s: a process not heard of for so long counts as dead, and the runtime
        ends the others.
      connect_s: this process ends with an error where the others are not found within.

    Raises:
      ValueError: half of the coordinates, or no cluster to be found.
      OSError: the coordinator's port is not to be had.
    """
    explicit = (bool(coordinator), processes != 0, process != -1)
    if min(heartbeat_s, connect_s) < 1:
        raise ValueError(
            f"--heartbeat_s={heartbeat_s} and --connect_s={connect_s}: a process is "
            "given a second at least"
        )
    if automatic and any(explicit):
        raise ValueError(
            "--distributed finds the processes by itself; leave out --coordinator, "
            "--processes and --process, or --distributed"
        )
    if automatic:
        _initialize("as the cluster's variables say", heartbeat_s, connect_s)
    elif any(explicit):
        host, _, port = coordinator.rpartition(":")
        named = host and port.isdigit() and 0 < int(port) < 65536
        if not named or not 0 <= process < processes:
            raise ValueError(
                f"--coordinator={coordinator} --processes={processes} "
                f"--process={process} do not name a process: give all three, "
                "HOST:PORT of process 0, how many there are, and which this is, from "
                "0 to one less"
            )
        _initialize(
            f"process {process} of {processes}, coordinator {coordinator}",
            heartbeat_s,
            connect_s,
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=process,
            # What is said goes, inside a Slurm job too: all devices that are seen.
            cluster_detection_method="deactivate",
        )


def _initialize(who: str, heartbeat_s: int, connect_s: int, **coordinates: Any) -> None:
    with _at_most(connect_s, who):
        try:
            jax.distributed.initialize(
                **coordinates,
                heartbeat_timeout_seconds=heartbeat_s,
                initialization_timeout=connect_s + 60,
            )
        except ValueError as error:
            raise ValueError(
                f"--distributed found no cluster ({error}): neither Cloud TPU nor "
                "Slurm, Open MPI or Kubernetes. Name the processes with "
                "--coordinator=HOST:PORT --processes=N --process=I"
            ) from error
        except jax.errors.JaxRuntimeError as error:
            raise OSError(
                f"the processes cannot be joined ({who}): {error}. Is the port free, "
                "and --coordinator an address of the machine of process 0?"
            ) from error


@contextlib.contextmanager
def _at_most(seconds: int, who: str) -> Iterator[None]:
    """Ends this process with one message if the inside takes longer.

    The runtime's own time-out aborts, with the stack of its C++ and no reason.
    """

    def give_up() -> None:
        message = (
            f"\nerror: the processes did not find each other within {seconds} s "
            f"({who}). Start all of them, with the same --coordinator: the machine of "
            "process 0 as the others reach it, and a port that is free there and open "
            "to them. --connect_s waits longer\n"
        )
        os.write(2, message.encode())
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first() -> bool:
    """Says whether this process writes what is written once: logs and pictures."""
    return jax.process_index() == 0


def wait_for_all(reason: str) -> None:
    """Returns when every process has come here.

    Through the runtime's own service: a collective of the devices would give up after
    half a minute on the CPU.
    """
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=reason, timeout_ms=1000 * BARRIER_S)


def check_same(text: str, what: str) -> None:
    """Compares a text over all processes, which must call it together.

    Raises:
      ValueError: a process has another than the first.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(digest))
    others = [n for n, theirs in enumerate(everyone) if (theirs != everyone[0]).any()]
    if others:
        raise ValueError(
            f"the {what} of process {', '.join(map(str, others))} is not that of "
            "process 0; start all of them with the same command, file and version"
        )


class Together:
    """A jitted function that no process runs before all have compiled it.

    The first collective of a program waits for the other processes, but not for as
    long (30 s on the CPU) as their compilations may take longer than this one's.

    Args:
      name: what is waited for, where a process does not come.
      first: arguments that stand before those of every call.
    """

    def __init__(self, name: str, jitted: Any, *first: Any):
        self._name, self._jitted, self._first = name, jitted, first
        self.ready = False

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """Returns the executable for such arguments, which may be shapes alone."""
        return self._jitted.lower(*self._first, *arguments).compile()

    def make_ready(self, *arguments: Any) -> None:
        """Compiles what the calls will run, in all processes; the first time only."""
        if not self.ready:
            self.compile(*arguments)  # JAX keeps it for the call
            wait_for_all(self._name)
            self.ready = True

    def __call__(self, *arguments: Any) -> Any:
        self.make_ready(*arguments)
        return self._jitted(*self._first, *arguments)


def leave(status: int) -> None:
    """Ends this process at once where an error ends one of several; else returns.

    The way out through Python waits for the others to leave as well, and they may
    stand in a collective that waits for this one: only its death tells them.
    """
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
