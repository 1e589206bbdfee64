"""Figures 1 to 4 of a training: phases, loss components, three axes, one scale.

Colours and line styles both tell curves apart, one of each for every quantity
(quantities.py). Raw numbers are faint, their running median is bold, and validation is
circles. A column that a run does not have leaves a panel that says so; a constant is
named at the foot.
"""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radiovae_jax.reporting import curves, panels, quantities
from radiovae_jax.reporting.curves import Run
from radiovae_jax.reporting.panels import trace

NORMALIZED_WINDOWS = 15  # smoother than elsewhere: seven curves share a panel
COMPARED = "rec_loss kl_loss total_loss logvar g_loss disc_loss d_weight".split()
NORMALIZATIONS = (
    "min-max: 0 is the curve's lowest, 1 its highest",
    "z-score: in standard deviations about the curve's mean",
    "relative to the first logged value (without what starts at 0)",
)


def training_phases(run: Run) -> Figure:
    """Returns reconstruction, KL and adversarial losses over both phases.

    The second phase is shaded; above each phase stands what it did to `rec_loss`.
    """
    figure = panels.new(run, "Training phases", (11, 8.5))
    rec, kl, adversarial = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    trace(rec, run, "train/rec_loss", "val/rec_loss")
    trace(kl, run, "train/kl_loss", "val/kl_loss")
    trace(adversarial, run, "train/g_loss", "train/disc_loss")
    panels.finish(rec, run, "reconstruction\n(rec_loss, per pixel)")
    panels.finish(kl, run, "KL\n(nats per image)")
    panels.finish(adversarial, run, "adversarial losses", empty=_no_adversary(run))
    adversarial.set_xlabel("step")
    place = dict(transform=rec.get_xaxis_transform(), ha="center", va="bottom")
    for phase, text in _phase_notes(run):
        rec.text(phase, 1.02, text, fontsize=10, color=panels.GRAY, **place)
    return figure


def loss_components(run: Run) -> Figure:
    """Returns four panels: totals, pixelwise terms, KL, adversarial."""
    figure = panels.new(run, "Loss components", (12, 8))
    (total, terms), (kl, adversarial) = figure.subplots(2, 2, sharex=True)
    trace(total, run, "train/total_loss", "train/nll_loss", "val/total_loss")
    pixelwise = "rec_loss edge_loss pinn_loss ssim_loss perceptual_loss".split()
    validated = ("val/rec_loss", "val/perceptual_loss")
    trace(terms, run, *(f"train/{name}" for name in pixelwise), *validated)
    trace(kl, run, "train/kl_loss", "val/kl_loss")
    names = "g_loss disc_loss feature_matching_loss logits_real logits_fake".split()
    drawn = trace(adversarial, run, *(f"train/{name}" for name in names))
    panels.finish(total, run, "per image", title="total and likelihood")
    panels.finish(terms, run, "per pixel; LPIPS and SSIM per image", title="terms")
    panels.finish(kl, run, "nats per image", title="KL, before its weight")
    panels.finish(adversarial, run, "", title="adversarial", empty=_no_adversary(run))
    if drawn:
        panels.legend_below(adversarial, drawn, columns=2)
    for axis in (kl, adversarial):
        axis.set_xlabel("step")
    return figure


