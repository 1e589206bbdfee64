"""Which code made a number or a file, with what, and on what."""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess

import radiovae_jax

LIBRARIES = "jax jaxlib flax optax orbax-checkpoint grain numpy".split()


def commit() -> str:
    """Returns the commit of the code; its version where no commit is known."""
    here = pathlib.Path(__file__).resolve().parent
    # A package in a virtual environment may lie inside another project's checkout.
    checkout = _git(here, "rev-parse", "--show-toplevel")
    if checkout and pathlib.Path(checkout).resolve() == here.parent:
        found = _git(here, "describe", "--always", "--dirty", "--abbrev=12")
    else:
        found = _installed_commit()
    return found or f"version {radiovae_jax.__version__}, no commit known"


def _git(folder: pathlib.Path, *words: str) -> str:
    command = ["git", *words]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.stdout.strip()
    return ""


def _installed_commit() -> str:
    """Returns what the wheel has, or pip noted of a repository; "" elsewhere."""
    built = pathlib.Path(__file__).with_name("commit.txt")  # by hatch_build.py
    # PackageNotFoundError is an ImportError; a damaged file may hold anything.
    with contextlib.suppress(
        ImportError, KeyError, OSError, RecursionError, TypeError, ValueError
    ):
        if built.exists():
            return built.read_text().strip()
        package = importlib.metadata.distribution("radiovae-jax")
        noted = json.loads(package.read_text("direct_url.json") or "{}")
        return noted["vcs_info"]["commit_id"][:12]
    return ""


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python and of what computes."""

    def version(name: str) -> str:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
        return "not installed"

    ours = {
        "radiovae_jax": radiovae_jax.__version__,
        "python": platform.python_version(),
    }
    return ours | {name: version(name) for name in LIBRARIES}
