"""How the commands parse their flags and end: one message, a status, no traceback.

Statuses: 0 done (an early stop on a plateau too); 1 an error, in one message; 75
interrupted, saved, the same command goes on; 128 + n ended at once by signal n (130
Ctrl-C, 143 SIGTERM), the newest checkpoint counts.
"""

import argparse
import collections
import contextlib
import difflib
import errno
import logging as stdlib_logging
import os
import pathlib
import platform
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import logging

from radiovae_jax import ctrl_c, files, inputs

# Linux's [choice] of who gets large pages: always, madvise (who asks), never.
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
DEV = pathlib.Path("/dev")
ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")  # GPUs, TPUs
MAX_SEED = 2**32 - 1  # JAX takes what is beyond modulo 2^32
INTERRUPTED = os.EX_TEMPFAIL  # 75: "try again later", in sysexits.h
CONFIG_WORD = re.compile(r"--?config\.([\w.]+)(?:=(.*))?", re.DOTALL)
EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}  # of a platform, in pyproject


class Interrupted(Exception):
    """A signal ended the run after a step that is saved; the message says which."""


def shown(text: str) -> str:
    """Returns lines as a terminal can show them, whatever names they quote."""
    letters = len(text)  # none is left out
    return "\n".join(
        inputs.printable(line, letters=8 * letters) for line in text.split("\n")
    )


def say(text: str) -> None:
    print(shown(text))


def fail(message: str) -> NoReturn:
    print(f"\nerror: {shown(message)}", file=sys.stderr)
    sys.exit(1)


def log_plainly(level: int) -> None:
    """Logs to stderr from this level on, without the time and place that absl adds."""
    logging.set_verbosity(level)
    root = stdlib_logging.root
    # Orbax logs while it is imported, and absl then installs Python's own handler.
    ours = (stdlib_logging.StreamHandler, _Stderr)
    root.handlers[:] = [h for h in root.handlers if type(h) not in ours]
    root.addHandler(_Stderr())


class _Stderr(stdlib_logging.StreamHandler):
    """Writes plain lines to what sys.stderr is at the time."""

    def filter(self, record: stdlib_logging.LogRecord) -> bool:
        # Orbax logs the tracebacks of what it raises anyway, and a line of every file.
        orbax = "orbax" in record.pathname or record.name == "asyncio"
        warns = record.levelno > stdlib_logging.INFO
        ours = "radiovae_jax" in record.pathname
        return not (record.exc_info and orbax) and (ours or warns)

    def format(self, record: stdlib_logging.LogRecord) -> str:
        text = shown(super().format(record))
        warns = record.levelno > stdlib_logging.INFO
        return f"{record.levelname.lower()}: {text}" if warns else text

    def emit(self, record: stdlib_logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def with_huge_pages(setting: pathlib.Path = THP, devices: pathlib.Path = DEV) -> None:
    """Starts a program on a CPU again with memory in pages of 2 MiB, where it may.

    In pages of 4 KiB the kernel's work on a step's buffers is a fifth of its time
    (docs/performance.md). The C library reads its settings when a program starts.
    Never with an accelerator, one of several processes, under Slurm or a debugger.
    RADIOVAE_HUGE_PAGES=0 switches it off; whoever sets GLIBC_TUNABLES has decided.
    """
    wanted = os.environ.get("RADIOVAE_HUGE_PAGES", "1") != "0"
    decided = TUNABLES in os.environ or "SLURM_JOB_ID" in os.environ
    words = {word.partition("=")[0] for word in sys.argv}
    several = words & {"--distributed", "--coordinator"}
    watched = sys.gettrace() or {"pydevd", "debugpy"} & sys.modules.keys()
    platforms = os.environ.get("JAX_PLATFORMS", "")
    cards = [card for kind in ACCELERATORS for card in devices.glob(kind)]
    on_cpu = platforms == "cpu" or not (platforms or cards)
    can = platform.libc_ver()[0] == "glibc" and setting.exists()
    if wanted and on_cpu and can and not (decided or several or watched):
        if "[madvise]" in setting.read_text():
            os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
            os.execv(sys.executable, sys.orig_argv)


def start_jax(join: Callable[[], None] | None = None) -> None:
    """Starts JAX and its devices, once, before a command opens any data.

    Args:
      join: joins the processes of a run, which comes before the devices.

    Raises:
      OSError: the devices that are asked for cannot be had.
    """
    import jax  # after the flags: --help shall not wait for it

    # What JAX compiles is kept for the next run, in a folder for every machine: what
    # was compiled for one CPU need not run on another that shares the home.
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if jax.config.jax_compilation_cache_dir is None and caches[0] != "~":
        kept = pathlib.Path(caches) / "radiovae_jax" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(kept))
    if jax.config.jax_enable_x64:
        logging.warning("JAX_ENABLE_X64 is switched off: this computes in 32 bits")
        jax.config.update("jax_enable_x64", False)
    if join:
        join()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = jax.config.jax_platforms or ""
        raise OSError(_no_devices(asked, str(error).partition(" (set ")[0])) from error


