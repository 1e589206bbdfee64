"""Diffusion processes: decoupled (RadioDiff), rectified flow, mean flow, regression.

A process leads from a latent z at t = 0 to noise n at t = 1 and back. It is four pure
functions of arrays: `corrupt` (the forward process), `loss`, `step` (of the reverse
process) and `times` (of a sampler). The network is an argument, `predict(x, t, r)`,
whose condition is closed over; only mean flow reads r, the time that it jumps to.
`KINDS` has them by the config's names.

From pure noise, one call of `decoupled` or `rectified` trained with a squared error is
the mean of z given the condition, as `regression` is; of `mean_flow` it is a sample.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.types import Array, Latent, PerImage, PRNGKey, Scalar

EPS = 1e-4  # the released code's: the earliest time, and its last step
# (network's input, time, time it jumps to) -> prediction, as `heads` latents.
Predict = Callable[[Latent, PerImage, PerImage], tuple[Latent, ...]]
Losses = tuple[PerImage, dict[str, PerImage]]  # what is minimised, what is logged


class Process(NamedTuple):
    """A process by its functions; t, r and s are of each image, in [0, 1].

    Attributes:
      heads: latents that the network predicts.
      draw_times: (key, count) -> (t, r) to train at.
      corrupt: (z, noise, t) -> x, what the network sees of z at time t.
      loss: (predict, z, noise, t, r) -> (loss of each image, its parts).
      times: calls of the network -> (t, s) of each call: from t to t - s.
      step: (prediction, x, t, s, noise) -> x at t - s.
      estimate: (prediction, x, t) -> z as one call at t gives it.
      log_time: whether the network's features are of log(t)/4 (t >= EPS) or of t.
    """

    heads: int
    draw_times: Callable[[PRNGKey, int], tuple[PerImage, PerImage]]
    corrupt: Callable[[Latent, Latent, PerImage], Latent]
    loss: Callable[[Predict, Latent, Latent, PerImage, PerImage], Losses]
    times: Callable[[int], tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]]
    step: Callable[..., Latent]
    estimate: Callable[..., Latent]
    log_time: bool = False


def decoupled(
    *,
    weights: str = "exp",
    norm: str = "l2",
    precondition: str = "mended",
    denoise: bool = False,
    clip: float = 0.0,
) -> Process:
    """RadioDiff's: x_t = z + C t + sqrt(t) n with C = -z; the network gives (C, n).

    Args:
      weights: "exp", "ncsn" or "none", see `decoupled_weights`.
      norm: "l2", or "l1_l2" (released): half of the sum of both.
      precondition: "mended", "released" or "none", see `preconditioned`.
      denoise: the released sampler's last step of EPS: one call more.
      clip: bound of a sampler's estimates of z; 0: none. The release: 1 for pixels.

    Source: RadioDiff at 14c4a8c, ddm_const_sde.py: p_losses, sample_fn,
    pred_xtms_from_xt; after Huang et al. 2023 (arXiv:2308.06721).
    """

    def predicted(prediction, x, t):
        return preconditioned(*prediction, x, t, form=precondition)

    def estimate(prediction, x, t):
        c, n = predicted(prediction, x, t)
        z = x - _wide(t) * c - jnp.sqrt(_wide(t)) * n
        return jnp.clip(z, -clip, clip) if clip else z

    def loss(predict, z, noise, t, r):
        x = decoupled_corrupt(z, noise, t)
        c, n = predicted(predict(x, t, r), x, t)
        each = decoupled_loss(c, n, z, noise, t, weights=weights, norm=norm)
        return each, {"c_loss": _mean_square(c + z), "n_loss": _mean_square(n - noise)}

    def step(prediction, x, t, s, noise):
        # The released sampler goes on with the C of its estimate, not with the
        # network's.
        _, n = predicted(prediction, x, t)
        return decoupled_step(-estimate(prediction, x, t), n, x, t, s, noise)

    return Process(
        heads=2,
        draw_times=lambda key, count: _alone(
            EPS + (1 - EPS) * jax.random.uniform(key, (count,))
        ),
        corrupt=decoupled_corrupt,
        loss=loss,
        times=functools.partial(falling_times, denoise=denoise),
        step=step,
        estimate=estimate,
        log_time=True,
    )


def decoupled_corrupt(z: Latent, noise: Latent, t: PerImage) -> Latent:
    """Returns (1 - t) z + sqrt(t) n."""
    t = _wide(t)
    return z - t * z + jnp.sqrt(t) * noise


def preconditioned(
    c: Latent, n: Latent, x: Latent, t: PerImage, *, form: str
) -> tuple[Latent, Latent]:
    """Returns (C, n) of the network's two outputs.

    Args:
      form: "released", (1-t) x + t/sqrt(t^2+1) F1 and sqrt(t) x +
        sqrt((1-t)/(t^2+1)) F2. Its C tends to +z for t -> 0 where -z is wanted, which
        no bounded network mends; "mended" has -(1-t) x. "none" takes them as they are.

    Source: RadioDiff at 14c4a8c, mask_cond_unet.py; Karras et al. 2022
    (arXiv:2206.00364) for the idea.
    """
    if form == "none":
        return c, n
    t, sign = _wide(t), {"released": 1.0, "mended": -1.0}[form]
    c = sign * (1 - t) * x + t / jnp.sqrt(t**2 + 1) * c
    n = jnp.sqrt(t) * x + jnp.sqrt((1 - t) / (t**2 + 1)) * n
    return c, n


def decoupled_weights(t: PerImage, *, kind: str) -> tuple[PerImage, PerImage]:
    """Returns the weights of C's and n's error.

    Args:
      kind: "exp", 2 exp(1-t) and exp(sqrt t), the paper's time-dependent exponential
        weights; "ncsn", (t+1)/sqrt(t) and sqrt(2-t)/sqrt(1-t+EPS); "none", 1.

    Source: RadioDiff at 14c4a8c, ddm_const_sde.py, p_losses.
    """
    if kind == "exp":
        return 2 * jnp.exp(1 - t), jnp.exp(jnp.sqrt(t))
    if kind == "ncsn":
        return (t + 1) / jnp.sqrt(t), jnp.sqrt(2 - t) / jnp.sqrt(1 - t + EPS)
    return jnp.ones_like(t), jnp.ones_like(t)


def decoupled_loss(
    c: Latent,
    n: Latent,
    z: Latent,
    noise: Latent,
    t: PerImage,
    *,
    weights: str,
    norm: str,
) -> PerImage:
    """Returns w1 |C + z| + w2 |n - noise|, the errors as means over an image.

    Args:
      norm: "l2" is the mean square; "l1_l2" half of the mean square and mean absolute.
    """
    w1, w2 = decoupled_weights(t, kind=weights)

    def error(difference):
        square = _mean_square(difference)
        if norm == "l2":
            return square
        return (square + jnp.abs(difference).mean(axis=(1, 2, 3))) / 2

    return w1 * error(c + z) + w2 * error(n - noise)


def decoupled_step(
    c: Latent, n: Latent, x: Latent, t: PerImage, s: PerImage, noise: Latent
) -> Latent:
    """Returns a draw of x at t - s: x - C s - s/sqrt(t) n + sqrt(s (t-s)/t) noise."""
    t, s = _wide(t), _wide(s)
    mean = x - c * s - s / jnp.sqrt(t) * n
    return mean + jnp.sqrt(s * (t - s) / t) * noise


def rectified() -> Process:
    """Rectified flow: x_t = (1-t) z + t n, the network gives the velocity n - z.

    Source: Liu et al. 2022 (arXiv:2209.03003), eq. 1.
    """

    def loss(predict, z, noise, t, r):
        (v,) = predict(linear(z, noise, t), t, r)
        each = _mean_square(v - (noise - z))
        return each, {"v_loss": each}

    return Process(
        heads=1,
        draw_times=lambda key, count: _alone(jax.random.uniform(key, (count,))),
        corrupt=linear,
        loss=loss,
        times=falling_times,
        step=euler,
        estimate=lambda prediction, x, t: x - _wide(t) * prediction[0],
    )


def linear(z: Latent, noise: Latent, t: PerImage) -> Latent:
    """Returns (1 - t) z + t n."""
    return (1 - _wide(t)) * z + _wide(t) * noise


def euler(
    prediction: tuple[Latent], x: Latent, t: PerImage, s: PerImage, noise: Latent
) -> Latent:
    """Returns x - s v, Euler's step back along the velocity; no noise is added."""
    return x - _wide(s) * prediction[0]


