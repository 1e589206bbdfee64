"""Files that appear under their name once they are whole, and not before."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 255  # bytes of a file's name, with all common file systems


def fitting(name: str, *, bytes_left: int = LONGEST) -> str:
    """Returns a file's name; a checksum stands for the middle of one too long."""
    raw = os.fsencode(name)
    if len(raw) <= bytes_left:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    end = raw[-32:].decode(
        "utf-8", "ignore"
    )  # the suffix, and what tells results apart
    start = raw[: bytes_left - 42].decode("utf-8", "ignore")
    return f"{start}~{digest}~{end}"


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a name to write to; the file takes the path's place if nothing fails.

    The name is this process's own, so two may write the same file at once.

    Raises:
      IsADirectoryError: a folder is in its place.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, and a file of that name is to be written: move it "
            "away, or write elsewhere"
        )
    ending = f".{os.getpid()}.partial"
    partial = path.with_name(fitting(f".{path.name}", bytes_left=LONGEST - len(ending)))
    partial = partial.with_name(partial.name + ending)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def sweep(folder: pathlib.Path) -> None:
    """Removes what processes that were killed left unfinished in a folder."""
    for path in folder.glob(".*.partial"):
        process = re.search(r"\.(\d+)\.partial$", path.name)
        if process and not _runs(int(process[1])):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
