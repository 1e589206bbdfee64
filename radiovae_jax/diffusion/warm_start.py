"""Weights of another second stage put into a fresh state (train.init_from)."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from radiovae_jax import sharding
from radiovae_jax.diffusion.state import TrainState
from radiovae_jax.training import checkpoint, run_folder


def network(config: Any) -> dict[str, Any]:
    """Returns what of a config decides which arrays its denoiser has."""
    process, denoiser = config.process, config.denoiser
    fields = ("width", "mult", "blocks", "attention_side", "condition_width")
    return {
        "condition.planes": tuple(config.condition.planes),
        "heads of process.kind": 2 if process.kind == "decoupled" else 1,
    } | {
        f"denoiser.{name}": tuple(value) if name == "mult" else value
        for name, value in denoiser.items()
        if name in fields
    }


def prepared(
    folder: str, fresh: TrainState, *, ours: dict[str, Any]
) -> Callable[[TrainState], TrainState]:
    """Reads the average of another run; returns what puts it into a fresh state.

    Of the best checkpoint. Latents are normalised as they are there.

    Args:
      ours: `network` of the run to start.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint in it.
      ValueError: it is a first stage, or its denoiser is another one.
    """
    if not (pathlib.Path(folder) / "config.json").exists():
        raise FileNotFoundError(f"train.init_from: no run in {folder}")
    config = run_folder.read_config(folder)
    if config.stage != "diffusion":
        raise ValueError(
            f"train.init_from={folder} is a first stage; give a second one, and the "
            "first as first_stage.run"
        )
    differing = [
        f"{name}: {value} there, {ours[name]} here"
        for name, value in network(config).items()
        if value != ours[name]
    ]
    if differing:
        raise ValueError(
            f"train.init_from={folder} holds another denoiser ({'; '.join(differing)})"
            ": set these fields as they are there"
        )
    step, restored = run_folder.hold(
        folder,
        0,
        lambda step: checkpoint.restore_part(
            pathlib.Path(folder), step, {"ema": fresh.ema}
        ),
    )
    logging.info("starting from the weights of %s at step %d", folder, step)

    def start(state: TrainState) -> TrainState:
        params = sharding.placed_like(restored["ema"], state.params)
        # A copy: the step donates its input, and one buffer cannot be donated twice.
        return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))

    return start
