"""Sampling: the reverse process as one scan over the calls of the network."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.diffusion.process import Predict, Process
from radiovae_jax.types import Array, Latent, PRNGKey


def reverse(
    process: Process,
    predict: Predict,
    x: Latent,
    noises: Float[Array, "n b p q z"],
    *,
    calls: int,
    start: float = 1.0,
) -> Latent:
    """Returns z from x at time `start`, as one scan.

    Args:
      noises: normal draws for each call; that of the last is multiplied by 0.
      calls: steps of the sampler; `process.times` may add one.
      start: time of x; the steps are shortened in proportion.
    """
    times, steps = (start * jnp.asarray(array) for array in process.times(calls))

    def step(x, now):
        t, s, noise = now
        t, s = jnp.full(len(x), t), jnp.full(len(x), s)
        return process.step(predict(x, t, t - s), x, t, s, noise), None

    return jax.lax.scan(step, x, (times, steps, noises))[0]


def draw(
    process: Process,
    predict: Predict,
    shape: tuple[int, int, int, int],
    key: PRNGKey,
    *,
    calls: int,
    start: tuple[Latent, float] | None = None,
) -> Latent:
    """Returns one draw of z for each condition.

    Args:
      shape: of z.
      start: (z, t) to begin from instead of pure noise: z as it looks at time t, to
        refine what a regression gave.
    """
    first, later = jax.random.split(key)
    noise = jax.random.normal(first, shape)
    z, t = (jnp.zeros(shape), 1.0) if start is None else start
    x = process.corrupt(z, noise, jnp.full(shape[0], t))
    noises = jax.random.normal(later, (len(process.times(calls)[0]), *shape))
    return reverse(process, predict, x, noises, calls=calls, start=t)
