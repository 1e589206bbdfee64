"""From a config to a trained run: what is built, compiled and restored for the loop.

A run is a folder. The same command in the same folder continues it, bit for bit.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from radiovae_jax import inputs, sharding
from radiovae_jax.data import datasets, pipeline, radiomap, sources
from radiovae_jax.training import (
    distributed,
    logbook,
    overview,
    run_folder,
    run_lock,
    run_record,
    schema,
    warm_start,
)
from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.training.distributed import Together
from radiovae_jax.training.loop import Compiled, Loop
from radiovae_jax.vae import experiment, train_step, validate
from radiovae_jax.vae.experiment import Experiment
from radiovae_jax.vae.train_step import TrainState

ConfigDict = ml_collections.ConfigDict


def compile_all(
    config: ConfigDict, built: Experiment, mesh, state_places: TrainState
) -> Compiled:
    """Jits the pure functions over the mesh; nothing is compiled before its first call.

    LPIPS's weights travel as an argument: as constants they would be folded into
    every executable.

    Args:
      state_places: sharding of every array of the state.
    """
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

    def step(weights, state, raw, key, *, adversarial):
        return train_step.train_step(
            built.networks,
            built.opt,
            built.schedules,
            built.settings,
            weights,
            sharding.gathered(state, mesh, "params", "disc_params"),
            built.to_batch(raw),
            key,
            adversarial=adversarial,
        )

    def validate_raw(weights, state, raw, *, adversarial):
        batch = built.to_batch(raw)
        state = sharding.gathered(state, mesh, "ema", "disc_params")
        stored = config.train.metrics_size == "stored"
        seen = radiomap.model_to_f(batch.target)
        target = radiomap.gray_to_f(raw["gray"]) if stored else seen
        last = state.step - 1
        factor = built.schedules.disc_factor(last) if adversarial else jnp.zeros(())
        totals, recon = validate.validate_batch(
            built.networks,
            built.settings,
            weights,
            state,
            judged(state),
            batch,
            target,
            raw["mask"],
            factor,
            adversarial=adversarial,
        )
        return totals, target, recon

    def sample(state, key):
        shape = (config.train.images, *built.latent_shape)
        state = sharding.gathered(state, mesh, "ema")
        return validate.prior_samples(built.networks, judged(state), key, shape)

    def latents(state, raw):
        state = sharding.gathered(state, mesh, "ema")
        posterior = built.networks.autoencoder.apply(
            {"params": judged(state)}, built.to_batch(raw).image, method="encode"
        )
        return {"mean": posterior.mean, "logvar": posterior.logvar}

    def together(function, *first, **options) -> Together:
        return Together("a step", jax.jit(function, **options), *first)

    def compiled(function, **options) -> dict[bool, Together]:
        return {
            adversarial: together(
                functools.partial(function, adversarial=adversarial),
                built.perceptual_weights,
                **options,
            )
            for adversarial in (False, True)
        }

    return Compiled(
        step=compiled(
            step,
            donate_argnums=1,
            in_shardings=(whole, state_places, split, whole),
            out_shardings=(state_places, whole),
        ),
        validate=compiled(
            validate_raw,
            in_shardings=(whole, state_places, split),
            out_shardings=(whole, split, split),
        ),
        sample=together(
            sample, in_shardings=(state_places, whole), out_shardings=whole
        ),
        latents=together(
            latents, in_shardings=(state_places, split), out_shardings=split
        ),
    )


def judged(state: TrainState) -> Any:
    """The weights that validation, export and `best` use: the average."""
    return state.ema["autoencoder"]


class Setup(NamedTuple):
    """All that stands before the first step; none of it is on disk yet."""

    mesh: Any
    train_data: sources.Source
    val_data: sources.Source | None
    batches: pipeline.TrainBatches
    built: Experiment
    fresh: TrainState  # shapes of the state, and where each array lies
    compiled: Compiled


def set_up(config: ConfigDict) -> Setup:
    """Opens the data and builds what the config describes.

    Raises:
      ValueError, FileNotFoundError: something in the config cannot be done.
    """
    with distributed.all_or_none():
        schema.check(config)
    described = run_folder.jsonable(config)
    described["data"].pop("root")  # a copy on every machine's own disk, perhaps
    text = json.dumps(described, sort_keys=True)
    distributed.check_same(
        {"config": hashlib.sha256(text.encode()).hexdigest()[:16]},
        "start all of them with the same command, file and version",
    )
    mesh = sharding.make_mesh(config.train.batch_size, config.train.fsdp)
    with distributed.all_or_none():
        train_data = datasets.open_data(config, config.data.train_split)
        val_data = None
        if config.data.val_split:
            val_data = datasets.open_outlined(config, config.data.val_split)
        built = experiment.build(config, train_data.shape)
        batches = datasets.train_batches(config, train_data)
        opened = {"training": train_data, "validation": val_data}
        identity = datasets.identity(opened) if jax.process_count() > 1 else {}
    distributed.check_same(identity, "give all of them the same copy of the data")
    built = on_devices(built, mesh)
    shapes = experiment.state_shapes(config, built)
    fresh = sharding.placed(shapes, sharding.of_state(shapes, mesh))
    return Setup(
        mesh=mesh,
        train_data=train_data,
        val_data=val_data,
        batches=batches,
        built=built,
        fresh=fresh,
        compiled=compile_all(config, built, mesh, places(fresh)),
    )


def on_devices(built: Experiment, mesh) -> Experiment:
    """Puts LPIPS's weights where every step finds them."""
    weights = jax.device_put(built.perceptual_weights, sharding.replicated(mesh))
    return built._replace(perceptual_weights=weights)


