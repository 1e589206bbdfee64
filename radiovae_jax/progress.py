"""Progress bars, for terminals, log files and notebooks."""

import os
import sys
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a notebook without ipywidgets has bars of text
    from tqdm.auto import tqdm


class Bar(tqdm):
    """tqdm's bar, as wide as the terminal where that has a width."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **(_width() | options))


def _width() -> dict[str, Any]:
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal, or a notebook in its place
        columns = -1
    # Terminals of containers and editors say 0, and tqdm would show nothing there.
    return {"ncols": 80, "nrows": 24} if columns == 0 else {"dynamic_ncols": True}
