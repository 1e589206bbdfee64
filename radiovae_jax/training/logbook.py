"""Where the numbers of a run go: the console, metrics.jsonl and TensorBoard."""

import contextlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import TextIO

import numpy as np
import tensorboardX
from absl import logging
from PIL import Image

from radiovae_jax import files
from radiovae_jax.training import distributed


class Logbook:
    """Writes one line for each step to `metrics.jsonl`, and its TensorBoard twin.

    Opening it at a restored step drops the lines past that step, and torn ones. Steps
    whose update was left out stand in `skipped.jsonl`, with the maps of their batches.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int):
        self._workdir = pathlib.Path(workdir)
        self._open(step)

    def _open(self, step: int) -> None:
        self._numbers = reopened(self._workdir / "metrics.jsonl", step)
        self._skipped = reopened(self._workdir / "skipped.jsonl", step)
        self._board = tensorboardX.SummaryWriter(
            f"{_EventFile.PREFIX}:{self._workdir / 'tensorboard'}",
            purge_step=step + 1 if step else None,
        )

    def rewind(self, step: int) -> None:
        """Goes back: what was written of later steps is dropped."""
        self.close()
        self._open(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step. What is not finite becomes null in JSON."""
        plain = {
            name: float(value) if math.isfinite(value) else None
            for name, value in values.items()
        }
        self._numbers.write(json.dumps({"step": step, **plain}) + "\n")
        self._numbers.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, png: pathlib.Path) -> None:
        """Shows a picture in TensorBoard."""
        with Image.open(png) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Shows in TensorBoard how numbers are spread; only finite ones count."""
        finite = values[np.isfinite(values)]
        if finite.size:
            # Equal bins: TensorBoard's own 1,500 take a sort of every number.
            self._board.add_histogram(name, finite, step, bins=64)

    def skipped(self, step: int, names: list[str]) -> None:
        """Notes a step whose update was left out, and the maps of its batch."""
        self._skipped.write(json.dumps({"step": step, "maps": names}) + "\n")
        self._skipped.flush()

    def close(self) -> None:
        for file in (self._numbers, self._skipped):
            # Each line was flushed when it was written, or its writing was an error.
            with contextlib.suppress(OSError):
                file.close()
        self._board.close()


class _EventFile:
    """TensorBoard's file: where it cannot be written the run goes on without it.

    If tensorboardX's thread died of a full disk, its queue would fill, the run stand.
    """

    PREFIX = "radiovae"

    @staticmethod
    def directory_check(path: str) -> None:
        pathlib.Path(path.partition(":")[2]).mkdir(parents=True, exist_ok=True)

    @classmethod
    def open(cls, path: str) -> "_EventFile":
        return cls(pathlib.Path(path.partition(":")[2]))

    def __init__(self, path: pathlib.Path):
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(data)
        except OSError as error:
            logging.warning("%s cannot be written (%s)", self._file.name, error)
            self._file.close()

    def flush(self) -> None: ...

    def close(self) -> None:
        self._file.close()


tensorboardX.record_writer.register_writer_factory(_EventFile.PREFIX, _EventFile)


class Silent:
    """The logbook of every process but the first: keeps nothing."""

    def __getattr__(self, name: str):
        return lambda *arguments, **options: None


def opened(workdir: pathlib.Path, *, step: int) -> Logbook | Silent:
    return Logbook(workdir, step=step) if distributed.is_first() else Silent()


def reopened(path: pathlib.Path, step: int) -> TextIO:
    """Drops the lines past a step, and torn ones; returns the file to append to."""
    lines = [line for line in read(path) if line["step"] <= step]
    # Replaced in one move: a crash leaves the old file or the new one.
    with files.written(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.open("a")


def read(path: pathlib.Path) -> list[dict]:
    """Returns the whole lines of a metrics.jsonl; none if there is no such file."""
    path, lines = pathlib.Path(path), []
    if not path.exists():
        return lines
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no file; move it away")
    for number, row in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            line = json.loads(row)
            if math.isfinite(line["step"]):
                lines.append(line)
                continue
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            pass
        logging.warning("%s: line %d is torn and left out", path, number)
    return lines


def last_validation(path: pathlib.Path) -> dict[str, float]:
    """Returns the numbers of the last validation, without their prefix."""
    for line in reversed(read(path)):
        numbers = {
            name.removeprefix("val/"): math.nan if value is None else value
            for name, value in line.items()
            if name.startswith("val/")
        }
        if numbers:
            return numbers
    return {}
