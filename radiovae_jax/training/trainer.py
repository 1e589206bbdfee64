"""From a config and a stage to a trained run: data, executables, state, loop.

A run is a folder. The same command in the same folder continues it, bit for bit.
"""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from radiovae_jax import files, inputs, sharding
from radiovae_jax.data import datasets, pipeline, sources
from radiovae_jax.training import (
    checkpoint,
    checksums,
    distributed,
    logbook,
    overview,
    run_folder,
    run_lock,
    run_record,
    schema,
)
from radiovae_jax.training.distributed import BarrierJit
from radiovae_jax.training.loop import Loop
from radiovae_jax.training.task import State, Task, drawn
from radiovae_jax.training.validation import Compiled

ConfigDict = ml_collections.ConfigDict
Make = Callable[[ConfigDict, tuple[int, int, int]], Task]


def compiled(task: Task, mesh, places: State) -> Compiled:
    """Jits a stage's functions over the mesh; each compiles when it is first called.

    Its constants travel as an argument: within the program they would be folded into
    every executable.

    Args:
      places: sharding of every array of the state.
    """
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

    def over_mesh(
        function, *given, out, gathers=task.validation_gathers, **options
    ) -> BarrierJit:
        def gathering(constants, state, *rest):
            state = sharding.gathered(state, mesh, *gathers)
            return function(constants, state, *rest)

        places_in = (whole, places, *given)
        jitted = jax.jit(
            gathering, in_shardings=places_in, out_shardings=out, **options
        )
        return BarrierJit(jitted, task.constants)

    def validate_in(phase: str) -> BarrierJit:
        def validate(constants, state, raw):
            return task.validate(constants, state, raw, phase)

        return over_mesh(validate, split, out=(whole, split))

    def step_in(phase: str) -> BarrierJit:
        def step(*arguments):
            state, logs = task.step[phase](*arguments)
            counts = dict(skipped=state.skipped, skipped_in_row=state.skipped_in_row)
            return state, {**logs, **{n: jnp.float32(c) for n, c in counts.items()}}

        given, options = (split, whole), dict(out=(places, whole), donate_argnums=1)
        return over_mesh(step, *given, gathers=task.step_gathers, **options)

    return Compiled(
        step={phase: step_in(phase) for phase in task.step},
        validate={phase: validate_in(phase) for phase in task.step},
        sample=over_mesh(task.sample, whole, out=whole),
        activations=over_mesh(task.activations, split, out=split),
    )


class Setup(NamedTuple):
    """All that stands before the first step; none of it is on disk yet."""

    mesh: Any
    train_data: sources.Source
    val_data: sources.Source | None
    batches: pipeline.TrainBatches
    task: Task
    fresh: State  # shapes of the state, and where each array lies

    @property
    def places(self) -> State:
        return jax.tree.map(lambda leaf: leaf.sharding, self.fresh)

    def compiled(self, rate: float) -> Compiled:
        """Returns the executables at `rate` times all learning rates."""
        task = self.task
        if rate != 1:
            task = task.slowed(rate)._replace(constants=task.constants)
        return compiled(task, self.mesh, self.places)


def set_up(make: Make, config: ConfigDict) -> Setup:
    """Opens the data and builds what the config describes; raises as `run`.

    Args:
      make: of the stage: (config, shape of the stored maps) -> Task.
    """
    with distributed.all_or_none():
        schema.check(config)
        check_micro_batches(config)
    described = run_folder.jsonable(config)
    described["data"].pop("root")  # a copy on every machine's own disk, perhaps
    distributed.check_same(
        {"config": checksums.of_numbers(described)[:16]},
        "start all of them with the same command, file and version",
    )
    mesh = sharding.make_mesh(config.train.batch_size, config.train.fsdp)
    with distributed.all_or_none():
        train_data = datasets.open_training(config)
        val_data = None
        if config.data.val_split:
            val_data = datasets.open_with_buildings(config, config.data.val_split)
        task = make(config, train_data.shape)
        batches = datasets.train_batches(config, train_data)
        opened = {"training": train_data, "validation": val_data}
        identity = datasets.identity(opened) if jax.process_count() > 1 else {}
    distributed.check_same(identity, "give all of them the same copy of the data")
    # Where every step finds them.
    # By way of the host: an array of one process goes nowhere else.
    constants = jax.device_get(task.constants)
    constants = jax.device_put(constants, sharding.replicated(mesh))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return Setup(
        mesh=mesh,
        train_data=train_data,
        val_data=val_data,
        batches=batches,
        task=task._replace(constants=constants),
        fresh=sharding.placed(shapes, sharding.of_state(shapes, mesh)),
    )


