"""radiovae_jax: the VAE-GAN first stage for radio maps, in JAX.

model, params = radiovae_jax.load("runs/radio")
posterior = model.apply(params, x, method="encode")      # x: [b, h, w, 1], [-1, 1]
recon = model.apply(params, posterior.mode(), method="decode")
"""

from radiovae_jax import losses, metrics
from radiovae_jax.models.autoencoder import AutoencoderKL
from radiovae_jax.models.discriminator import PatchDiscriminator
from radiovae_jax.models.posterior import DiagonalGaussian

__version__ = "0.1.0"
__all__ = [
    "AutoencoderKL",
    "DiagonalGaussian",
    "PatchDiscriminator",
    "load",
    "losses",
    "metrics",
]


def load(workdir, weights: str = "ema", *, step: int = 0):
    """Returns (model, params) of a run; see `run_folder.load`."""
    # Not at the top: the core must import without the libraries of the loop.
    from radiovae_jax import run_folder

    return run_folder.load(workdir, weights, step=step)
