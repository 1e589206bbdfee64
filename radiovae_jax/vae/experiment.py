"""From a config to the functions and arrays of a run.

Below it everything is arguments: the networks, the step and its losses know no config.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import PyTree

from radiovae_jax import losses, sharding
from radiovae_jax.data import radiomap, sources
from radiovae_jax.data.batch import resized, to_batch
from radiovae_jax.nn import layers, lpips
from radiovae_jax.training import optimizers, schedules
from radiovae_jax.training.task import drawn
from radiovae_jax.types import PRNGKey
from radiovae_jax.vae import loss_schedules
from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.discriminator import PatchDiscriminator
from radiovae_jax.vae.state import (
    Experiment,
    LossSettings,
    Networks,
    Objective,
    Optimizers,
    Pixelwise,
    Schedules,
    TrainState,
    averaged,
)

ConfigDict = ml_collections.ConfigDict
CONDITIONS = 2  # channels that a conditional discriminator sees besides the image


def build(config: ConfigDict, stored_shape: tuple[int, int, int]) -> Experiment:
    """Makes networks, objective, optimisers and schedules; loads LPIPS's weights.

    Args:
      stored_shape: (h, w, c) of the maps on disk.

    Raises:
      ValueError, FileNotFoundError: something in the config cannot be done.
    """
    loss = config.loss
    autoencoder = build_autoencoder(config)
    height, width = resized(*stored_shape[:2], config.data.image_size)
    distance, weights = build_perceptual(config)
    networks = Networks(autoencoder, build_discriminator(config), distance)
    crop = config.data.crop
    for size in ((crop, crop), (height, width)) if crop else ((height, width),):
        shape = (*size, stored_shape[2])
        check_networks(networks, weights, shape, CONDITIONS * loss.disc_conditional)
        if loss.ssim_weight or loss.ssim_balance:
            image = jnp.zeros((1, *shape))
            jax.eval_shape(losses.ssim, image, image)
    return Experiment(
        networks=networks,
        settings=build_settings(config),
        opt=build_optimizers(config),
        schedules=build_schedules(config),
        perceptual_weights=weights,
        to_batch=functools.partial(
            to_batch,
            image_size=config.data.image_size,
            pixel_weights=loss.pixel_weights,
            conditional=loss.disc_conditional,
            objective=loss.objective,
            mask_range=loss.mask_range,
            db_range=physical_range(config),
        ),
        latent_shape=(
            height // autoencoder.downsampling,
            width // autoencoder.downsampling,
            autoencoder.embed_dim,
        ),
    )


def check_networks(
    networks: Networks,
    perceptual_weights: PyTree,
    image_shape: tuple[int, int, int],
    cond: int,
) -> None:
    """Passes shapes, no numbers, through the networks, so that they can object.

    Raises:
      ValueError: a size, a width or a number of channels that does not go through.
    """
    autoencoder, discriminator, perceptual = networks
    height, width, channels = image_shape
    factor = autoencoder.downsampling
    if height % factor or width % factor:
        raise ValueError(
            f"image size {height}x{width} is not a multiple of the down-sampling "
            f"{factor} (autoencoder.ch_mult has {len(autoencoder.ch_mult)} levels); "
            f"set data.image_size={sharding.nearest(height, factor)} (or the crop), or "
            "use fewer levels"
        )
    key = jax.random.key(0)
    x = jnp.zeros((1, *image_shape))
    (recon, _), _ = jax.eval_shape(autoencoder.init_with_output, key, x, key)
    if recon.shape != x.shape:
        raise ValueError(
            f"the reconstruction has {recon.shape[-1]} channels and the maps "
            f"{channels}; set autoencoder.out_ch={channels}"
        )
    shown = jnp.zeros((1, height, width, channels + cond))
    jax.eval_shape(discriminator.init, key, shown)
    jax.eval_shape(perceptual, perceptual_weights, x, x)


def build_settings(config: ConfigDict) -> LossSettings:
    loss = config.loss
    fields = {name: loss[name] for name in LossSettings._fields if name in loss}
    own = dict(
        objective=build_objective(config),
        accumulate_steps=config.train.accumulate_steps,
    )
    return LossSettings(**fields | own)


def build_objective(config: ConfigDict) -> Objective:
    loss = config.loss
    numbers = loss.objectives[loss.objective]
    return Objective(
        name=loss.objective,
        total=Pixelwise(*numbers.total),
        balance=Pixelwise(*numbers.balance),
        pixel_weights=Pixelwise(*numbers.pixel_weights),
        pinn_form=loss.pinn_form,
        input_range=loss.input_range,
        reconstruction=loss.reconstruction,
        db_range=physical_range(config),
    )


def physical_range(config: ConfigDict) -> radiomap.DbRange:
    """Returns what radio terms take f for: where no dB are known, RadioMapSeer's."""
    data = config.data
    known = sources.db_range(data.source, data.db_floor, data.db_span)
    return known if known.span else radiomap.RADIOMAPSEER_DB


def build_autoencoder(config: ConfigDict) -> AutoencoderKL:
    fields = config.autoencoder.to_dict()
    if config.loss.reconstruction == "bce":
        fields["to_image"] = losses.image_from_logits
    return AutoencoderKL(**fields, dtype=layers.compute_dtype(config.train.dtype))


def build_discriminator(config: ConfigDict) -> PatchDiscriminator:
    loss = config.loss
    return PatchDiscriminator(
        in_channels=loss.disc_in_channels + CONDITIONS * loss.disc_conditional,
        ndf=loss.disc_ndf,
        num_layers=loss.disc_num_layers,
        use_actnorm=loss.use_actnorm,
        dtype=layers.compute_dtype(config.train.dtype),
    )


