"""Learning rate and EMA decay as functions of the global step.

`step` counts (autoencoder, discriminator) pairs and may be traced. No optimiser keeps
a count of its own for these: the discriminator's would start at `disc_start`.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from radiovae_jax.types import Array

Step = Int[Array, ""] | int
Rate = Float[Array, ""] | float


def cosine(step: Step, *, peak: float, end: float, steps: int, warmup: int) -> Rate:
    """Linear from 0 to `peak` over `warmup` steps, half a cosine to `end` at `steps`.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), one period.
    """
    if not warmup:
        return optax.cosine_decay_schedule(1.0, steps)(step) * (peak - end) + end
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=end,
    )
    return schedule(step + 1)  # the rate 0 of a warm-up's start would be no update


def polynomial(
    step: Step, *, peak: float, floor_factor: float, steps: int, power: float = 0.95
) -> Rate:
    """peak * max((1 - step / steps)^power, floor_factor).

    Source: RadioDiff, train_vae.py (power 0.95) and train_cond_ldm.py (0.96): their
    `min_lr` is a factor, not a rate.
    """
    remaining = jnp.clip(1.0 - step / steps, 0.0, 1.0)
    return peak * jnp.maximum(remaining**power, floor_factor)


def learning_rate(
    kind: str, *, peak: float, end_factor: float, steps: int, warmup: int, power: float
) -> Callable[[Step], Rate]:
    """Returns the rate of each step by the config's name: optimizer.schedule."""
    if kind == "cosine":
        end = peak * end_factor
        return lambda step: cosine(step, peak=peak, end=end, steps=steps, warmup=warmup)
    if kind == "polynomial":
        return lambda step: polynomial(
            step, peak=peak, floor_factor=end_factor, steps=steps, power=power
        )
    return lambda step: peak


def ema(kind: str, *, maximum: float, after: int = 100) -> Callable[[Step], Rate]:
    """Returns the decay of each step by the config's name: ema.schedule."""
    if kind == "released":
        return functools.partial(ema_decay_released, maximum=maximum, after=after)
    return functools.partial(ema_decay, maximum=maximum)


def ema_decay(step: Step, *, maximum: float) -> Float[Array, ""]:
    """min(maximum, (1 + n) / (10 + n)) with n updates done: short memory at first.

    Source: the warm-up of TensorFlow's ExponentialMovingAverage(num_updates).
    """
    return jnp.minimum(maximum, (1.0 + step) / (10.0 + step))


def ema_decay_released(
    step: Step, *, maximum: float = 0.995, after: int = 100
) -> Float[Array, ""]:
    """The decay RadioDiff's trainer ends with; 1 where it leaves the average alone.

    Updates every 10 steps; a copy (decay 0) until step `after`; then
    min(maximum, 1 - (1 + n)^(-2/3)), n = step - after.

    Source: ema-pytorch's `update_after_step` and `power` 2/3 as RadioDiff's
    train_vae.py calls it once after each iteration, so its calls are step + 1; in
    train_cond_ldm.py `maximum` is 0.999 and `after` 10,000.
    """
    n = jnp.maximum(step - after, 0)
    warm = jnp.minimum(maximum, 1.0 - (1.0 + n) ** (-2.0 / 3.0))
    decay = jnp.where(step <= after, 0.0, warm)
    return jnp.where(step % 10 == 0, decay, 1.0)
