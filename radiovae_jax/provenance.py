"""Which code made a number or a file."""

import pathlib
import subprocess


def commit() -> str:
    """Returns the commit of the code, or "unknown" outside a checkout."""
    here = pathlib.Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
