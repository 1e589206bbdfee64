"""Files that appear under their name once they are whole, and not before."""

import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
        if process and not runs(int(process[1])):
            path.unlink(missing_ok=True)


def runs(process: int) -> bool:
    """Says whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
