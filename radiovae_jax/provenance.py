"""Which code made a number or a file, with what, and on what."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess

import radiovae_jax

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
)


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
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _installed_commit() -> str:
    """Returns what the wheel has, or pip noted of a repository; "" elsewhere."""
    built = pathlib.Path(__file__).with_name("commit.txt")  # by hatch_build.py
    try:
        if built.exists():
            return built.read_text().strip()
        noted = importlib.metadata.distribution("radiovae-jax").read_text(
            "direct_url.json"
        )
        return json.loads(noted or "{}")["vcs_info"]["commit_id"][:12]
    except (
        importlib.metadata.PackageNotFoundError,
        KeyError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ):
        return ""


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python and of what computes."""
    found = {
        "radiovae_jax": radiovae_jax.__version__,
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
