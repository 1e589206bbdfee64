"""The loop of a run: steps, numbers, pictures, checkpoints; and how it ends."""

import contextlib
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging

from radiovae_jax import metrics, sharding
from radiovae_jax.cli import Interrupted
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.progress import Bar
from radiovae_jax.training import (
    distributed,
    judging,
    logbook,
    resources,
    run_folder,
    stopping,
)
from radiovae_jax.training.checkpoint import Checkpoints, NotWrittenError
from radiovae_jax.training.judging import Compiled
from radiovae_jax.training.preemption import Interruption
from radiovae_jax.vae import experiment
from radiovae_jax.vae.train_step import TrainState


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    judge: bool
    save: bool
    histograms: bool
    end: bool  # a signal came, and all processes agreed on this step


@dataclasses.dataclass
class Loop:
    """The long-lived parts of the loop; the state of the training passes through."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    mesh: Any
    compile: Callable[[float], Compiled]  # the executables at so many times the rates
    validation: Any
    checkpoints: Checkpoints
    log: logbook.Logbook | logbook.Silent
    step_key: Any
    sample_key: Any
    rollbacks: int  # how often this run went back to an older checkpoint

    def run(self, state: TrainState, batches) -> dict[str, float]:
        """Takes the steps that are left; whatever ends them early, saves first.

        Raises:
          Interrupted: a signal came; the last step is saved.
          FloatingPointError: going on is of no use; the message says why.
          OSError: something cannot be written or read.
        """
        train = self.config.train
        start, stop = int(state.step), min(train.steps, train.stop_at or train.steps)
        numbers = self.workdir / "metrics.jsonl"
        self.limits, self.metrics, self.powerless = limits(self.config), {}, set()
        self.validations = stopping.history(logbook.read(numbers), until=start)
        enough = stopping.enough(self.validations, self.limits)
        if enough and train.extend and start < stop:
            logging.info("%s; train.extend goes on", enough)
            self.limits, enough = self.limits._replace(plateau_since=start), ""
        if start >= stop or enough:
            done = enough or f"step {start} of {stop} is done already"
            logging.info("%s; train.extend=True goes on with more train.steps", done)
            return logbook.last_validation(numbers)
        logging.info(
            "compiling the first step of each phase: usually 20 to 60 s on a CPU, some "
            "minutes for the large networks"
        )
        self.bar = Bar(
            total=train.steps,
            initial=start,
            unit="step",
            disable=not distributed.is_first(),
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        with self.bar, Interruption() as self.interruption:
            while True:
                try:
                    return self.steps(state, batches, stop)
                except stopping.TooManySkippedError as error:
                    state = self.roll_back(state, batches, error)
                except OSError as error:
                    raise run_folder.explained(error, self.workdir) from error

    def steps(self, state: TrainState, batches, stop: int) -> dict[str, float]:
        """Steps from this state on; returns the numbers of the last validation."""
        start = int(state.step)
        self.compiled = self.compile(self.rate())
        self.clock, self.ledger = resources.Clock(start), stopping.SkipLedger()
        try:
            for done in range(start + 1, stop + 1):
                with self.clock.spent_on("data", pause=False):
                    batch = next(batches)
                raw = sharding.to_devices(batch, self.mesh)
                run_step = self.compiled.step[self.adversarial(done - 1)]
                if not run_step.ready:
                    with self.pause("compile", state):
                        run_step.make_ready(state, raw, self.step_key)
                state, logs = run_step(state, raw, self.step_key)
                self.ledger.add(done, batch["name"], logs["skipped_in_row"])
                self.bar.update()

                due = self.due(done, stop)
                values = self.look(state, raw, logs, done, due)
                judged = "val/nmse" in values
                problem = stopping.problem(values, self.validations, self.limits)
                end = due.end or self.interruption.noticed()
                enough = judged and not problem and self.enough()
                wanted = (due.save or end or enough) and not problem
                if wanted or (judged and (problem or self.new_best())):
                    self.save(state, batches, judged=judged)
                if problem:
                    self.checkpoints.wait()
                    told = self.told(problem, self.last_good(done - 1))
                    raise stopping.StoppedError(f"step {done}: {told}")
                if end:
                    self.checkpoints.wait()
                    raise Interrupted(
                        f"saved step {done} of {self.config.train.steps} in "
                        f"{self.workdir}; the same command goes on from there"
                    )
                if enough:
                    break
            self.checkpoints.wait()
        except (FloatingPointError, NotWrittenError, Interrupted):
            raise  # not worth saving, not possible, or done
        except BaseException:
            self.rescue(state, batches)
            raise
        return self.metrics

    def new_best(self) -> bool:
        """Whether the last validation is better than all before it."""
        *before, last = self.validations
        return last.nmse < min((one.nmse for one in before), default=math.inf)

    def enough(self) -> bool:
        """Whether more steps are not worth it, and says why."""
        words = stopping.enough(self.validations, self.limits)
        if words:
            self.say(words)
        return bool(words)

    @contextlib.contextmanager
    def pause(self, purpose: str, state: Any) -> Iterator[None]:
        """Keeps what is no step out of the steps' time, in the log and in the bar.

        The steps that led to the state, and may still run on the device, are waited for
        first.
        """
        jax.block_until_ready(state)
        start = time.monotonic()
        with self.clock.spent_on(purpose):
            yield
        if not self.bar.disable:
            seconds = time.monotonic() - start
            self.bar.start_t += seconds
            self.bar.last_print_t += seconds

    def say(self, words: str) -> None:
        if distributed.is_first():
            self.bar.write(words)

    def due(self, done: int, stop: int) -> Due:
        train = self.config.train
        end = self.interruption.reached(done)
        log, judge, save = (
            done % every == 0 or done == stop
            for every in (train.log_every, train.validate_every, train.checkpoint_every)
        )
        return Due(
            log=log,
            judge=(judge or save) and not end and self.validation is not None,
            save=save or end,
            histograms=bool(train.histogram_every)
            and done % train.histogram_every == 0,
            end=end,
        )

    def look(
        self, state: TrainState, raw: dict, logs: dict, done: int, due: Due
    ) -> dict[str, float]:
        """Collects, shows and logs the numbers of a step."""
        train = self.config.train
        values: dict[str, float] = {}
        if due.log or due.save or due.end:
            self.settle()
        try:
            if due.log:
                values |= judging.named("train", jax.device_get(logs))
                values |= resources.memory() | self.clock.lap(done, train.batch_size)
                for purpose in ("compile", "checkpoint", "histograms"):
                    values |= self.clock.told(purpose)
                shown = judging.postfix(values, self.metrics, self.db)
                self.bar.set_postfix_str(shown)
            if due.histograms:
                with self.pause("histograms", state):
                    judging.histograms(self.log, self.compiled, state, raw, done)
            if due.judge:
                values |= self.validate(state, done)
        finally:  # a step that is saved on the way out has its line too
            if values:
                self.log.write(done, values)
        return values

    def validate(self, state: TrainState, done: int) -> dict[str, float]:
        """Returns the numbers of a validation; none where a signal cut it short."""
        with self.pause("validation", state):
            found = self.judge().validate(
                state,
                done,
                adversarial=self.adversarial(done - 1),
                stopped=self.interruption.noticed,
            )
        if not found:
            return {}
        self.metrics = found
        nmse = metrics.deciding(found)
        self.validations.append(stopping.judged(done, nmse))
        self.say(judging.summary(done, found, self.db))
        return judging.named("val", found) | self.clock.told("validation")

    @property
    def db(self) -> radiomap.DbRange:
        return datasets.db_range(self.config)

    def judge(self) -> judging.Judge:
        train = self.config.train
        return judging.Judge(
            compiled=self.compiled,
            mesh=self.mesh,
            validation=self.validation,
            batch_size=train.validation_batch_size,
            rows=train.images,
            db=self.db,
            workdir=self.workdir,
            log=self.log,
            sample_key=self.sample_key,
            powerless=self.powerless,
        )

    def settle(self) -> None:
        """Logs the maps of skipped batches.

        Raises:
          TooManySkippedError: nothing was learned for train.max_skipped steps.
        """
        for skipped in self.ledger.settle():
            self.log.skipped(skipped.step, skipped.names)
            logging.warning(
                "step %d skipped: not finite with maps %s",
                skipped.step,
                ", ".join(skipped.names),
            )
            if skipped.in_row >= self.limits.max_skipped:
                good = self.last_good(skipped.step - skipped.in_row)
                problem = stopping.too_many(
                    skipped, good=good, rollbacks=self.rollbacks
                )
                raise stopping.TooManySkippedError(self.told(problem, good), good=good)

    def last_good(self, step: int) -> int:
        """Returns the newest checkpoint up to a step; 0 for none."""
        return max((at for at in self.checkpoints.steps() if at <= step), default=0)

    def told(self, problem: stopping.Problem, good: int) -> str:
        saved = f"the last good checkpoint is step {good}" if good else "nothing saved"
        return f"{problem.what}; {saved} in {self.workdir}. {problem.remedy}"

    def roll_back(
        self, state: TrainState, batches, error: stopping.TooManySkippedError
    ) -> TrainState:
        """Returns the last good state; lowers the rates. Raises where it may not."""
        train = self.config.train
        if not error.good or self.rollbacks >= train.rollback:
            raise error
        self.checkpoints.wait()
        self.checkpoints.drop_after(error.good)
        restored, position = self.checkpoints.restore_latest(state)
        batches.set_state(batches.get_state() | {"position": position["position"]})
        self.rollbacks += 1
        step = int(restored.step)
        self.log.rewind(step)
        self.validations = [one for one in self.validations if one.step <= step]
        self.bar.n = step
        logging.warning(
            "%s\nback at step %d, at %g of the learning rates (%d of %d times)",
            error,
            step,
            self.rate(),
            self.rollbacks,
            train.rollback,
        )
        return restored

    def rate(self) -> float:
        """The factor of all learning rates."""
        return self.config.train.rollback_factor**self.rollbacks

    def save(self, state: TrainState, batches, *, judged: bool) -> None:
        # Each step takes one batch; the iterator may already be one ahead.
        position = batches.get_state() | {
            "position": int(state.step),
            "rollbacks": self.rollbacks,
        }
        with self.pause("checkpoint", state):
            self.checkpoints.save(state, position, self.metrics if judged else None)

    def rescue(self, state: TrainState, batches) -> None:
        """Saves the last whole state, unless a step was consuming it.

        Of several processes none does: all must write, and an error may be of one.
        """
        if jax.process_count() > 1:
            return
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
            return
        if int(state.step) in (0, *self.checkpoints.steps()):
            return
        try:
            self.save(state, batches, judged=False)
            self.checkpoints.wait()
            logging.warning("saved step %d before ending", state.step)
        except NotWrittenError as error:
            logging.warning("step %d is not saved: %s", state.step, error)

    def adversarial(self, step: int) -> bool:
        return experiment.adversarial(self.config, step)


def limits(config: ml_collections.ConfigDict) -> stopping.Limits:
    """Returns what a run of this config bears."""
    train, loss = config.train, config.loss
    phases = 0 < loss.disc_start < train.steps and loss.disc_factor > 0
    return stopping.Limits(
        max_skipped=train.max_skipped,
        plateau_steps=train.stop_on_plateau_steps,
        plateau_since=loss.disc_start if phases else 0,
        kl_below=train.stop_on_kl_below,
        divergence=train.stop_on_divergence,
    )
