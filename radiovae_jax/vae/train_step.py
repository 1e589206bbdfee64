"""The whole algorithm: one step of the VAE-GAN, as a pure function of its state.

    forward once -> LossTerms -> one vjp:
        pull back the balance (nll), read the last layer  \\ d_weight: how much of g
        pull back g, read the last layer                  / balances reconstruction
        pull back the total (1, kl_weight, d_weight * disc_factor)
    -> AdamW -> the discriminator's own step on the same reconstruction -> EMA
    -> all of it left out where something was not finite

The weights of the terms are the cotangents of the vjp. XLA drops what the first two
pull-backs do not read, and cached_grad keeps them out of LPIPS and the discriminator.
What is minimised, and a new term, is in objectives.py.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, PyTree

from radiovae_jax import losses
from radiovae_jax.nn import cached_grad
from radiovae_jax.training import microbatches, monitor, optimizers
from radiovae_jax.types import Array, Batch, Image, Latent, Params, PerImage, PRNGKey
from radiovae_jax.vae import adversary, objectives
from radiovae_jax.vae.adversary import Adversary
from radiovae_jax.vae.autoencoder import AutoencoderKL
from radiovae_jax.vae.discriminator import PatchDiscriminator
from radiovae_jax.vae.objectives import LossSettings, LossTerms, Number, Reconstruction

Logs = dict[str, Float[Array, ""]]


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


class Part(NamedTuple):
    """A micro-batch and what is drawn for it."""

    batch: Batch
    noise: Latent
    dropout_key: PRNGKey


class Averages(NamedTuple):
    """What a forward pass leaves, besides terms, that is averaged over the parts."""

    means: Logs  # see objectives.loss_terms
    disc_stats: PyTree


class Kept(NamedTuple):
    """What a forward pass leaves for every image."""

    recon: Image
    posterior_logvar: Latent


def draw_noise(autoencoder: AutoencoderKL, image: Image, key: PRNGKey) -> Latent:
    """Returns the posterior's noise, of the whole batch at once.

    So its parts, on whatever devices, get what they would get together.
    """
    b, height, width, _ = image.shape
    factor = autoencoder.downsampling
    shape = (b, height // factor, width // factor, autoencoder.embed_dim)
    return jax.random.normal(key, shape)


def reconstruct(
    autoencoder: AutoencoderKL, params: Params, part: Part
) -> Reconstruction:
    """Returns what the autoencoder makes of a part, from a sample of the posterior."""
    variables = {"params": params["autoencoder"]}
    apply = functools.partial(
        autoencoder.apply, variables, rngs={"dropout": part.dropout_key}
    )
    posterior = apply(part.batch.image, True, method="encode")
    z = posterior.mean + posterior.std * part.noise
    output = apply(z, True, method="decode_output")
    return Reconstruction(autoencoder.to_image(output), output, posterior)


def reconstruct_all(
    autoencoder: AutoencoderKL, params: Params, parts: Part
) -> Float[Array, "n b h w c"]:
    """Returns the images of all parts."""

    def image_of(part):
        return (), reconstruct(autoencoder, params, part).image

    return microbatches.accumulate(image_of, parts)[1]


def forward(
    networks: Networks,
    settings: LossSettings,
    perceptual_weights: PyTree,
    disc: Adversary,
    params: Params,
    part: Part,
    *,
    adversarial: bool,
) -> tuple[LossTerms, tuple[Averages, Kept]]:
    """Returns every term of one part, and what else is wanted of the pass."""
    batch, made = part.batch, reconstruct(networks.autoencoder, params, part)

    def distance_of(image):
        return networks.perceptual(perceptual_weights, batch.target, image), ()

    distance, _ = cached_grad.with_slope(distance_of, made.image)
    terms, means = objectives.loss_terms(
        batch, made, distance, params["logvar"], settings
    )
    if settings.perceptual_weight:
        means |= {"perceptual_loss": distance.mean()}
    moved = disc.stats
    if adversarial:
        judge = functools.partial(
            adversary.discriminate, networks.discriminator, disc.params, disc.stats
        )

        def g_of(image):
            logits_fake, moved, _ = judge(image, batch.cond)
            return losses.generator(logits_fake), moved

        g, moved = cached_grad.with_slope(g_of, made.image)
        terms = terms._replace(g=g)
        if settings.feature_matching_weight:

            def matching_of(image):
                _, _, fake = judge(image, batch.cond)  # XLA runs it once, as above
                _, _, real = judge(batch.target, batch.cond)
                return losses.feature_matching(real, fake), ()

            matching, _ = cached_grad.with_slope(matching_of, made.image)
            terms = terms._replace(feature_matching=matching)
    return terms, (Averages(means, moved), Kept(made.image, made.posterior.logvar))


def pull_back(
    terms_of: Callable[[Params, PyTree], tuple[LossTerms, Any]],
    params: Params,
    parts: PyTree,
    last_layer: Callable[[Params], Float[Array, "..."]],
    settings: LossSettings,
    *,
    kl_weight: Number,
    disc_factor: Number,
    adversarial: bool,
) -> tuple[Params, LossTerms, Any, Any, Logs]:
    """Weighs the terms and returns the gradient of their sum.

    One part is one forward pass. Several are gone through twice, since d_weight is
    that of the whole batch and must be known before gradients are weighed: first
    forward and back to the last layer, then forward and back through everything. That
    is 4/3 of the work in the adversarial phase, and nothing before it; to accumulate
    g's gradient apart from the rest would pull back twice through everything (5/3) and
    hold two gradients.

    Args:
      terms_of: (params, part) -> (LossTerms, (what to average, what to keep)).
      parts: of `microbatches.split`.
      last_layer: picks the decoder's output kernel out of params.
      adversarial: False leaves the adversarial term and its balance out entirely.

    Returns:
      gradient of the total, terms, averages, kept, {"total_loss", "d_weight"}.
    """

    def vjp_of(part):
        return jax.vjp(lambda params: terms_of(params, part), params, has_aux=True)

    if microbatches.count(parts) == 1:
        whole = vjp_of(microbatches.first(parts))
        vjp_of = lambda part: whole  # noqa: E731

    def pulled(pullback, weights: LossTerms) -> Params:
        (grads,) = pullback(jax.tree.map(jnp.asarray, weights))
        return grads

    def last_gradients(part):
        _, pullback, _ = vjp_of(part)
        nll_grad = pulled(pullback, objectives.balance_weights(settings))
        g_grad = pulled(pullback, objectives.NO_TERMS._replace(g=1.0))
        return (last_layer(nll_grad), last_layer(g_grad)), ()

    d_weight = jnp.zeros(())
    if adversarial and settings.disc_factor > 0:
        pair, _ = microbatches.accumulate(last_gradients, parts)
        d_weight = settings.disc_weight * losses.adaptive_weight(*pair)
    weights = objectives.total_weights(
        settings, kl_weight=kl_weight, g_weight=d_weight * disc_factor
    )

    def gradient(part):
        terms, pullback, (averages, kept) = vjp_of(part)
        scaled = jax.tree.map(lambda w: w * settings.loss_scale, weights)
        return (pulled(pullback, scaled), terms, averages), kept

    (grads, terms, averages), kept = microbatches.accumulate(gradient, parts)
    logs = {"total_loss": objectives.weighed(weights, terms), "d_weight": d_weight}
    return grads, terms, averages, kept, logs


def train_step(
    networks: Networks,
    opt: Optimizers,
    schedules: Schedules,
    settings: LossSettings,
    perceptual_weights: PyTree,
    state: TrainState,
    batch: Batch,
    key: PRNGKey,
    *,
    adversarial: bool,
) -> tuple[TrainState, Logs]:
    """Returns the next state and the logged numbers.

    Bind all but state, batch and key, and jit the rest with the state donated.
    `adversarial=False` is the step before `disc_start`: no discriminator work at all,
    its numbers logged as 0.
    """
    step_key = jax.random.fold_in(key, state.step)
    sample_key, dropout_key, fresh_key = jax.random.split(step_key, 3)
    split = functools.partial(microbatches.split, parts=settings.accumulate_steps)
    draw = functools.partial(draw_noise, networks.autoencoder, batch.image)
    parts = Part(
        batch=split(batch),
        noise=split(draw(sample_key)),
        dropout_key=jax.random.split(dropout_key, settings.accumulate_steps),
    )
    factor = schedules.disc_factor(state.step) if adversarial else jnp.zeros(())
    kl_weight = schedules.kl_weight(state.step)
    disc = Adversary(state.disc_params, state.disc_stats, state.lecam)
    if adversarial and networks.discriminator.use_actnorm:
        part = microbatches.first(parts)
        recon = reconstruct(networks.autoencoder, state.params, part).image
        disc = adversary.set_actnorm(
            networks.discriminator, disc, recon, part.batch.cond
        )

    terms_of = functools.partial(
        forward, networks, settings, perceptual_weights, disc, adversarial=adversarial
    )
    grads, terms, averages, kept, weighing = pull_back(
        terms_of,
        state.params,
        parts,
        last_kernel,
        settings,
        kl_weight=kl_weight,
        disc_factor=factor,
        adversarial=adversarial,
    )
    rates = {
        "autoencoder": (schedules.learning_rate(state.step), opt.clip_weights),
        "logvar": (schedules.logvar_rate(state.step), 0.0),
    }
    direction, opt_state = opt.autoencoder.update(grads, state.opt_state, state.params)
    params = {
        name: optimizers.descend(state.params[name], direction[name], rate, limit=limit)
        for name, (rate, limit) in rates.items()
    }
    new = state._replace(step=state.step + 1, params=params, opt_state=opt_state)

    disc_grads, disc_logs = (), adversary.idle_logs(settings)
    if adversarial:
        recons = kept.recon
        if settings.fresh_reconstruction:
            fresh = parts._replace(noise=split(draw(fresh_key)))
            recons = reconstruct_all(networks.autoencoder, params, fresh)
        disc_grads, disc, disc_logs = adversary.gradient(
            networks.discriminator,
            disc._replace(stats=averages.disc_stats),
            parts.batch,
            recons,
            factor,
            settings,
        )
        direction, disc_opt_state = opt.discriminator.update(
            disc_grads, state.disc_opt_state, disc.params
        )
        rate = schedules.disc_rate(state.step)
        new = new._replace(
            disc_params=optimizers.descend(
                disc.params, direction, rate, limit=opt.clip_weights
            ),
            disc_stats=disc.stats,
            disc_opt_state=disc_opt_state,
            lecam=disc.lecam,
        )

    new = new._replace(ema=moved_average(new, schedules.ema_decay(state.step)))
    seen = (weighing["total_loss"], disc_logs["disc_loss"], grads, disc_grads)
    new = unless_bad(new, state, seen)
    logs = averages.means | weighing | disc_logs
    logs |= watched(state, new, grads, disc_grads, kept) | {
        "logvar": state.params["logvar"],
        "nll_loss": terms.balance.rec,
        "g_loss": terms.g,
        "disc_factor": factor,
        "kl_weight": kl_weight,
        "learning_rate": rates["autoencoder"][0],
    }
    if settings.feature_matching_weight:
        logs["feature_matching_loss"] = terms.feature_matching
    return new, {name: jnp.asarray(n, jnp.float32) for name, n in logs.items()}


def last_kernel(params: Params) -> Float[Array, "3 3 i o"]:
    """The decoder's output kernel (not its bias): where the terms are balanced."""
    return params["autoencoder"]["decoder"]["conv_out"]["kernel"]


