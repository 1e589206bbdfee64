"""What a config takes, before any step: memory, work, parameters, rates.

    python -m radiovae_jax.main --config configs/radio.py --dry_run

Data and weights are opened as for training and all kinds of step are compiled, so
what would stop the training stops here. Nothing is written.

Of memory there are two accounts. `peak` is what the compiler of this machine plans, in
the order it chose; `kept` is what the forward pass leaves for the backward pass before
any compiler, which is what `autoencoder.remat` and `train.dtype` are for.
"""

from typing import NamedTuple

import jax
import ml_collections
from jax.extend import core
from jaxtyping import PyTree

from radiovae_jax import sharding
from radiovae_jax.training import overview, trainer
from radiovae_jax.training.distributed import BarrierJit
from radiovae_jax.training.overview import MB
from radiovae_jax.training.task import Task
from radiovae_jax.training.trainer import Make, Setup

TERA = 1e12
COLUMNS = "arguments outputs reused temporaries code peak kept".split()


class Planned(NamedTuple):
    """One compiled step: bytes on each device, and operations on all of them.

    XLA counts the body of a loop (`attention_chunk`, micro-batches) once, so the
    operations of a step with loops are more than that.
    """

    arguments: int  # state, batch and the stage's constants
    outputs: int
    reused: int  # outputs that lie where the donated state lay
    temporaries: int
    code: int
    kept: int  # see `residual_bytes`
    flops: float

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.reused + self.temporaries


def run(make: Make, config: ml_collections.ConfigDict) -> str:
    """Returns the page that --dry_run prints.

    Raises:
      ValueError, FileNotFoundError: what would stop the training.
    """
    setup = trainer.set_up(make, config)
    try:
        raw = sharding.to_devices(next(setup.batches), setup.mesh)
    finally:
        setup.batches.close()
    task, steps = setup.task, setup.compiled(rate=1.0).step
    phases = {task.phase(step): None for step in (0, config.train.steps - 1)}
    images = config.train.batch_size // setup.mesh.size // config.train.accumulate_steps
    planned = {
        phase: plan(
            steps[phase],
            setup,
            raw,
            kept=residual_bytes(task, setup.fresh, raw, phase=phase, images=images),
        )
        for phase in phases
    }
    sections = (
        overview.data(config, setup),
        overview.networks(setup),
        memory(planned),
        rates(task, last=config.train.steps - 1),
    )
    return "\n\n".join(filter(None, sections))


def plan(step: BarrierJit, setup: Setup, raw: PyTree, *, kept: int) -> Planned:
    """Compiles a kind of step, for a batch or its shapes; asks XLA what it planned."""
    key = jax.eval_shape(jax.random.key, 0)
    compiled = step.compile(setup.fresh, raw, key)
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Planned(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        reused=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        kept=kept,
        flops=cost["flops"] * setup.mesh.size,
    )


def residual_bytes(
    task: Task, state: PyTree, raw: PyTree, *, phase: str, images: int
) -> int:
    """Returns the bytes that one device keeps for the backward pass of a step.

    The step's arguments, parameters among them, are there anyway and not counted.

    Args:
      images: of one micro-batch on one device, since they come one after the other.
    """
    if phase not in task.residuals:
        return 0
    part = {
        name: jax.ShapeDtypeStruct((images, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in raw.items()
    }
    key = jax.eval_shape(jax.random.key, 0)
    traced = jax.make_jaxpr(task.residuals[phase])(task.constants, state, part, key)
    left = {out for out in traced.jaxpr.outvars if isinstance(out, core.Var)}
    return sum(
        out.aval.size * out.aval.dtype.itemsize
        for out in left.difference(traced.jaxpr.invars)
    )


def memory(planned: dict[str, Planned]) -> str:
    """Returns a line for each kind of step, in MB a device."""
    head = f"{'step, MB a device':24}" + "".join(f"{name:>13}" for name in COLUMNS)
    lines = [head + f"{'TFLOP':>10}"]
    for phase, plan in planned.items():
        numbers = "".join(f"{getattr(plan, name) / MB:>13,.1f}" for name in COLUMNS)
        lines.append(f"{phase:24}{numbers}{plan.flops / TERA:>10.3g}")
    return "\n".join(lines)


def rates(task: Task, *, last: int) -> str:
    """Returns the stage's schedules where they have a corner."""
    if not task.schedules:
        return ""
    corners = {"first": 0, **task.corners, "last": last}
    head = "".join(f"{name:>15}" for name in task.schedules)
    lines = [f"{'step':>24}{head}"]
    for name, step in sorted(corners.items(), key=lambda corner: corner[1]):
        if step <= last:
            values = (float(schedule(step)) for schedule in task.schedules.values())
            numbers = "".join(f"{value:>15.4g}" for value in values)
            lines.append(f"{name:>14}{step:>10,}{numbers}")
    return "\n".join(lines)