def places(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def slowed_schedules(schedules: train_step.Schedules, factor: float):
    """Returns the schedules with all learning rates multiplied."""

    def times(rate: Callable) -> Callable:
        return lambda step: factor * rate(step)

    return schedules._replace(
        learning_rate=times(schedules.learning_rate),
        logvar_rate=times(schedules.logvar_rate),
        disc_rate=times(schedules.disc_rate),
    )


def compiled_at(config: ConfigDict, setup: Setup, factor: float) -> Compiled:
    """Returns the executables at `factor` times all learning rates."""
    if factor == 1.0:
        return setup.compiled
    slowed = setup.built._replace(
        schedules=slowed_schedules(setup.built.schedules, factor)
    )
    return compile_all(config, slowed, setup.mesh, places(setup.fresh))


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains, or goes on training, until train.steps or train.stop_at.

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
        setup, start_from = set_up(config), None
        if config.train.init_from and not run_folder.has_checkpoints(workdir):
            start_from = warm_start.read(
                config.train.init_from,
                setup.fresh,
                reconstruction=config.loss.reconstruction,
            )
        with distributed.all_or_none():
            if distributed.is_first():
                until_the_end.enter_context(run_lock.held(workdir))
                run_folder.claim(workdir, config)
        return train_in(workdir, config, setup, start_from)


def train_in(
    workdir: pathlib.Path,
    config: ConfigDict,
    setup: Setup,
    start_from: warm_start.Weights | None,
) -> dict[str, float]:
    """Trains in a folder that is this run's; see `run`."""
    logging.info("%s\nfolder      %s", overview.start(config, setup), workdir)
    if config.loss.objective != "base" and not datasets.db_range(config).span:
        logging.info(
            "what f is in dB is not known of these maps (data.db_floor, data.db_span): "
            "the radio terms take it for RadioMapSeer's, -147 + 100 f"
        )

    init_key, step_key, sample_key = jax.random.split(jax.random.key(config.seed), 3)
    checkpoints = Checkpoints(workdir, keep=config.train.keep_checkpoints)
    # Checkpoints are of whole arrays: any mesh reads what any other wrote.
    restored, rollbacks = checkpoints.restore_latest(setup.fresh), 0
    if restored is None:
        logging.info("drawing the first weights (usually 5 to 30 s)")
        state = experiment.drawn_state(
            config, setup.built, init_key, places(setup.fresh)
        )
        if start_from is not None:
            state = warm_start.start(state, start_from)
    else:
        state, position = restored
        if position:  # an imported run has none: its data begin with it
            setup.batches.set_state(position)
        rollbacks = position.get("rollbacks", 0)
        logging.info("going on from step %d in %s", state.step, workdir)
    loop = Loop(
        config=config,
        workdir=workdir,
        mesh=setup.mesh,
        compile=functools.partial(compiled_at, config, setup),
        validation=setup.val_data,
        checkpoints=checkpoints,
        log=logbook.opened(workdir, step=int(state.step)),
        step_key=step_key,
        sample_key=sample_key,
        rollbacks=rollbacks,
    )
    try:
        with (
            run_record.kept(workdir, step=int(state.step)),
            distributed.losses_named(),  # before what follows waits for the others
        ):
            return loop.run(state, setup.batches)
    finally:
        setup.batches.close()
        checkpoints.close()
        loop.log.close()
