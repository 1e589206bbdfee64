"""Progress bars, for terminals, log files and notebooks."""

import os
import sys
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a notebook without ipywidgets has bars of text
    from tqdm.auto import tqdm


def bar(*arguments: Any, **options: Any) -> tqdm:
    """Returns tqdm's bar, as wide as the terminal where that has a width.

    Some terminals (of containers, of editors) say that they have 0 columns, and tqdm
    would show nothing there.
    """
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal, or one that a notebook stands for
        columns = -1
    width = {"ncols": 80} if columns == 0 else {"dynamic_ncols": True}
    return tqdm(*arguments, **(width | options))
