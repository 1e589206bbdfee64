"""The loop of a run: steps, numbers, pictures, checkpoints."""

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

from radiovae_jax import logbook, plots, sharding, validate
from radiovae_jax.checkpoint import Checkpoints
from radiovae_jax.data import pipeline
from radiovae_jax.train_step import TrainState


class Compiled(NamedTuple):
    """The executables of a run."""

    # Each twice: {False: without any discriminator, True: with it}.
    step: dict[bool, Callable]
    validate: dict[bool, Callable]
    sample: Callable


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

    config: ml_collections.ConfigDict
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
