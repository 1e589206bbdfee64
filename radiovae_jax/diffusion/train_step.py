"""One step of the second stage, as a pure function of its state.

    maps -> frozen first stage -> z, normalised; what is known of the place -> planes
    noise, times -> the process's loss of the denoiser -> gradient, micro-batch by
    micro-batch -> AdamW -> EMA -> all of it left out where something was not finite

The loss is in process.py, the network in denoiser.py, the planes in data/conditions.py;
micro-batches, EMA and guard are those of the first stage, in training/updates.py.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.data import conditions, radiomap
from radiovae_jax.data.batch import binary_mask
from radiovae_jax.diffusion.state import Built, Frozen, TrainState
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import updates
from radiovae_jax.training.updates import Logs
from radiovae_jax.types import Array, Latent, Params, PerImage, PRNGKey

Raw = Mapping[str, Array]


class Examples(NamedTuple):
    """What is learned from: latents, what is drawn for them, and their condition."""

    z: Latent
    noise: Latent
    t: PerImage
    r: PerImage
    planes: Float[Array, "b h w k"]


def train_step(
    built: Built, frozen: Frozen, state: TrainState, raw: Raw, key: PRNGKey
) -> tuple[TrainState, Logs]:
    """Returns the next state and the logged numbers.

    Close over the first argument, and jit the rest with the state donated.
    """
    draw_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    parts = updates.split(
        examples(built, frozen, raw, draw_key), built.accumulate_steps
    )
    dropout_keys = jax.random.split(dropout_key, built.accumulate_steps)

    def gradient(part):
        loss_of = jax.value_and_grad(loss, argnums=1, has_aux=True)
        (_, logs), grads = loss_of(built, state.params, *part)
        return (grads, logs), ()

    (grads, logs), _ = updates.accumulate(gradient, (parts, dropout_keys))
    direction, opt_state = built.opt.update(grads, state.opt_state, state.params)
    rate = jnp.asarray(built.learning_rate(state.step), jnp.float32)
    params = updates.descend(state.params, direction, rate)
    ema = updates.update_ema(state.ema, params, built.ema_decay(state.step))
    new = state._replace(
        step=state.step + 1, params=params, ema=ema, opt_state=opt_state
    )
    new = updates.unless_bad(new, state, (logs["loss"], grads))
    logs |= updates.norms("denoiser", grads, state.params, new.params)
    return new, logs | {"learning_rate": rate}


def loss(
    built: Built, params: Params, drawn: Examples, dropout_key: PRNGKey
) -> tuple[Float[Array, ""], Logs]:
    """Returns the mean loss of a micro-batch, and the means of what is logged."""
    each = losses(built, params, drawn, rngs={"dropout": dropout_key})
    means = {name: value.mean() for name, value in each.items()}
    return means["loss"], means


def losses(
    built: Built, params: Params, drawn: Examples, **rngs: Mapping[str, PRNGKey]
) -> dict[str, PerImage]:
    """Returns the loss of each image, and its parts.

    Args:
      **rngs: {"rngs": {"dropout": key}} in training.
    """
    z, noise, t, r, planes = drawn
    network = functools.partial(built.denoiser.apply, params, **rngs)
    condition = network(planes, method="encode")

    def predict(x, t, r):
        return network(x, t, r, condition, bool(rngs), method="predict")

    each, parts = built.process.loss(predict, z, noise, t, r)
    return {"loss": each} | parts


def examples(
    built: Built,
    frozen: Frozen,
    raw: Raw,
    key: PRNGKey,
    planes: Float[Array, "b h w k"] | None = None,
) -> Examples:
    """Returns what a batch is learned from; everything that is random is drawn here.

    Of the whole batch at once, so its micro-batches, on whatever devices, get what
    they would get together.

    Args:
      planes: the condition; None draws it as the training does.
    """
    keys = jax.random.split(key, 4)
    if "z" in raw or "mean" in raw:  # exported
        posterior = DiagonalGaussian(*exported(raw))
    else:
        image = radiomap.f_to_model(built.first.target(raw))
        posterior = built.first.posterior(frozen.params, image)
    z = frozen.normalised(posterior.sample(keys[0]))
    noise = jax.random.normal(keys[1], z.shape)
    t, r = built.process.draw_times(keys[2], len(z))
    if planes is None:
        planes = draw_planes(built, raw, keys[3])
    return Examples(z, noise, t, r, planes)


def exported(raw: Raw) -> tuple[Latent, Latent]:
    """Returns mean and logvar of a batch's exported latents."""
    if "mean" in raw:
        return raw["mean"], raw["logvar"]
    return raw["z"], jnp.full_like(raw["z"], -jnp.inf)


def draw_planes(
    built: Built, raw: Raw, key: PRNGKey, count: int | None = None
) -> Float[Array, "b h w k"]:
    """Returns the condition of a batch.

    Args:
      count: of measurements of every map; None draws as the training does.
    """
    condition, size = built.condition, built.first.image_size
    measured = None
    if "measurements" in condition.planes:
        f = built.first.target(raw)
        count_key, place_key = jax.random.split(key)
        counts = (
            conditions.draw_counts(
                count_key,
                len(f),
                most=condition.measurements,
                none=condition.measurements_none,
            )
            if count is None
            else jnp.full(len(f), count)
        )
        street = jnp.ones((*f.shape[:3], 1))
        if "buildings" in raw:
            street = 1.0 - binary_mask(raw["buildings"], size)
        measured = conditions.measure(
            place_key, f, street, count=counts, most=count or condition.measurements
        )
    if condition.buildings_missing and "buildings" in raw:
        seen = conditions.without_some(
            jax.random.fold_in(key, 1), raw["buildings"], condition.buildings_missing
        )
        raw = {**raw, "buildings": seen}
    return conditions.planes(
        raw,
        condition.planes,
        size=size,
        pixel_metres=condition.pixel_metres,
        measurements=measured,
    )


def init_state(built: Built, key: PRNGKey, image_size: tuple[int, int]) -> TrainState:
    """Returns the state at step 0, a pure function of the key.

    Args:
      image_size: (h, w) of the maps as they are encoded.
    """
    height, width = image_size
    factor, k = built.first.factor, conditions.channels(built.condition.planes)
    x = jnp.zeros((1, height // factor, width // factor, built.first.channels))
    t = jnp.ones(1)
    params = built.denoiser.init(key, x, t, t, jnp.zeros((1, height, width, k)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        # A copy: the step donates its input, and one buffer is not donated twice.
        ema=jax.tree.map(jnp.copy, params),
        opt_state=built.opt.init(params),
        skipped=zero,
        skipped_in_row=jnp.copy(zero),
    )
