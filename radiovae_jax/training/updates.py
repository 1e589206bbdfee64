"""What every stage's step does beside its losses: pure functions of arrays, all cheap.

Micro-batches, moving average (EMA), global norms, the descent, the finite guard.

`accumulate` gives the mean over micro-batches of whatever a function returns. Every
loss term is a mean over images, so the mean of the micro-batches' gradients is the
gradient of the whole batch wherever an image's terms depend on that image alone. What
does not:

- BatchNorm normalises each micro-batch by its own statistics. The running ones move
  once a step, towards the mean of the micro-batches' statistics.
- Free bits hold each latent entry's KL, averaged over a micro-batch, at the floor.
- LeCAM compares a micro-batch's logits with averages that include this one, not the
  batch. The averages themselves become those of the whole batch.
- ActNorm is set by the first one. Dropout draws another mask for each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PyTree

from radiovae_jax.types import Array, Params, Scalar

Logs = dict[str, Float[Array, ""]]


def split(batch: PyTree, parts: int) -> PyTree:
    """Returns the batch as micro-batches: [b, ...] -> [parts, m, ...].

    Micro-batch i holds images i, i + parts, ...: on a batch that is sharded in runs
    each device then keeps its own images, which parts of neighbours would send around.

    Raises:
      ValueError: the parts do not divide the batch.
    """

    def split_leaf(leaf):
        if leaf.shape[0] % parts:
            raise ValueError(
                f"a batch of {leaf.shape[0]} does not split into {parts} equal parts; "
                "change train.batch_size or train.accumulate_steps"
            )
        rows = leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:])
        return jnp.swapaxes(rows, 0, 1)

    return jax.tree.map(split_leaf, batch)


def count(parts: PyTree) -> int:
    return jax.tree.leaves(parts)[0].shape[0]


def first(parts: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], parts)


def accumulate(
    function: Callable[[PyTree], tuple[Any, Any]], parts: PyTree
) -> tuple[Any, Any]:
    """Runs `function` over micro-batches, holding the activations of one at a time.

    Args:
      function: micro-batch -> (what to average, what to stack).
      parts: of `split`.

    Returns:
      the mean of the first (of integers, which flags and counters are, the last one's),
      and the second with an axis of micro-batches in front.
    """
    if count(parts) == 1:
        mean, stacked = function(first(parts))
        return mean, jax.tree.map(lambda leaf: leaf[None], stacked)

    def averaged(leaf) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.inexact)

    def add(sums, part):
        new, stacked = function(part)
        return jax.tree.map(
            lambda old, leaf: old + leaf if averaged(leaf) else leaf, sums, new
        ), stacked

    shapes, _ = jax.eval_shape(function, first(parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, stacked = jax.lax.scan(add, zeros, parts)
    mean = jax.tree.map(
        lambda leaf: leaf / count(parts) if averaged(leaf) else leaf, sums
    )
    return mean, stacked


def descend(
    params: Params, direction: Params, rate: Scalar, *, limit: float = 0.0
) -> Params:
    """Returns params - rate * direction, clipped to [-limit, limit]; 0: not clipped."""
    new = jax.tree.map(lambda p, d: p - rate * d, params, direction)
    return optax.tree.clip(new, -limit, limit) if limit else new


def update_ema(average: PyTree, current: PyTree, decay: Scalar) -> PyTree:
    """Returns the EMA one step on: decay * average + (1 - decay) * current."""
    return jax.tree.map(
        lambda old, new: (decay * old + (1.0 - decay) * new).astype(old.dtype),
        average,
        current,
    )


def unless_bad(new: Any, old: Any, watched: PyTree) -> Any:
    """Returns the state `new` where all of `watched` is finite, else `old`, counted.

    A number that is not finite says nothing about the direction. With 0 in its place
    the rest of the gradient would still be that of a batch that overflowed somewhere,
    Adam's moments and the average would take it in for hundreds of steps, weight decay
    would act, and nobody would know. Leaving the update out costs one batch, is
    counted, and the run stops where it does not pass (train.max_skipped).

    Args:
      watched: losses and gradients; a sum of squares that overflows is not finite
        either.
    """
    good = jnp.isfinite(optax.tree.norm(watched))
    chosen = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    return chosen._replace(
        step=new.step,
        skipped=jnp.where(good, old.skipped, old.skipped + 1),
        skipped_in_row=jnp.where(good, 0, old.skipped_in_row + 1),
    )


def norms(name: str, grads: Params, before: Params, after: Params) -> Logs:
    """Returns the global l2 norms of a network's gradient, update and parameters.

    The gradient is as it comes, before clipping; the update is what was applied.
    """
    return {
        f"{name}_grad_norm": optax.tree.norm(grads),
        f"{name}_update_norm": optax.tree.norm(optax.tree.sub(after, before)),
        f"{name}_param_norm": optax.tree.norm(after),
    }


def extremes(name: str, values: Float[Array, "..."]) -> Logs:
    """Returns the lowest and the highest value."""
    return {f"{name}_min": values.min(), f"{name}_max": values.max()}
