"""PyTorch's trainers made like ours, and the first steps of all compared."""

import functools
import gc
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import timed_step  # this and records are beside this file
from records import OURS

from radiovae_jax.nn import layers

# What the peer can do; with other values of these fields it would do other work.
HAS = {
    "loss.reconstruction": "l1_mse",
    "loss.reduction": "sum",
    "loss.disc_loss": "hinge",
    "loss.use_actnorm": False,
    "loss.disc_ramp_steps": 0,
    "loss.kl_schedule": "constant",
    "loss.loss_scale": 1.0,
    "loss.free_bits": 0.0,
    "loss.pixelloss_weight": 1.0,
    "loss.ssim_weight": 0.0,
    "loss.ssim_balance": False,
    "loss.feature_matching_weight": 0.0,
    "loss.r1_weight": 0.0,
    "loss.lecam_weight": 0.0,
    "optimizer.clip_weights": 0.0,
    "train.accumulate_steps": 1,
    "autoencoder.dropout": 0.0,
    "autoencoder.remat": False,
}
# A mean of logits of both signs is near 0 at first; they are of about this size.
SIZES = {"g_loss": 0.1, "recon_min": 1.0, "recon_max": 1.0}
# Sums in another order: of the first step's numbers, relative. On a GPU both compute
# products of float32 in TF32 (10 bits of mantissa; bfloat16 has 7).
AGREE = {"float32": 2e-3, "tf32": 2e-2, "bfloat16": 0.05}


class Raced(NamedTuple):
    """PyTorch's trainers that do the same work as ours, and the first step of all."""

    trainers: dict[str, Any]
    given: list[Any]  # what they are given at every step
    apart: dict[str, float]  # largest relative difference of the first step's numbers
    first_seconds: dict[str, float]  # torch.compile compiles in it
    not_timed: dict[str, str]  # those that failed or do other work, and why


def raced(
    config, ours: timed_step.Ours, modes: dict[str, str], *, adversarial: bool
) -> Raced:
    """Takes the first step of all, and leaves out who fails or whose is another.

    Args:
      ours: before its first step.
      modes: torch.compile's by the trainer's name; "" for the eager one.
    """
    make, given, kind = None, [], ""
    if modes:
        make, given, kind = _maker(config, ours, adversarial=adversarial)
    start = time.perf_counter()
    first = jax.device_get(ours.step())
    found = Raced({}, given, {}, {OURS: time.perf_counter() - start}, {})
    for name, mode in modes.items():
        trainer = None
        release()  # here, for its error holds one that failed until it is handled
        start = time.perf_counter()
        try:
            trainer = make(mode)
            logs = trainer.first_step(*given)
            apart, number = difference(first, logs)  # reading them waits for the device
        except RuntimeError as error:  # out of memory; or nothing to compile with
            found.not_timed[name] = str(error).partition("\n")[0]
            continue
        found.first_seconds[name] = time.perf_counter() - start
        found.apart[name] = apart
        if apart > AGREE[kind]:
            found.not_timed[name] = (
                f"it and ours differ by {apart:.1e} in the first step ({number}): they "
                "do not do the same work, so its times say nothing"
            )
        else:
            found.trainers[name] = trainer
    return found


def release() -> None:
    """Gives back what PyTorch keeps of a GPU's memory for trainers that are gone."""
    gc.collect()  # compiled ones refer to themselves
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def _maker(
    config, ours: timed_step.Ours, *, adversarial: bool
) -> tuple[Callable[[str], Any], list[Any], str]:
    """Returns what makes trainers, what these are given, and the kind of products."""
    import torch  # not at the top: the benchmark runs without PyTorch
    import torch_peer  # beside this file

    loss, o = config.loss, config.optimizer
    settings = torch_peer.Settings(
        kl_weight=loss.kl_weight,
        disc_factor=loss.disc_factor,
        disc_weight=loss.disc_weight,
        perceptual_weight=loss.perceptual_weight,
        learning_rate=float(ours.built.schedules.learning_rate(0)),
        disc_learning_rate=float(ours.built.schedules.disc_rate(0)),
        beta1=o.beta1,
        beta2=o.beta2,
        eps=o.eps,
        weight_decay=o.weight_decay,
        clip_norm=o.clip_norm,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = layers.compute_dtype(config.train.dtype).name
    state = jax.device_get(ours.state)
    x = np.asarray(jax.jit(ours.built.to_batch)(ours.raw).image)
    make = functools.partial(
        torch_peer.Peer,
        state.params,
        {"params": state.disc_params, "batch_stats": state.disc_stats},
        ours.built.perceptual_weights or None,
        settings,
        adversarial=adversarial,
        device=device,
        bfloat16=dtype == "bfloat16",
    )
    given = [torch_peer.images(a, device) for a in (x, *timed_step.first_noise(ours))]
    tf32 = (device, dtype) == ("cuda", "float32")
    return lambda mode: make(mode=mode), given, "tf32" if tf32 else dtype


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, str]:
    """Returns the largest relative difference of what both log, and whose it is.

    What is not a number is infinitely far from anything.
    """
    found = {}
    for name, value in theirs.items():
        a, b = float(ours[name]), float(value)
        apart = abs(a - b) / max(abs(b), SIZES.get(name, 1e-6))
        found[name] = apart if apart < np.inf else np.inf
    worst = max(found, key=found.__getitem__)
    return found[worst], worst
