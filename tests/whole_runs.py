"""What tests of whole runs look at: the newest checkpoint, and the log without time."""

import jax

from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.vae import experiment


def shapes(config):
    """Returns a state of the config as shapes on one device."""
    built = experiment.build(config, (32, 32, 1))
    state = experiment.state_shapes(config, built)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), state
    )


def saved(workdir, config):
    """Returns every array of the newest checkpoint, and the data position."""
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore_latest(shapes(config))
    checkpoints.close()
    return restored


def without_time(lines):
    """Returns the lines of a log without what no two runs have in common."""
    return [
        {
            name: value
            for name, value in line.items()
            if not name.startswith(("time/", "memory/"))
        }
        for line in lines
    ]
