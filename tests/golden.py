"""Reads the reference outputs of the published PyTorch code (tests/golden/*.npz)."""

import ast
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict:
    """Returns the arrays by name; `config` as a dict."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays["config"] = ast.literal_eval(str(arrays.get("config", "{}")))
    return arrays


def below(arrays: dict, prefix: str) -> dict:
    """Returns what lies under `prefix`, without what torch alone keeps."""
    return {
        key.removeprefix(prefix): value
        for key, value in arrays.items()
        if key.startswith(prefix) and not key.endswith("num_batches_tracked")
    }