def unless_bad(new: TrainState, old: TrainState, seen: PyTree) -> TrainState:
    """Returns `new` where all of `seen` is finite, else `old` one step on, counted.

    A number that is not finite says nothing about the direction. With 0 in its place
    the rest of the gradient would still be that of a batch that overflowed somewhere,
    Adam's moments and the average would take it in for hundreds of steps, weight decay
    would act, and nobody would know. Leaving the update out costs one batch, is
    counted, and the run stops where it does not pass (train.max_skipped).

    Args:
      seen: losses and gradients; a sum of squares that overflows is not finite either.
    """
    good = jnp.isfinite(monitor.length(seen))
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    return kept._replace(
        step=new.step,
        skipped=jnp.where(good, old.skipped, old.skipped + 1),
        skipped_in_row=jnp.where(good, 0, old.skipped_in_row + 1),
    )


def watched(
    old: TrainState, new: TrainState, grads: Params, disc_grads: Params, kept: Kept
) -> Logs:
    """Returns what is logged besides the losses; see training/monitor.py."""
    before, after, slope = (p["autoencoder"] for p in (old.params, new.params, grads))
    logs = (
        monitor.norms("ae", slope, before, after)
        | monitor.extremes("recon", kept.recon)
        | monitor.extremes("posterior_logvar", kept.posterior_logvar)
        | {"skipped": new.skipped, "skipped_in_row": new.skipped_in_row}
    )
    if disc_grads:
        logs |= monitor.norms("disc", disc_grads, old.disc_params, new.disc_params)
    return logs


def averaged(state: TrainState, names: tuple[str, ...]) -> PyTree:
    """Picks out of the state what the EMA is of."""
    everything = {
        **state.params,
        "disc_params": state.disc_params,
        "disc_stats": state.disc_stats,
    }
    return {name: everything[name] for name in names}


def moved_average(state: TrainState, decay: Float[Array, ""]) -> PyTree:
    """Returns decay * ema + (1 - decay) * what it is of."""
    current = averaged(state, tuple(state.ema))
    return jax.tree.map(
        lambda old, new: (decay * old + (1.0 - decay) * new).astype(old.dtype),
        state.ema,
        current,
    )
