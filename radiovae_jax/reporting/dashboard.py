"""Figure 5, a training on one page: quality, losses, balance, samples, resources."""

import textwrap

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radiovae_jax.reporting import curves, diagnosis, panels, plots
from radiovae_jax.reporting.curves import Curve, Run
from radiovae_jax.reporting.panels import trace
from radiovae_jax.reporting.quantities import BLACK, RED, Quantity, look

TITLE_WIDTH = 66  # letters over a panel
NO_VALUES = "no validation yet"
MOST_SAMPLES = 4


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
    _convergence(convergence, run)
    _resources(resources, run)
    for axis in (quality, losses, balance, convergence, resources):
        axis.set_xlabel("step")
    if samples is None:
        trace(picture, run, "val/sample_diversity")
        words = dict(title="diversity of samples", empty="no samples drawn yet")
        panels.finish(picture, run, run.db.unit, **words)
    else:
        _samples(picture, run, samples)
    return figure


def _quality(axis: Axes, run: Run) -> None:
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


def _losses(axis: Axes, run: Run) -> None:
    right = axis.twinx()
    drawn = trace(axis, run, "train/rec_loss", label="rec_loss")
    drawn += trace(axis, run, "val/rec_loss", label="rec_loss, validation")
    drawn += trace(right, run, "train/g_loss", "train/disc_loss")
    panels.finish(axis, run, "rec_loss (per pixel)", title="losses")
    panels.finish_right(axis, right, "adversarial losses", drawn)


def _balance(axis: Axes, run: Run) -> None:
    for quantity, points in weighed(run):
        if len(points.values):
            panels.draw(axis, run, points, quantity)
    title, share = "loss balance", diagnosis.clamped(run)
    if share:
        title += f": d_weight at its clamp in {100 * share:.3g}% of lines"
    panels.finish(axis, run, "size of the term in the total", title=title)


def weighed(run: Run) -> list[tuple[Quantity, Curve]]:
    """Returns |weight x term| of what the total adds up.

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
            look(name)._replace(label=label, unit=""),
            Curve(steps[values != 0], np.abs(values[values != 0])),
        )
        for label, (steps, values), name in terms
    ]


def _samples(axis: Axes, run: Run, samples: Float[np.ndarray, "b h w c"]) -> None:
    part, *more = plots.channel_parts(samples.shape[-1], run.db)
    maps = samples[:MOST_SAMPLES, ..., part]
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
        shown = plots.show_map(inset, f, "", reference=maps, db=run.db)
    if maps.shape[-1] == 1:
        plots.gain_bar(axis.figure, shown, maps, run.db, ax=axis, location="bottom")


def _convergence(axis: Axes, run: Run) -> None:
    steps, nmse = curves.deciding(run)
    right = axis.twinx()
    if len(nmse):
        quantity = look("val/nmse")._replace(label="validation NMSE, pooled")
        drawn = panels.draw(axis, run, Curve(steps, nmse), quantity, circles=True)
        lowest, best = np.minimum.accumulate(nmse), int(nmse.argmin())
        dotted = dict(color=BLACK, lw=1, ls=":", label="best")
        drawn += axis.step(steps, lowest, where="post", **dotted)
        axis.plot(steps[best], nmse[best], "*", color=RED, ms=13, zorder=4)
        title = f"convergence: best NMSE {nmse[best]:.3g}, step {steps[best]:,.0f}"
        panels.finish(axis, run, "NMSE", title=title)
    else:
        drawn = trace(axis, run, "train/rec_loss", label="rec_loss")
        panels.finish(axis, run, "rec_loss", title=f"convergence: {NO_VALUES}")
    steps, norms = curves.columns(run, "train/ae_update_norm", "train/ae_param_norm")
    known = norms[:, 1] > 0
    if known.any():
        ratio = Curve(steps[known], norms[known, 0] / norms[known, 1])
        update = look("ae_update_norm")._replace(label="update / weights")
        drawn += panels.draw(right, run, ratio, update)
    panels.finish_right(axis, right, "norm of the update / of the weights", drawn)


def _resources(axis: Axes, run: Run) -> None:
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
