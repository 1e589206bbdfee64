"""From a config to a trained run: what is built, compiled and restored for the loop.

A run is a folder. The same command in the same folder continues it, bit for bit.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from radiovae_jax import (
    config_check,
    experiment,
    logbook,
    run_folder,
    sharding,
    train_step,
    validate,
    warm_start,
)
from radiovae_jax.checkpoint import Checkpoints
from radiovae_jax.data import pipeline, radiomap
from radiovae_jax.experiment import Experiment
from radiovae_jax.loop import Compiled, Loop
from radiovae_jax.train_step import TrainState

ConfigDict = ml_collections.ConfigDict


def compile_all(config: ConfigDict, built: Experiment, mesh) -> Compiled:
    """Jits the pure functions over the mesh; nothing is compiled before its first call.

    LPIPS's weights travel as an argument: as constants they would be folded into
    every executable.
    """
    whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

    def step(weights, state, raw, key, *, adversarial):
        return train_step.train_step(
            built.networks,
            built.opt,
            built.schedules,
            built.settings,
            weights,
            state,
            built.to_batch(raw),
            key,
            adversarial=adversarial,
        )

    def validate_raw(weights, state, raw, *, adversarial):
        batch = built.to_batch(raw)
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
        return validate.prior_samples(built.networks, judged(state), key, shape)

    weights = jax.device_put(built.perceptual_weights, whole)

    def compiled(function, **options) -> dict[bool, Callable]:
        return {
            adversarial: functools.partial(
                jax.jit(
                    functools.partial(function, adversarial=adversarial), **options
                ),
                weights,
            )
            for adversarial in (False, True)
        }

    return Compiled(
        step=compiled(
            step,
            donate_argnums=1,
            in_shardings=(whole, whole, split, whole),
            out_shardings=(whole, whole),
        ),
        validate=compiled(
            validate_raw,
            in_shardings=(whole, whole, split),
            out_shardings=(whole, split, split),
        ),
        sample=jax.jit(sample, in_shardings=whole, out_shardings=whole),
    )


def judged(state: TrainState) -> Any:
    """The weights that validation, export and `best` use: the average."""
    return state.ema["autoencoder"]


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains, or goes on training, until train.steps or train.stop_at.

    Returns:
      the numbers of the last validation; empty without validation.

    Raises:
      ValueError, FileNotFoundError, OSError: what the user can mend, in one message.
    """
    config_check.check(config)
    workdir = pathlib.Path(workdir)
    mesh = sharding.data_mesh(config.train.batch_size)
    train_data = experiment.open_data(config, config.data.train_split)
    val_data = None
    if config.data.val_split:
        val_data = experiment.open_data(config, config.data.val_split)
    built = experiment.build(config, train_data.shape)
    batches = pipeline.train_batches(
        train_data,
        batch_size=config.train.batch_size,
        seed=config.seed,
        augment=config.data.augment,
        crop=config.data.crop,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
        prefetch=config.data.prefetch,
    )
    init_key, step_key, sample_key = jax.random.split(jax.random.key(config.seed), 3)
    init = functools.partial(experiment.init_state, config, built)
    fresh = jax.eval_shape(init, init_key)
    start_from = None
    if config.train.init_from and not run_folder.has_checkpoints(workdir):
        start_from = warm_start.read(config.train.init_from, fresh)
    run_folder.claim(workdir, config)
    logging.info("training data: %s", train_data.summary())
    logging.info("validation data: %s", val_data.summary() if val_data else "none")

    whole = sharding.replicated(mesh)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        fresh,
    )
    checkpoints = Checkpoints(workdir, keep=config.train.keep_checkpoints)
    restored = checkpoints.restore_latest(shapes)
    if restored is None:
        state = jax.jit(init, out_shardings=whole)(init_key)
        if start_from is not None:
            state = warm_start.start(state, start_from)
    else:
        state, position = restored
        if position:  # an imported run has none: its data begin with it
            batches.set_state(position)
        logging.info("going on from step %d in %s", state.step, workdir)
    loop = Loop(
        config=config,
        workdir=workdir,
        mesh=mesh,
        compiled=compile_all(config, built, mesh),
        validation=val_data,
        checkpoints=checkpoints,
        log=logbook.Logbook(workdir, step=int(state.step)),
        step_key=step_key,
        sample_key=sample_key,
    )
    try:
        return loop.run(state, batches)
    finally:
        batches.close()
        checkpoints.close()
        loop.log.close()
