"""Signals during the loop: the first asks for a save at the next step, the second ends.

A pod's preemption notice arrives as SIGTERM too; schedulers send SIGUSR1 before a job's
time is up, a terminal that closes SIGHUP. Where `jax.distributed` is initialised the
runtime listens for SIGTERM and has all processes agree on one step; the other signals
are handed on to it. Elsewhere the process decides for itself.
"""

import os
import signal
import threading
import time

import jax
from absl import logging
from jax.experimental import multihost_utils

from radiovae_jax import files

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Not listened to where whoever started the process had it ignored: `nohup`, `trap ''`.
SPARED = (signal.SIGUSR1, signal.SIGHUP)
# Two signals so close together are one: `timeout` sends its own to the process and to
# its group, a terminal and a launcher both pass Ctrl-C on.
ECHO_S = 0.5


class Interruption:
    """Listens while it is entered; leaves the handlers as they were.

    A thread of its own hears the signals (through Python's wake-up descriptor), since
    the main one may stand in a compilation for minutes. Outside of the main thread
    there is nothing to listen to.
    """

    def __init__(self):
        self._heard: signal.Signals | None = None
        self._heard_at = 0.0  # of time.monotonic()
        self._before: dict[int, object] = {}
        self._distributed = (
            jax.distributed.is_initialized()
            and jax.config.jax_enable_preemption_service
        )

    def __enter__(self):
        self._listening = threading.current_thread() is threading.main_thread()
        if self._listening:
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(read,), daemon=True).start()
            # The runtime's own handler of SIGTERM, written in C, cannot be put back.
            for number in SIGNALS[1:] if self._distributed else SIGNALS:
                self._take(number)
        return self

    def __exit__(self, *error):
        if self._listening:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)  # ends the thread

    def noticed(self) -> bool:
        """Whether this process alone may stop at once: nobody else waits for it."""
        return self._heard is not None and not self._distributed

    def reached(self, step: int) -> bool:
        """Whether to save and end after this step; every process asks, of every one."""
        if not self._distributed:
            return self._heard is not None
        reached = multihost_utils.reached_preemption_sync_point(step)
        if reached and self._listening and signal.SIGTERM not in self._before:
            # From here on another SIGTERM is a second one.
            self._heard, self._heard_at = signal.SIGTERM, time.monotonic()
            self._take(signal.SIGTERM)
        return reached

    def _take(self, number: int) -> None:
        if number in SPARED and signal.getsignal(number) == signal.SIG_IGN:
            return
        handler = signal.signal(number, _ignore)
        # None: not set from Python; what remains is the system's default.
        self._before[number] = signal.SIG_DFL if handler is None else handler

    def _listen(self, read: int) -> None:
        while number := os.read(read, 1):
            self._hear(signal.Signals(number[0]))
        os.close(read)

    def _hear(self, number: signal.Signals) -> None:
        if number not in SIGNALS:
            return
        if self._heard is not None:
            if time.monotonic() - self._heard_at < ECHO_S:
                return
            os.write(2, f"\n{number.name} again: ending at once\n".encode())
            os._exit(128 + number)
        self._heard, self._heard_at = number, time.monotonic()
        if number == signal.SIGHUP:
            _without_terminal()
        logging.warning(
            "%s: saving after this step; a second signal ends at once", number.name
        )
        if self._distributed:
            os.kill(os.getpid(), signal.SIGTERM)  # the runtime tells the others


def _ignore(number, frame) -> None: ...  # Python calls it, and writes the descriptor


def _without_terminal() -> None:
    """Sends to nowhere what is printed to a terminal that was closed: it would fail."""
    for printed in (1, 2):
        try:
            os.write(printed, b"")
        except OSError:
            files.to_nowhere(printed)
