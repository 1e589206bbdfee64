"""Pictures of a trained run's latents, in its folder."""

import pathlib

import jax
import numpy as np

from radiovae_jax.data import datasets, pipeline, radiomap, sources
from radiovae_jax.data.batch import to_batch
from radiovae_jax.reporting import artifacts
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec

SEED = 0
BATCH = 8  # maps that are encoded at a time


def draw(workdir: pathlib.Path, *, count: int) -> list[pathlib.Path]:
    """Draws latents of the best checkpoint into figures/: channels, histogram.

    Args:
      count: of so many maps of the validation split (else the training one), of
        different cities where it has them.

    Raises:
      FileNotFoundError, ValueError: no run, no checkpoint, or no data.
    """
    config = run_folder.read_config(workdir)
    split = config.data.val_split or config.data.train_split
    source = datasets.open_data(config, split)
    model, params = codec.load_network(workdir)
    raw = pipeline.stack([source[i] for i in sources.spread(source, count)])
    raw.pop("name")
    size = config.data.image_size
    batch = to_batch(raw, image_size=size, pixel_weights="none", conditional=False)

    @jax.jit
    def encode(params, image, key):
        posterior = model.apply(params, image, method="encode")
        return posterior.mode(), posterior.sample(key)

    parts = []
    for first in range(0, len(batch.image), BATCH):
        key = jax.random.fold_in(jax.random.key(SEED), first)
        part = encode(params, batch.image[first : first + BATCH], key)
        parts.append(jax.device_get(part))
    mode, z = map(np.concatenate, zip(*parts, strict=True))
    f, db = radiomap.model_to_f(batch.image), datasets.db_range(config)
    return artifacts.latent_figures(workdir, f, mode, z, db=db)
