"""Weights put into a fresh state: from another run's folder, or from an import."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jaxtyping import PyTree

from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec, train_step
from radiovae_jax.vae.train_step import TrainState


class Weights(NamedTuple):
    """What a state can start from; an empty discriminator is one that does not fit."""

    autoencoder: PyTree
    logvar: Any
    discriminator: Mapping[str, PyTree]  # {"params", "batch_stats"} or {}


def read(folder: str, fresh: TrainState, *, reconstruction: str) -> Weights:
    """Reads the weights of another run that a fresh state can start from.

    Those of the autoencoder are the judged ones (the average), from the best
    checkpoint.

    Args:
      folder: of the other run (`train.init_from`).
      fresh: the state to start, or its shapes.
      reconstruction: of the run to start; a decoder of logits ("bce") is no start for
        one of images, nor the other way round.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint in it.
      ValueError: its autoencoder is another one.
    """
    try:
        step, ((_, params), (logvar, disc)) = run_folder.hold(
            folder,
            0,
            lambda step: (
                codec.load_network(folder, step=step),
                codec.load_loss(folder, step=step),
            ),
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"train.init_from: {error}") from error
    config = run_folder.read_config(folder)
    theirs = config.loss.reconstruction
    if (theirs == "bce") != (reconstruction == "bce"):
        raise ValueError(
            f"train.init_from={folder} was trained with loss.reconstruction={theirs} "
            f"and this run has {reconstruction}: with bce the decoder gives logits, "
            f"with the others the image itself. Set loss.reconstruction={theirs}, or "
            "start from another run"
        )
    differing = _differing(params["params"], fresh.params["autoencoder"])
    if differing:
        fields = config.autoencoder.to_dict()
        raise ValueError(
            f"train.init_from={folder} holds another autoencoder:\n  "
            + "\n  ".join(differing[:5])
            + f"\n({len(differing)} arrays differ). Set config.autoencoder as it is "
            f"there: {fields}"
        )
    logging.info("starting from the weights of %s at step %d", folder, step)
    ours = {"params": fresh.disc_params, "batch_stats": fresh.disc_stats}
    if _differing(disc, ours):
        logging.info("its discriminator has another shape: starting a fresh one")
        disc = {}
    return Weights(params["params"], logvar, disc)


def start(state: TrainState, weights: Weights) -> TrainState:
    """Returns the state with these weights, and with its average equal to them."""
    params = {"autoencoder": weights.autoencoder, "logvar": weights.logvar}
    state = state._replace(params=_placed(params, state.params))
    if weights.discriminator:
        state = state._replace(
            disc_params=_placed(weights.discriminator["params"], state.disc_params),
            disc_stats=_placed(weights.discriminator["batch_stats"], state.disc_stats),
        )
    # A copy: the step donates its input, and one buffer cannot be donated twice.
    average = jax.tree.map(jnp.copy, train_step.averaged(state, tuple(state.ema)))
    return state._replace(ema=average)


def _differing(theirs: PyTree, ours: PyTree) -> list[str]:
    """Returns a line for every array that is not in both, with one shape."""

    def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            "/".join(part.key for part in path): leaf.shape for path, leaf in leaves
        }

    there, here = shapes(theirs), shapes(ours)
    return [
        f"{name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def _placed(values: PyTree, like: PyTree) -> PyTree:
    """Puts arrays where those of a state are, in their precision."""
    return jax.tree.map(
        lambda value, leaf: jax.device_put(
            jax.device_get(value).astype(leaf.dtype), leaf.sharding
        ),
        dict(values),
        like,
    )
