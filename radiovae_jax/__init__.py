"""radiovae_jax: the VAE-GAN first stage for radio maps, in JAX.

model, params = radiovae_jax.load("runs/radio")
posterior = model.apply(params, x, method="encode")      # x: [b, h, w, 1], [-1, 1]
recon = model.apply(params, posterior.mode(), method="decode")
"""

import importlib
from typing import TYPE_CHECKING, Any

from radiovae_jax import _moved

if TYPE_CHECKING:  # for editors; see __getattr__
    from radiovae_jax import losses, metrics, physics
    from radiovae_jax.nn.posterior import DiagonalGaussian
    from radiovae_jax.vae.autoencoder import AutoencoderKL
    from radiovae_jax.vae.discriminator import PatchDiscriminator

__version__ = "0.1.0"
__all__ = [
    "AutoencoderKL",
    "DiagonalGaussian",
    "PatchDiscriminator",
    "load",
    "losses",
    "metrics",
    "physics",
]
_HOMES = {
    "AutoencoderKL": "vae.autoencoder",
    "DiagonalGaussian": "nn.posterior",
    "PatchDiscriminator": "vae.discriminator",
}
_moved.install()


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: JAX and Flax take a second."""
    if name not in __all__:
        raise AttributeError(f"module 'radiovae_jax' has no attribute {name!r}")
    module = importlib.import_module(f"radiovae_jax.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(workdir, weights: str = "ema", *, step: int = 0):
    """Returns (model, params) of a run; see `vae.codec.load_network`."""
    # Not at the top: the core must import without the libraries of the loop.
    from radiovae_jax.vae import codec

    return codec.load_network(workdir, weights, step=step)
