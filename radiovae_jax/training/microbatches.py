"""Gradient accumulation: a batch in parts, one after the other, averaged.

`accumulate` gives the mean over the parts of whatever a function returns. Every loss
term is a mean over images, so the mean of the parts' gradients is the gradient of the
whole batch wherever an image's terms depend on that image alone. What does not:

- BatchNorm normalises each part by its own statistics. The running ones move once a
  step, towards the mean of the parts' statistics.
- Free bits hold each latent entry's KL, averaged over a part, at the floor.
- LeCAM compares a part's logits with averages that include this part, not the batch.
  The averages themselves become those of the whole batch.
- ActNorm is set by the first part. Dropout draws another mask for each part.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def split(batch: PyTree, parts: int) -> PyTree:
    """Returns the batch with an axis of parts in front: [b, ...] -> [parts, m, ...].

    Part i holds images i, i + parts, ...: on a batch that is sharded in runs each
    device then keeps its own images, which parts of neighbours would send around.

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
    """Runs `function` over the parts, holding one part's activations at a time.

    Args:
      function: part -> (what to average, what to keep).
      parts: of `split`.

    Returns:
      the mean over the parts of the first (of integers, which flags and counters are,
      the last part's), and the second with an axis of parts in front.
    """
    if count(parts) == 1:
        mean, kept = function(first(parts))
        return mean, jax.tree.map(lambda leaf: leaf[None], kept)

    def add(sums, part):
        new, kept = function(part)
        return jax.tree.map(
            lambda old, leaf: old + leaf if _averaged(leaf) else leaf, sums, new
        ), kept

    shapes, _ = jax.eval_shape(function, first(parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, kept = jax.lax.scan(add, zeros, parts)
    mean = jax.tree.map(
        lambda leaf: leaf / count(parts) if _averaged(leaf) else leaf, sums
    )
    return mean, kept


def _averaged(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
