"""What is watched of a step beside its losses: pure functions of arrays, all cheap."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.types import Array, Logits, Params

Logs = dict[str, Float[Array, ""]]


def length(tree: Params) -> Float[Array, ""]:
    """Returns the l2 norm of all numbers of a tree together."""
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def norms(name: str, grads: Params, before: Params, after: Params) -> Logs:
    """Returns the global l2 norms of a network's gradient, update and parameters.

    The gradient is as it comes, before clipping; the update is what was applied.
    """
    return {
        f"{name}_grad_norm": length(grads),
        f"{name}_update_norm": length(jax.tree.map(jnp.subtract, after, before)),
        f"{name}_param_norm": length(after),
    }


def accuracy(logits_real: Logits, logits_fake: Logits) -> Float[Array, ""]:
    """Returns the share of logits on their side of 0; 0 itself is on neither."""
    return 0.5 * ((logits_real > 0).mean() + (logits_fake < 0).mean())


def extremes(name: str, values: Float[Array, "..."]) -> Logs:
    """Returns the lowest and the highest value."""
    return {f"{name}_min": values.min(), f"{name}_max": values.max()}
