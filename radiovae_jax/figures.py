"""Pictures of a training from its numbers: phases, losses, three axes, one scale.

Functions of a `curves.Run` that return a Figure. Colours (Okabe and Ito's) and line
styles both tell curves apart. Raw numbers are faint, their running mean is bold, and
validation is dots. A column that a run does not have leaves a panel that says so.
"""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from radiovae_jax import curves, panels
from radiovae_jax.curves import Run
from radiovae_jax.panels import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, trace


def training_phases(run: Run) -> Figure:
    """Returns reconstruction, KL and adversarial losses over both phases.

    The second phase is shaded; above each phase stands what it did to `rec_loss`.
    """
    figure = panels.new(run, "Training phases", (11, 8.5))
    rec, kl, adversarial = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    for part, colour in (("train", BLUE), ("val", ORANGE)):
        trace(rec, run, f"{part}/rec_loss", WORDS[part], colour)
        trace(kl, run, f"{part}/kl_loss", WORDS[part], colour)
    trace(adversarial, run, "train/g_loss", "generator", GREEN)
    trace(adversarial, run, "train/disc_loss", "discriminator", RED, "--")
    panels.finish(rec, run, "reconstruction\n(rec_loss, per pixel)")
    panels.finish(kl, run, "KL\n(nats per image)")
    panels.finish(adversarial, run, "adversarial losses", empty=panels.waiting(run))
    adversarial.set_xlabel("step")
    for phase, text in _phase_notes(run):
        rec.text(
            phase,
            1.02,
            text,
            transform=rec.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=10,
            color=panels.GRAY,
        )
    return figure


def loss_components(run: Run) -> Figure:
    """Returns four panels: totals, pixelwise terms, KL, adversarial."""
    figure = panels.new(run, "Loss components", (12, 8))
    (total, pixels), (kl, adversarial) = figure.subplots(2, 2, sharex=True)
    trace(total, run, "train/total_loss", "total", BLACK)
    trace(total, run, "train/nll_loss", "nll", BLUE, "--")
    trace(total, run, "val/total_loss", "total, validation", ORANGE)
    for name, label, colour, style in (
        ("train/rec_loss", "rec", BLUE, "-"),
        ("train/edge_loss", "edge", GREEN, "--"),
        ("train/pinn_loss", "pinn", PURPLE, "-."),
        ("train/ssim_loss", "ssim", SKY, ":"),
        ("val/rec_loss", "rec, validation", ORANGE, "-"),
    ):
        trace(pixels, run, name, label, colour, style)
    trace(kl, run, "train/kl_loss", "train", BLUE)
    trace(kl, run, "val/kl_loss", "validation", ORANGE)
    drawn = []
    for name, label, colour, style in (
        ("train/g_loss", "generator", GREEN, "-"),
        ("train/disc_loss", "discriminator", RED, "--"),
        ("train/logits_real", "logits of maps", SKY, "-."),
        ("train/logits_fake", "logits of reconstructions", PURPLE, ":"),
    ):
        drawn += trace(adversarial, run, name, label, colour, style)
    panels.finish(total, run, "per image", title="total and likelihood")
    panels.finish(pixels, run, "per pixel", title="reconstruction terms")
    panels.finish(kl, run, "nats per image", title="KL, before its weight")
    panels.finish(adversarial, run, "", title="adversarial", empty=panels.waiting(run))
    if drawn:
        panels.legend_below(adversarial, drawn, columns=2)
    for axis in (kl, adversarial):
        axis.set_xlabel("step")
    return figure


