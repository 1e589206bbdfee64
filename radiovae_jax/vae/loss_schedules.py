"""Weights of the VAE's loss terms as functions of the global step."""

import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax import losses
from radiovae_jax.training.schedules import Step
from radiovae_jax.types import Array


def disc_factor(
    step: Step, *, disc_start: int, disc_factor: float, disc_ramp_steps: int
) -> Float[Array, ""]:
    """0 before `disc_start`, `disc_factor` after; a ramp between where asked for."""
    factor = losses.adopt_weight(disc_factor, step, disc_start)
    if disc_ramp_steps:
        # Reaches its value ramp_steps after the start; the first step counts as 1.
        factor = factor * jnp.clip((step - disc_start + 1) / disc_ramp_steps, 0.0, 1.0)
    return factor


def kl_constant(step: Step, *, kl_weight: float) -> Float[Array, ""]:
    """`kl_weight` at every step."""
    return jnp.full_like(step, kl_weight, dtype=jnp.float32)


def kl_linear(step: Step, *, kl_weight: float, warmup: int) -> Float[Array, ""]:
    """From 0 at step 0 in a line to `kl_weight` at step `warmup`, then constant.

    Without warm-up it is constant.

    Source: Bowman et al. 2016 (arXiv:1511.06349), KL cost annealing, with a line.
    """
    if not warmup:
        return kl_constant(step, kl_weight=kl_weight)
    return kl_weight * jnp.clip(jnp.asarray(step) / warmup, 0.0, 1.0)


def kl_cyclical(
    step: Step, *, kl_weight: float, steps: int, cycles: int, ratio: float
) -> Float[Array, ""]:
    """`cycles` times over `steps`: from 0 in a line to `kl_weight`, then constant.

    Args:
      step: global step; beyond `steps` the cycles go on.
      kl_weight: what each cycle rises to.
      steps: length of the training.
      cycles: number of cycles in it; the last may be cut short by the rounding up.
      ratio: share of a cycle that it rises for.

    Source: Fu et al. 2019 (arXiv:1903.10145) with a linear ramp, counted from step 0;
    they take 4 cycles and a ratio of 0.5.
    """
    period = -(-steps // cycles)
    phase = (jnp.asarray(step) % period) / period
    return kl_weight * jnp.clip(phase / ratio, 0.0, 1.0)


KL = {"constant": kl_constant, "linear": kl_linear, "cyclical": kl_cyclical}
