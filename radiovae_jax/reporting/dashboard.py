"""A training on one page: quality, losses, balance, samples, convergence, resources."""

import textwrap

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radiovae_jax.reporting import colours, curves, diagnosis, panels, plots
from radiovae_jax.reporting.curves import Curve, Run
from radiovae_jax.reporting.panels import BLACK, RED, Quantity, look, trace

GIB = 2**30


def training_summary(
    run: Run,
    *,
    samples: Float[np.ndarray, "b h w c"] | None,
    title: str = "Training summary",
) -> Figure:
    """Returns six panels.

    Args:
      samples: f of the maps that the run drew from the prior last; None where it has
        none. The first four are shown.
    """
    figure = panels.new(run, title, (17, 9.5))
    (quality, losses, balance), (picture, convergence, resources) = figure.subplots(
        2, 3
    )
    _quality(quality, run)
    _losses(losses, run)
    _balance(balance, run)
    _samples(picture, run, samples)
    _convergence(convergence, run)
    _resources(resources, run)
    for axis in (quality, losses, balance, convergence, resources):
        axis.set_xlabel("step")
    return figure


def _quality(axis: Axes, run: Run) -> None:
    drawn = trace(axis, run, "val/psnr")
    panels.finish(axis, run, "PSNR (dB)", empty=NO_VALUES)
    right = axis.twinx()
    drawn += trace(right, run, "val/ssim")
    _second_axis(axis, right, "SSIM", drawn)
    if right.lines:
        _apart(axis, right)
    title = "validation quality"
    if drawn:
        last = (f"{line.get_label()} {line.get_ydata()[-1]:.4g}" for line in drawn)
        title += f": {', '.join(last)}"
    lines = [title, *textwrap.wrap(run.frechet, TITLE_WIDTH)]
    axis.set_title("\n".join(lines), fontsize=11, loc="left", parse_math=False)


def _losses(axis: Axes, run: Run) -> None:
    drawn = trace(axis, run, "train/rec_loss", "rec_loss")
    drawn += trace(axis, run, "val/rec_loss", "rec_loss, validation")
    panels.finish(axis, run, "rec_loss (per pixel)", title="losses")
    right = axis.twinx()
    drawn += trace(right, run, "train/g_loss")
    drawn += trace(right, run, "train/disc_loss")
    _second_axis(axis, right, "adversarial losses", drawn)


def _balance(axis: Axes, run: Run) -> None:
    for label, points, colour, style in weighed(run):
        if len(points.values):
            panels.draw(axis, run, points, Quantity(label, colour, style))
    title, share = "loss balance", diagnosis.clamped(run)
    if share:
        title += f": d_weight at its clamp in {100 * share:.3g}% of lines"
    panels.finish(axis, run, "size of the term in the total", title=title)


def weighed(run: Run) -> list[tuple[str, Curve, str, str]]:
    """Returns label, |weight x term|, colour and style of what the total adds up.

    Zeros are left out: they have no place on a log scale.
    """
    kl = curves.product(run, "train/kl_loss", "train/kl_weight")
    if not len(kl.values):  # an older run, whose weight was constant
        kl = curves.curve(run, "train/kl_loss")
        kl = Curve(kl.steps, run.kl_weight * kl.values)
    g = curves.product(run, "train/g_loss", "train/d_weight", "train/disc_factor")
    terms = [
        ("|nll|", curves.curve(run, "train/nll_loss"), "nll_loss"),
        ("kl_weight · kl", kl, "kl_loss"),
        ("|d_weight · disc_factor · g|", g, "g_loss"),
    ]
    return [
        (
            label,
            Curve(steps[values != 0], np.abs(values[values != 0])),
            look(name).colour,
            look(name).style,
        )
        for label, (steps, values), name in terms
    ]


