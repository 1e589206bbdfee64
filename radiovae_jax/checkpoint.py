"""Checkpoints through Orbax: asynchronous, the latest ones and the best one kept."""

import contextlib
import json
import logging as stdlib_logging
import math
import pathlib
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from radiovae_jax.train_step import TrainState

BEST_METRIC = "nmse"


def best_step(workdir: pathlib.Path) -> int:
    """Returns the step of the lowest validation NMSE; the latest without one.

    Raises:
      FileNotFoundError: there is no checkpoint at all.
    """
    folder = pathlib.Path(workdir).resolve() / "checkpoints"
    steps = sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint under {folder}; train first, or give the folder of a run "
            "with --workdir"
        )
    files = {step: folder / str(step) / "metrics" / "metrics" for step in steps}
    judged = {
        step: _nmse(json.loads(file.read_text()))
        for step, file in files.items()
        if file.exists()
    }
    return min(judged, key=judged.__getitem__) if judged else steps[-1]


def restore_part(workdir: pathlib.Path, step: int, like: Any) -> Any:
    """Returns the part of a saved state whose structure `like` has.

    Raises:
      FileNotFoundError: there is no such step.
    """
    path = pathlib.Path(workdir).resolve() / "checkpoints" / str(step) / "state"
    if not path.is_dir():
        raise FileNotFoundError(f"{workdir} has no checkpoint of step {step}")
    args = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(path, args=args)


def _nmse(metrics: dict[str, float]) -> float:
    # NaN has no place in an order: it would push the best one out.
    value = metrics[BEST_METRIC]
    return value if math.isfinite(value) else math.inf


class Checkpoints:
    """The folder `checkpoints/` of a run: step -> state, data position, metrics."""

    def __init__(self, workdir: pathlib.Path, *, keep: int = 2):
        self._workdir = pathlib.Path(workdir).resolve()
        self._set_aside_torn_metrics()
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=_nmse,
                reverse=True,  # the last in the order is the best: descending NMSE
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=_nmse,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(
            self._workdir / "checkpoints",
            options=options,
            item_names=("state", "data"),
        )

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(
        self, state: TrainState, data_state: dict, metrics: dict[str, float] | None
    ) -> None:
        """Starts writing; the write is atomic and goes on while training does."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
        )
        self._manager.save(int(state.step), args=args, metrics=metrics)

    def restore_latest(self, like: TrainState) -> tuple[TrainState, dict] | None:
        """Returns the newest readable state and data position; None without any.

        Where the newest is damaged the one before it is taken, and the damaged ones
        are moved to `damaged_checkpoints/`.

        Args:
          like: arrays or shapes with the shardings that the state shall have.

        Raises:
          ValueError: there are checkpoints and none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        found, damaged = self.steps(), []
        for step in reversed(found):
            try:
                with _quiet():
                    restored = self._manager.restore(step, args=args)
            except Exception as error:  # Orbax raises whatever its readers raise
                first_line = str(error).strip().partition("\n")[0][:200]
                logging.warning(
                    "checkpoint %d cannot be read (%s: %s); taking the one before",
                    step,
                    type(error).__name__,
                    first_line,
                )
                damaged.append(step)
                continue
            for step in damaged:
                self._set_aside(step)
            return restored["state"], restored["data"]
        if found:
            # Nothing is moved: the cause may be elsewhere (memory, another version).
            raise ValueError(
                f"none of the checkpoints {found} under {self._workdir} can be read; "
                "--debug and the lines above say why. To start afresh give another "
                "--workdir"
            )
        return None

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _set_aside(self, step: int) -> None:
        aside = self._workdir / "damaged_checkpoints"
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            taken = len(list(aside.glob(f"{step}*")))
            name = f"{step}_{taken}" if taken else str(step)
            (self._workdir / "checkpoints" / str(step)).rename(aside / name)
        if hasattr(self, "_manager"):
            self._manager.reload()

    def _set_aside_torn_metrics(self) -> None:
        """Orbax reads all metrics when it starts, and fails on one that is torn."""
        for path in (self._workdir / "checkpoints").glob("*/metrics/metrics"):
            try:
                float(json.loads(path.read_text())[BEST_METRIC])
            except (ValueError, KeyError, TypeError):
                step = path.parts[-3]
                if step.isdigit():
                    logging.warning("checkpoint %s has torn metrics: set aside", step)
                    self._set_aside(int(step))


@contextlib.contextmanager
def _quiet():
    """Keeps the tracebacks of TensorStore's many readers off the console.

    What matters of them is in the exception that `restore` raises.
    """
    logger = stdlib_logging.getLogger("asyncio")
    level, hook = logger.level, threading.excepthook
    logger.setLevel(stdlib_logging.CRITICAL + 1)
    threading.excepthook = lambda args: None
    try:
        yield
    finally:
        logger.setLevel(level)
        threading.excepthook = hook
