"""Figures 1 to 4 of a training: phases, loss components, three axes, one scale.

Colours and line styles both tell curves apart, one of each for every quantity
(quantities.py). Raw numbers are faint, their running median is bold, and validation is
circles. A column that a run does not have leaves a panel that says so; a constant is
named at the foot. What they show is the stage's to name.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radiovae_jax.reporting import curves, panels, quantities
from radiovae_jax.reporting.curves import Run
from radiovae_jax.reporting.panels import Panel, trace

NORMALIZED_WINDOWS = 15  # smoother than elsewhere: seven curves share a panel
NORMALIZATIONS = (
    "min-max: 0 is the curve's lowest, 1 its highest",
    "z-score: in standard deviations about the curve's mean",
    "relative to the first logged value (without what starts at 0)",
)


def training_phases(run: Run, *rows: Panel) -> Figure:
    """Returns panels one below the other, over both phases.

    The second phase is shaded; above each phase stands what it did to the first curve.
    """
    figure = panels.new(run, "Training phases", (11, 8.5))
    heights = (3, *[2] * (len(rows) - 1))
    axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=heights)
    for axis, panel in zip(axes, rows, strict=True):
        panels.show(axis, run, panel)
    axes[-1].set_xlabel("step")
    top = axes[0]
    place = dict(transform=top.get_xaxis_transform(), ha="center", va="bottom")
    for middle, text in _phase_notes(run, rows[0].names[0]):
        top.text(middle, 1.02, text, fontsize=10, color=panels.GRAY, **place)
    return figure


def loss_components(run: Run, *four: Panel) -> Figure:
    """Returns two rows of two panels; the last one's legend stands below it."""
    figure = panels.new(run, "Loss components", (12, 8))
    axes = figure.subplots(2, 2, sharex=True)
    for axis, panel in zip(axes.flat, four, strict=True):
        drawn = panels.show(axis, run, panel)
    if drawn:
        panels.legend_below(axis, drawn, columns=2)
    for axis in axes[1]:
        axis.set_xlabel("step")
    return figure


def three_axes(run: Run, named: Mapping[str, str]) -> Figure:
    """Returns three curves in one panel, each on its own axis.

    Bands show how far each scatters about its median.

    Args:
      named: {column: label}; the first three that have values are drawn.
    """
    smoothed = "bands: 10th to 90th percentile, curves"
    title = "Three losses, each on its own axis"
    figure = panels.new(run, title, (12, 6.5), smoothed=smoothed)
    left = figure.subplots()
    right, outer = left.twinx(), left.twinx()
    outer.spines["right"].set_position(("outward", 62))
    drawn, axes = [], [left, right, outer]
    logged = [name for name in named if len(curves.curve(run, name).values)]
    for axis, name in itertools.zip_longest(axes, logged[:3]):
        lines = trace(axis, run, name, label=named[name], band=True) if name else []
        if not lines and axis is not left:
            axis.remove()
            continue
        drawn += lines
        panels.set_scale(axis)
        if axis is not left:
            axis.grid(False)
        if lines:
            colour = lines[0].get_color()
            axis.set_ylabel(named[name], color=colour)
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


def normalized(run: Run, *names: str) -> Figure:
    """Returns curves on one scale: min-max, z-scores, and relative to the first value.

    Which of them moves when. What spans decades is compared as logarithms, but for the
    last panel, whose axis can be logarithmic.
    """
    windows = NORMALIZED_WINDOWS
    figure = panels.new(
        run, "Losses on one scale", (12, 11), windows=windows, smoothed="curves"
    )
    ranged, scored, relative = axes = figure.subplots(3, 1, sharex=True)
    drawn = []
    for name in names:
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


def _phase_notes(run: Run, name: str) -> list[tuple[float, str]]:
    """Returns (middle step, words) of each phase that the run has reached."""
    median, short = curves.smooth(curves.curve(run, name), run.switch), name[6:]
    notes = []
    for word, part in zip(
        ("without", "with"), curves.phases(median, run.switch), strict=True
    ):
        if len(part.values):
            change = f"{short} {part.values[0]:.3g} → {part.values[-1]:.3g}"
            middle = part.steps[[0, -1]].mean()
            notes.append((middle, f"{word} {run.stage.later}\n{change}"))
    return notes
