"""What Orbax says when something goes wrong, cut down to what a person can use."""

import contextlib
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator

# Where TensorStore's notes begin: " [name='value' ...".
_NOTES = re.compile(r" \[\w+='")


def first_line(error: BaseException) -> str:
    """Returns the first line of a message, not all of it where it is long."""
    return str(error).strip().partition("\n")[0][:200]


def cause(error: BaseException) -> str:
    """Returns the reason: the operating system's word for it, where there is one.

    Of several writers the first to fail is heard: TensorStore, whose lines end with the
    reason and then long notes, or Python, whose OSError ends with the file.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    line = str(error).strip().partition("\n")[0]
    return _NOTES.split(line)[0].rpartition(": ")[2]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the console what is in the exceptions of Orbax's methods anyway."""
    tasks, orbax = logging.getLogger("asyncio"), logging.getLogger("absl")
    level, in_thread, in_call = tasks.level, threading.excepthook, sys.unraisablehook

    def of_thread(args) -> None:
        frames = traceback.extract_tb(args.exc_traceback)
        if not any("orbax" in frame.filename for frame in frames):
            in_thread(args)

    def of_call(args) -> None:
        # TensorStore reports to a loop that ended with the first of many errors.
        if str(args.exc_value) != "Event loop is closed":
            in_call(args)

    def wanted(record: logging.LogRecord) -> bool:  # some have no validation
        return "Requested `tracked_metric`" not in str(record.msg)

    tasks.setLevel(logging.CRITICAL + 1)
    threading.excepthook, sys.unraisablehook = of_thread, of_call
    orbax.addFilter(wanted)
    try:
        yield
    finally:
        tasks.setLevel(level)
        threading.excepthook, sys.unraisablehook = in_thread, in_call
        orbax.removeFilter(wanted)
