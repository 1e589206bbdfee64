"""The loop of a run: steps, numbers, pictures, checkpoints; and how it ends."""

import contextlib
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging

from radiovae_jax import files, sharding
from radiovae_jax.cli import Interrupted
from radiovae_jax.data import datasets
from radiovae_jax.progress import Bar
from radiovae_jax.training import distributed, logbook, resources, stopping, validation
from radiovae_jax.training.checkpoint import Checkpoints, NotWrittenError
from radiovae_jax.training.preemption import Interruption
from radiovae_jax.training.task import State


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    validate: bool
    save: bool
    histograms: bool
    end: bool  # a signal came, and all processes agreed on this step


@dataclasses.dataclass
class Loop:
    """The long-lived parts of the loop; the state of the training passes through."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    setup: Any  # of trainer.set_up
    checkpoints: Checkpoints
    log: logbook.Logbook | logbook.Silent
    step_key: Any
    sample_key: Any
    rollbacks: int  # how often this run went back to an older checkpoint

    def run(self, state: State) -> dict[str, float]:
        """Takes the steps that are left; raises as `trainer.run`, and saves first."""
        train, self.task = self.config.train, self.setup.task
        start, stop = int(state.step), min(train.steps, train.stop_at or train.steps)
        numbers = self.workdir / "metrics.jsonl"
        self.db, self.metrics = datasets.db_range(self.config), {}
        self.limits = stopping.Limits(
            max_skipped=train.max_skipped,
            plateau_steps=train.stop_on_plateau_steps,
            plateau_since=self.task.plateau_since,
            divergence=train.stop_on_divergence,
            of_stage=self.task.limits,
        )
        self.validations = stopping.history(logbook.read(numbers), until=start)
        enough = stopping.enough(self.validations, self.limits)
        if enough and train.extend and start < stop:
            logging.info("%s; train.extend goes on", enough)
            self.limits, enough = self.limits._replace(plateau_since=start), ""
        if start >= stop or enough:
            done = enough or f"step {start} of {stop} is done already"
            logging.info("%s; train.extend=True goes on with more train.steps", done)
            return logbook.last_validation(numbers)
        self.validator = validation.Validator(
            self.setup, train, self.workdir, self.log, self.sample_key, named=set()
        )
        words = "20 to 60 s on a CPU, some minutes for the large networks"
        logging.info("compiling the first step of each phase: usually %s", words)
        self.bar = Bar(
            total=train.steps,
            initial=start,
            unit="step",
            disable=not distributed.is_first(),
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        room = files.room_for(self.workdir)
        with self.bar, room, Interruption() as self.interruption:
            while True:
                try:
                    return self.steps(state, stop)
                except stopping.TooManySkippedError as error:
                    state = self.roll_back(state, error)

    def steps(self, state: State, stop: int) -> dict[str, float]:
        """Steps from this state on; returns the numbers of the last validation."""
        start, self.newest = int(state.step), state
        self.compiled = self.setup.compiled(self.rate())
        self.clock, self.pending = resources.Clock(start), []
        try:
            for done in range(start + 1, stop + 1):
                state = self.one_step(state, done, stop)
                if self.finished:
                    break
            self.checkpoints.wait()
        except (FloatingPointError, NotWrittenError, Interrupted):
            raise  # not worth saving, not possible, or done
        except BaseException:
            self.rescue(self.newest)
            raise
        return self.metrics

    def one_step(self, state: State, done: int, stop: int) -> State:
        """Takes the step that makes `done` of them, and does what is due after it."""
        with self.clock.spent_on("data", pause=False):
            batch = next(self.setup.batches)
        raw = sharding.to_devices(batch, self.setup.mesh)
        run_step = self.compiled.step[self.task.phase(done - 1)]
        if not run_step.ready:
            with self.pause("compile", state):
                run_step.make_ready(state, raw, self.step_key)
        state, logs = run_step(state, raw, self.step_key)
        self.newest = state
        self.pending.append((done, batch["name"], logs["skipped_in_row"]))
        self.bar.update()

        due = self.due(done, stop)
        values = self.look(state, raw, logs, done, due)
        validated = stopping.validated(values)
        problem = stopping.problem(values, self.validations, self.limits)
        end = due.end or self.interruption.noticed()
        enough = ""
        if validated and not problem:
            enough = stopping.enough(self.validations, self.limits)
            self.say(enough)
        self.finished = bool(enough)
        wanted = (due.save or end or self.finished) and not problem
        if wanted or (validated and (problem or self.new_best())):
            self.save(state, validated=validated)
        if problem:
            self.checkpoints.wait()
            message = self.message(problem, self.last_good(done - 1))
            raise FloatingPointError(f"step {done}: {message}")
        if end:
            self.checkpoints.wait()
            raise Interrupted(
                f"saved step {done} of {self.config.train.steps} in "
                f"{self.workdir}; the same command goes on from there"
            )
        return state

    def new_best(self) -> bool:
        """Whether the last validation is better than all before it."""
        *before, last = self.validations
        return last.nmse < min((one.nmse for one in before), default=math.inf)

    @contextlib.contextmanager
    def pause(self, purpose: str, state: Any) -> Iterator[None]:
        """Keeps what is no step out of the steps' time, in the log and in the bar."""
        jax.block_until_ready(state)  # the steps that led to it may still run
        start = time.monotonic()
        with self.clock.spent_on(purpose):
            yield
        if not self.bar.disable:
            seconds = time.monotonic() - start
            self.bar.start_t += seconds
            self.bar.last_print_t += seconds

    def say(self, words: str) -> None:
        if words and distributed.is_first():
            self.bar.write(words)

    def due(self, done: int, stop: int) -> Due:
        train, end = self.config.train, self.interruption.reached(done)
        log, validate, save = (
            done % every == 0 or done == stop
            for every in (train.log_every, train.validate_every, train.checkpoint_every)
        )
        has_validation = self.setup.val_data is not None
        return Due(
            log=log,
            validate=(validate or save) and not end and has_validation,
            save=save or end,
            histograms=bool(
                train.histogram_every and done % train.histogram_every == 0
            ),
            end=end,
        )

    def look(
        self, state: State, raw: dict, logs: dict, done: int, due: Due
    ) -> dict[str, float]:
        """Collects, shows and logs the numbers of a step."""
        values: dict[str, float] = {}
        if due.log or due.save or due.end:
            self.settle()
        try:
            if due.log:
                values |= validation.named("train", jax.device_get(logs))
                values |= resources.memory()
                values |= self.clock.lap(done, self.config.train.batch_size)
                for purpose in ("compile", "checkpoint", "histograms"):
                    values |= self.clock.seconds(purpose)
                self.bar.set_postfix_str(self.postfix(values))
            if due.histograms:
                with self.pause("histograms", state):
                    validation.histograms(
                        self.task, self.compiled, self.log, state, raw, done
                    )
            if due.validate:
                values |= self.validate(state, done)
        finally:  # a step that is saved on the way out has its line too
            if values:
                self.log.write(done, values)
        return values

    def postfix(self, values: dict[str, float]) -> str:
        """Returns the numbers that the progress bar shows."""
        parts = [f"{name} {n:.3g}" for name, n in self.task.bar(values).items()]
        if "rmse" in self.metrics:
            parts.append(f"val {self.db.words(self.metrics['rmse'])}")
        return ", ".join(parts)

    def validate(self, state: State, done: int) -> dict[str, float]:
        """Returns the numbers of a validation; none where a signal cut it short."""
        with self.pause("validation", state):
            numbers = self.validator.run(
                self.compiled,
                state,
                done,
                phase=self.task.phase(done - 1),
                stopped=self.interruption.noticed,
            )
        if not numbers:
            return {}
        self.metrics = numbers
        self.validations.append(stopping.validation(done, numbers))
        self.say(f"step {done}: validation {validation.quality(numbers, self.db)}")
        return validation.named("val", numbers) | self.clock.seconds("validation")

    def settle(self) -> None:
        """Logs the maps of skipped batches; raises where they are too many."""
        pending, self.pending = self.pending, []
        for step, names, in_row in stopping.settled(pending):
            self.log.skipped(step, names)
            words = "step %d skipped: not finite with maps %s"
            logging.warning(words, step, ", ".join(names))
            if in_row >= self.limits.max_skipped:
                good = self.last_good(step - in_row)
                problem = stopping.too_many(
                    step, in_row, good=good, rollbacks=self.rollbacks
                )
                message = self.message(problem, good)
                raise stopping.TooManySkippedError(message, good=good)

    def last_good(self, step: int) -> int:
        """Returns the newest checkpoint up to a step; 0 for none."""
        return max((at for at in self.checkpoints.steps() if at <= step), default=0)

    def message(self, problem: stopping.Problem, good: int) -> str:
        saved = f"the last good checkpoint is step {good}" if good else "nothing saved"
        return f"{problem.what}; {saved} in {self.workdir}. {problem.remedy}"

    def roll_back(self, state: State, error: stopping.TooManySkippedError) -> State:
        """Returns the last good state; lowers the rates. Raises where it may not."""
        train, batches = self.config.train, self.setup.batches
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
        words = "%s\nback at step %d, at %g of the learning rates (%d of %d times)"
        counts = self.rollbacks, train.rollback
        logging.warning(words, error, step, self.rate(), *counts)
        return restored

    def rate(self) -> float:
        """The factor of all learning rates."""
        return self.config.train.rollback_factor**self.rollbacks

    def save(self, state: State, *, validated: bool) -> None:
        # Each step takes one batch; the iterator may already be one ahead.
        position = self.setup.batches.get_state() | {
            "position": int(state.step),
            "rollbacks": self.rollbacks,
        }
        with self.pause("checkpoint", state):
            measured = self.metrics if validated else None
            self.checkpoints.save(state, position, measured)

    def rescue(self, state: State) -> None:
        """Saves the last whole state, unless a step was consuming it."""
        if jax.process_count() > 1:  # all must write, and an error may be of one
            return
        if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
            return
        if int(state.step) in (0, *self.checkpoints.steps()):
            return
        try:
            self.save(state, validated=False)
            self.checkpoints.wait()
            logging.warning("saved step %d before ending", state.step)
        except NotWrittenError as error:
            logging.warning("step %d is not saved: %s", state.step, error)
