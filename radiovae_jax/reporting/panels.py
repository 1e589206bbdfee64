"""Panels of a training's figures: curves, their scales, the phases, the words."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator, ScalarFormatter

from radiovae_jax.reporting import curves, quantities
from radiovae_jax.reporting.curves import Curve, Run
from radiovae_jax.reporting.quantities import Quantity

PHASE_SHADE = "#F1EDE4"
GRAY = "#555555"
NOT_LOGGED = "not logged, or constant"
CONSTANT = "constant, not drawn: "
FAINT = "faint: as logged, bold"
FOOT = dict(fontsize=10, color=GRAY)
CIRCLES = dict(marker="o", mfc="white", ms=4, lw=1, zorder=3)  # of validations


class Panel(NamedTuple):
    """What a panel of a figure shows."""

    names: Sequence[str]  # of columns
    unit: str  # what stands at its axis
    title: str = ""


class ShortLog(LogFormatter):
    """Labels the ticks that LogFormatter would, without exponents."""

    def __call__(self, x: float | int, pos: int | None = 0) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def whole_numbers() -> ScalarFormatter:
    """Returns what labels ticks without an offset or a factor beside the axis."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_powerlimits((-5, 9))
    return formatter


def new(
    run: Run,
    title: str,
    size: tuple[float | int, float | int],
    *,
    windows: int = curves.WINDOWS,
    smoothed: str = FAINT,
) -> Figure:
    """Returns an empty figure with its title and, at its foot, how to read it.

    Args:
      smoothed: which curves are running medians, over 1/`windows` of the lines.
    """
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=14)
    phase = phase_words(run)
    words = [f"dashed line and shade: {phase}" if run.shows_switch else phase]
    if len(run.lines) >= 2 * windows:
        words.append(f"{smoothed}: running median over 1/{windows} of the lines")
    figure.supxlabel("; ".join(filter(None, words)), **FOOT)
    return figure


def phase_words(run: Run) -> str:
    """Returns where the second phase lies; "" for a stage without one."""
    later = run.stage.later
    if math.isinf(run.switch):
        return f"this run has no {later}" if run.switch > 0 else ""
    if run.last_step <= run.switch:
        return f"the {later} starts after step {run.switch:,}"
    if run.shows_switch:
        return f"with the {later}, after step {run.switch:,}"
    return f"with the {later} from the first line on"


def leave_out(axis: Axes, quantity: Quantity, value: float) -> None:
    """Says at the figure's foot what never changes, and is therefore not drawn."""
    figure = axis.get_figure()
    words, _, listed = figure.get_supxlabel().partition("\n" + CONSTANT)
    items = dict.fromkeys(listed.split(", ") if listed else ())  # each once
    items[f"{quantity.label} {value:.6g} {quantity.unit}".rstrip()] = None
    figure.supxlabel(f"{words}\n{CONSTANT}{', '.join(items)}", **FOOT)


def trace(
    axis: Axes, run: Run, *names: str, label: str = "", band: bool = False
) -> list[Line2D]:
    """Draws columns; returns a line for a legend of each that has values.

    Validation is circles, in the colour that the same number has in training.

    Args:
      label: of a single column; else `quantities.labels` are.
      band: see `draw`.
    """
    drawn = []
    for place, (name, own) in enumerate(quantities.labels(names).items()):
        points = curves.curve(run, name)
        quantity = quantities.look(name, run.db, place=place)
        if curves.constant(points):
            named = quantity._replace(label=quantities.full_label(name))
            leave_out(axis, named, points.values[0])
        elif len(points.values):
            quantity = quantity._replace(label=label or own)
            circles = name.startswith("val/")
            drawn += draw(axis, run, points, quantity, circles=circles, band=band)
    return drawn


