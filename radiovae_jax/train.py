"""The loop of a run: steps, numbers, pictures, checkpoints; and going on after a stop.

A run is a folder. The same command in the same folder continues it, bit for bit.
"""

import functools
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from tqdm import tqdm

from radiovae_jax import (
    config_check,
    experiment,
    logbook,
    plots,
    run_folder,
    sharding,
    train_step,
    validate,
    warm_start,
)
from radiovae_jax.checkpoint import Checkpoints
from radiovae_jax.data import pipeline, radiomap
from radiovae_jax.experiment import Experiment
from radiovae_jax.train_step import TrainState

ConfigDict = ml_collections.ConfigDict


class Compiled(NamedTuple):
    """The executables of a run."""

    # Each twice: {False: without any discriminator, True: with it}.
    step: dict[bool, Callable]
    validate: dict[bool, Callable]
    sample: Callable


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


class Clock:
    """Seconds and images since the last lap; validation is not counted."""

    def __init__(self, step: int):
        self._step, self._time = step, time.monotonic()

    def lap(self, step: int, batch_size: int) -> dict[str, float]:
        now = time.monotonic()
        seconds = (now - self._time) / (step - self._step)
        self._step, self._time = step, now
        return {
            "time/step_seconds": seconds,
            "time/images_per_second": batch_size / seconds,
        }


class Loop(NamedTuple):
    """The long-lived parts of the loop; the state of the training passes through."""

    config: ConfigDict
    workdir: pathlib.Path
    mesh: Any
    compiled: Compiled
    validation: Any
    checkpoints: Checkpoints
    log: logbook.Logbook
    step_key: Any
    sample_key: Any

    def run(self, state: TrainState, batches) -> dict[str, float]:
        """Takes the steps that are left; whatever ends them early, saves first."""
        train = self.config.train
        start, stop = int(state.step), train.steps
        if train.stop_at:
            stop = min(stop, train.stop_at)
        if start >= stop:
            logging.info("step %d of %d is done already", start, stop)
            return logbook.last_validation(self.workdir / "metrics.jsonl")
        metrics: dict[str, float] = {}
        clock = Clock(start)
        logging.info("compiling: the first step of each phase takes longer")
        bar = tqdm(
            total=train.steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        try:
            for step in range(start, stop):
                raw = sharding.to_devices(next(batches), self.mesh)
                run_step = self.compiled.step[self.adversarial(step)]
                state, logs = run_step(state, raw, self.step_key)
                bar.update()

                done = step + 1
                log, judge, save = (
                    done % every == 0 or done == stop
                    for every in (
                        train.log_every,
                        train.validate_every,
                        train.checkpoint_every,
                    )
                )
                values: dict[str, float] = {}
                if log:
                    values |= named("train", jax.device_get(logs))
                    values |= clock.lap(done, train.batch_size)
                    bar.set_postfix_str(postfix(values, metrics))
                    self.check_finite(done, values["train/total_loss"])
                judged_now = (judge or save) and self.validation is not None
                if judged_now:
                    metrics = self.validate(state, done)
                    values |= named("val", metrics)
                    bar.write(summary(done, metrics))
                    clock = Clock(done)
                    self.check_finite(done, metrics["nmse"])
                if values:
                    self.log.write(done, values)
                if save:
                    self.save(state, batches, metrics if judged_now else None)
        except FloatingPointError:
            raise  # what is not finite is not worth saving
        except BaseException:
            self.rescue(state, batches)
            raise
        finally:
            bar.close()
        self.checkpoints.wait()
        return metrics

    def save(self, state: TrainState, batches, metrics: dict[str, float] | None):
        # Each step takes one batch; the iterator may already be one ahead.
        position = batches.get_state() | {"position": int(state.step)}
        self.checkpoints.save(state, position, metrics)

    def rescue(self, state: TrainState, batches) -> None:
        """Saves the last whole state, unless a step was consuming it."""
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
            return
        if int(state.step) not in (0, *self.checkpoints.steps()):
            self.save(state, batches, None)
            self.checkpoints.wait()
            logging.warning("saved step %d before ending", state.step)

    def check_finite(self, step: int, value: float) -> None:
        """Raises a FloatingPointError that names the last good checkpoint."""
        if math.isfinite(value):
            return
        saved = self.checkpoints.steps()
        last = f"the last checkpoint is step {saved[-1]}" if saved else "nothing saved"
        raise FloatingPointError(
            f"the loss is not finite at step {step}; {last} in {self.workdir}. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir "
            "with --config.train.init_from=THIS_FOLDER to start from its weights"
        )

    def adversarial(self, step: int) -> bool:
        """Whether the step of this number has anything to do for the discriminator."""
        loss = self.config.loss
        if loss.discriminator_before_start == "released":
            return True
        return step >= loss.disc_start and loss.disc_factor > 0

    def validate(self, state: TrainState, step: int) -> dict[str, float]:
        """Judges the average weights on the whole validation set; draws pictures."""
        batch_size = self.config.train.validation_batch_size
        judge = self.compiled.validate[self.adversarial(step - 1)]
        totals, shown = None, []
        for raw in pipeline.eval_batches(
            self.validation,
            batch_size=sharding.nearest(batch_size, self.mesh.size),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            batch, *pair = judge(state, sharding.to_devices(raw, self.mesh))
            totals = batch if totals is None else jax.tree.map(jnp.add, totals, batch)
            if sum(len(names) for *_, names in shown) < self.config.train.images:
                real = raw["mask"] > 0
                target, recon = (sharding.local(image)[real] for image in pair)
                shown.append((target, recon, raw["name"][real]))
        samples = sharding.local(
            self.compiled.sample(state, jax.random.fold_in(self.sample_key, step))
        )
        if jax.process_index() == 0:
            maps, recons, names = map(np.concatenate, zip(*shown, strict=True))
            rows = self.config.train.images
            figure = plots.reconstructions(
                maps[:rows],
                recons[:rows],
                names=[str(name) for name in names[:rows]],
                max_rows=rows,
            )
            self.picture(step, "reconstructions", figure)
            self.picture(step, "samples", plots.samples(samples))
        return validate.result(jax.device_get(totals))

    def picture(self, step: int, name: str, figure) -> None:
        path = self.workdir / "images" / f"{name}_{step:07d}.png"
        plots.save(figure, path)
        self.log.image(step, name, path)


def named(prefix: str, values) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}


def postfix(values: dict[str, float], metrics: dict[str, float]) -> str:
    """Returns the numbers that the progress bar shows."""
    shown = {"rec": "rec_loss", "kl": "kl_loss", "logvar": "logvar"}
    if values["train/disc_factor"]:
        shown |= {"g": "g_loss", "disc": "disc_loss", "d_weight": "d_weight"}
    parts = [f"{short} {values[f'train/{name}']:.3g}" for short, name in shown.items()]
    if metrics:
        parts.append(f"val {metrics['rmse_db']:.2f} dB")
    return ", ".join(parts)


def summary(step: int, metrics: dict[str, float]) -> str:
    return (
        f"step {step}: validation PSNR {metrics['psnr']:.2f} dB, "
        f"SSIM {metrics['ssim']:.4f}, NMSE {metrics['nmse']:.5f}, "
        f"RMSE {metrics['rmse_db']:.2f} dB"
    )
