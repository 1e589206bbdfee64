"""How a state is looked at during training: numbers, pictures, histograms."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Bool, PyTree

from radiovae_jax import metrics, sharding
from radiovae_jax.data import mapfiles, pipeline, radiomap, sources
from radiovae_jax.data.batch import resize
from radiovae_jax.reporting import plots
from radiovae_jax.training import distributed, logbook
from radiovae_jax.training.distributed import BarrierJit
from radiovae_jax.vae import validate
from radiovae_jax.vae.train_step import TrainState

NAMED = 20  # maps in a warning
NEWEST_SAMPLES = "samples.npy"  # f of the last picture of samples, [b, h, w, c]


class Compiled(NamedTuple):
    """The executables of a run."""

    # Each twice: {False: without any discriminator, True: with it}.
    step: dict[bool, BarrierJit]
    validate: dict[bool, BarrierJit]
    sample: BarrierJit
    latents: BarrierJit  # (state, raw batch) -> mean and deviation of the posterior


class Judge(NamedTuple):
    """Looks at states; knows where to put what it sees."""

    compiled: Compiled
    mesh: Any
    validation: sources.Source
    batch_size: int
    rows: int  # of the picture, and samples from the prior
    db: radiomap.DbRange  # what f is in dB
    workdir: pathlib.Path
    log: Any
    sample_key: Any
    powerless: set[str]  # maps without power that were named already

    def validate(
        self,
        state: TrainState,
        step: int,
        *,
        adversarial: bool,
        stopped: Callable[[], bool],
    ) -> dict[str, float]:
        """Judges the average weights on the whole validation set; draws pictures.

        Args:
          stopped: asked between the batches; once it says so, nothing is returned.
        """
        judge = self.compiled.validate[adversarial]
        totals, shown, powerless = None, [], []
        size = sharding.nearest(self.batch_size, self.mesh.size)
        batches = pipeline.eval_batches(
            self.validation,
            batch_size=size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        # The first process draws what it holds: the first rows of every batch.
        rows = size // jax.process_count()
        several = sources.spread(self.validation, self.rows * jax.process_count())
        chosen = [at for at in several if at % size < rows][: self.rows] or [0]
        for number, raw in enumerate(batches):
            if stopped():
                return {}
            empty = ~raw["gray"].any(axis=(1, 2, 3)) & (raw["mask"] > 0)
            powerless += map(str, raw["name"][empty])
            batch, *pair = judge(state, sharding.to_devices(raw, self.mesh))
            totals = batch if totals is None else jax.tree.map(jnp.add, totals, batch)
            here = [at % size for at in chosen if at // size == number]
            if here and distributed.is_first():
                target, recon = (sharding.local(image)[here] for image in pair)
                roofs = outlines(raw, target.shape[1])[here]
                shown.append((target, recon, raw["name"][here], roofs))
        samples = sharding.local(
            self.compiled.sample(state, jax.random.fold_in(self.sample_key, step))
        )
        if distributed.is_first():
            self._draw(step, shown, samples)
        totals = jax.device_get(totals)
        self._name(powerless, left=int(totals.metrics.nmse_images))
        result = validate.result(totals, db_per_unit=self.db.span)
        if self.rows > 1:  # in f where it has no dB
            unit = self.db.span or 1.0
            diversity = jax.jit(metrics.diversity_db, static_argnames="db_per_unit")
            result["sample_diversity"] = float(diversity(samples, db_per_unit=unit))
        return result

    def _name(self, powerless: list[str], *, left: int) -> None:
        """Says once which maps NMSE leaves out: each process of those that it has."""
        new = sorted(set(powerless) - self.powerless)
        if not new:
            return
        self.powerless.update(new)
        names = ", ".join(new[:NAMED]) + (" ..." if len(new) > NAMED else "")
        logging.warning(
            "validation maps without any signal (all 0), which the mean NMSE leaves "
            "out: %d (%s)%s",
            len(new),
            names,
            ""
            if left
            else ". None has a signal: NMSE and `best` have nothing to go by; look at "
            "the data of data.val_split",
        )

    def _draw(self, step: int, shown: list, samples: np.ndarray) -> None:
        maps, recons, names, roofs = map(np.concatenate, zip(*shown, strict=True))
        figure = plots.reconstructions(
            maps,
            recons,
            names=[str(name) for name in names],
            buildings=roofs,
            max_rows=self.rows,
            db=self.db,
        )
        self._picture(step, "reconstructions", figure)
        self._picture(step, "samples", plots.samples(samples, db=self.db))
        mapfiles.write_array(self.workdir / "images" / NEWEST_SAMPLES, samples)

    def _picture(self, step: int, name: str, figure) -> None:
        path = self.workdir / "images" / f"{name}_{step:07d}.png"
        plots.save(figure, path)
        self.log.image(step, name, path)


def outlines(raw: dict[str, np.ndarray], height: int) -> Bool[np.ndarray, "b _ _ 1"]:
    """Returns where buildings are, in pictures of this height; nowhere if unknown."""
    nowhere = np.zeros((*raw["gray"].shape[:3], 1), np.uint8)
    seen = radiomap.gray_to_f(raw.get("buildings", nowhere))
    stored = seen.shape[1] == height
    return np.asarray(seen if stored else resize(seen, height)) >= 0.5


def histograms(
    log: logbook.Logbook | logbook.Silent,
    compiled: Compiled,
    state: TrainState,
    raw: dict[str, jax.Array],
    step: int,
) -> None:
    """Writes how the weights are spread, by part of the networks, and the latents.

    Args:
      raw: the batch whose latents are shown.
    """
    latents = compiled.latents(state, raw)
    if not distributed.is_first():
        return
    parts = state.params["autoencoder"] | {"discriminator": state.disc_params}
    for name, part in parts.items():
        log.histogram(step, f"weights/{name}", held(part))
    for name, values in latents.items():
        log.histogram(step, f"latents/{name}", sharding.local(values))


def held(part: PyTree) -> np.ndarray:
    """Returns the numbers of some arrays in one row, as far as this process has them.

    All of them, unless the state is split over processes.
    """
    return np.concatenate(
        [
            np.ravel(shard.data)
            for leaf in jax.tree.leaves(part)
            for shard in leaf.addressable_shards
            if shard.replica_id == 0
        ]
    )


def named(prefix: str, values) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}


def postfix(
    values: dict[str, float], metrics: dict[str, float], db: radiomap.DbRange
) -> str:
    """Returns the numbers that the progress bar shows."""
    shown = {"rec": "rec_loss", "kl": "kl_loss", "logvar": "logvar"}
    if values["train/disc_factor"]:
        shown |= {"g": "g_loss", "disc": "disc_loss", "d_weight": "d_weight"}
    parts = [f"{short} {values[f'train/{name}']:.3g}" for short, name in shown.items()]
    if metrics:
        parts.append(f"val {db.words(metrics['rmse'])}")
    return ", ".join(parts)


def summary(step: int, metrics: dict[str, float], db: radiomap.DbRange) -> str:
    return f"step {step}: validation {quality(metrics, db)}"


def quality(metrics: dict[str, float], db: radiomap.DbRange) -> str:
    """Returns the numbers of a validation as one line."""
    return (
        f"PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f}, "
        f"NMSE {metrics['nmse']:.5f}, RMSE {db.words(metrics['rmse'])}"
    )
