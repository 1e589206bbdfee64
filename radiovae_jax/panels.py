"""What the pictures of a training share: colours, curves, scales, the switch."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from radiovae_jax import curves
from radiovae_jax.curves import Curve, Run

# Source: Okabe and Ito 2008, "Color Universal Design".
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
PHASE_SHADE = "#F1EDE4"
GRAY = "#555555"
SMOOTHING = "faint: as logged; bold: running median"
NOT_LOGGED = "not logged by this run"


class ShortLog(LogFormatter):
    """Labels the ticks that LogFormatter would, as `short` writes them."""

    def __call__(self, x: float | int, pos: int | None = 0) -> str:
        return short(x) if super().__call__(x, pos) else ""


def new(run: Run, title: str, size: tuple[float | int, float | int]) -> Figure:
    """Returns an empty figure with its title and, at its foot, what the shade means."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=14)
    words = waiting(run)
    if reached(run):
        words = (
            f"dashed line and shade: with the discriminator, after step {run.switch:,}"
        )
    figure.supxlabel(f"{SMOOTHING}; {words}", fontsize=10, color=GRAY)
    return figure


def trace(
    axis: Axes, run: Run, name: str, label: str, colour: str, style: str = "-"
) -> list[Line2D]:
    """Draws a column; returns its line for a legend, none where it has no values."""
    points = curves.curve(run, name)
    if not len(points.values):
        return []
    if name.startswith("val/"):
        return axis.plot(
            *points, f"o{style}", color=colour, ms=4, lw=1, label=label, zorder=3
        )
    return draw(axis, run, points, label, colour, style)


def draw(
    axis: Axes, run: Run, points: Curve, label: str, colour: str, style: str = "-"
) -> list[Line2D]:
    """Draws points faintly and their running median boldly; returns the latter."""
    mean = curves.smooth(points, run.switch)
    marker = "o" if len(points.values) == 1 else ""
    if mean is not points:
        axis.plot(*points, color=colour, lw=0.7, alpha=0.25)
    return axis.plot(*mean, style, color=colour, lw=1.8, marker=marker, label=label)


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
        say(axis, empty)


def legend_below(axis: Axes, drawn: list[Line2D], *, columns: int = 4) -> None:
    """Puts the legend of a panel with two axes where no curve can be."""
    if axis.get_legend():
        axis.get_legend().remove()
    place = dict(loc="upper center", bbox_to_anchor=(0.5, -0.13))
    axis.legend(handles=drawn, fontsize=9, ncols=columns, frameon=False, **place)


def say(axis: Axes, text: str) -> None:
    """Puts words where there is nothing to draw."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", color=GRAY)
    axis.set_yticks([])


def waiting(run: Run) -> str:
    if math.isinf(run.switch):
        return "this run has no discriminator"
    if run.lines[-1]["step"] > run.switch:
        return NOT_LOGGED
    return f"the discriminator starts after step {run.switch:,.0f}"


def set_scale(axis: Axes) -> None:
    """Log where numbers are far apart; on a linear scale single spikes may leave it."""
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_formatter(FuncFormatter(short))
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
    axis.yaxis.set_major_formatter(FuncFormatter(short))
    low, high = np.quantile(values, [0.005, 0.995])
    # Bold curves (and validation) are always whole.
    bold = [
        y for y, line in zip(lines, axis.lines, strict=True) if not line.get_alpha()
    ]
    low = min(low, *(y.min() for y in bold))
    high = max(high, *(y.max() for y in bold))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axis.set_ylim(low - margin, high + margin)


def mark_phases(axis: Axes, run: Run) -> None:
    """Shades the discriminator's phase; `new` says at the foot what that means."""
    first, last = run.lines[0]["step"], run.lines[-1]["step"]
    margin = 0.02 * (last - first) or 1
    axis.set_xlim(first - margin, last + margin)
    if not reached(run):
        return
    axis.axvspan(run.switch, last + margin, color=PHASE_SHADE, zorder=-2)
    axis.axvline(run.switch, color=GRAY, lw=1.2, ls=(0, (4, 2)), zorder=1)


def reached(run: Run) -> bool:
    """Whether some lines are from before the discriminator, and some with it."""
    return run.lines[0]["step"] <= run.switch < run.lines[-1]["step"]


def short(number: float | int, _: int = 0) -> str:
    """Returns 50k for 50,000: for ticks."""
    return f"{number / 1000:g}k" if abs(number) >= 10_000 else f"{number:g}"
