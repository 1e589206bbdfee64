"""Checkpoints through Orbax: asynchronous, the latest ones and the best one kept."""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from radiovae_jax import inputs, metrics
from radiovae_jax.training import checksums, distributed, orbax_errors

# Beside the data position: of the arrays, of the metrics, of all numbers there are.
# Version 0.1 wrote none, and later ones the first alone.
CHECKSUMS, METRICS_SHA256, SHA256 = "checksums", "metrics_sha256", "sha256"


class NotWrittenError(OSError):
    """A checkpoint could not be written; those before it are whole."""


class _OtherNetworkError(ValueError): ...


def whole_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps whose checkpoints were written to their end."""
    folder = _folder(workdir)
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else ()
    return sorted(step for step in steps if (folder / str(step) / "state").is_dir())


def best_step(workdir: pathlib.Path) -> int:
    """Returns the step of the lowest score (NMSE); the latest without any.

    Raises:
      FileNotFoundError: there is no checkpoint at all.
    """
    folder, steps = _folder(workdir), whole_steps(workdir)
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint under {folder}; train first, or give the folder of a run "
            "with --workdir"
        )
    found = _scores(folder)
    scored = {step: found[step] for step in steps if found.get(step) is not None}
    return min(scored, key=scored.__getitem__) if scored else steps[-1]


def restore_part(workdir: pathlib.Path | str, step: int, like: Any) -> Any:
    """Returns the part of a saved state whose structure `like` has, on one device.

    Args:
      like: nested dicts of arrays or their shapes.

    Raises:
      FileNotFoundError: there is no such step.
      ValueError: it cannot be read, is not as it was saved, or has other arrays.
    """
    workdir = inputs.local(workdir, "workdir")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
    )
    folder = _folder(workdir) / str(step)
    if not (folder / "state").is_dir():
        raise FileNotFoundError(
            f"{workdir} has no checkpoint of step {step}; it has those of "
            f"{whole_steps(workdir)}"
        )
    try:
        with orbax_errors.quiet():
            part, data = _read_state(folder, like), _read_data(folder)
            _check(step, data.get(CHECKSUMS, {}), part)
            return part
    except _OtherNetworkError as error:
        raise ValueError(
            f"the network in {workdir}/config.json does not fit checkpoint {step} "
            f"({error}); put the config back that the run was trained with"
        ) from None
    except Exception as error:  # Orbax raises whatever its readers raise
        raise ValueError(
            f"checkpoint {step} of {workdir} cannot be read "
            f"({orbax_errors.first_line(error)}); "
            f"give another step, there are {whole_steps(workdir)}"
        ) from error


def _folder(workdir: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(workdir).resolve() / "checkpoints"


def _read_state(folder: pathlib.Path, like: Any) -> Any:
    """Reads the arrays of one checkpoint that `like` has, with its shardings."""
    # Orbax's checkpointers wait for all processes after reading, and one that cannot
    # read would not come: the handler alone does not wait.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        _check_shapes(reader.metadata(folder / "state").tree, like)
        args = ocp.args.PyTreeRestore(
            item=like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        return reader.restore(folder / "state", args=args)


def _check_shapes(saved: Any, like: Any) -> None:
    """Names the first array that a saved state has otherwise, or lacks."""
    there, wanted = (
        {n: tuple(getattr(x, "shape", ())) for n, x in checksums.named(tree).items()}
        for tree in (saved, like)
    )
    # Of what is wanted in part (params/logvar) the rest is no difference.
    parts = [name.split("/")[:2] for name in wanted]
    for name in sorted(wanted.keys() | there.keys()):
        ours, theirs = (shapes.get(name, "nothing") for shapes in (wanted, there))
        if ours != theirs and name.split("/")[:2] in parts:
            raise _OtherNetworkError(
                f"{name} is {theirs} there and {ours} by the config"
            )


def _read_data(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the numbers beside the arrays, checked with the metrics' by checksum."""
    with contextlib.closing(ocp.JsonCheckpointHandler()) as reader:
        data = dict(reader.restore(folder / "data"))
    digest = data.pop(SHA256, None)
    if digest is not None and digest != checksums.of_numbers(data):
        raise ValueError(f"the numbers in {folder / 'data'} are not as they were saved")
    path = folder / "metrics" / "metrics"
    digest = data.pop(METRICS_SHA256, None)
    numbers = inputs.read_json(path, remedy="") if path.exists() else None
    if digest is not None and digest != checksums.of_numbers(numbers):
        raise ValueError("its metrics are not as they were saved")
    return data


def _check(step: int, saved: checksums.Checksums, state: Any) -> None:
    """Raises a ValueError where an array is not as it was saved."""
    now = checksums.of_state(state)
    unknown = len(now.keys() - saved.keys())
    if unknown:
        words = "checkpoint %d is of an older version: no checksums of %d arrays of %d"
        logging.info(words, step, unknown, len(now))
    differing = [name for name in now if saved.get(name, now[name]) != now[name]]
    if differing:
        raise ValueError(
            f"{len(differing)} arrays are not as they were saved, {differing[0]} first"
        )


def _scores(folder: pathlib.Path) -> dict[int, float | None]:
    """Returns the score of each step that has metrics; None for damaged ones."""
    scores: dict[int, float | None] = {}
    for path in folder.glob("*/metrics/metrics"):
        step = path.parents[1].name
        if not step.isdigit():
            continue
        try:
            numbers = inputs.read_json(path, remedy="")
            value = _score(numbers)
        except FileNotFoundError:
            continue  # a training removes it just now
        except (ValueError, TypeError, AttributeError, OverflowError):
            value, numbers = None, {}
        try:
            saved = inputs.read_json(folder / step / "data" / "metadata", remedy="")
            changed = saved[METRICS_SHA256] != checksums.of_numbers(numbers)
        except (OSError, ValueError, KeyError):
            changed = False  # an older one; or damaged, which shows when it is read
        scores[int(step)] = None if changed else value
    return scores


