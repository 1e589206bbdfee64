"""Figure 5, a training on one page: quality, losses, balance, samples, resources."""

import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radiovae_jax.reporting import curves, panels, plots
from radiovae_jax.reporting.curves import Curve, Run
from radiovae_jax.reporting.panels import Panel, trace
from radiovae_jax.reporting.quantities import BLACK, RED, Quantity, look

TITLE_WIDTH = 56  # letters over a panel
NO_VALUES = "no validation yet"
MOST_SAMPLES = 4


def training_summary(run: Run) -> Figure:
    """Returns the panels of any training, and those of the run's stage among them."""
    parts = (quality, *run.stage.panels, convergence, resources)
    rows = 1 if len(parts) < 4 else 2
    columns = -(-len(parts) // rows)
    figure = panels.new(run, "Training summary", (17 / 3 * columns, 4.75 * rows))
    axes = figure.subplots(rows, columns).ravel()
    for axis in axes[len(parts) :]:
        axis.set_axis_off()
    for axis, draw in zip(axes, parts, strict=False):
        axis.set_xlabel("step")
        draw(axis, run)
    return figure


def quality(axis: Axes, run: Run) -> None:
    right = axis.twinx()
    drawn = trace(axis, run, "val/psnr", label="PSNR")
    drawn += trace(right, run, "val/ssim", label="SSIM")
    panels.finish(axis, run, "PSNR (dB)", empty=NO_VALUES)
    panels.finish_right(axis, right, "SSIM", drawn)
    if right.lines:
        _apart(axis, right)
    last = [f"{line.get_label()} {line.get_ydata()[-1]:.4g}" for line in drawn]
    title = "validation quality" + ": " * bool(last) + ", ".join(last)
    lines = [title, *textwrap.wrap(run.frechet, TITLE_WIDTH)]
    axis.set_title("\n".join(lines), fontsize=11, loc="left", parse_math=False)


def two_axes(axis: Axes, run: Run, *, left: Panel, right: Panel) -> None:
    """Draws columns on an axis of their own at each side."""
    twin = axis.twinx()
    sides = [*((axis, n) for n in left.names), *((twin, n) for n in right.names)]
    drawn = [line for side, name in sides for line in trace(side, run, name)]
    panels.finish(axis, run, left.unit, title=left.title)
    panels.finish_right(axis, twin, right.unit, drawn)


def computed(
    axis: Axes,
    run: Run,
    *,
    of: Callable[[Run], Sequence[tuple[Quantity, Curve]]],
    title: Callable[[Run], str],
    unit: str,
) -> None:
    """Draws curves that are computed of the columns."""
    for quantity, points in of(run):
        if len(points.values):
            panels.draw(axis, run, points, quantity)
    panels.finish(axis, run, unit, title=title(run))


def samples(axis: Axes, run: Run) -> None:
    """Shows the first four of the maps that were drawn last, or their diversity."""
    if run.samples is None:
        trace(axis, run, "val/sample_diversity")
        words = dict(title="diversity of samples", empty="no samples drawn yet")
        panels.finish(axis, run, run.db.unit, **words)
        return
    part, *more = plots.channel_parts(run.samples.shape[-1], run.db)
    maps = run.samples[:MOST_SAMPLES, ..., part]
    words = (
        "their first channel" if more else plots.channel_words(maps.shape[-1], run.db)
    )
    diversity = curves.curve(run, "val/sample_diversity").values
    title = f"latest samples from the prior{', ' * bool(words)}{words}"
    if len(diversity):
        title += f"; diversity {diversity[-1]:.3g} {run.db.unit}"
    axis.set_title(f"{title}\n{plots.NOISE}", fontsize=11, loc="left")
    axis.set_axis_off()
    columns = min(2, len(maps))
    side = 1 / columns
    for number, f in enumerate(maps):
        row, column = divmod(number, columns)
        place = (column * side, 1 - (row + 1) * side, 0.98 * side, 0.98 * side)
        inset = axis.inset_axes(place)
        inset.set_anchor("EW"[column] if columns > 1 else "C")  # side by side
        shown = plots.show_map(inset, f, "", reference=maps, db=run.db)
    if maps.shape[-1] == 1:
        plots.gain_bar(axis.figure, shown, maps, run.db, ax=axis)


def convergence(axis: Axes, run: Run) -> None:
    steps, nmse = curves.deciding(run)
    right, drawn, title = axis.twinx(), [], ""
    if len(nmse):
        quantity = look("val/nmse")._replace(label="validation NMSE, pooled")
        drawn = panels.draw(axis, run, Curve(steps, nmse), quantity, circles=True)
        lowest, best = np.minimum.accumulate(nmse), int(nmse.argmin())
        dotted = dict(color=BLACK, lw=1, ls=":", label="best")
        drawn += axis.step(steps, lowest, where="post", **dotted)
        axis.plot(steps[best], nmse[best], "*", color=RED, ms=13, zorder=4)
        title = f": best NMSE {nmse[best]:.3g}, step {steps[best]:,.0f}"
    panels.finish(axis, run, "NMSE", title=f"convergence{title}", empty=NO_VALUES)
    names = (f"train/{run.stage.network}_{kind}_norm" for kind in ("update", "param"))
    steps, norms = curves.columns(run, *names)
    known = norms[:, 1] > 0
    if known.any():
        ratio = Curve(steps[known], norms[known, 0] / norms[known, 1])
        update = look("train/update_norm")._replace(label="update / weights")
        drawn += panels.draw(right, run, ratio, update)
    panels.finish_right(axis, right, "norm of the update / of the weights", drawn)


def resources(axis: Axes, run: Run) -> None:
    right = axis.twinx()
    drawn = trace(axis, run, "time/step_seconds", "time/data_seconds")
    drawn += trace(right, run, "memory/device_bytes", "memory/host_bytes")
    rate = curves.curve(run, "time/images_per_second").values
    title = "resources"
    if len(rate):
        title += f": {np.median(rate):.3g} images a second (median)"
    panels.finish(axis, run, "seconds", title=title)
    panels.finish_right(axis, right, "memory (GiB)", drawn)


def _apart(below: Axes, above: Axes) -> None:
    """Gives two axes different ends: of curves that rise alike one would hide one."""
    for axis, down, up in ((below, 0.0, 0.3), (above, 0.3, 0.0)):
        low, high = axis.get_ylim()
        if axis.get_yscale() == "linear":
            axis.set_ylim(low - down * (high - low), high + up * (high - low))