def _no_devices(asked: str, reason: str) -> str:
    extras = sorted({EXTRAS[name] for name in asked.split(",") if name in EXTRAS})
    install = "".join(f'pip install -e ".[{name}]" brings it; ' for name in extras)
    return (
        f"JAX_PLATFORMS={asked}: JAX cannot start these devices "
        f"({reason or 'their plugin is not installed'}): {install}"
        "without JAX_PLATFORMS it takes what there is"
    )


class Parser(argparse.ArgumentParser):
    """A parser whose complaints end as all others do: one message, status 1.

    Args:
      doc: the docstring of the command: its first line is what it does.
      hint: where to look for what may be given.
    """

    def __init__(self, *args, doc: str | None = None, hint: str = "", **kwargs):
        summary, _, details = (doc or "").partition("\n")
        words = dict(description=summary, epilog=details) if doc else {}
        plain = argparse.RawDescriptionHelpFormatter
        fixed = dict(formatter_class=plain, allow_abbrev=False)
        super().__init__(*args, **fixed | words | kwargs)
        self.hint = hint or f"{self.prog} --help shows the flags"

    def add_debug(self) -> None:
        words = "show the traceback of an error"
        self.add_argument("--debug", action="store_true", help=words)

    def parse_args(self, args=None, namespace=None):
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            flag = rest[0].partition("=")[0]
            close = difflib.get_close_matches(flag, self._option_string_actions, 1)
            near = f"; did you mean {close[0]}?" if close else ""
            self.error(f"unexpected {' '.join(rest)!r}{near}")
        return found

    def error(self, message: str) -> NoReturn:
        fail(f"{message}\n{self.hint}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        _Outliving(sys.stdout).flush()  # of `--help | head`
        super().exit(status, message)


class ConfigParser(Parser):
    """A parser of --config and of --config.SECTION.FIELD=VALUE, into `overrides`.

    Of a field that is given twice the last value counts.
    """

    def __init__(self, *args, **kwargs):
        hint = "fields are given as --config.SECTION.FIELD=VALUE; --help shows the rest"
        super().__init__(*args, **dict(hint=hint) | kwargs)

    def parse_known_args(self, args=None, namespace=None):
        words, overrides = [], {}
        left = collections.deque(sys.argv[1:] if args is None else args)
        while left:
            word = left.popleft()
            field = CONFIG_WORD.fullmatch(word)
            if not field:
                words.append(word)
                continue
            name, value = field.groups()
            if value is None:
                if not left or left[0].startswith("--"):
                    fail(f"{word}: a value is missing; give {word}=VALUE")
                value = left.popleft()
            overrides[name] = value
        found, rest = super().parse_known_args(words, namespace)
        found.overrides = overrides
        return found, rest


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


def counts(text: str) -> tuple[int, ...]:
    """Reads a flag of argparse: whole numbers from 1, with commas between."""
    return tuple(at_least(1)(part) for part in text.split(","))


def path(text: str) -> pathlib.Path:
    """Reads a flag of argparse: a path of this machine, ~ is the home folder."""
    if not text:  # which pathlib takes for the folder that one stands in
        raise argparse.ArgumentTypeError("the path is empty; give one, or no such flag")
    try:
        return inputs.local(text, "path")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def folder(path: pathlib.Path, *, flag: str) -> pathlib.Path:
    """Makes the folder that results go to, before the work that they cost.

    Raises an OSError that names `flag` if it cannot be made, or not be written to.
    """
    with files.made(path, "results", flag=flag):
        files.sweep(path)
        if not os.access(path, os.W_OK):
            raise PermissionError("no permission")
    return path


def status(work: Callable[[], None], *, debug: bool, stopped: str = "stopped") -> int:
    """Does the work of a command and returns the status that it ends with.

    Args:
      stopped: what is said after Ctrl-C.
    """
    try:
        with one_message(debug=debug, stopped=stopped):
            work()
    except SystemExit as end:
        return end.code
    return 0


@contextlib.contextmanager
def one_message(*, debug: bool, stopped: str = "stopped"):
    """Turns what goes wrong inside into one message and a status; see `status`."""
    before = signal.getsignal(signal.SIGINT)
    if before is ctrl_c.end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Outliving, streams)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(130)
    except Interrupted as error:
        print(f"\ninterrupted: {shown(str(error))}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        expected = isinstance(error, ValueError | OSError | FloatingPointError)
        kind = "" if expected else f"internal error: {type(error).__name__}: "
        fail(f"{kind}{error}\n(--debug shows the traceback)")
    finally:
        sys.stdout, sys.stderr = streams
        if before is ctrl_c.end:
            signal.signal(signal.SIGINT, before)


class _Outliving:
    """A stream whose reader may go away (`| head`, a closed terminal): work goes on."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._to_nowhere_if_broken():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._to_nowhere_if_broken():
            self._stream.flush()

    @contextlib.contextmanager
    def _to_nowhere_if_broken(self):
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            files.to_nowhere(self._stream.fileno())
