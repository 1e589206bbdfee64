"""What a step of the second stage is made of: state, frozen first stage, settings."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, PyTree

from radiovae_jax.data import batch, radiomap
from radiovae_jax.diffusion.denoiser import Denoiser
from radiovae_jax.diffusion.process import Process
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.types import Array, Image, Latent

RECORD = "first_stage.json"  # in the run's folder: which first stage, its statistics


class TrainState(NamedTuple):
    """Everything that a checkpoint holds of the training, arrays only."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    opt_state: PyTree
    skipped: Int[Array, ""]  # steps whose update was not finite, since the start
    skipped_in_row: Int[Array, ""]  # of them, the latest without one between


class Frozen(NamedTuple):
    """The arrays that no step changes: the first stage's, and its latents' statistics.

    `mean` and `std` are those of each channel of the latents of the training split.
    """

    params: PyTree
    mean: Float[Array, "z"]
    std: Float[Array, "z"]

    def normalised(self, z: Latent) -> Latent:
        """Returns latents of mean 0 and deviation 1, which the process takes."""
        return (z - self.mean[None, None, None]) / self.std[None, None, None]

    def restored(self, z: Latent) -> Latent:
        """Undoes `normalised`: what the first stage decodes."""
        return z * self.std[None, None, None] + self.mean[None, None, None]


class FirstStage(NamedTuple):
    """A frozen codec, as functions of its parameters; a command hands it in.

    Attributes:
      posterior: (params, image in [-1, 1]) -> its posterior.
      image: (params, z) -> image in [-1, 1], unclipped.
      frozen: its arrays.
      channels: of the latent.
      factor: pixels to one of the latent, along a side.
      image_size: side that maps are resized to; 0: as stored.
      record: what the run's folder keeps of it: its identity and the statistics.
    """

    posterior: Callable[[PyTree, Image], DiagonalGaussian]
    image: Callable[[PyTree, Latent], Image]
    frozen: Frozen
    channels: int
    factor: int
    image_size: int
    record: Mapping[str, Any]

    def target(self, raw: Mapping[str, Array]) -> Image:
        """Returns the maps of a raw batch as f, at the size that it encodes."""
        return batch.resize(radiomap.gray_to_f(raw["gray"]), self.image_size)


def pixels(channels: int, image_size: int) -> FirstStage:
    """Returns the codec whose latent is the map itself, in [-1, 1]."""

    def posterior(params, x):
        return DiagonalGaussian(x, jnp.full_like(x, -jnp.inf))

    frozen = Frozen((), jnp.zeros(channels), jnp.ones(channels))
    return FirstStage(
        posterior,
        lambda params, z: z,
        frozen,
        channels,
        1,
        image_size,
        {"identity": "pixels"},
    )


class Condition(NamedTuple):
    """What the network sees of a place; fields of the config, by name."""

    planes: tuple[str, ...]  # of data.conditions.KINDS
    pixel_metres: float = 1.0
    buildings_missing: float = 0.0  # probability of each not to be seen
    measurements: int = 0  # at most, of each map
    measurements_none: float = 0.0  # probability of none


class Built(NamedTuple):
    """What a config describes, ready to run."""

    process: Process
    denoiser: Denoiser
    first: FirstStage
    condition: Condition
    opt: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]  # of the global step, as the next
    ema_decay: Callable[[Any], Any]
    accumulate_steps: int = 1

    @property
    def multiple(self) -> int:
        """What the sides of the first stage's maps must be multiples of."""
        return self.first.factor * 2 ** (len(self.denoiser.mult) - 1)