def mean_flow(
    *,
    form: str = "improved",
    power: float = 1.0,
    offset: float = 0.01,
    share: float = 0.5,
) -> Process:
    """Mean flow: the network gives u(x, t, r), the mean velocity from t down to r.

    Between them v = u + (t - r) du/dt. "published" regresses u on v - (t - r) du/dt
    with the true v = n - z, also as the direction of the derivative. "improved"
    regresses u + (t - r) du/dt on n - z, with the network's own u(x, t, t) as that
    direction: a true regression, whose target does not hold the network.

    Args:
      form: "improved" or "published".
      power, offset: of the adaptive weight, 1 / (loss + offset)^power, a constant to
        the gradient; the weighted loss is about constant, so `v_loss` is logged.
      share: of the images with r < t; the others have r = t.

    Source: Geng et al. 2025 (arXiv:2505.13447), eq. 9 to 11 and 22; the official
    meanflow.py at d70cb55; improved: Geng et al. 2025 (arXiv:2512.02012).
    """

    def loss(predict, z, noise, t, r):
        x, v = linear(z, noise, t), noise - z

        def u_of(x, t, r):
            return predict(x, t, r)[0]

        direction = v
        if form == "improved":
            direction = jax.lax.stop_gradient(u_of(x, t, t))
        tangents = direction, jnp.ones_like(t), jnp.zeros_like(r)
        u, slope = jax.jvp(u_of, (x, t, r), tangents)
        slope = jax.lax.stop_gradient(slope)
        # The two forms have one residual; they differ in the direction alone.
        residual = u + _wide(t - r) * slope - v
        total = jnp.square(residual).sum(axis=(1, 2, 3))
        weight = jax.lax.stop_gradient((total + offset) ** -power)
        return weight * total, {"v_loss": _mean_square(u - v)}

    return Process(
        heads=1,
        draw_times=functools.partial(_pairs, share=share),
        corrupt=linear,
        loss=loss,
        times=falling_times,
        step=euler,
        estimate=lambda prediction, x, t: x - _wide(t) * prediction[0],
    )


