"""The rows of a first stage's evaluation: from the mode, from a sample, and PCA."""

import jax
import ml_collections

from radiovae_jax.data import datasets, radiomap
from radiovae_jax.data.batch import resize
from radiovae_jax.evaluation import baselines
from radiovae_jax.evaluation.evaluator import Reconstruct, Reconstructed
from radiovae_jax.progress import Bar
from radiovae_jax.vae import codec
from radiovae_jax.vae.codec import Codec

ROWS = ("autoencoder", "autoencoder_sample", "pca")
SAMPLE_SEED = 0
PRIOR_SEED = 1  # of maps from the prior, for their Fréchet distance


def reconstruct(run: Codec) -> Reconstruct:
    """Returns what computes ROWS: ((params, pca or ()), image, raw) -> rows."""

    def rows(weights, image, raw):
        (params, pca), index = weights, raw["index"]
        posterior = run.posterior(params, image)
        key = jax.random.key(SAMPLE_SEED)
        z = codec.sample_each(key, index, posterior.mean, posterior.std)
        recons = {
            "autoencoder": run.image(params, posterior.mode()),
            "autoencoder_sample": run.image(params, z),
        }
        noise = codec.sample_each(jax.random.key(PRIOR_SEED), index, 0 * z, 1.0)
        if pca:
            f = baselines.reconstruct(pca, radiomap.model_to_f(image))
            recons["pca"] = radiomap.f_to_model(f)
        return Reconstructed(recons, posterior, run.image(params, noise))

    return rows


def fit_pca(config: ml_collections.ConfigDict, run: Codec) -> baselines.Pca:
    """Fits patches of the latent's size on the split that the run trained on."""
    source = datasets.open_data(config, config.data.train_split)
    maps = (
        resize(radiomap.gray_to_f(source[i]["gray"])[None], run.image_size)
        for i in Bar(range(len(source)), desc="pca", unit="map")
    )
    return baselines.fit_pca(maps, patch=run.factor, components=run.model.embed_dim)
