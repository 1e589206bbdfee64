"""Where the numbers of a run go: the console, metrics.jsonl and TensorBoard."""

import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorboardX
from absl import logging
from PIL import Image


class Logbook:
    """Writes one line for each step to `metrics.jsonl`, and its TensorBoard twin.

    Opening it at a restored step drops the lines past that step, and a line torn by
    a crash: after a resume the file holds each step once.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int):
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        kept = [line for line in read(self._path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        # Replaced in one move: a crash leaves the old file or the new one.
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self._path)
        self._file = self._path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"),
            purge_step=step + 1 if step else None,
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step. What is not finite becomes null in JSON."""
        plain = {
            name: float(value) if math.isfinite(value) else None
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **plain}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, png: pathlib.Path) -> None:
        """Shows a picture in TensorBoard."""
        with Image.open(png) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read(path: pathlib.Path) -> list[dict]:
    """Returns the whole lines of a metrics.jsonl; none if there is no such file."""
    lines: list[dict] = []
    if not pathlib.Path(path).exists():
        return lines
    text = pathlib.Path(path).read_text(errors="replace")
    for number, row in enumerate(text.splitlines(), 1):
        try:
            line = json.loads(row)
            line["step"] + 0  # a number
            lines.append(line)
        except (ValueError, TypeError, KeyError):
            logging.warning("%s: line %d is torn and left out", path, number)
    return lines


def last_validation(path: pathlib.Path) -> dict[str, float]:
    """Returns the numbers of the last validation, without their prefix."""
    judged = [line for line in read(path) if "val/nmse" in line]
    if not judged:
        return {}
    return {
        name.removeprefix("val/"): value
        for name, value in judged[-1].items()
        if name.startswith("val/")
    }