def regression() -> Process:
    """No process: the network gives z from the condition alone, x being zeros."""

    def nothing(z, noise, t):
        return jnp.zeros_like(z)

    def loss(predict, z, noise, t, r):
        each = _mean_square(predict(nothing(z, noise, t), t, r)[0] - z)
        return each, {"z_loss": each}

    def times(calls: int):
        return np.ones(1, np.float32), np.ones(1, np.float32)

    return Process(
        heads=1,
        draw_times=lambda key, count: _alone(jnp.ones((count,))),
        corrupt=nothing,
        loss=loss,
        times=times,
        step=lambda prediction, x, t, s, noise: prediction[0],
        estimate=lambda prediction, x, t: prediction[0],
    )


KINDS = {
    "decoupled": decoupled,
    "rectified": rectified,
    "mean_flow": mean_flow,
    "regression": regression,
}


def falling_times(
    calls: int, *, denoise: bool = False
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Returns (t, s) of each call: equal steps from 1 to 0, in float32.

    Args:
      denoise: the last step is split in two, the second of EPS, so one call more.

    Times are added up in float32 as the released sampler adds them, and the last step
    takes all that is left, so that it ends at exactly 0.
    """
    sizes = np.full(calls, 1 / calls, np.float64)
    if denoise:
        sizes = np.append(sizes, EPS)
        sizes[-2] -= EPS
    times, t = [], np.float32(1)
    for size in sizes.astype(np.float32):
        times.append(t)
        t = np.float32(t - size)
    steps = sizes.astype(np.float32)
    steps[-1] = times[-1]
    return np.asarray(times, np.float32), steps


def _pairs(key: PRNGKey, count: int, *, share: float) -> tuple[PerImage, PerImage]:
    """Returns t >= r, both sigmoids of N(-0.4, 1); r = t but for a share of them."""
    key, which = jax.random.split(key)
    both = jax.nn.sigmoid(-0.4 + jax.random.normal(key, (2, count)))
    t = both.max(axis=0)
    apart = jax.random.uniform(which, (count,)) < share
    return t, jnp.where(apart, both.min(axis=0), t)


def _alone(t: PerImage) -> tuple[PerImage, PerImage]:
    return t, t


def _wide(t: PerImage | Scalar) -> Float[Array, "b 1 1 1"]:
    return jnp.reshape(t, (-1, 1, 1, 1))


def _mean_square(x: Latent) -> PerImage:
    return jnp.square(x).mean(axis=(1, 2, 3))
