"""Runs on four virtual devices: the same steps on three meshes, printed as JSON.

    python tests/four_devices.py CITY

test_sharding.py starts it, since the tests' own process has one device.
"""

import json
import pathlib
import re
import sys

import jax
import numpy as np
import tiny
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from training import test_checkpoint

from radiovae_jax import sharding
from radiovae_jax.data import datasets, pipeline
from radiovae_jax.training import checksums, trainer
from radiovae_jax.training.task import drawn
from radiovae_jax.vae import experiment, task
from radiovae_jax.vae.state import PHASES

STEPS = 5
MESHES = {"one": (1, 1), "data": (4, 1), "fsdp": (1, 4)}
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)


def collectives(hlo: str) -> list[tuple[str, list[list[int]]]]:
    """Returns (operation, shapes that it returns) of every collective of a program."""
    found = []
    for result, operation in COLLECTIVE.findall(hlo):
        shapes = re.findall(r"\w+\[([\d,]*)\]", result)
        sizes = [[int(n) for n in shape.split(",") if n] for shape in shapes]
        found.append((operation, sizes))
    return found


def run(config, built, source, shape: tuple[int, int]) -> dict:
    devices = np.asarray(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = Mesh(devices, sharding.AXES)
    key = jax.random.key(config.seed)
    stage = task.of(config, built)
    places = sharding.of_state(experiment.state_shapes(config, built), mesh)
    state = drawn(stage.init, key, places)
    batches = pipeline.train_batches(
        source, batch_size=config.train.batch_size, seed=0, augment="none"
    )
    step = trainer.compiled(stage, mesh, places).step[PHASES[True]]
    logs = []
    for _ in range(STEPS):
        raw = sharding.to_devices(next(batches), mesh)
        if not logs:
            program = step.compile(state, raw, key).as_text()
        state, values = step(state, raw, key)
        logs.append({name: float(value) for name, value in values.items()})
    batches.close()
    on_first = [leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state)]
    return {"logs": logs, "collectives": collectives(program), "held": sum(on_first)}


def shapes(config, built) -> dict[str, list[tuple[int, ...]]]:
    """Returns the shapes of the arrays of every field of the state."""
    state = experiment.state_shapes(config, built)
    return {
        name: [leaf.shape for leaf in jax.tree.leaves(field)]
        for name, field in state._asdict().items()
    }


def sums() -> dict[str, dict[str, int]]:
    """Returns the checksums of arrays that are split over one axis of four devices."""
    state = test_checkpoint.checksummed()
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("a", "b"))

    def split(x):
        axes = ("a", "b") if x.ndim > 1 and x.shape[1] % 2 == 0 else (("a", "b"),)
        spec = PartitionSpec(*axes if x.ndim and x.size else ())
        return jax.device_put(x, NamedSharding(mesh, spec))

    return {
        "one": checksums.of_state(state),
        "split": checksums.of_state(jax.tree.map(split, state)),
        "copied": checksums.of_state(jax.device_put(state, sharding.replicated(mesh))),
    }


def main(city: str) -> None:
    config = tiny.config(pathlib.Path(city))
    config.autoencoder.ch_mult = (1,)  # three compilations: as small as can be
    config.loss.update(disc_start=0, disc_num_layers=1)
    config.loss.pixelloss_weight = 0.1  # d_weight below its clamp
    config.optimizer.update(learning_rate=1e-4, disc_learning_rate=1e-4)
    source = datasets.open_data(config, "train")
    built = experiment.build(config, source.shape)
    runs = {name: run(config, built, source, shape) for name, shape in MESHES.items()}
    found = {"runs": runs, "shapes": shapes(config, built), "sums": sums()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
