"""What a run is made of, in lines: data, devices, parameters, phases, versions."""

import math
from typing import Any

import jax
import ml_collections

from radiovae_jax import provenance

MB = 1e6


def start(config: ml_collections.ConfigDict, setup: Any) -> str:
    """Returns what is said of a run before its first step.

    Args:
      setup: of `trainer.set_up`.
    """
    versions = provenance.versions().items()
    code = ", ".join(f"{name} {version}" for name, version in versions)
    phases = f"phases      {setup.task.phases}\n" if setup.task.phases else ""
    last = f"{phases}code        {provenance.commit()}; {code}"
    return "\n".join([data(config, setup), networks(setup), last])


def data(config: ml_collections.ConfigDict, setup: Any) -> str:
    mesh, batch_size = setup.mesh, config.train.batch_size
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    valid = setup.val_data.summary() if setup.val_data else "none"
    device, processes = jax.devices()[0], jax.process_count()
    several = f" of {processes} processes" if processes > 1 else ""
    return (
        f"training    {setup.train_data.summary()}\n"
        f"validation  {valid}\n"
        f"devices     {mesh.size} {device.device_kind} ({device.platform}){several}, "
        f"mesh {axes}\n"
        f"batch       {batch_size} images, {batch_size // mesh.size} a device, "
        f"computed in {setup.task.dtype}"
    )


def networks(setup: Any) -> str:
    lines = []
    for name, params in setup.task.parameters(setup.fresh).items():
        number = sum(leaf.size for leaf in jax.tree.leaves(params))
        lines.append(f"{name:14}{number:>14,} parameters")
    bytes_of_state = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(setup.fresh)
    )
    return "\n".join([*lines, f"{'state':14}{bytes_of_state / MB:>14,.1f} MB a device"])
