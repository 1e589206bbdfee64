"""What a run is made of, in lines: data, devices, parameters, phases, versions."""

import math
from typing import Any

import jax
import ml_collections
from jaxtyping import PyTree

from radiovae_jax import provenance

MB = 1e6


def start(config: ml_collections.ConfigDict, setup: Any) -> str:
    """Returns what is said of a run before its first step.

    Args:
      setup: of `train.set_up`.
    """
    code = ", ".join(f"{name} {held}" for name, held in provenance.versions().items())
    last = f"phases      {phases(config)}\ncode        {provenance.commit()}; {code}"
    return "\n".join([data(config, setup), networks(setup), last])


def data(config: ml_collections.ConfigDict, setup: Any) -> str:
    mesh, batch_size = setup.mesh, config.train.batch_size
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    dtype = setup.built.networks.autoencoder.dtype
    valid = setup.val_data.summary() if setup.val_data else "none"
    device, processes = jax.devices()[0], jax.process_count()
    several = f" of {processes} processes" if processes > 1 else ""
    return (
        f"training    {setup.train_data.summary()}\n"
        f"validation  {valid}\n"
        f"devices     {mesh.size} {device.device_kind} ({device.platform}){several}, "
        f"mesh {axes}\n"
        f"batch       {batch_size} images, {batch_size // mesh.size} a device, "
        f"computed in {dtype}"
    )


def networks(setup: Any) -> str:
    state = setup.fresh
    counts = {
        "autoencoder": count(state.params["autoencoder"]),
        "discriminator": count(state.disc_params),
        "LPIPS, fixed": count(setup.built.perceptual_weights),
    }
    held = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    )
    lines = [f"{name:14}{number:>14,} parameters" for name, number in counts.items()]
    lines.append(f"{'state':14}{held / MB:>14,.1f} MB a device")
    return "\n".join(lines)


def phases(config: ml_collections.ConfigDict) -> str:
    """Returns which step brings the discriminator in."""
    loss, steps = config.loss, config.train.steps
    if not loss.disc_factor:
        return f"{steps:,} steps without discriminator (loss.disc_factor=0)"
    if loss.disc_start >= steps:
        return (
            f"{steps:,} steps without discriminator (loss.disc_start="
            f"{loss.disc_start:,} is no step of them)"
        )
    early = " (trained from the first)" * (loss.discriminator_before_start != "off")
    return f"{steps:,} steps, discriminator after step {loss.disc_start:,}{early}"


def count(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
