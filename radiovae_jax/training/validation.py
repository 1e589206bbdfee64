"""Validation during training: metrics, pictures, histograms."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float, PyTree

from radiovae_jax import files, metrics, sharding
from radiovae_jax.data import mapfiles, pipeline, radiomap, sources
from radiovae_jax.training import distributed, logbook, stopping
from radiovae_jax.training.distributed import BarrierJit
from radiovae_jax.training.task import State, Task
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Image, PerImage

NAMED = 20  # maps in a warning
NEWEST_SAMPLES = "samples.npy"  # f of the last picture of samples, [b, h, w, c]


class Totals(NamedTuple):
    """Sums over a set: of metrics, of losses over images, and the number of images."""

    metrics: metrics.Sums
    losses: Logs
    images: Float[Array, ""]


class Compiled(NamedTuple):
    """The executables of a run, by phase where they differ; see `Task`."""

    step: Mapping[str, BarrierJit]
    validate: Mapping[str, BarrierJit]
    sample: BarrierJit
    activations: BarrierJit


class Validator(NamedTuple):
    """Measures and draws states on the validation set."""

    setup: Any  # of trainer.set_up
    train: Any  # that section of the config
    workdir: pathlib.Path
    log: logbook.Logbook | logbook.Silent
    key: Any
    named: set[str]  # maps without signal that were warned of already

    def run(
        self,
        compiled: Compiled,
        state: State,
        step: int,
        *,
        phase: str,
        stopped: Callable[[], bool],
    ) -> dict[str, float]:
        """Returns the numbers of the whole validation set; draws pictures.

        Args:
          stopped: asked between the batches; once it says so, nothing is returned.
        """
        validate = compiled.validate[phase]
        sums, shown, powerless = None, [], []
        mesh, source = self.setup.mesh, self.setup.val_data
        size = sharding.nearest(self.train.validation_batch_size, mesh.size)
        batches = pipeline.eval_batches(
            source,
            batch_size=size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        # The first process draws what it holds: the first rows of every batch.
        count, images = jax.process_count(), self.train.images
        several = sources.spread(source, images * count)
        chosen = [at for at in several if at % size < size // count][:images] or [0]
        for number, raw in enumerate(batches):
            if stopped():
                return {}
            empty = ~raw["gray"].any(axis=(1, 2, 3)) & (raw["mask"] > 0)
            powerless += map(str, raw["name"][empty])
            batch, examples = validate(state, sharding.to_devices(raw, mesh))
            sums = batch if sums is None else jax.tree.map(jnp.add, sums, batch)
            here = [at % size for at in chosen if at // size == number]
            if here and distributed.is_first():
                local = jax.tree.map(sharding.local, examples)
                shown.append(jax.tree.map(lambda x, at=here: x[at], (local, raw)))
        key = jax.random.fold_in(self.key, step)
        samples = jax.tree.map(sharding.local, compiled.sample(state, key))
        if distributed.is_first():
            self._draw(step, shown, samples)
        given = self.setup.task.metrics(jax.device_get(sums), samples)
        numbers = {name: float(value) for name, value in given.items()}
        self._warn(powerless, numbers)
        return numbers

    def _warn(self, powerless: list[str], numbers: Mapping[str, float]) -> None:
        """Says once which maps NMSE leaves out: each process of those that it has."""
        new = sorted(set(powerless) - self.named)
        if not new:
            return
        self.named.update(new)
        names = ", ".join(new[:NAMED]) + (" ..." if len(new) > NAMED else "")
        words = (
            "validation maps without any signal (all 0), out of the mean NMSE: %d (%s)"
        )
        if stopping.powerless(numbers):
            words += "; none has one, so look at the data of data.val_split"
        logging.warning(words, len(new), names)

    def _draw(self, step: int, shown: list, samples: Mapping[str, Any]) -> None:
        examples, raw = jax.tree.map(lambda *rows: np.concatenate(rows), *shown)
        images = self.workdir / "images"
        images.mkdir(exist_ok=True)
        for name, figure in self.setup.task.figures(examples, raw, samples).items():
            path = images / f"{name}_{step:07d}.png"
            with files.written(path) as partial:
                figure.savefig(partial, format="png", dpi=110)
            self.log.image(step, name, path)
        for name, values in samples.items():
            mapfiles.write_array(images / f"{name}.npy", values)


def totals(
    target: Image, recon: Image, losses: Mapping[str, PerImage], mask: PerImage
) -> tuple[Totals, dict[str, Image]]:
    """Returns the sums of a batch, and its maps and reconstructions for pictures.

    Args:
      target, recon: f.
      mask: 0 for images that only fill up the batch.
    """
    measured, _ = metrics.measure(target, recon, mask > 0)
    sums = {
        name: jnp.sum(jnp.where(mask > 0, values, 0.0))
        for name, values in losses.items()
    }
    return Totals(measured, sums, mask.sum()), {"target": target, "recon": recon}


def means(totals: Totals, db: radiomap.DbRange) -> dict[str, float]:
    """Returns the metrics of a set by name, and its losses as means over images."""
    losses = {name: float(n / totals.images) for name, n in totals.losses.items()}
    return losses | metrics.result(totals.metrics, db_per_unit=db.span)


def histograms(
    task: Task,
    compiled: Compiled,
    log: logbook.Logbook | logbook.Silent,
    state: State,
    raw: dict[str, jax.Array],
    step: int,
) -> None:
    """Writes how weights are spread, and what a batch makes of them."""
    activations = compiled.activations(state, raw)
    for name, part in task.weights(state).items() if distributed.is_first() else ():
        log.histogram(step, f"weights/{name}", addressable(part))
    for name, values in activations.items():
        log.histogram(step, name, sharding.local(values))


def addressable(part: PyTree) -> np.ndarray:
    """Returns the numbers of arrays in one row, as far as this process has them."""
    return np.concatenate(
        [
            np.ravel(shard.data)
            for leaf in jax.tree.leaves(part)
            for shard in leaf.addressable_shards
            if shard.replica_id == 0
        ]
    )


def named(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}


def quality(numbers: Mapping[str, float], db: radiomap.DbRange) -> str:
    """Returns the numbers of a validation as one line."""
    words = {
        "psnr": lambda value: f"PSNR {value:.2f} dB",
        "ssim": lambda value: f"SSIM {value:.4f}",
        "nmse": lambda value: f"NMSE {value:.5f}",
        "rmse": lambda value: f"RMSE {db.words(value)}",
    }
    parts = [say(numbers[name]) for name, say in words.items() if name in numbers]
    return ", ".join(parts or [f"{name} {n:.5g}" for name, n in numbers.items()])
