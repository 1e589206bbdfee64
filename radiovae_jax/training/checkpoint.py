"""Checkpoints through Orbax: asynchronous, the latest ones and the best one kept."""

import contextlib
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from radiovae_jax import inputs, metrics
from radiovae_jax.training import checksums, distributed, orbax_errors

# Beside the data position: of the arrays, of the metrics, of all numbers there are.
# Version 0.1 wrote none, and later ones the first alone.
CHECKSUMS, METRICS_SHA256, SHA256 = "checksums", "metrics_sha256", "sha256"


class NotWrittenError(OSError):
    """A checkpoint could not be written; those before it are whole."""


def best_step(workdir: pathlib.Path) -> int:
    """Returns the step of the lowest validation NMSE; the latest without one.

    Raises:
      FileNotFoundError: there is no checkpoint at all.
    """
    folder = pathlib.Path(workdir).resolve() / "checkpoints"
    steps = whole_steps(workdir)
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint under {folder}; train first, or give the folder of a run "
            "with --workdir"
        )
    found = _judged(folder)
    judged = {step: found[step] for step in steps if found.get(step) is not None}
    return min(judged, key=judged.__getitem__) if judged else steps[-1]


def restore_part(workdir: pathlib.Path, step: int, like: Any) -> Any:
    """Returns the part of a saved state whose structure `like` has.

    Raises:
      FileNotFoundError: there is no such step.
      ValueError: it cannot be read, is not as it was saved, or has other arrays.
    """
    folder = pathlib.Path(workdir).resolve() / "checkpoints" / str(step)
    if not (folder / "state").is_dir():
        raise FileNotFoundError(
            f"{workdir} has no checkpoint of step {step}; it has those of "
            f"{whole_steps(workdir)}"
        )
    try:
        with orbax_errors.quiet():
            unlike = _unlike(folder / "state", like)
            if not unlike:
                return _read_part(folder, like)
    except Exception as error:  # Orbax raises whatever its readers raise
        reason = orbax_errors.first_line(error)
        raise ValueError(
            f"checkpoint {step} of {workdir} cannot be read ({reason}); "
            f"give another step, there are {whole_steps(workdir)}"
        ) from error
    raise ValueError(
        f"the network in {workdir}/config.json does not fit checkpoint {step} "
        f"({unlike}); put the config back that the run was trained with"
    )


def _read_part(folder: pathlib.Path, like: Any) -> Any:
    args = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        part = reader.restore(folder / "state", args=args)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        saved = reader.restore(folder / "data", args=ocp.args.JsonRestore())
    _check(_intact(folder, saved).get(CHECKSUMS, {}), part)
    return part


def _intact(folder: pathlib.Path, data: dict) -> dict:
    """Returns the numbers of a checkpoint without their own checksums.

    Raises:
      ValueError: they, or its metrics, are not as they were saved.
    """
    data = dict(data)
    digest = data.pop(SHA256, None)
    if digest is not None and digest != checksums.of_numbers(data):
        raise ValueError(f"the numbers in {folder / 'data'} are not as they were saved")
    path = folder / "metrics" / "metrics"
    digest = data.pop(METRICS_SHA256, None)
    metrics_of = inputs.read_json(path, remedy="") if path.exists() else None
    if digest is not None and digest != checksums.of_numbers(metrics_of):
        raise ValueError("its metrics are not as they were saved")
    return data


def _metrics_digest(folder: pathlib.Path) -> str | None:
    """Returns the checksum that a checkpoint has of its metrics; None without."""
    try:
        data = inputs.read_json(folder / "data" / "metadata", remedy="")
        return data[METRICS_SHA256]
    except (OSError, ValueError, KeyError):
        return None  # an older one; or damaged, which shows when it is read


