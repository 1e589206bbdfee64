"""What a run spends: seconds by purpose, memory of the host and of the devices."""

import contextlib
import pathlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator

import jax


class Clock:
    """Seconds and images since the last lap, and what else the time went to."""

    def __init__(self, step: int):
        self._spent: Counter[str] = Counter()  # since `seconds` was last asked
        self._restart(step)

    def _restart(self, step: int) -> None:
        self._step, self._time, self._paused = step, time.monotonic(), 0.0

    @contextlib.contextmanager
    def spent_on(self, purpose: str, *, pause: bool = True) -> Iterator[None]:
        """Counts the seconds inside for a purpose; a pause is no time of the steps."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._spent[purpose] += seconds
            self._paused += seconds * pause

    def seconds(self, purpose: str) -> dict[str, float]:
        """Returns {"time/PURPOSE_seconds"} since this was last asked; {} for none."""
        seconds = self._spent.pop(purpose, 0.0)
        return {f"time/{purpose}_seconds": seconds} if seconds else {}

    def lap(self, step: int, batch_size: int) -> dict[str, float]:
        """Returns the time of a step, and its share of waiting for data, since then."""
        steps, now = step - self._step, time.monotonic()
        seconds = (now - self._time - self._paused) / steps
        self._restart(step)
        return {
            "time/step_seconds": seconds,
            "time/images_per_second": batch_size / seconds,
            "time/data_seconds": self._spent.pop("data", 0.0) / steps,
        }


def memory() -> dict[str, float]:
    """Returns bytes: held by this process now, at most by a device (where known)."""
    used = {"memory/host_bytes": host_bytes()}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    if peaks:
        used["memory/device_bytes"] = float(max(peaks))
    return used


def host_bytes() -> float:
    """Returns the memory that this process holds; outside of Linux its peak."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return float(int(statm.read_text().split()[1]) * resource.getpagesize())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
