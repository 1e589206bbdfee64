"""What a config takes, said before any step: memory, work, parameters, rates.

    python -m radiovae_jax.main --config configs/radio.py --dry_run

Data and weights are opened as for training and both kinds of step are compiled, so
what would stop the training stops here. Nothing is written.

Of memory there are two accounts. `peak` is what the compiler of this machine plans, in
the order it chose; `kept` is what the forward pass leaves for the backward pass before
any compiler, which is what `autoencoder.remat` and `train.dtype` are for.
"""

import functools
from typing import NamedTuple

import jax
import ml_collections
from jax.extend import core
from jaxtyping import PyTree

from radiovae_jax import sharding
from radiovae_jax.training import overview, train
from radiovae_jax.training.distributed import BarrierJit
from radiovae_jax.training.overview import MB
from radiovae_jax.training.train import Setup
from radiovae_jax.vae import experiment, train_step
from radiovae_jax.vae.adversary import Adversary
from radiovae_jax.vae.train_step import TrainState

TERA = 1e12


class Planned(NamedTuple):
    """One compiled step: bytes on each device, and operations on all of them.

    XLA counts the body of a loop (`attention_chunk`, accumulated parts) once, so the
    operations of a step with loops are more than that.
    """

    arguments: int  # state, batch and the weights of LPIPS
    outputs: int
    reused: int  # outputs that lie where the donated state lay
    temporaries: int
    code: int
    kept: int  # see `kept`
    flops: float

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.reused + self.temporaries


def run(config: ml_collections.ConfigDict) -> str:
    """Returns the page that --dry_run prints.

    Raises:
      ValueError, FileNotFoundError: what would stop the training.
    """
    setup = train.set_up(config)
    try:
        raw = sharding.to_devices(next(setup.batches), setup.mesh)
    finally:
        setup.batches.close()
    kinds = {
        experiment.adversarial(config, step) for step in (0, config.train.steps - 1)
    }
    planned = {
        kind: plan(
            setup.compiled.step[kind],
            setup.fresh,
            raw,
            kept=kept(config, setup, raw, adversarial=kind),
            devices=setup.mesh.size,
        )
        for kind in sorted(kinds)
    }
    sections = (
        overview.data(config, setup),
        overview.networks(setup),
        memory(planned),
        rates(config, setup),
    )
    return "\n\n".join(sections)


def plan(
    step: BarrierJit, state: PyTree, raw: PyTree, *, kept: int, devices: int
) -> Planned:
    """Compiles one kind of step and asks XLA what it planned.

    Args:
      step: of `Compiled.step`.
      state: the state, or its shapes.
      raw: a batch as the pipeline gives it, or its shapes.
      kept: of `kept`.
      devices: how many run the step.
    """
    key = jax.eval_shape(jax.random.key, 0)
    compiled = step.compile(state, raw, key)
    stats, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Planned(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        reused=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        kept=kept,
        flops=cost["flops"] * devices,
    )


def kept(
    config: ml_collections.ConfigDict, setup: Setup, raw: PyTree, *, adversarial: bool
) -> int:
    """Returns the bytes that one device keeps for the backward pass of a step.

    Of one part of its images, since the parts of `accumulate_steps` come one after the
    other. The step's arguments, parameters among them, are not counted: they are there
    anyway. Only shapes go through: nothing is computed or compiled.
    """
    built = setup.built
    images = config.train.batch_size // setup.mesh.size // config.train.accumulate_steps
    part = {
        name: jax.ShapeDtypeStruct((images, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in raw.items()
    }

    def residuals(weights, state: TrainState, raw, key):
        batch = built.to_batch(raw)
        noise = train_step.draw_noise(built.networks.autoencoder, batch.image, key)
        terms_of = functools.partial(
            train_step.forward,
            built.networks,
            built.settings,
            weights,
            Adversary(state.disc_params, state.disc_stats, state.lecam),
            part=train_step.Part(batch, noise, key),
            adversarial=adversarial,
        )
        return jax.vjp(terms_of, state.params, has_aux=True)[1]

    key = jax.eval_shape(jax.random.key, 0)
    traced = jax.make_jaxpr(residuals)(
        built.perceptual_weights, setup.fresh, part, key
    ).jaxpr
    left = {out for out in traced.outvars if isinstance(out, core.Var)}
    return sum(
        out.aval.size * out.aval.dtype.itemsize
        for out in left.difference(traced.invars)
    )


def memory(planned: dict[bool, Planned]) -> str:
    """Returns a line for each kind of step, in MB a device."""
    names = {False: "without discriminator", True: "with discriminator"}
    columns = ("arguments", "outputs", "reused", "temporaries", "code", "peak", "kept")
    head = f"{'step, MB a device':24}" + "".join(f"{name:>13}" for name in columns)
    lines = [head + f"{'TFLOP':>10}"]
    for kind, plan in planned.items():
        numbers = "".join(f"{getattr(plan, name) / MB:>13,.1f}" for name in columns)
        lines.append(f"{names[kind]:24}{numbers}{plan.flops / TERA:>10.3g}")
    return "\n".join(lines)


def rates(config: ml_collections.ConfigDict, setup: Setup) -> str:
    """Returns the rates where their schedules have a corner."""
    schedules, last = setup.built.schedules, config.train.steps - 1
    corners = {
        "first": 0,
        "warm-up done": max(config.optimizer.warmup_steps - 1, 0),
        "disc_start": config.loss.disc_start,
        "last": last,
    }
    columns = ("learning_rate", "disc_rate", "logvar_rate", "disc_factor")
    lines = [f"{'step':>24}" + "".join(f"{name:>15}" for name in columns)]
    for name, step in sorted(corners.items(), key=lambda corner: corner[1]):
        if step <= last:
            values = (float(getattr(schedules, column)(step)) for column in columns)
            numbers = "".join(f"{value:>15.4g}" for value in values)
            lines.append(f"{name:>14}{step:>10,}{numbers}")
    return "\n".join(lines)
