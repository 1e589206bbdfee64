"""How the commands parse their flags and end: one message, a status, no traceback.

Statuses: 0 done (an early stop on a plateau too); 1 an error, in one message; 75
interrupted, saved, the same command goes on; 128 + n ended at once by signal n (130
Ctrl-C, 143 SIGTERM), the newest checkpoint counts.
"""

import contextlib
import logging as stdlib_logging
import os
import sys
from typing import NoReturn

from absl import flags

INTERRUPTED = os.EX_TEMPFAIL  # 75: "try again later", in sysexits.h


class Interrupted(Exception):
    """A signal ended the run after a step that is saved; the message says which."""


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
    """Turns what goes wrong inside into one message and the status that it has."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped; a run goes on with the same command", file=sys.stderr)
        sys.exit(130)
    except Interrupted as error:
        print(f"\ninterrupted: {error}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        expected = isinstance(error, ValueError | OSError | FloatingPointError)
        kind = "" if expected else f"internal error: {type(error).__name__}: "
        fail(f"{kind}{error}\n(--debug shows the traceback)")


def not_chatter(record: stdlib_logging.LogRecord) -> bool:
    """Leaves out what the libraries say below a warning (Orbax, of every file).

    And the tracebacks that Orbax logs of what it raises anyway.
    """
    if record.exc_info and ("orbax" in record.pathname or record.name == "asyncio"):
        return False
    return "radiovae_jax" in record.pathname or record.levelno > stdlib_logging.INFO
