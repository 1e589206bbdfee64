"""A stage of a few lines: a linear denoiser of maps, recon = scale * noisy + shift."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from radiovae_jax.data import radiomap
from radiovae_jax.training import updates
from radiovae_jax.training.task import Limit, Task

State = NamedTuple(
    "State", [(name, Any) for name in "step params ema skipped skipped_in_row".split()]
)


def init(key):
    params = {"scale": jax.random.normal(key), "shift": jnp.zeros(())}
    zero = jnp.zeros((), jnp.int32)
    return State(zero, params, jax.tree.map(jnp.copy, params), zero, zero)


def denoised(params, constants, raw, key):
    f = radiomap.gray_to_f(raw["gray"])
    noisy = f + constants["noise"] * jax.random.normal(key, f.shape)
    recon = params["scale"] * noisy + params["shift"]
    return ((recon - f) ** 2).mean(), {"f": f, "recon": recon}


def validate(constants, state, raw, phase):
    _, examples = denoised(state.ema, constants, raw, jax.random.key(0))
    squares = (examples["recon"] - examples["f"]) ** 2, examples["f"] ** 2
    error, power = (raw["mask"] @ s.mean(axis=(1, 2, 3)) for s in squares)
    return {"error": error, "power": power, "images": raw["mask"].sum()}, examples


def metrics(sums, samples):
    rmse = (sums["error"] / sums["images"]) ** 0.5
    return {"best": sums["error"] / (sums["power"] or jnp.nan), "rmse_pooled": rmse}


def figures(examples, raw, samples):
    figure = Figure()
    figure.subplots().imshow(examples["recon"][0, ..., 0])
    return {"denoised": figure}


def make(config, shape, factor=1.0) -> Task:
    rate = factor * config.optimizer.learning_rate

    def step(constants, state, raw, key):
        key = jax.random.fold_in(key, state.step)
        gradient = jax.value_and_grad(denoised, has_aux=True)
        (loss, _), grads = gradient(state.params, constants, raw, key)
        params = updates.descend(state.params, grads, rate)
        ema = updates.update_ema(state.ema, params, 0.5)
        new = state._replace(step=state.step + 1, params=params, ema=ema)
        new = updates.unless_bad(new, state, (loss, grads))
        return new, {"loss": loss, "learning_rate": jnp.float32(rate)}

    return Task(
        constants={"noise": jnp.float32(0.1)},
        phase=lambda step: "denoising",
        init=init,
        step={"denoising": step},
        validate=validate,
        metrics=metrics,
        figures=figures,
        weights=lambda state: state.params,
        bar=lambda values: {"loss": values["train/loss"]},
        slowed=lambda factor: make(config, shape, factor),
        limits=(Limit(("train/loss",), 1e-9, "{name} is {value:.3g}", "Rest."),),
        parameters=lambda state: {"denoiser": state.params},
        schedules={"learning_rate": lambda step: rate},
    )
