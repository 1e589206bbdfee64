"""How the commands parse their flags and end: one message, a status, no traceback."""

import contextlib
import logging as stdlib_logging
import sys
from typing import NoReturn

from absl import flags


def fail(message: str) -> NoReturn:
    print(f"\nerror: {message}", file=sys.stderr)
    sys.exit(1)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; what cannot be parsed ends in one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # The config flags put tracebacks and JSON quotes into their messages.
        text = str(error).replace("\\n", "\n").replace("\\'", "").strip("\"' \n")
        if "Traceback" in text:
            text = text.splitlines()[-1].partition("Error: ")[2] or text
        fail(f"{text}\n--help shows the flags; a config's fields stand in its file")


@contextlib.contextmanager
def one_message(*, debug: bool):
    """Turns what goes wrong inside into one message and status 1 (130: Ctrl-C)."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped; a run goes on with the same command", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        expected = isinstance(error, ValueError | OSError | FloatingPointError)
        kind = "" if expected else f"internal error: {type(error).__name__}: "
        fail(f"{kind}{error}\n(--debug shows the traceback)")


def not_chatter(record: stdlib_logging.LogRecord) -> bool:
    """Leaves out what the libraries say below a warning (Orbax, of every file)."""
    return "radiovae_jax" in record.pathname or record.levelno > stdlib_logging.INFO
