"""radiovae_jax: radio maps in JAX, a VAE-GAN and diffusion in its latents.

codec = radiovae_jax.load_codec("runs/radio")
z = codec.encode(f).mode()                        # f: [b, h, w, 1] in [0, 1]
recon = codec.decode(z, size=f.shape[1:3])

model, params = radiovae_jax.load("runs/radio")   # the network itself

predictor = radiovae_jax.load_predictor("runs/radio_ldm")     # the second stage
path_gain_db = predictor.predict(buildings, (120, 80))[0, 0]  # [h, w]
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
    "load_codec",
    "load_predictor",
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


def load_codec(workdir, weights: str = "ema", *, step: int = 0, stream: str = "auto"):
    """Returns what encodes and decodes maps with a run; see `vae.codec.Codec`."""
    from radiovae_jax.vae import codec

    return codec.load(workdir, weights, step=step, stream=stream)


def load_predictor(workdir, weights: str = "ema", *, step: int = 0):
    """Returns what predicts maps with a run; see `diffusion.predictor.Predictor`."""
    from radiovae_jax import stages

    return stages.load_predictor(workdir, weights, step=step)
