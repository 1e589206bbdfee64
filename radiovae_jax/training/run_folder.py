"""The folder of a run: its config, claimed and read back; which checkpoint is best."""

import importlib
import json
import pathlib
import shlex
import time
import warnings
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import logging

from radiovae_jax import files, inputs
from radiovae_jax.training import checkpoint, rules, schema

# Fields that a resumed run may change: they change nothing that a step computes; or,
# with train.extend, the state of the optimizers goes on with other values.
FREE, EXTENDED = schema.names(rules.FREE), schema.names(rules.EXTEND)
# Fields that came after version 0.1, each with the value that does what 0.1 did: runs
# of that version have none of them in their config.json.
ADDED = schema.older()
# Of these the configs have other values now: an older run goes on as it began.
CHANGED = tuple(n for n, value in ADDED.items() if value != schema.FIELDS[n].default)
CONFIG_REMEDY = "put the run's config back, or give another --workdir"
# How often the best checkpoint is chosen anew where a training replaced it, and the
# time that the removal of one is given.
TRIES, PAUSE_S = 5, 0.5
HISTORY = "config_history.jsonl"  # what `claim` let a run change, a line each time


def continued(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns the config as the run that is in a folder goes on with it.

    One of an older version was dealt its maps before `CHANGED` fields were there, and
    keeps them. What f is in dB stays as the folder has it where the config is silent.
    """
    config = config.copy_and_resolve_references()
    if (pathlib.Path(workdir) / "config.json").exists() and config.data.db_span is None:
        there = read_config(workdir).data
        config.data.update(db_floor=there.db_floor, db_span=there.db_span)
    for name in _lacking(workdir):
        schema.put(config, name, ADDED[name])
    return config


def _lacking(workdir: pathlib.Path) -> list[str]:
    """Returns the `CHANGED` fields that the config of an older run does not have."""
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        return []
    there = schema.flat(inputs.read_json(path, remedy=CONFIG_REMEDY))
    older = there.get("stage", "vae") == "vae"
    return [name for name in CHANGED if older and name not in there]


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder for this config, or finds it made for it already.

    Other steps and rates that are allowed go into `config_history.jsonl` as well.

    Raises:
      ValueError: it holds a run of another config; nothing is touched.
      OSError: it cannot be written.
    """
    workdir = pathlib.Path(workdir)
    path, changes = workdir / "config.json", {}
    config = continued(workdir, config)
    values = jsonable(config)
    for name in _lacking(workdir):  # what it lacks says of what version it is
        section, field = name.split(".")
        del values[section][field]
    if path.exists():
        changes = _changes(workdir, config)
    elif (workdir / "checkpoints").exists():
        raise ValueError(
            f"{workdir} holds checkpoints but no config.json; give another --workdir"
        )
    with files.made(workdir, "run", flag="--workdir"):
        for folder in (workdir, workdir / "images"):
            files.sweep(folder)
        if changes:
            with (workdir / HISTORY).open("a") as file:
                file.write(json.dumps(changes) + "\n")
            logging.warning("going on from step %(step)d with %(to)s", changes)
        with files.written(path) as partial:
            partial.write_text(json.dumps(values, indent=2) + "\n")


def _changes(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict:
    """Returns what this config changes of the run that is there; {} for nothing.

    Raises:
      ValueError: it is another run's.
    """
    saved = schema.flat(read_config(workdir).to_dict())
    new = schema.flat(jsonable(config))
    free, units = set(FREE), {"data.db_floor", "data.db_span"}
    radio = new.get("loss.objective", "base") != "base"
    if radio or config.data.source == "sionna":
        free -= units  # what is trained on them
    changed = {n for n in saved.keys() | new.keys() if saved.get(n) != new.get(n)}
    differing = sorted(changed - free)
    noted = [*differing, *sorted(changed & free & units)]  # other dB from here on
    step = max(checkpoint.whole_steps(workdir), default=0)
    extendable = set(differing) <= set(EXTENDED)
    # Where no schedule is laid out over the steps, more of them change none before.
    longer = differing == ["train.steps"] and new["train.steps"] > saved["train.steps"]
    constant = new["optimizer.schedule"] == "constant"
    unscheduled = constant and new.get("loss.kl_schedule") != "cyclical"
    if differing and not (
        extendable and (config.train.extend or (longer and unscheduled))
    ):
        lines = [f"{n}: {saved.get(n)} there, {new.get(n)} here" for n in differing]
        if extendable:
            lines.append("--config.train.extend=True goes on with these")
        raise ValueError(
            f"{workdir} holds a run of another config:\n  "
            + "\n  ".join(lines)
            + "\nGive the same config to continue that run, or another --workdir, and "
            f"--config.train.init_from={workdir} to start from its best weights"
        )
    if "train.steps" in noted and new["train.steps"] < step:
        raise ValueError(
            f"{workdir} has done {step} steps already, more than "
            f"train.steps={new['train.steps']}; give more, or another --workdir"
        )
    sides = {"from": saved, "to": new}
    changes = {word: {n: side.get(n) for n in noted} for word, side in sides.items()}
    return {"step": step} | changes if noted else {}


def read_config(workdir: pathlib.Path | str) -> ml_collections.ConfigDict:
    """Returns the config of a run, completed where it is of an older version.

    Raises a FileNotFoundError if the folder is not that of a run.
    """
    path = inputs.local(workdir, "workdir") / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it has no config.json. Train one "
            "with python -m radiovae_jax.main --config quickstart "
            f"--workdir {shlex.quote(str(workdir))}"
        )
    values = inputs.read_json(path, remedy=CONFIG_REMEDY)
    try:
        config, there = ml_collections.ConfigDict(values), schema.flat(values)
        added = schema.older(there.get("stage", "vae"))
        for section in {name.partition(".")[0] for name in added if "." in name}:
            values[section].keys()  # any run's config has it
        for name in added.keys() - there.keys():
            schema.put(config, name, added[name])
        return config
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {CONFIG_REMEDY}") from error


def hold(
    workdir: pathlib.Path | str, step: int, read: Callable[[int], Any]
) -> tuple[int, Any]:
    """Returns (step, what is read of it) of the best checkpoint, or of the one asked.

    While a run trains its checkpoints are replaced: of one that vanishes between the
    choice and the last byte the choice is made again.

    Args:
      step: which checkpoint; 0 is the one with the lowest validation NMSE.
      read: reads all that is wanted of a step; its error is raised if it fails twice.
    """
    if step:
        return step, read(step)
    failed: list[int] = []
    while True:
        chosen = best_step(workdir)
        try:
            return chosen, read(chosen)
        except (FileNotFoundError, ValueError):
            if chosen in failed or len(failed) == TRIES:
                raise
        failed.append(chosen)
        time.sleep(PAUSE_S)


def best_step(workdir: pathlib.Path | str) -> int:
    """Returns the step of the lowest validation NMSE; the latest without one."""
    read_config(workdir)
    return checkpoint.best_step(inputs.local(workdir, "workdir"))


def jsonable(config: ml_collections.ConfigDict) -> dict:
    """Returns the config as it reads back from JSON: tuples are lists."""
    return json.loads(config.to_json())


def __getattr__(name: str) -> Any:
    """Finds for one more release what version 0.1 had here: a run's network."""
    moved = {"load": "load_network", "load_loss": "load_loss"}
    if name not in moved:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "radiovae_jax.vae.codec"
    warnings.warn(
        f"run_folder.{name} is {home}.{moved[name]} now (radiovae_jax.load for a run's "
        "model and parameters); the old name goes with the next release",
        FutureWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module(home), moved[name])
