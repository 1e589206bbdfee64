"""What the pictures of a training share: how a quantity looks, scales, the switch."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, LogFormatter, MaxNLocator

from radiovae_jax.reporting import curves
from radiovae_jax.reporting.curves import Curve, Run

# Source: Okabe and Ito 2008, "Color Universal Design".
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
# Source: Paul Tol 2021, "Colour Schemes", muted.
INDIGO, TEAL, OLIVE, WINE = "#332288", "#44AA99", "#999933", "#882255"
ROSE, MAUVE = "#CC6677", "#AA4499"
PHASE_SHADE = "#F1EDE4"
GRAY = "#555555"
NOT_LOGGED = "not logged, or constant"
CONSTANT = "constant, not drawn: "
FAINT = "faint: as logged, bold"


class Quantity(NamedTuple):
    """How one number looks in every picture: figures, dashboard, report."""

    label: str
    colour: str
    style: str = "-"
    unit: str = ""


QUANTITIES = {
    "rec_loss": Quantity("rec", BLUE, "-", "per pixel"),
    "kl_loss": Quantity("KL", RED, "--", "nats per image"),
    "total_loss": Quantity("total", BLACK, "-", "per image"),
    "nll_loss": Quantity("nll", SKY, "--", "per image"),
    "edge_loss": Quantity("edge", TEAL, "--", "per pixel"),
    "pinn_loss": Quantity("pinn", WINE, "-.", "per pixel"),
    "ssim_loss": Quantity("1 − SSIM", OLIVE, ":"),
    "perceptual_loss": Quantity("LPIPS", ROSE, "-."),
    "logvar": Quantity("logvar", MAUVE, "-."),
    "g_loss": Quantity("generator", GREEN, "-."),
    "disc_loss": Quantity("discriminator", ORANGE, "--"),
    "d_weight": Quantity("d_weight", PURPLE, ":"),
    "feature_matching_loss": Quantity("feature matching", WINE, "-"),
    "r1_loss": Quantity("R1", INDIGO, "--"),
    "lecam_loss": Quantity("LeCAM", OLIVE, ":"),
    "logits_real": Quantity("logits of maps", INDIGO, "-."),
    "logits_fake": Quantity("logits of reconstructions", MAUVE, ":"),
    "disc_accuracy": Quantity("share", TEAL),
    "psnr": Quantity("PSNR", INDIGO, "-", "dB"),
    "ssim": Quantity("SSIM", TEAL, "--"),
    "nmse": Quantity("NMSE", WINE),
    "rmse_db": Quantity("RMSE", ROSE, "-", "dB"),
    "rmse": Quantity("RMSE", ROSE),
    "mae_db": Quantity("MAE", OLIVE, "--", "dB"),
    "mae": Quantity("MAE", OLIVE, "--"),
    "sample_diversity": Quantity("mean distance", MAUVE, "-", "dB"),
    **{
        f"{network}_{kind}_norm": Quantity(label, colour, style)
        for network in ("ae", "disc")
        for kind, label, colour, style in (
            ("grad", "gradient", INDIGO, "-"),
            ("update", "update", OLIVE, "--"),
            ("param", "weights", ROSE, ":"),
        )
    },
    **{
        f"{name}_{end}": Quantity(label, colour, style)
        for name in ("recon", "posterior_logvar")
        for end, label, colour, style in (
            ("min", "lowest", INDIGO, "-"),
            ("max", "highest", ROSE, "--"),
        )
    },
    "skipped": Quantity("all", INDIGO),
    "skipped_in_row": Quantity("in a row", ROSE, "--"),
    "step_seconds": Quantity("a step", INDIGO, "-", "seconds"),
    "data_seconds": Quantity("of it waiting for data", ROSE, "--", "seconds"),
    "validation_seconds": Quantity("validation", MAUVE, "-", "seconds"),
    "checkpoint_seconds": Quantity("saving", WINE, "--", "seconds"),
    "device_bytes": Quantity("device memory", TEAL, "-.", "bytes"),
    "host_bytes": Quantity("host memory", OLIVE, ":", "bytes"),
}


def look(column: str) -> Quantity:
    """Returns how a column of metrics.jsonl looks, in training as in validation."""
    return QUANTITIES.get(column.rpartition("/")[2], Quantity(column, BLACK))


class ShortLog(LogFormatter):
    """Labels the ticks that LogFormatter would, as `short` writes them."""

    def __call__(self, x: float | int, pos: int | None = 0) -> str:
        return short(x) if super().__call__(x, pos) else ""


class Short(Formatter):
    """Labels ticks as `short` writes them: whole, with the digits that tell them apart.

    So no offset stands beside the axis.
    """

    def __call__(self, x: float | int, pos: int | None = 0) -> str:
        return short(x)

    def format_ticks(self, values: Iterable[float | int]) -> list[str]:
        for digits in range(6, 16):
            labels = [short(value, digits=digits) for value in values]
            if len(set(labels)) == len(labels):
                break
        return labels


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
      windows: of `curves.smooth`.
      smoothed: which curves are running medians.
    """
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=14)
    words = ["with the discriminator from the first line on"]
    if reached(run):
        words = [
            f"dashed line and shade: with the discriminator, after step {run.switch:,}"
        ]
    elif run.lines[-1]["step"] <= run.switch:
        words = [waiting(run)]
    if len(run.lines) >= 2 * windows:
        words.append(f"{smoothed}: running median over 1/{windows} of the lines")
    _say_at_foot(figure, "; ".join(words))
    return figure


