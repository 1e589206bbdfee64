"""run.json: with which command, code, versions and devices a run was made, and when.

The first start stands at the top, every later one in `resumes`, each with the step
that it began with, its times (UTC) and how it ended. Nobody depends on it: what is
damaged begins anew, what cannot be written is left out.
"""

import contextlib
import datetime
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging

from radiovae_jax import files, inputs, provenance
from radiovae_jax.cli import Interrupted

NAME = "run.json"
UNKNOWN = "running, or killed"  # how a start ended that has not said so


@contextlib.contextmanager
def kept(workdir: pathlib.Path, *, step: int) -> Iterator[None]:
    """Notes that a run starts here, from a step, and how it ended."""
    if jax.process_index():
        yield
        return
    started, ended = time.monotonic(), "done"
    record, now = read(workdir), _start(step)
    if record:
        record.setdefault("resumes", []).append(now)
    else:
        record = now = now | {"resumes": []}
    _write(workdir, record)
    try:
        yield
    except BaseException as error:
        what = "" if isinstance(error, Interrupted) else f"{type(error).__name__}: "
        ended = f"{what}{error}".strip(": ")
        raise
    finally:
        seconds = round(time.monotonic() - started, 1)
        now.update(end=_utc(), seconds=seconds, ended=ended)
        _write(workdir, record)


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a run; empty where there is none that can be read."""
    path = pathlib.Path(workdir) / NAME
    try:
        record = inputs.read_json(path, remedy="it begins anew")
        resumes = record.get("resumes", [])
        starts = [record, *resumes] if isinstance(resumes, list) else [resumes]
        if not all(isinstance(one, dict) and "start" in one for one in starts):
            raise ValueError(f"{path} is damaged; it begins anew")
        return record
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logging.warning("%s", error)
        return {}


def _start(step: int) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "command": shlex.join(sys.orig_argv),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "step": step,
        "start": _utc(),
        "end": None,
        "seconds": None,
        "ended": UNKNOWN,
    }


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    try:
        files.write_json(pathlib.Path(workdir) / NAME, record)
    except (OSError, ValueError) as error:
        logging.warning("%s is not written: %s", NAME, error)
