"""What tests of whole runs look at: the newest checkpoint, and the log without time."""

import jax

from radiovae_jax.training import logbook
from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.vae import task


def shapes(config, make=task.make):
    """Returns a state of the config as shapes on one device."""
    shapes = jax.eval_shape(make(config, (32, 32, 1)).init, jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes
    )


def saved(workdir, config, make=task.make):
    """Returns every array of the newest checkpoint, and the data position."""
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore_latest(shapes(config, make))
    checkpoints.close()
    return restored


def log(workdir) -> list[dict]:
    """Returns the lines of a run's log without what no two runs have in common."""
    return without_time(logbook.read(workdir / "metrics.jsonl"))


def without_time(lines):
    return [
        {
            name: value
            for name, value in line.items()
            if not name.startswith(("time/", "memory/"))
        }
        for line in lines
    ]
