"""What the numbers of a VAE's training warn of, and what helps."""

from collections.abc import Iterator

import numpy as np

from radiovae_jax.nn import posterior
from radiovae_jax.reporting import curves, diagnosis
from radiovae_jax.reporting.curves import Run
from radiovae_jax.reporting.diagnosis import Warned

COLLAPSE_NATS = 1e-8  # of KL an image
CHANCE = (0.45, 0.55)  # share of logits on the right side
CHANCE_GAP = 0.05  # between mean logits, for runs that log no accuracy
# Reconstructions in [-1, 1]; so far beyond it is 25 dB off the scale.
RECON_BOUND = 1.5
D_WEIGHT_CLIP = 1e4  # of losses.adaptive_weight; then it is times disc_weight


def collapse(run: Run) -> Iterator[Warned]:
    for name in ("train/kl_loss", "val/kl_loss"):
        kl = curves.curve(run, name)
        below = kl.values < COLLAPSE_NATS
        if below.any():
            yield Warned(
                "KL collapse",
                f"{name} fell to {kl.values.min():.3g} nats an image at step "
                f"{kl.steps[below][0]:,.0f}: the latents say nothing about the map. "
                "Lower loss.kl_weight, or set loss.free_bits.",
            )


def ranges(run: Run) -> Iterator[Warned]:
    low, high = posterior.LOGVAR_RANGE
    clipped = "at its clip, where it has no gradient: lower the learning rate"
    unlimited = ", or raise loss.kl_weight: nothing limits the latents' scale"
    outside = "far outside [-1, 1]: lower the learning rate"
    for name, bound, is_beyond, advice in (
        ("posterior_logvar_min", low, np.less_equal, clipped + unlimited),
        ("posterior_logvar_max", high, np.greater_equal, clipped),
        ("recon_min", -RECON_BOUND, np.less, outside),
        ("recon_max", RECON_BOUND, np.greater, outside),
    ):
        values = diagnosis.recent(curves.curve(run, f"train/{name}").values)
        share = float(np.mean(is_beyond(values, bound))) if len(values) else 0.0
        if share >= 0.5:
            yield Warned(
                f"{name} out of range",
                f"At or beyond {bound:g} in {100 * share:.0f}% of the latest lines, "
                f"{advice}.",
            )


def clamp(run: Run) -> Iterator[Warned]:
    share = clamped(run)
    if share > 0.5:
        count = len(curves.curve(run, "train/d_weight").values)
        yield Warned(
            "d_weight is at its clamp",
            f"In {100 * share:.3g}% of {count} lines it is at {d_weight_clamp(run):g}: "
            "nothing is balanced, and the weight is a constant, which loss.disc_weight "
            "sets. Usual, and harmless while validation improves (98.5% of the lines "
            "of the documented run). If validation fell at the switch, lower "
            "loss.disc_weight.",
        )


def clamped(run: Run) -> float:
    """Returns the share of lines in which d_weight is at its clamp."""
    values, clamp = curves.curve(run, "train/d_weight").values, d_weight_clamp(run)
    return float(np.mean(values >= 0.999 * clamp)) if len(values) and clamp else 0.0


def d_weight_clamp(run: Run) -> float:
    """Returns what d_weight cannot exceed; 0 where the config does not say."""
    return D_WEIGHT_CLIP * weight(run, "disc_weight")


def weight(run: Run, name: str) -> float | int:
    return run.config.get("loss", {}).get(name, 0)


def chance(run: Run) -> Iterator[Warned]:
    accuracy = diagnosis.recent(curves.curve(run, "train/disc_accuracy").values)
    _, logits = curves.columns(run, "train/logits_real", "train/logits_fake")
    gap = diagnosis.recent(logits[:, 0] - logits[:, 1])
    at_chance = False
    if len(accuracy):
        middle = float(np.median(accuracy))
        at_chance = CHANCE[0] <= middle <= CHANCE[1]
        measured = f"{100 * middle:.0f}% of its logits are on the right side"
    elif len(gap):
        middle = float(np.median(gap))
        at_chance = abs(middle) < CHANCE_GAP
        measured = f"its mean logits of maps and reconstructions are {middle:.2g} apart"
    if at_chance:
        yield Warned(
            "The discriminator is at chance",
            f"In the latest lines {measured}: it teaches next to nothing. In the first "
            "hundreds of steps after loss.disc_start that is usual and harmless. Where "
            "it lasts for thousands, try more width (loss.disc_ndf), or leave it out "
            "(loss.disc_factor=0); not many times the optimizer.disc_learning_rate, "
            "which keeps it there.",
        )


CHECKS = (collapse, ranges, clamp, chance)