def three_axes(run: Run) -> Figure:
    """Returns rec, KL and the generator's loss in one panel, each on its own axis.

    Before the discriminator's phase the third one is the total.
    """
    figure = panels.new(run, "Three losses, each on its own axis", (12, 6.5))
    third = ("train/g_loss", "generator (g_loss)")
    if not len(curves.curve(run, third[0]).values):
        third = ("train/total_loss", "total (per image)")
    left = figure.subplots()
    right, outer = left.twinx(), left.twinx()
    outer.spines["right"].set_position(("outward", 62))
    drawn = []
    for axis, name, label, colour, style in (
        (left, "train/rec_loss", "reconstruction (rec_loss, per pixel)", BLUE, "-"),
        (right, "train/kl_loss", "KL (nats per image)", RED, "--"),
        (outer, *third, GREEN, "-."),
    ):
        found = trace(axis, run, name, label, colour, style)
        if not found and axis is not left:
            axis.remove()
            continue
        drawn += found
        panels.set_scale(axis)
        if axis is not left:
            axis.grid(False)
        axis.set_ylabel(label, color=colour)
        axis.tick_params(axis="y", which="both", colors=colour)
        side = "left" if axis is left else "right"
        axis.spines[side].set(color=colour, linewidth=2)
    panels.mark_phases(left, run)
    left.set_xlabel("step")
    if drawn:
        left.legend(handles=drawn, **LEGEND_ABOVE)
    else:
        panels.say(left, "no losses logged")
    return figure


def normalized(run: Run) -> Figure:
    """Returns the losses brought to one scale: min-max above, z-scores below.

    Which of them moves when. What spans decades is compared as logarithms.
    """
    figure = panels.new(run, "Losses on one scale", (12, 8))
    above, below = figure.subplots(2, 1, sharex=True)
    drawn = []
    for name, colour, style in COMPARED:
        points = curves.smooth(
            curves.curve(run, f"train/{name}"), run.switch, windows=WINDOWS
        )
        if len(points.values) < 2:
            continue
        values, label = points.values, name
        if curves.spans_decades(values):
            values, label = np.log10(values), f"{name} (log)"
        drawn += above.plot(
            points.steps, min_max(values), style, color=colour, lw=1.8, label=label
        )
        below.plot(points.steps, z_score(values), style, color=colour, lw=1.8)
    for axis, title in (
        (above, "min-max: 0 is the curve's lowest, 1 its highest"),
        (below, "z-score: in standard deviations about the curve's mean"),
    ):
        panels.mark_phases(axis, run)
        axis.set_title(title, fontsize=10.5, loc="left")
        panels.set_scale(axis)
        if not drawn:
            panels.say(axis, "no curve of two lines or more")
    below.set_xlabel("step")
    if drawn:
        figure.legend(handles=drawn, loc="outside right upper", frameon=False)
    return figure


WINDOWS = 15  # smoother than elsewhere: seven curves share a panel
COMPARED = (
    ("rec_loss", BLUE, "-"),
    ("kl_loss", RED, "--"),
    ("total_loss", BLACK, "-"),
    ("logvar", SKY, "-."),
    ("g_loss", GREEN, "-"),
    ("disc_loss", ORANGE, "--"),
    ("d_weight", PURPLE, ":"),
)
WORDS = {"train": "training", "val": "validation"}
LEGEND_ABOVE = dict(
    loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9
)


def min_max(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Returns (v - min) / (max - min); a constant is 1/2."""
    span = values.max() - values.min()
    return (values - values.min()) / span if span else np.full_like(values, 0.5)


def z_score(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Returns (v - mean) / std; a constant is 0."""
    std = values.std()
    return (values - values.mean()) / std if std else np.zeros_like(values)


def _phase_notes(run: Run) -> list[tuple[float, str]]:
    """Returns (middle step, words) of each phase that the run has reached."""
    names = ("without discriminator", "with discriminator")
    mean = curves.smooth(curves.curve(run, "train/rec_loss"), run.switch)
    notes = []
    for name, part in zip(names, curves.phases(mean, run.switch), strict=True):
        if len(part.values):
            change = f"rec_loss {part.values[0]:.3g} → {part.values[-1]:.3g}"
            notes.append((part.steps[[0, -1]].mean(), f"{name}\n{change}"))
    return notes
