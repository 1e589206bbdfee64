"""PyTorch's trainers made like ours, and the first steps of all compared."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timed_step  # beside this file

from radiovae_jax import experiment

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
    "loss.feature_matching_weight": 0.0,
    "loss.r1_weight": 0.0,
    "loss.lecam_weight": 0.0,
    "optimizer.clip_weights": 0.0,
    "train.accumulate_steps": 1,
    "autoencoder.dropout": 0.0,
}
# A mean of logits of both signs is near 0 at first; they are of about this size.
SIZES = {"g_loss": 0.1}
# Sums in another order: of the first step's numbers, relative.
AGREE = {"float32": 2e-3, "bfloat16": 0.1}


def trainers(
    config, ours: timed_step.Ours, *, adversarial: bool, compiled: bool
) -> tuple[dict[str, Any], list[Any]]:
    """Returns PyTorch's trainers, by name, and what they are given at every step.

    Args:
      compiled: also the compiled one, beside the eager one.
    """
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
        fresh_reconstruction=True,  # the released order, whatever ours does
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = jax.device_get(ours.state)
    x = np.asarray(jax.jit(ours.built.to_batch)(ours.raw).image)
    placed = [torch_peer.images(a, device) for a in (x, *timed_step.first_noise(ours))]
    found = {}
    for compile_it in (False, True)[: 1 + compiled]:
        peer = torch_peer.Peer(
            state.params,
            {"params": state.disc_params, "batch_stats": state.disc_stats},
            ours.built.perceptual_weights or None,
            settings,
            adversarial=adversarial,
            compiled=compile_it,
            device=device,
            bfloat16=experiment.compute_dtype(config.train.dtype) == jnp.bfloat16,
        )
        found["torch, compiled" if compile_it else "torch, eager"] = peer
    return found, placed


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


def compared(
    ours: timed_step.Ours, trainers, given, most: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Takes the first step of all and returns how far each is from ours.

    Returns:
      the largest relative difference of every trainer, by name, and the seconds that
      its first step took: torch.compile compiles in it.

    Raises:
      ValueError: one is further than `most`.
    """
    first, agreement, seconds = ours.step(), {}, {}
    for name, trainer in trainers.items():
        start = time.perf_counter()
        logs = trainer.step(*given) | trainer.grad_norms()
        apart, number = difference(first, logs)  # reading them waits for the device
        seconds[name] = time.perf_counter() - start
        agreement[name] = apart
        if apart > most:
            raise ValueError(
                f"{name} and ours differ by {apart:.1e} in the first step ({number}); "
                "they do not do the same work, so their times say nothing"
            )
    return agreement, seconds
