"""The lock of a run folder: one run at a time writes there.

On one machine the kernel's flock decides; it ends with its process, however that ends.
It may not reach the other machines of a shared file system. For those the file's time
is renewed every minute, and a lock that shows no sign of life for five is taken over.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from absl import logging

from radiovae_jax import files
from radiovae_jax.training import partners

NAME = "run.lock"
BEAT_S, SILENT_S = 60, 300
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def held(workdir: pathlib.Path | str) -> Iterator[None]:
    """Keeps the folder for this process while inside; an OSError if that cannot be."""
    path, ours = pathlib.Path(workdir) / NAME, json.dumps(me())
    with files.made(path.parent, "run", flag="--workdir"):
        file, free = _opened(path)
        owner, silent = _owner(file), time.time() - path.stat().st_mtime
        refused = alive(owner, free=free, silent=silent)
        if not refused:
            file.truncate(0)
            print(ours, file=file, flush=True)
    with file:
        if refused:
            raise OSError(_refusal(path, owner, silent))
        if owner:
            logging.warning("%s: taken over from %s, which has ended", path, _of(owner))
        over = threading.Event()
        threading.Thread(target=_beat, args=(path, ours, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            with contextlib.suppress(OSError):
                if path.read_text().strip() == ours:
                    path.unlink()  # while it is locked


def me() -> dict[str, Any]:
    """Returns what tells this process from all others."""
    return {
        "host": platform.node(),
        "machine": BOOT.read_text().strip() if BOOT.exists() else platform.node(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "job": next((os.environ[name] for name in JOBS if name in os.environ), ""),
    }


def alive(owner: Mapping[str, Any], *, free: bool | None, silent: float) -> bool:
    """Whether the run that wrote into the lock may still be writing its folder.

    Args:
      free: whether flock was to be had; None where the file system has no flock.
      silent: seconds since its last sign of life.
    """
    ours = me()
    if not owner:
        return free is False  # it has just been made
    if owner.get("machine") == ours["machine"]:
        if free is not None:
            return not free
        pid = owner.get("pid", 0)  # perhaps another process has it by now
        return files.runs(pid) and _started(pid) == owner.get("started")
    requeued = ours["job"] and ours["job"] == owner.get("job") and free is not False
    return not requeued and silent < SILENT_S


def _opened(path: pathlib.Path) -> tuple[TextIO, bool | None]:
    """Returns the lock's file, and what flock says: free, taken, or None, not known."""
    while True:
        file = path.open("a+")  # closed by an exec, so that no other program keeps it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:
            free = None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, free
        file.close()  # whoever had it has removed it meanwhile


def _owner(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    with contextlib.suppress(ValueError, RecursionError):
        owner = json.loads(file.read())
        if isinstance(owner, dict):
            return owner
    return {}


def _of(owner: Mapping[str, Any]) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}"


def _refusal(path: pathlib.Path, owner: Mapping[str, Any], silent: float) -> str:
    who = f"{_of(owner)}, since {owner.get('since')}" if owner else "one just started"
    away = ""
    if owner.get("machine") != me()["machine"]:
        away = (
            f" Its last sign of life is {silent:.0f} s old; after {SILENT_S} s the "
            f"folder is free. If it surely has ended, remove {path}."
        )
    return (
        f"{path.parent} is in use by another run ({who}): wait for its end, end it, "
        f"or give another --workdir.{away}"
    )


def _started(pid: int) -> str:
    """Returns when a process started, in the kernel's ticks; "" where nobody says."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _beat(path: pathlib.Path, ours: str, over: threading.Event) -> None:
    """Renews the file's time; ends this process where another run has the folder."""
    while not over.wait(BEAT_S):
        with contextlib.suppress(OSError):
            if path.read_text().strip() != ours and not over.is_set():
                partners.end(f"another run has taken {path.parent}: see {path}")
            os.utime(path)
