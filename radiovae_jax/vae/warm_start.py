"""Weights of another run put into a fresh state (train.init_from)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from absl import logging

from radiovae_jax import sharding
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec
from radiovae_jax.vae.state import TrainState, averaged


def prepared(
    folder: str, fresh: TrainState, *, reconstruction: str
) -> Callable[[TrainState], TrainState]:
    """Reads the weights of another run; returns what puts them into a fresh state.

    Those of the autoencoder are the average (EMA), from the best checkpoint. The
    discriminator stays fresh where that run has one of another shape.

    Args:
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
        raise ValueError(
            f"train.init_from={folder} holds another autoencoder:\n  "
            + "\n  ".join(differing[:5])
            + f"\n({len(differing)} arrays differ). Set config.autoencoder as it is "
            f"there: {config.autoencoder.to_dict()}"
        )
    logging.info("starting from the weights of %s at step %d", folder, step)
    new = {"params": {"autoencoder": params["params"], "logvar": logvar}}
    ours = {"params": fresh.disc_params, "batch_stats": fresh.disc_stats}
    if _differing(disc, ours):
        logging.info("its discriminator has another shape: starting a fresh one")
    else:
        new |= {"disc_params": disc["params"], "disc_stats": disc["batch_stats"]}

    def start(state: TrainState) -> TrainState:
        placed = {
            name: sharding.placed_like(dict(part), getattr(state, name))
            for name, part in new.items()
        }
        state = state._replace(**placed)
        # A copy: the step donates its input, and one buffer cannot be donated twice.
        average = jax.tree.map(jnp.copy, averaged(state, tuple(state.ema)))
        return state._replace(ema=average)

    return start


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Returns a line for every array that is not in both, with one shape."""
    flatten = functools.partial(flax.traverse_util.flatten_dict, sep="/")
    there, here = (
        {name: leaf.shape for name, leaf in flatten(tree).items()}
        for tree in (theirs, ours)
    )
    return [
        f"{name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