def three_axes(run: Run) -> Figure:
    """Returns rec, KL and the generator's loss in one panel, each on its own axis.

    Bands show how far each scatters about its median. Before the discriminator's phase
    the third one is the total.
    """
    smoothed = "bands: 10th to 90th percentile, curves"
    title = "Three losses, each on its own axis"
    figure = panels.new(run, title, (12, 6.5), smoothed=smoothed)
    third = ("train/g_loss", "generator (g_loss)")
    if not len(curves.curve(run, third[0]).values):
        third = ("train/total_loss", "total (per image)")
    left = figure.subplots()
    right, outer = left.twinx(), left.twinx()
    outer.spines["right"].set_position(("outward", 62))
    drawn = []
    for axis, name, label in (
        (left, "train/rec_loss", "reconstruction (rec_loss, per pixel)"),
        (right, "train/kl_loss", "KL (nats per image)"),
        (outer, *third),
    ):
        lines = trace(axis, run, name, label=label, band=True)
        if not lines and axis is not left:
            axis.remove()
            continue
        drawn += lines
        panels.set_scale(axis)
        if axis is not left:
            axis.grid(False)
        colour = quantities.look(name).colour
        axis.set_ylabel(label, color=colour)
        axis.tick_params(axis="y", which="both", colors=colour)
        side = "left" if axis is left else "right"
        axis.spines[side].set(color=colour, linewidth=2)
    panels.mark_phases(left, run)
    left.set_xlabel("step")
    if drawn:
        above = dict(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
        left.legend(handles=drawn, fontsize=9, **above)
    else:
        panels.write_in(left, panels.NOT_LOGGED)
    return figure


def normalized(run: Run) -> Figure:
    """Returns the losses on one scale: min-max, z-scores, and relative to the first.

    Which of them moves when. What spans decades is compared as logarithms, but for the
    last panel, whose axis can be logarithmic.
    """
    windows = NORMALIZED_WINDOWS
    figure = panels.new(
        run, "Losses on one scale", (12, 11), windows=windows, smoothed="curves"
    )
    ranged, scored, relative = axes = figure.subplots(3, 1, sharex=True)
    drawn = []
    for name in COMPARED:
        logged, quantity = curves.curve(run, f"train/{name}"), quantities.look(name)
        steps, values = curves.smooth(logged, run.switch, windows=windows)
        if len(values) < 2:
            continue
        if curves.constant(logged):
            panels.leave_out(ranged, quantity, logged.values[0])
            continue
        style = dict(color=quantity.colour, ls=quantity.style, lw=1.8, label=name)
        if logged.values[0]:
            relative.plot(steps, values / logged.values[0], **style)
        if curves.spans_decades(values):
            values, style["label"] = np.log10(values), f"{name} (log)"
        drawn += ranged.plot(steps, min_max(values), **style)
        scored.plot(steps, z_score(values), **style)
    for axis, title in zip(axes, NORMALIZATIONS, strict=True):
        panels.mark_phases(axis, run)
        axis.set_title(title, fontsize=10.5, loc="left")
        panels.set_scale(axis)
        if not axis.lines:
            panels.write_in(axis, "no curve that changes")
    _make_room(relative)
    relative.set_xlabel("step")
    if drawn:
        figure.legend(handles=drawn, loc="outside right upper", frameon=False)
    return figure


def _make_room(axis: Axes) -> None:
    """Makes room for ratios far from 1 where others are negative: a log of both."""
    values = np.concatenate([line.get_ydata() for line in axis.lines] or [[0.0]])
    if values.min() <= 0 and np.abs(values).max() > curves.LOG_SPAN:
        axis.set_yscale("symlog", linthresh=0.1)
        axis.yaxis.set_major_formatter(panels.whole_numbers())
        axis.set_ylim(1.3 * min(values.min(), -0.03), 1.3 * max(values.max(), 1))


def min_max(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Returns (v - min) / (max - min); a constant is 1/2."""
    span = np.ptp(values)
    return (values - values.min()) / span if span else np.full_like(values, 0.5)


def z_score(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Returns (v - mean) / std; a constant is 0."""
    std = values.std()
    return (values - values.mean()) / std if std else np.zeros_like(values)


def _no_adversary(run: Run) -> str:
    """Returns why a panel of adversarial losses is empty."""
    return panels.NOT_LOGGED if run.last_step > run.switch else panels.phase_words(run)


def _phase_notes(run: Run) -> list[tuple[float, str]]:
    """Returns (middle step, words) of each phase that the run has reached."""
    names = ("without discriminator", "with discriminator")
    median = curves.smooth(curves.curve(run, "train/rec_loss"), run.switch)
    notes = []
    for name, part in zip(names, curves.phases(median, run.switch), strict=True):
        if len(part.values):
            change = f"rec_loss {part.values[0]:.3g} → {part.values[-1]:.3g}"
            notes.append((part.steps[[0, -1]].mean(), f"{name}\n{change}"))
    return notes
