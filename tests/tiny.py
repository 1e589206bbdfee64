"""A run small enough for tests: seconds, not minutes, of compilation and of steps."""

import pathlib
import runpy

import ml_collections

from radiovae_jax import training
from radiovae_jax.vae import task

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def read(name: str, variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a file in configs/."""
    get_config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]
    return get_config(variant) if variant else get_config()


def config(city: pathlib.Path, **train) -> ml_collections.ConfigDict:
    """Returns the quickstart at its smallest: ch 32, two levels, 32x32, 6 steps."""
    tiny = read("quickstart")
    tiny.autoencoder.update(ch_mult=(1, 1), num_res_blocks=1, resolution=(32, 32))
    tiny.loss.update(disc_start=3, disc_ndf=8)
    tiny.optimizer.warmup_steps = 2
    tiny.data.update(root=str(city), synthetic=dict(maps=10, transmitters=2, size=32))
    tiny.train.update(
        steps=6,
        batch_size=4,
        log_every=1,
        validate_every=3,
        checkpoint_every=3,
        validation_batch_size=2,
        images=2,
    )
    tiny.train.update(**train)
    return tiny


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path):
    """Trains a first stage; returns the numbers of its last validation."""
    return training.run(task.make, config, workdir)
