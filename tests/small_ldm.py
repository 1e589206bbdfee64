"""The second stage at its smallest: a first stage of patches, a denoiser of 32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from radiovae_jax.diffusion import process, state, train_step
from radiovae_jax.diffusion.denoiser import Denoiser
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import optimizers

PLANES = ("buildings", "transmitter", "log_distance", "measurements")


def first_stage() -> state.FirstStage:
    """A codec of the means of 4x4 pixels, three times over."""

    def posterior(params, x):
        b, h, w, _ = x.shape
        means = x.reshape(b, h // 4, 4, w // 4, 4, 1).mean((2, 4))
        z = params * means
        return DiagonalGaussian(z, jnp.full_like(z, -6.0))

    def image(params, z):
        means = (z / params).mean(-1, keepdims=True)
        return means.repeat(4, axis=1).repeat(4, axis=2)

    weights = jnp.array([1.0, 2.0, -1.0])[None, None, None]
    frozen = state.Frozen(weights, jnp.full(3, 0.2), jnp.full(3, 0.5))
    return state.FirstStage(posterior, image, frozen, 3, 4, 32, {})


def built(kind: str = "rectified", **fields) -> state.Built:
    made = process.KINDS[kind]()
    denoiser = Denoiser(
        made.heads,
        3,
        4,
        width=32,
        mult=(1,),
        blocks=1,
        attention_levels=0,
        condition_width=32,
        log_time=made.log_time,
    )
    adamw = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-4, clip_norm=1.0)
    return state.Built(
        made,
        denoiser,
        first_stage(),
        state.Condition(PLANES, measurements=20, measurements_none=0.25),
        optimizers.adamw(**adamw),
        learning_rate=lambda step: 3e-3,
        ema_decay=lambda step: 0.9,
        **fields,
    )


def raw(count: int = 4) -> dict[str, np.ndarray]:
    """Maps whose gray falls off with the distance from the transmitter."""
    rng = np.random.default_rng(0)
    at = rng.integers(4, 28, (count, 2))
    rows, columns = np.mgrid[:32, :32]
    far = np.hypot(rows - at[:, :1, None], columns - at[:, 1:, None])
    buildings = np.zeros((count, 32, 32), np.uint8)
    buildings[:, :8, :8] = 255
    gray = np.where(buildings, 0, 255 - 5 * far).astype(np.uint8)
    antenna = np.where(far == 0, 255, 0).astype(np.uint8)
    named = dict(gray=gray, buildings=buildings, antenna=antenna)
    return {name: array[..., None] for name, array in named.items()}


def step_of(built: state.Built):
    return jax.jit(functools.partial(train_step.train_step, built), donate_argnums=1)
