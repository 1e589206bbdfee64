"""Sampling: the reverse process as one scan over the calls of the network."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from radiovae_jax.data import radiomap
from radiovae_jax.diffusion.process import Predict, Process
from radiovae_jax.diffusion.state import Built, Frozen
from radiovae_jax.types import Array, Image, Latent, Params, PRNGKey

Planes = Float[Array, "b h w k"]


def predict_maps(
    built: Built,
    frozen: Frozen,
    params: Params,
    planes: Planes,
    key: PRNGKey,
    index: Int[Array, "b"],
    *,
    calls: int,
    samples: int = 1,
    start: tuple[Latent, float] | None = None,
) -> Float[Array, "samples b height width c"]:
    """Returns maps f in [0, 1] for each condition, at the size of its planes.

    The condition is encoded once for all calls and samples.

    Args:
      index: number of each map, so that neither batch nor devices change its noise.
      calls: steps of the sampler.
      samples: of each condition.
      start: see `draw`; the latent is one of the process, normalised.
    """
    condition = built.denoiser.apply(params, planes, method="encode")
    side = condition[0].shape[1:3]

    def predict(x, t, r):
        return built.denoiser.apply(params, x, t, r, condition, method="predict")

    def one(key: PRNGKey) -> Image:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        n = len(built.process.times(calls)[0])
        shape = (n + 1, *side, built.first.channels)
        noises = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(keys)
        z = draw(built.process, predict, noises, calls=calls, start=start)
        x = built.first.image(frozen.params, frozen.restored(z))
        return jnp.clip(radiomap.model_to_f(x), 0, 1)

    return jax.lax.map(one, jax.random.split(key, samples))


def draw(
    process: Process,
    predict: Predict,
    noises: Float[Array, "n b p q z"],
    *,
    calls: int,
    start: tuple[Latent, float] | None = None,
) -> Latent:
    """Returns one draw of z for each condition.

    Args:
      noises: normal draws: where it begins, then one for each call of the network.
      start: (z, t) to begin from instead of pure noise: z as it looks at time t, to
        refine what a regression gave.
    """
    z, t = (jnp.zeros_like(noises[0]), 1.0) if start is None else start
    x = process.corrupt(z, noises[0], jnp.full(len(z), t))
    return reverse(process, predict, x, noises[1:], calls=calls, start=t)


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
