"""Processes that die or fail, told to the others: one message instead of a C++ stack.

JAX's runtime aborts a process whose partner is gone, and its hook for such a case
cannot be called from Python (std::bad_cast in jax 0.10). So the processes say that they
live, and why they end, in the runtime's key-value store; in each one a thread looks.
"""

import contextlib
import itertools
import os
import socket
import threading
import time
from typing import Any

from jax._src import distributed as runtime  # its client has no public name

POLL_S, GRACE_S = 1, 1.5
ALIVE, ENDED = "radiovae_jax/alive/", "radiovae_jax/ended"
DONE = "done"  # said in place of a beat by one that is not to be waited for
AGAIN = "start all of them again with the same command"
GONE = f"process 0 cannot be reached: it has died, or the network; {AGAIN}"


class Watch(threading.Thread):
    """Ends this process once another has failed, or was silent for `silent_s`."""

    def __init__(self, client: Any, process: int, silent_s: float):
        super().__init__(daemon=True)
        self._client, self._process, self._silent_s = client, process, silent_s
        self._heard: dict[str, tuple[str, float]] = {}
        self._over = threading.Event()

    def run(self) -> None:
        for beat in itertools.count():
            problem = self.look(str(beat))
            if problem and problem != GONE:
                # Of an error of all processes this one has its own words.
                self._over.wait(GRACE_S)
            if self._over.is_set():
                return
            if problem:
                end(problem)

    def look(self, beat: str) -> str:
        """Says that this process lives; returns which other one does not, and why.

        Waits where all is well: a question that is open when process 0 dies is answered
        at once, before the runtime aborts; a new one would not be.
        """
        try:
            self._client.key_value_set(f"{ALIVE}{self._process}", beat, True)
            problem = self._silent() if self._process == 0 else ""
            if problem:
                self.tell(problem)
            return problem or self._client.blocking_key_value_get(ENDED, 1000 * POLL_S)
        except Exception as error:  # of what type, differs
            return "" if "DEADLINE_EXCEEDED" in str(error) else GONE

    def _silent(self) -> str:
        now = time.monotonic()
        for key, beat in self._client.key_value_dir_get(ALIVE):
            if beat == DONE or self._heard.get(key, ("", 0))[0] != beat:
                self._heard[key] = beat, now
            elif now - self._heard[key][1] > self._silent_s:
                return (
                    f"process {key.removeprefix(ALIVE)} has died or hangs: not heard "
                    f"of for {self._silent_s:g} s (--heartbeat_s); {AGAIN}"
                )
        return ""

    def stop(self) -> None:
        """Looks no more, and is not missed by the others."""
        if not self._over.is_set():
            self._over.set()
            with contextlib.suppress(Exception):  # nobody is there to hear it
                self._client.key_value_set(f"{ALIVE}{self._process}", DONE, True)

    def finish(self) -> None:
        """Stops, and waits for the thread: Python ends none that is in the runtime."""
        self.stop()
        self.join(5 * POLL_S)

    def tell(self, problem: str) -> None:
        """Lets all others end for a reason, and gives them the time to say it."""
        with contextlib.suppress(Exception):  # somebody has told another, or none hears
            self._client.key_value_set(ENDED, problem)
        # Process 0 goes last: with it goes the store, and the runtime of the others.
        time.sleep((POLL_S + GRACE_S) * (1 if self._process else 2))

    def hold(self, address: str) -> None:
        """Ends this process when nobody listens at process 0 any more.

        The runtime aborts where its own connection breaks; one beside it breaks in the
        same moment, and this thread says so before the abort is prepared.
        """
        host, _, port = address.rpartition(":")
        while not self._over.wait(0.01):
            try:
                with socket.create_connection((host.strip("[]"), int(port))) as line:
                    while line.recv(4096):
                        pass
            except ConnectionResetError:
                continue
            except ConnectionRefusedError:
                if not self._over.is_set():
                    end(GONE)
            except OSError:  # the network: the runtime decides
                self._over.wait(POLL_S)


def watch(silent_s: float) -> Watch:
    """Starts to look at the other processes; `jax.distributed` is initialised."""
    state = runtime.global_state
    started = Watch(state.client, state.process_id, silent_s)
    started.start()
    if state.process_id:
        address = (state.coordinator_address,)
        threading.Thread(target=started.hold, args=address, daemon=True).start()
    return started


def end(problem: str) -> None:
    """Ends this process at once: the main thread may stand in a collective."""
    os.write(2, f"\nerror: {problem}\n".encode(errors="backslashreplace"))
    os._exit(1)