def draw(
    axis: Axes,
    run: Run,
    points: Curve,
    quantity: Quantity,
    *,
    circles: bool = False,
    band: bool = False,
) -> list[Line2D]:
    """Draws points faintly and their running median boldly; returns the latter.

    Args:
      circles: draws the points as circles instead, for validations.
      band: shades their 10th to 90th percentiles in place of the points.
    """
    label, colour, style, *_ = quantity
    if circles:
        return axis.plot(*points, style, color=colour, label=label, **CIRCLES)
    if curves.constant(points):
        leave_out(axis, quantity, points.values[0])
        return []
    median = curves.smooth(points, run.switch)
    if median is not points and band:
        low, high = curves.band(points, run.switch)
        axis.fill_between(*low, high.values, color=colour, alpha=0.15, lw=0)
        for edge in (low, high):  # as lines, so that the axis makes room for them
            axis.plot(*edge, color=colour, lw=0.5, alpha=0.3)
    elif median is not points:
        axis.plot(*points, color=colour, lw=0.7, alpha=0.25)
    marker = "o" if len(points.values) == 1 else ""
    return axis.plot(*median, style, color=colour, lw=1.8, marker=marker, label=label)


def show(axis: Axes, run: Run, panel: Panel) -> list[Line2D]:
    """Draws and finishes a panel; says why where all of it is of a phase to come."""
    drawn = trace(axis, run, *panel.names)
    ahead = run.stage.later_columns.issuperset(panel.names)
    empty = phase_words(run) if ahead and run.last_step <= run.switch else NOT_LOGGED
    finish(axis, run, panel.unit, title=panel.title, empty=empty)
    return drawn


def finish(
    axis: Axes, run: Run, unit: str, *, title: str = "", empty: str = NOT_LOGGED
) -> None:
    """Sets a panel's scale, switch, words and legend; says so if nothing is in it."""
    filled = bool(axis.lines)
    set_scale(axis)
    mark_phases(axis, run)
    axis.set_ylabel(unit)
    axis.set_title(title, fontsize=11, loc="left")
    if filled:
        axis.legend(fontsize=9, framealpha=0.85)
    else:
        write_in(axis, empty)


def finish_right(left: Axes, right: Axes, unit: str, drawn: list[Line2D]) -> None:
    """Finishes the second axis of a panel, or takes it away where nothing is on it.

    The legend of all that is drawn stands below, where no curve can be.
    """
    if not right.lines:
        right.remove()
        return
    set_scale(right)
    right.grid(False)
    right.set_ylabel(unit)
    legend_below(left, drawn)


def legend_below(axis: Axes, drawn: list[Line2D], *, columns: int = 4) -> None:
    if axis.get_legend():
        axis.get_legend().remove()
    place = dict(loc="upper center", bbox_to_anchor=(0.5, -0.13))
    axis.legend(handles=drawn, fontsize=9, ncols=columns, frameon=False, **place)


def write_in(axis: Axes, text: str) -> None:
    """Puts words where there is nothing to draw."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", color=GRAY)
    axis.set_yticks([])


def set_scale(axis: Axes) -> None:
    """Log where numbers are far apart; on a linear scale single spikes may leave it."""
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    lines = [np.asarray(line.get_ydata(), np.float64) for line in axis.lines]
    if not lines:
        return
    values = np.concatenate(lines)
    if curves.spans_decades(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ShortLog())
        axis.yaxis.set_minor_formatter(ShortLog(minor_thresholds=(1.2, 0.5)))
        return
    axis.yaxis.set_major_formatter(whole_numbers())
    # Bold curves (and validation) are always whole.
    bold = [
        y for y, line in zip(lines, axis.lines, strict=True) if not line.get_alpha()
    ]
    inside = np.concatenate([np.quantile(values, [0.005, 0.995]), *bold])
    low, high = inside.min(), inside.max()
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axis.set_ylim(low - margin, high + margin)


def mark_phases(axis: Axes, run: Run) -> None:
    """Shades the second phase; `new` says at the foot what that means."""
    first, last = run.lines[0]["step"], run.last_step
    margin = 0.02 * (last - first) or 1
    axis.set_xlim(first - margin, last + margin)
    if run.shows_switch:
        axis.axvspan(run.switch, last + margin, color=PHASE_SHADE, zorder=-2)
        axis.axvline(run.switch, color=GRAY, lw=1.2, ls=(0, (4, 2)), zorder=1)