def _unlike(folder: pathlib.Path, like: Any) -> str:
    """Returns the first array that a saved state has otherwise, in words; or ""."""
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
        saved = _shapes(reader.metadata(folder).tree)
    wanted = _shapes(like)
    # Of what is wanted in part (params/logvar) the rest is no difference.
    parts = {_beginning(name) for name in wanted}
    there = {name: s for name, s in saved.items() if _beginning(name) in parts}
    differing = sorted(
        name
        for name in wanted.keys() | there.keys()
        if wanted.get(name) != there.get(name)
    )
    if not differing:
        return ""
    ours, theirs = (s.get(differing[0], "nothing") for s in (wanted, there))
    return (
        f"{differing[0]} is {theirs} there and {ours} by the config; in all "
        f"{len(differing)} arrays differ"
    )


def _beginning(name: str) -> tuple[str, ...]:
    return tuple(name.split("/")[:2])


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def whole_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps whose checkpoints were written to their end."""
    folder = pathlib.Path(workdir).resolve() / "checkpoints"
    if not folder.is_dir():
        return []
    steps = ocp.utils.checkpoint_steps(folder)
    return sorted(step for step in steps if (folder / str(step) / "state").is_dir())


def _judged(folder: pathlib.Path) -> dict[int, float | None]:
    """Returns the NMSE of each step that has metrics; None if they are damaged."""
    judged: dict[int, float | None] = {}
    for step in os.listdir(folder) if folder.is_dir() else ():
        path = folder / step / "metrics" / "metrics"
        if not step.isdigit() or not path.exists():
            continue
        try:
            numbers = inputs.read_json(path, remedy="")
            nmse = _nmse(numbers)
        except FileNotFoundError:
            continue  # a training removes it just now
        except (ValueError, TypeError, AttributeError, OverflowError):
            nmse, numbers = None, {}
        saved = _metrics_digest(folder / step)
        changed = saved is not None and saved != checksums.of_numbers(numbers)
        judged[int(step)] = None if changed else nmse
    return judged


def _check(saved: checksums.Checksums, state: Any) -> None:
    """Raises a ValueError where an array is not as it was saved."""
    differing = checksums.differing(saved, state)
    if differing:
        raise ValueError(
            f"{len(differing)} arrays are not as they were saved, {differing[0]} first"
        )


def _nmse(numbers: dict[str, float]) -> float:
    # NaN has no place in an order: it would push the best one out.
    value = metrics.deciding(numbers)
    return value if math.isfinite(value) else math.inf


class Checkpoints:
    """The folder `checkpoints/` of a run: step -> state, data position, metrics.

    Raises:
      NotADirectoryError: something else has its name.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int = 2):
        self._workdir = pathlib.Path(workdir).resolve()
        folder = self._workdir / "checkpoints"
        if folder.exists() and not folder.is_dir():
            # Before hours of steps that could not be saved.
            raise NotADirectoryError(
                f"{folder} is no folder; move it away, or give another --workdir"
            )
        # Orbax reads all metrics when it starts, fails on one that is torn, and goes
        # by one that is not as it was saved.
        judged = _judged(folder) if distributed.is_first() else {}
        torn = [step for step, nmse in judged.items() if nmse is None]
        for step in torn:
            logging.warning("checkpoint %s has damaged metrics: set aside", step)
        self._set_aside(torn)
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
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
            },
        )
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(orbax_errors.quiet())

    def steps(self) -> list[int]:
        """Returns the steps that are saved, or being saved."""
        return sorted(self._manager.all_steps())

    def save(
        self, state: Any, data_state: dict, measured: dict[str, float] | None
    ) -> None:
        """Starts writing; the write is atomic and goes on while training does.

        Raises:
          NotWrittenError: this one, or the one before it, could not be written.
        """
        data = data_state | {
            CHECKSUMS: checksums.of_state(state),
            METRICS_SHA256: checksums.of_numbers(measured),
        }
        data[SHA256] = checksums.of_numbers(data)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
        )
        with self._writing():
            self._manager.save(int(state.step), args=args, metrics=measured)

    def restore_latest(self, like: Any) -> tuple[Any, dict] | None:
        """Returns the newest readable state and data position; None without any.

        Where the newest is damaged the one before it is taken, and the damaged ones
        are moved to `damaged_checkpoints/`. Damage is what cannot be read, and what
        is not as it was saved.

        Args:
          like: arrays or shapes with the shardings that the state shall have.

        Raises:
          ValueError: there are checkpoints and none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found, damaged = self.steps(), []
        for step in reversed(found):
            restored, problem = self._restore(step, abstract)
            if restored is None:
                logging.warning(
                    "checkpoint %d cannot be read (%s); taking the one before",
                    step,
                    problem,
                )
                damaged.append(step)
                continue
            if damaged:
                self._set_aside(damaged)
                self._manager.reload()
            return restored
        if found:
            # Nothing is moved: the cause may be elsewhere (memory, another version).
            raise ValueError(
                f"none of the checkpoints {found} under {self._workdir} can be read; "
                "--debug and the lines above say why. To start afresh give another "
                "--workdir"
            )
        return None

    def _restore(self, step: int, abstract: Any) -> tuple[tuple[Any, dict] | None, str]:
        """Returns a state and its data position, or None and what is wrong."""
        restored, problem = None, ""
        try:
            restored = self._read(step, abstract)
        except Exception as error:  # Orbax raises whatever its readers raise
            problem = f"{type(error).__name__}: {orbax_errors.first_line(error)}"
        # Every process judges what it holds; from here on they go together.
        if not _all_agree(restored is not None):
            return None, problem or "another process cannot read it"
        state, data = restored
        try:
            _check(data.pop(CHECKSUMS, {}), state)
        except ValueError as error:
            return None, str(error)
        return (state, data), ""

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict]:
        """Reads one step. What its version did not count yet begins at 0."""
        # With the handlers alone: the manager waits for all processes after reading,
        # and one that cannot read would not come.
        folder = self._workdir / "checkpoints" / str(step)
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            there = reader.metadata(folder / "state").tree
        absent = [name for name in abstract._fields if name not in there]
        parts = {
            name: part for name, part in abstract._asdict().items() if name in there
        }
        new = {name: getattr(abstract, name) for name in absent}
        if any(leaf.shape for leaf in jax.tree.leaves(new)):
            raise ValueError(f"it has no {', '.join(absent)}")
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            args = ocp.args.StandardRestore(parts)
            state = reader.restore(folder / "state", args=args)
        with contextlib.closing(ocp.JsonCheckpointHandler()) as reader:
            data = _intact(folder, reader.restore(folder / "data"))
        position = data.get("position", step)
        if position != step:
            raise ValueError(f"the state is of step {step}, its data of {position}")
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), new
        )
        return abstract._replace(**state, **zeros), data

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints that are newer than a step."""
        for newer in self.steps():
            if newer > step:
                self._manager.delete(newer)

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
          NotWrittenError: what was being written could not be.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with contextlib.closing(self._quiet):
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # Orbax passes on what its writers raise
            folder = self._workdir / "checkpoints"
            whole = whole_steps(self._workdir)
            older = f"the ones of steps {whole} in {folder} are whole"
            raise NotWrittenError(
                f"a checkpoint could not be written ({orbax_errors.cause(error)}); "
                f"{older if whole else f'there is no older one in {folder}'}. Make "
                "room, or the folder writable, and the same command goes on"
            ) from error

    def _set_aside(self, steps: list[int]) -> None:
        """Moves checkpoints away; all processes must call it together."""
        aside = self._workdir / "damaged_checkpoints"
        for step in steps if distributed.is_first() else ():
            aside.mkdir(exist_ok=True)
            taken = len(list(aside.glob(f"{step}*")))
            name = f"{step}_{taken}" if taken else str(step)
            (self._workdir / "checkpoints" / str(step)).rename(aside / name)
        # Nobody lists the folder before its last move.
        distributed.wait_for_all("damaged checkpoints")


def _all_agree(mine: bool) -> bool:
    """Whether all processes say so."""
    if jax.process_count() == 1:
        return mine
    return bool(multihost_utils.process_allgather(np.asarray(mine)).all())
