"""How the commands parse their flags and end: one message, a status, no traceback.

Statuses: 0 done (an early stop on a plateau too); 1 an error, in one message; 75
interrupted, saved, the same command goes on; 128 + n ended at once by signal n (130
Ctrl-C, 143 SIGTERM), the newest checkpoint counts.
"""

import argparse
import ast
import collections
import contextlib
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

from absl import flags, logging

from radiovae_jax import ctrl_c, files, inputs

# Linux's [choice] of who gets large pages: always, madvise (who asks), never.
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
MAX_SEED = 2**32 - 1  # JAX takes what is beyond modulo 2^32
INTERRUPTED = os.EX_TEMPFAIL  # 75: "try again later", in sysexits.h
# --config, or a field of it; with its value, or in two words.
CONFIG_WORD = re.compile(r"--?(config(?:\.[\w.]+)?)(?:=(.*))?", re.DOTALL)
# What config flags raise of flags; of the config's file all else comes as it is.
FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError)
CONFIGS = pathlib.Path("configs")
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


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; what cannot be parsed ends in one message.

    Of a config's field that is given twice the last value counts.
    """
    problem, config = "", None
    try:
        words, config = config_words(argv)
        rest = flags.FLAGS(words)
    except (SystemExit, BrokenPipeError) as end:  # absl's --help ends with status 1
        if isinstance(getattr(end, "code", 0), str):  # a config's own sys.exit("...")
            fail(end.code)
        with contextlib.suppress(BrokenPipeError):  # of `--help | head`
            print(f"\n{configs()}" if "config" in flags.FLAGS else "", flush=True)
        os._exit(0)
    except Exception as error:  # a config file is code: anything may come out of it
        # The config flags put tracebacks and JSON quotes into their messages.
        problem = str(error).replace("\\n", "\n").replace("\\'", "").strip("\"' \n")
        if "Traceback" in problem:
            problem = problem.splitlines()[-1].partition("Error: ")[2] or problem
        if problem.isidentifier():  # all that the config says without a close name
            problem = f"the config has no field {problem!r} where the flag puts it"
        if not isinstance(error, FLAG_ERRORS):
            problem = f"--config={config}: {type(error).__name__}: {problem}"
    missing = config is not None and not _is_file(config)
    if "config" in flags.FLAGS and missing:
        what = f"--config={config}: no such file" if config else "no --config is given"
        fail(f"{what}\n{configs()}")
    if problem:
        hint = "--help shows the flags; a config's fields stand in its file"
        fail(f"{problem}\n{hint}")
    return rest


def config_words(argv: list[str]) -> tuple[list[str], str]:
    """Returns the words with each field of a config once, and the config's file."""
    kept: dict[str, list[str]] = {}
    left, config = collections.deque(argv), ""
    while left:
        words = [left.popleft()]
        found = CONFIG_WORD.fullmatch(words[0])
        name, value = found.groups() if found else (None, None)
        if found and value is None and left and not left[0].startswith("--"):
            value = left.popleft()
            words.append(value)
        if name == "config" and value:
            config = str(inputs.local(value, "--config"))
            words = [f"--config={config}"]
        # The config flags would make one long tuple of those that are given twice.
        name = name if name and name != "config" else f"word {len(left)}"
        kept.pop(name, None)
        kept[name] = words
    return [word for words in kept.values() for word in words], config


def _is_file(config: str) -> bool:
    return pathlib.Path(config.partition(":")[0]).is_file()


def configs() -> str:
    """Returns a line for each config that is here: path, variants, what it is."""
    # Beside the package in a checkout; else those of the folder one stands in.
    beside = pathlib.Path(__file__).resolve().parents[1] / CONFIGS
    folder = CONFIGS if CONFIGS.is_dir() else beside
    lines = [_described(path) for path in sorted(folder.glob("*.py"))]
    return "\n".join([f"configs{'' if lines else ': none'} in {folder}:", *lines])


def _described(path: pathlib.Path) -> str:
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return f"  {path}"
    variants = [
        f":{name}"
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "VARIANTS"
        for name in ast.literal_eval(node.value)
        if name
    ]
    shown = " ".join([str(path), *variants])
    return f"  {shown:<36} {(ast.get_docstring(tree) or '').partition(chr(10))[0]}"


def log_plainly(level: int) -> None:
    """Logs from this level on, without the time and place that absl puts before."""
    logging.set_verbosity(level)
    handler = logging.get_absl_handler()
    handler.addFilter(not_chatter)
    handler.setFormatter(_Plain())


class _Plain(stdlib_logging.Formatter):
    def format(self, record: stdlib_logging.LogRecord) -> str:
        text = shown(super().format(record))
        warns = record.levelno > stdlib_logging.INFO
        return f"{record.levelname.lower()}: {text}" if warns else text


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


def start_jax(join: Callable[[], None] | None = None) -> None:
    """Starts JAX and its devices, once, before a command opens any data.

    Args:
      join: joins the processes of a run, which comes before the devices.

    Raises:
      OSError: the devices that are asked for cannot be had.
    """
    import jax  # after the flags: --help shall not wait for it

    keep_compiled()
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
    import jax

    names = [name for name in asked.split(",") if name]
    extras = sorted({EXTRAS[name] for name in names if name in EXTRAS})
    install = "".join(f'pip install -e ".[{name}]" brings it; ' for name in extras)
    there = ""
    if names and not jax.distributed.is_initialized():
        with contextlib.suppress(RuntimeError, AssertionError):
            jax.config.update("jax_platforms", "")
            there = f" There is {jax.device_count()} x {jax.devices()[0].device_kind}."
        jax.config.update("jax_platforms", asked)
    return (
        f"JAX_PLATFORMS={asked}: JAX cannot start these devices "
        f"({reason or 'their plugin is not installed'}).{there} {install}"
        "without JAX_PLATFORMS it takes what there is"
    )


def keep_compiled() -> None:
    """Lets JAX keep what it compiles, in the user's cache folder, for the next run.

    A folder for every machine: what was compiled for one CPU need not run on another
    that shares the home. JAX_COMPILATION_CACHE_DIR names another folder.
    """
    import jax

    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Without a home folder nothing is kept.
    if jax.config.jax_compilation_cache_dir is None and caches[0] != "~":
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


def path(text: str) -> pathlib.Path:
    """Reads a flag of argparse: a path of this machine, ~ is the home folder."""
    try:
        return inputs.local(text, "path")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class _PathParser(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        return str(inputs.local(argument, "path")) if argument else ""


def define_path(name: str, default: str | None, words: str) -> flags.FlagHolder:
    """Defines a flag of absl: a path of this machine, ~ is the home folder."""
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE(_PathParser(), name, default, words, serializer=serializer)


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
        files.sweep(path)
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


def not_chatter(record: stdlib_logging.LogRecord) -> bool:
    """Leaves out what the libraries say below a warning (Orbax, of every file).

    And the tracebacks that Orbax logs of what it raises anyway.
    """
    if record.exc_info and ("orbax" in record.pathname or record.name == "asyncio"):
        return False
    return "radiovae_jax" in record.pathname or record.levelno > stdlib_logging.INFO