def check_micro_batches(config: ConfigDict) -> None:
    """Raises a ValueError where the parts of a batch do not spread over the devices."""
    parts, size = config.train.accumulate_steps, config.train.batch_size
    devices = jax.device_count()
    if parts > 1 and size % (parts * devices):
        raise ValueError(
            f"train.batch_size {size} in train.accumulate_steps {parts} parts does not "
            f"spread over {devices} devices; the nearest batch that does: "
            f"{sharding.nearest(size, parts * devices)}"
        )


def run(make: Make, config: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains, or goes on training, until train.steps or train.stop_at.

    Args:
      make: of the stage; see `set_up`.

    Returns:
      the numbers of the last validation; empty without validation.

    Raises:
      ValueError, FileNotFoundError, OSError: what the user can mend, in one message.
      FloatingPointError: the numbers say that going on is of no use.
      Interrupted: a signal came; what was done is saved.
    """
    workdir = inputs.local(workdir, "workdir")
    config = run_folder.continued(workdir, config)
    with distributed.losses_named(), contextlib.ExitStack() as until_the_end:
        setup, warm_started = set_up(make, config), None
        donor = config.train.init_from
        if donor and not checkpoint.whole_steps(workdir):
            if setup.task.warm_start is None:
                raise ValueError(f"train.init_from={donor}: this stage takes none")
            warm_started = setup.task.warm_start(donor, setup.fresh)
        with distributed.all_or_none():
            if distributed.is_first():
                until_the_end.enter_context(run_lock.held(workdir))
                run_folder.claim(workdir, config)
        return train_in(workdir, config, setup, warm_started)


def train_in(
    workdir: pathlib.Path,
    config: ConfigDict,
    setup: Setup,
    warm_started: Callable[[State], State] | None,
) -> dict[str, float]:
    """Trains in a folder that is this run's; see `run`."""
    for name, content in setup.task.keeps.items():
        if distributed.is_first() and not (workdir / name).exists():
            files.write_json(workdir / name, content)
    logging.info("%s\nfolder      %s", overview.start(config, setup), workdir)
    init_key, step_key, sample_key = jax.random.split(jax.random.key(config.seed), 3)
    checkpoints = checkpoint.Checkpoints(workdir, keep=config.train.keep_checkpoints)
    # Checkpoints are of whole arrays: any mesh reads what any other wrote.
    restored, rollbacks = checkpoints.restore_latest(setup.fresh), 0
    if restored is None:
        logging.info("drawing the first weights (usually 5 to 30 s)")
        state = drawn(setup.task.init, init_key, setup.places)
        if warm_started is not None:
            state = warm_started(state)
    else:
        state, position = restored
        if position:  # an imported run has none: its data begin with it
            setup.batches.set_state(position)
        rollbacks = position.get("rollbacks", 0)
        logging.info("going on from step %d in %s", state.step, workdir)
    log = logbook.opened(workdir, step=int(state.step))
    loop = Loop(
        config, workdir, setup, checkpoints, log, step_key, sample_key, rollbacks
    )
    try:
        with (
            run_record.kept(workdir, step=int(state.step)),
            distributed.losses_named(),  # before what follows waits for the others
        ):
            return loop.run(state)
    finally:
        setup.batches.close()
        checkpoints.close()
        log.close()