def leave_out(figure: Figure, quantity: Quantity, value: float) -> None:
    """Says at the figure's foot what never changes, and is therefore not drawn."""
    words, _, listed = figure.get_supxlabel().partition("\n" + CONSTANT)
    items = dict.fromkeys(listed.split(", ") if listed else ())  # each once
    items[f"{quantity.label} {short(value)} {quantity.unit}".rstrip()] = None
    _say_at_foot(figure, f"{words}\n{CONSTANT}{', '.join(items)}")


def _say_at_foot(figure: Figure, words: str) -> None:
    figure.supxlabel(words, fontsize=10, color=GRAY)


def trace(
    axis: Axes, run: Run, column: str, label: str = "", *, band: bool = False
) -> list[Line2D]:
    """Draws a column; returns its line for a legend, none where it has no values.

    Validation is circles, in the colour that the same number has in training.
    """
    points, quantity = curves.curve(run, column), look(column)
    if not len(points.values):
        return []
    validation = column.startswith("val/")
    if curves.constant(points):
        named = quantity._replace(label=quantity.label + ", validation" * validation)
        leave_out(axis.get_figure(), named, points.values[0])
        return []
    quantity = quantity._replace(label=label or quantity.label)
    if validation:
        return circles(axis, points, quantity)
    return draw(axis, run, points, quantity, band=band)


def circles(axis: Axes, points: Curve, quantity: Quantity) -> list[Line2D]:
    """Draws numbers of validations; returns their line."""
    name, colour, style, _ = quantity
    marks = dict(marker="o", mfc="white", ms=4, lw=1, zorder=3)
    return axis.plot(*points, style, color=colour, label=name, **marks)


def draw(
    axis: Axes, run: Run, points: Curve, quantity: Quantity, *, band: bool = False
) -> list[Line2D]:
    """Draws points faintly and their running median boldly; returns the latter.

    Args:
      band: shades their 10th to 90th percentiles in place of the points.
    """
    label, colour, style, _ = quantity
    if curves.constant(points):
        leave_out(axis.get_figure(), quantity, points.values[0])
        return []
    median = curves.smooth(points, run.switch)
    marker = "o" if len(points.values) == 1 else ""
    if median is not points and band:
        low, high = curves.band(points, run.switch)
        axis.fill_between(*low, high.values, color=colour, alpha=0.15, lw=0)
        for edge in (low, high):  # as lines, so that the axis makes room for them
            axis.plot(*edge, color=colour, lw=0.5, alpha=0.3)
    elif median is not points:
        axis.plot(*points, color=colour, lw=0.7, alpha=0.25)
    return axis.plot(*median, style, color=colour, lw=1.8, marker=marker, label=label)


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
    axis.xaxis.set_major_formatter(Short())
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
    axis.yaxis.set_major_formatter(Short())
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


def short(number: float | int, *, digits: int = 6) -> str:
    """Returns 50k for 50,000: for ticks."""
    if abs(number) >= 10_000:
        return f"{number / 1000:.{digits}g}k"
    return f"{number:.{digits}g}"