def _score(numbers: Mapping[str, Any]) -> float:
    """Returns what the best checkpoint minimises; a NaN would push the best one out."""
    value = metrics.deciding(numbers)
    return value if math.isfinite(value) else math.inf


class Checkpoints:
    """The folder `checkpoints/` of a run: step -> state, data position, metrics.

    Args:
      keep: how many of the latest there are, beside the best.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int = 2):
        self._folder = _folder(workdir)
        if self._folder.is_file():  # Orbax would find out after hours of steps
            raise NotADirectoryError(
                f"{self._folder} is no folder; move it away, or give another --workdir"
            )
        # Orbax reads all metrics when it starts, fails on one that is torn, and goes
        # by one that is not as it was saved.
        scores = _scores(self._folder) if distributed.is_first() else {}
        torn = [step for step, value in scores.items() if value is None]
        for step in torn:
            logging.warning("checkpoint %s has damaged metrics: set aside", step)
        self._set_aside(torn)
        best = checkpoint_managers.BestN(
            get_metric_fn=_score,
            reverse=True,  # the last in the order is the best: descending
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [checkpoint_managers.LatestN(keep), best]
            ),
            cleanup_tmp_directories=True,
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(
            self._folder, options=options, item_handlers=handlers
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

        Args:
          state: a NamedTuple of arrays, `step` among them.
          data_state: the data position, of values that JSON has.
          measured: the numbers of a validation at this step.

        Raises NotWrittenError if this one, or the one before it, cannot be written.
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

        What cannot be read, or is not as it was saved, moves to `damaged_checkpoints/`.

        Args:
          like: arrays or shapes with the shardings that the state shall have.

        Raises:
          ValueError: there are checkpoints and none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found, damaged = self.steps(), []
        for step in reversed(found):
            restored, problem = self._restore(step, abstract)
            if not problem:
                if damaged:
                    self._set_aside(damaged)
                    self._manager.reload()
                return restored
            words = "checkpoint %d cannot be read (%s); taking the one before"
            logging.warning(words, step, problem)
            damaged.append(step)
        if found:
            # Nothing is moved: the cause may be elsewhere (memory, another version).
            raise ValueError(
                f"none of the checkpoints {found} under {self._folder.parent} can be "
                "read; --debug and the lines above say why. To start afresh give "
                "another --workdir"
            )
        return None

    def _restore(self, step: int, abstract: Any) -> tuple[Any, str]:
        """Returns (state, data position) and "", or None and what is wrong."""
        restored, problem = None, ""
        try:
            restored = self._read(step, abstract)
        except Exception as error:  # Orbax raises whatever its readers raise
            problem = f"{type(error).__name__}: {orbax_errors.first_line(error)}"
        # Every process reads its own parts; from here on they go together.
        problem = next(filter(None, distributed.gathered(problem)), "")
        if restored is None or problem:
            return None, problem
        state, data = restored
        try:
            _check(step, data.pop(CHECKSUMS, {}), state)
        except ValueError as error:
            return None, str(error)
        return (state, data), ""

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict]:
        """Reads one step. The counters that its version lacked begin at 0."""
        folder = self._folder / str(step)
        there = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
        wanted = abstract._asdict()
        new = {name: part for name, part in wanted.items() if name not in there}
        if any(leaf.shape for leaf in jax.tree.leaves(new)):
            raise ValueError(f"it has no {', '.join(new)}")
        beyond = sorted(there.keys() - wanted.keys())
        if beyond:
            raise ValueError(f"it has {', '.join(beyond)}, which this version has not")
        like = {name: part for name, part in wanted.items() if name in there}
        state, data = _read_state(folder, like), _read_data(folder)
        if new:
            names = ", ".join(new)
            logging.info("checkpoint %d is older than %s: from 0", step, names)
        position = data.get("position", step)
        if position != step:
            raise ValueError(f"the state is of step {step}, its data of {position}")
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), new
        )
        return abstract._replace(**state, **zeros), data

    def drop_after(self, step: int) -> None:
        for newer in self.steps():
            if newer > step:
                self._manager.delete(newer)

    def wait(self) -> None:
        """Returns when nothing is being written; raises NotWrittenError, as `save`."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with contextlib.closing(self._quiet):
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax passes on what its writers raise
            whole = whole_steps(self._folder.parent)
            older = f"the ones of steps {whole} in {self._folder} are whole"
            raise NotWrittenError(
                f"a checkpoint could not be written ({orbax_errors.cause(error)}); "
                f"{older if whole else f'there is no older one in {self._folder}'}. "
                "Make room, or the folder writable, and the same command goes on"
            ) from error

    def _set_aside(self, steps: list[int]) -> None:
        """Moves checkpoints away; all processes must call it together."""
        aside = self._folder.with_name("damaged_checkpoints")
        for step in steps if distributed.is_first() else ():
            aside.mkdir(exist_ok=True)
            taken = len(list(aside.glob(f"{step}*")))
            name = f"{step}_{taken}" if taken else str(step)
            (self._folder / str(step)).rename(aside / name)
        # Nobody lists the folder before its last move.
        distributed.wait_for_all("damaged checkpoints")
