"""What a step of the VAE-GAN is made of: its state, networks, schedules, settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jaxtyping import Float, Int, PyTree

from radiovae_jax import losses, physics
from radiovae_jax.types import Array, Image, PerImage
from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.discriminator import PatchDiscriminator

Number = Float[Array, ""] | float | int
# The phases of the training, by whether the discriminator takes part.
PHASES = {False: "without discriminator", True: "with discriminator"}


class TrainState(NamedTuple):
    """Everything that a checkpoint holds of the training, arrays only."""

    step: Int[Array, ""]
    params: PyTree  # {"autoencoder": ..., "logvar": scalar}
    disc_params: PyTree
    disc_stats: PyTree  # running statistics (BatchNorm) or the flag (ActNorm)
    ema: PyTree
    opt_state: PyTree
    disc_opt_state: PyTree
    lecam: losses.LeCamState
    skipped: Int[Array, ""]  # steps whose update was not finite, since the start
    skipped_in_row: Int[Array, ""]  # of them, the latest without one between


def averaged(state: TrainState, names: tuple[str, ...]) -> PyTree:
    """Picks out of the state what the EMA is of."""
    everything = {
        **state.params,
        "disc_params": state.disc_params,
        "disc_stats": state.disc_stats,
    }
    return {name: everything[name] for name in names}


class Networks(NamedTuple):
    """The functions that are trained, and the fixed one that measures."""

    autoencoder: AutoencoderKL
    discriminator: PatchDiscriminator
    perceptual: Callable[[Any, Image, Image], PerImage]


class Schedules(NamedTuple):
    """Functions of the global step."""

    learning_rate: Callable
    logvar_rate: Callable
    disc_rate: Callable
    disc_factor: Callable
    kl_weight: Callable
    ema_decay: Callable


class Optimizers(NamedTuple):
    autoencoder: optax.GradientTransformation
    discriminator: optax.GradientTransformation
    clip_weights: float = 0.0  # bound of both networks' parameters; 0: none


class Pixelwise(NamedTuple):
    """A number for each term that is summed over pixels."""

    rec: Number
    edge: Number
    pinn: Number


class Objective(NamedTuple):
    """One objective: its name (of `objectives.TERMS`) and its numbers."""

    name: str
    total: Pixelwise
    balance: Pixelwise
    pixel_weights: Pixelwise  # multiples of the batch's weights, in the total only
    pinn_form: str  # "dimensionless" or "released"
    input_range: str  # "unit" or "released"
    reconstruction: str = "l1_mse"  # of losses.RECONSTRUCTION
    db_range: physics.DbRange = physics.RADIOMAPSEER_DB  # for the physics of `pinn`


class LossSettings(NamedTuple):
    """The numbers of the loss, fixed when the step is compiled.

    But for the first and the last they are the config's fields of `loss`, by name.
    """

    objective: Objective
    disc_loss: str
    disc_factor: float
    disc_weight: float
    kl_weight: float  # beta: what its schedule rises to
    perceptual_weight: float
    pixelloss_weight: float
    loss_scale: float  # multiplies both gradients; the released trainer has 1/2
    fresh_reconstruction: bool  # the discriminator sees a second forward pass
    reduction: str = "sum"  # of losses.REDUCTION
    kl_reduction: str = "same"  # as `reduction`; or of losses.REDUCTION
    free_bits_per: str = "dimension"  # or "entry"
    free_bits: float = 0.0  # nats; 0 is off, as for all that follow
    ssim_weight: float = 0.0
    ssim_balance: float = 0.0
    feature_matching_weight: float = 0.0
    r1_weight: float = 0.0
    lecam_weight: float = 0.0
    lecam_decay: float = 0.99
    accumulate_steps: int = 1  # micro-batches of a batch, see training/updates.py


class Experiment(NamedTuple):
    """What a config describes, ready to run."""

    networks: Networks
    settings: LossSettings
    opt: Optimizers
    schedules: Schedules
    perceptual_weights: PyTree
    to_batch: Callable  # raw arrays -> Batch
    latent_shape: tuple[int, int, int]
