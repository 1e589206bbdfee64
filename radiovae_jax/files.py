"""Atomic writes: a file appears under its name once it is whole, and not before."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

# A disk or quota that is full, a file system that turned read-only, a file too large.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
LONGEST = 255  # bytes of a file's name, with all common file systems
HOST = re.sub(r"\W", "-", platform.node())[:32]
OTHERS_S = 3600  # what another host has not written to for so long, it left behind


class NoRoomError(OSError):
    """A file could not be written; the message names it and what helps."""


def fitting(name: str, *, bytes_left: int = LONGEST) -> str:
    """Returns a file's name; a checksum stands for the middle of one too long."""
    raw = os.fsencode(name)
    if len(raw) <= bytes_left:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    end = raw[-32:].decode("utf-8", "ignore")  # suffix, what tells results apart
    start = raw[: bytes_left - 42].decode("utf-8", "ignore")
    return f"{start}~{digest}~{end}"


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a name to write to; the file takes the path's place if nothing fails.

    The name is this process's own, so two may write the same file at once.

    Raises:
      IsADirectoryError: a folder is in its place.
      NoRoomError: the disk is full, or takes nothing more for another reason.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, and a file of that name is to be written: move it "
            "away, or write elsewhere"
        )
    temporary = partial(path)
    try:
        with room_for(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def partial(path: pathlib.Path) -> pathlib.Path:
    """Returns the name beside it that this process writes a path under; see `sweep`."""
    ending = f".{HOST}@{os.getpid()}.partial"
    start = fitting(f".{path.name}", bytes_left=LONGEST - len(ending))
    return path.with_name(start + ending)


@contextlib.contextmanager
def room_for(path: pathlib.Path) -> Iterator[None]:
    """Names the file, and what helps, where the inside finds no room to write it."""
    try:
        yield
    except OSError as error:
        # NumPy and Pillow have words of their own, and no number.
        unnumbered = error.errno is None
        words = unnumbered and re.search(r"requested and|encoder error", str(error))
        if error.errno not in NO_ROOM and not words:
            raise
        raise NoRoomError(
            f"{path} cannot be written ({error.strerror or error}); what was written "
            "before is whole: make room, or write elsewhere, and give the command again"
        ) from error


@contextlib.contextmanager
def made(folder: pathlib.Path, what: str, *, flag: str) -> Iterator[None]:
    """Makes a folder; what goes wrong, then or inside, is said with the folder's flag.

    Args:
      what: goes there, "run" say.
      flag: of the command, that names another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made or written as the folder of the {what} "
            f"({error.strerror or error}); give another {flag}"
        ) from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes nested dicts and lists, what is not finite as null (JSON has no NaN)."""
    with written(path) as partial:
        partial.write_text(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Returns nested dicts and lists, in their order, without NaN and infinity."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_nowhere(descriptor: int) -> None:
    """Sends what a descriptor is still written to /dev/null: its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def sweep(folder: pathlib.Path, name: str = "*") -> None:
    """Removes what processes that were killed left unfinished of a name in a folder."""
    for path in folder.glob(f".{name}.*.partial"):
        writer = re.search(r"\.(?:([\w-]*)@)?(\d+)\.partial$", path.name)
        if not writer or _writes(writer[1] or HOST, int(writer[2]), path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _writes(host: str, process: int, path: pathlib.Path) -> bool:
    if host == HOST:
        return runs(process)
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime < OTHERS_S
    return False


def runs(process: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