def build_perceptual(config: ConfigDict) -> tuple[Callable, PyTree]:
    """Returns (weights, x, recon) -> distance per image, and its weights.

    Raises:
      FileNotFoundError, ValueError: a weight above 0 and no LPIPS weights to be had.
    """
    if not config.loss.perceptual_weight:
        return (lambda weights, x, recon: jnp.zeros(x.shape[0])), ()
    weights = lpips.load_weights(config.loss.perceptual_weights)
    dtype = layers.compute_dtype(config.train.dtype)
    return functools.partial(lpips.distance, dtype=dtype), weights


def build_optimizers(config: ConfigDict) -> Optimizers:
    o = config.optimizer
    adam = dict(beta1=o.beta1, beta2=o.beta2, eps=o.eps)
    adamw = optimizers.adamw(**adam, weight_decay=o.weight_decay, clip_norm=o.clip_norm)
    return Optimizers(with_logvar(adamw, **adam), adamw, clip_weights=o.clip_weights)


def with_logvar(autoencoder: optax.GradientTransformation, *, beta1, beta2, eps):
    """Gives `logvar` its own Adam, without decay, beside the autoencoder's optimiser.

    Its gradient is a sum over all pixels: inside the autoencoder's global norm it
    would decide the clipping alone.
    """
    return optax.partition(
        {
            "autoencoder": autoencoder,
            "logvar": optax.scale_by_adam(beta1, beta2, eps),
        },
        {"autoencoder": "autoencoder", "logvar": "logvar"},
    )


def build_schedules(config: ConfigDict) -> Schedules:
    o = config.optimizer
    rate = functools.partial(
        schedules.learning_rate,
        o.schedule,
        end_factor=o.end_factor,
        steps=config.train.steps,
        warmup=o.warmup_steps,
        power=o.power,
    )
    return Schedules(
        learning_rate=rate(peak=o.learning_rate),
        logvar_rate=lambda step: o.logvar_learning_rate,
        disc_rate=rate(peak=o.disc_learning_rate),
        disc_factor=functools.partial(
            loss_schedules.disc_factor,
            disc_start=config.loss.disc_start,
            disc_factor=config.loss.disc_factor,
            disc_ramp_steps=config.loss.disc_ramp_steps,
        ),
        kl_weight=build_kl_schedule(config),
        ema_decay=schedules.ema(config.ema.schedule, maximum=config.ema.decay),
    )


def build_kl_schedule(config: ConfigDict) -> Callable:
    loss = config.loss
    fields = {
        "constant": {},
        "linear": dict(warmup=loss.kl_warmup_steps),
        "cyclical": dict(
            steps=config.train.steps, cycles=loss.kl_cycles, ratio=loss.kl_ratio
        ),
    }
    return functools.partial(
        loss_schedules.KL[loss.kl_schedule],
        kl_weight=loss.kl_weight,
        **fields[loss.kl_schedule],
    )


def adversarial(config: ConfigDict, step: int) -> bool:
    """Whether the step of this number has anything to do for the discriminator."""
    loss = config.loss
    if loss.discriminator_before_start == "released":
        return True
    return step >= loss.disc_start and loss.disc_factor > 0


def init_state(config: ConfigDict, experiment: Experiment, key: PRNGKey) -> TrainState:
    """Returns the state at step 0, a pure function of the key."""
    ae_key, sample_key, disc_key = jax.random.split(key, 3)
    autoencoder, discriminator, _ = experiment.networks
    # Parameters do not depend on the image's size: small ones initialise faster.
    side = autoencoder.downsampling
    x = jnp.zeros((1, side, side, autoencoder.in_channels))
    params = {
        "autoencoder": autoencoder.init(ae_key, x, sample_key)["params"],
        "logvar": jnp.asarray(config.loss.logvar_init, jnp.float32),
    }
    disc = init_discriminator(discriminator, disc_key)
    return new_state(config, experiment, params, disc)


def state_shapes(config: ConfigDict, experiment: Experiment) -> TrainState:
    """Returns the state as shapes and dtypes; nothing is computed."""
    init = functools.partial(init_state, config, experiment)
    return jax.eval_shape(init, jax.random.key(0))


def drawn_state(config: ConfigDict, experiment: Experiment, key: PRNGKey) -> TrainState:
    """Returns `init_state`, as one program that is compiled in little time."""
    return drawn(functools.partial(init_state, config, experiment), key)


def new_state(
    config: ConfigDict, experiment: Experiment, params: PyTree, disc: PyTree
) -> TrainState:
    """Returns the state at step 0 of these weights.

    Args:
      params: {"autoencoder", "logvar"}.
      disc: the discriminator's {"params", "batch_stats"}.
    """
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        disc_params=disc["params"],
        disc_stats=disc["batch_stats"],
        ema={},
        opt_state=experiment.opt.autoencoder.init(params),
        disc_opt_state=experiment.opt.discriminator.init(disc["params"]),
        lecam=losses.LeCamState.start(),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )
    # A copy: the step donates its input, and one buffer cannot be donated twice.
    average = jax.tree.map(jnp.copy, averaged(state, tuple(config.ema.of)))
    return state._replace(ema=average)


def init_discriminator(discriminator: PatchDiscriminator, key: PRNGKey) -> PyTree:
    """Returns fresh {"params", "batch_stats"}."""
    side = 8 * 2**discriminator.num_layers
    return discriminator.init(
        key, jnp.zeros((1, side, side, discriminator.in_channels))
    )
