"""How the commands parse their flags and end: one message, a status, no traceback.

Statuses: 0 done (an early stop on a plateau too); 1 an error, in one message; 75
interrupted, saved, the same command goes on; 128 + n ended at once by signal n (130
Ctrl-C, 143 SIGTERM), the newest checkpoint counts.
"""

import argparse
import contextlib
import logging as stdlib_logging
import os
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags

from radiovae_jax import whole_files

# Linux's [choice] of who gets large pages: always, madvise (who asks), never.
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
MAX_SEED = 2**32 - 1  # JAX takes what is beyond modulo 2^32
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
        if text.isidentifier():  # all that the config says without a close name
            text = f"the config has no field {text!r} where the flag puts it"
        fail(f"{text}\n--help shows the flags; a config's fields stand in its file")


def with_huge_pages(setting: pathlib.Path = THP) -> None:
    """Starts this program again with memory in pages of 2 MiB, where Linux lets it ask.

    A step takes its buffers anew every time; in pages of 4 KiB the kernel's work on
    them is a fifth of the time of a step on CPUs (docs/performance.md). The C library
    reads its settings when a program starts, hence the second start, once, before JAX.
    Whoever sets GLIBC_TUNABLES, if only to nothing, has decided.
    """
    here = platform.libc_ver()[0] == "glibc" and setting.exists()
    if here and "[madvise]" in setting.read_text() and TUNABLES not in os.environ:
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def keep_compiled() -> None:
    """Lets JAX keep what it compiles, in the user's cache folder, for the next run.

    A folder for every machine: what was compiled for one CPU need not run on another
    that shares the home. JAX_COMPILATION_CACHE_DIR names another folder.
    """
    import jax  # after the flags: --help shall not wait for it

    if jax.config.jax_compilation_cache_dir is None:
        caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        kept = pathlib.Path(caches) / "radiovae_jax" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(kept))


def nothing_more(argv: list[str]) -> None:
    """Raises a ValueError if words are left that are no flags."""
    if len(argv) > 1:
        raise ValueError(
            f"unexpected {' '.join(argv[1:])!r}: all is given by flags; --help shows "
            "them"
        )


class Parser(argparse.ArgumentParser):
    """A parser whose complaints end as all others do."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}\n{self.prog} --help shows the flags")


def at_least(low: int, high: int = sys.maxsize) -> Callable[[str], int]:
    """Returns what reads a flag of argparse: a whole number from `low` to `high`."""
    most = f" to {high}" if high < sys.maxsize else ""

    def whole(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no whole number from {low}{most}"
            )
        return int(text)

    return whole


def folder(path: pathlib.Path, *, flag: str) -> pathlib.Path:
    """Makes the folder that results go to, before the work that they cost.

    Args:
      flag: of the command, that names another one.

    Raises:
      OSError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK) else "no permission"
        whole_files.sweep(path)
    except OSError as error:
        reason = error.strerror
    if reason:
        raise OSError(
            f"{path} cannot be made or written as the folder of the results "
            f"({reason}); give another {flag}"
        )
    return path


def status(work: Callable[[], None], *, debug: bool, stopped: str = "stopped") -> int:
    """Does the work of a command and returns the status that it ends with."""
    try:
        with one_message(debug=debug, stopped=stopped):
            work()
    except SystemExit as end:
        return end.code
    return 0


@contextlib.contextmanager
def one_message(*, debug: bool, stopped: str = "stopped"):
    """Turns what goes wrong inside into one message and the status that it has.

    Args:
      stopped: what is said after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
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
