"""What Orbax says when something goes wrong, cut down to what a person can use."""

import contextlib
import logging
import re
import sys
import threading
import traceback

# Where TensorStore's notes begin: " [name='value' ...".
_NOTES = re.compile(r" \[\w+='")


def first_line(error: BaseException) -> str:
    """Returns the first line of a message, not all of it where it is long."""
    return str(error).strip().partition("\n")[0][:200]


def cause(error: BaseException) -> str:
    """Returns the reason: the operating system's word for it, where there is one.

    Of several writers the first to fail is heard: TensorStore, whose lines end with the
    reason and then long notes ("[os_error_code='28' ...", "[tensorstore_spec='{...",
    whichever layer adds the first), or Python, whose OSError ends with the file.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    line = str(error).strip().partition("\n")[0]
    return _NOTES.split(line)[0].rpartition(": ")[2]


@contextlib.contextmanager
def quiet():
    """Keeps the tracebacks of Orbax's many readers and writers off the console.

    What matters of them is in the exception that its methods raise.
    """
    logger = logging.getLogger("asyncio")
    level, of_threads, of_calls = logger.level, threading.excepthook, sys.unraisablehook

    def in_thread(args) -> None:
        frames = traceback.extract_tb(args.exc_traceback)
        if not any("orbax" in frame.filename for frame in frames):
            of_threads(args)

    def in_call(args) -> None:
        # TensorStore reports to a loop that ended with the first of many errors.
        if str(args.exc_value) != "Event loop is closed":
            of_calls(args)

    logger.setLevel(logging.CRITICAL + 1)
    threading.excepthook, sys.unraisablehook = in_thread, in_call
    try:
        yield
    finally:
        logger.setLevel(level)
        threading.excepthook, sys.unraisablehook = of_threads, of_calls