def _samples(
    axis: Axes, run: Run, samples: Float[np.ndarray, "b h w c"] | None
) -> None:
    if samples is not None:
        part, *more = plots.channel_parts(samples.shape[-1], run.db)
        maps = samples[:SAMPLES, ..., part]
        words = "their first channel" if more else colours.words(maps.shape[-1])
        title = f"latest samples from the prior{', ' * bool(words)}{words}"
        title += f"{diversity(run)}\n{plots.NOISE}"
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_axis_off()
        for place, f in zip(QUARTERS, maps, strict=False):
            inset = axis.inset_axes(place)
            shown = plots.show_map(inset, f, "", reference=maps, db=run.db)
        if maps.shape[-1] == 1:
            gain, label = plots.in_unit(maps, run.db), plots.gain_label(run.db)
            plots.colour_bar(axis.figure, shown, axis, label, gain)
        return
    trace(axis, run, "val/sample_diversity")
    unit, title = run.db.unit, "diversity of samples"
    panels.finish(axis, run, unit, title=title, empty="no samples drawn yet")


def diversity(run: Run) -> str:
    """Returns the latest samples' mean distance in words, "" where it is not known."""
    values = curves.curve(run, "val/sample_diversity").values
    return f"; diversity {values[-1]:.3g} {run.db.unit}" if len(values) else ""


def _convergence(axis: Axes, run: Run) -> None:
    nmse = curves.deciding(run)
    drawn, title = [], "convergence"
    if len(nmse.values):
        of_nmse = look("val/nmse")._replace(label="validation NMSE, pooled")
        drawn += panels.circles(axis, nmse, of_nmse)
        best = int(nmse.values.argmin())
        lowest = np.minimum.accumulate(nmse.values)
        drawn += axis.step(
            nmse.steps, lowest, where="post", color=BLACK, lw=1, ls=":", label="best"
        )
        axis.plot(nmse.steps[best], nmse.values[best], "*", color=RED, ms=13, zorder=4)
        title += f": best NMSE {nmse.values[best]:.3g}, step {nmse.steps[best]:,.0f}"
        panels.finish(axis, run, "NMSE", title=title)
    else:
        drawn = trace(axis, run, "train/rec_loss", "rec_loss")
        panels.finish(axis, run, "rec_loss", title=f"{title}: {NO_VALUES}")
    steps, norms = curves.columns(run, "train/ae_update_norm", "train/ae_param_norm")
    known = norms[:, 1] > 0
    if not known.any():
        return
    right = axis.twinx()
    ratio = Curve(steps[known], norms[known, 0] / norms[known, 1])
    update = look("ae_update_norm")._replace(label="update / weights")
    drawn += panels.draw(right, run, ratio, update)
    _second_axis(axis, right, "norm of the update / of the weights", drawn)


def _resources(axis: Axes, run: Run) -> None:
    drawn = trace(axis, run, "time/step_seconds")
    drawn += trace(axis, run, "time/data_seconds")
    rate = curves.curve(run, "time/images_per_second").values
    title = "resources"
    if len(rate):
        title += f": {np.median(rate):.3g} images a second (median)"
    panels.finish(axis, run, "seconds", title=title)
    right = axis.twinx()
    for name in ("memory/device_bytes", "memory/host_bytes"):
        points = curves.curve(run, name)
        if len(points.values):
            gib = Curve(points.steps, points.values / GIB)
            drawn += panels.draw(right, run, gib, look(name)._replace(unit="GiB"))
    _second_axis(axis, right, "memory (GiB)", drawn)


def _second_axis(left: Axes, right: Axes, label: str, drawn: list) -> None:
    """Names the axis on the right, or takes it away where nothing is on it."""
    if not right.lines:
        right.remove()
        return
    panels.set_scale(right)
    right.grid(False)
    right.set_ylabel(label)
    panels.legend_below(left, drawn)


def _apart(below: Axes, above: Axes) -> None:
    """Gives two axes different ends: of curves that rise alike one would hide one."""
    for axis, down, up in ((below, 0.0, 0.3), (above, 0.3, 0.0)):
        low, high = axis.get_ylim()
        if axis.get_yscale() == "linear":
            axis.set_ylim(low - down * (high - low), high + up * (high - low))


TITLE_WIDTH = 66  # letters over a panel
NO_VALUES = "no validation yet"
# Left, bottom, width and height, in shares of the panel.
QUARTERS = [(x, y, 0.49, 0.49) for y in (0.51, 0.0) for x in (0.0, 0.51)]
SAMPLES = len(QUARTERS)
