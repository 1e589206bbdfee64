"""What a run's folder gets after training: figures, pictures of latents, report."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np
from absl import logging
from jaxtyping import Float

from radiovae_jax import cli, inputs
from radiovae_jax.reporting import (
    curves,
    dashboard,
    latent_plots,
    plots,
    report_page,
)
from radiovae_jax.reporting.curves import NO_CHARTS, Charts

SAMPLES = "images/samples.npy"  # f of the maps that a run drew last, [b, h, w, c]


def training_figures(
    workdir: pathlib.Path, stage: Charts = NO_CHARTS
) -> list[pathlib.Path]:
    """Draws the figures of the numbers in metrics.jsonl into figures/.

    One is left out where nothing is logged that it shows. Raises as `curves.read`
    does, and an OSError where the folder cannot be written.
    """
    run = curves.read(workdir, stage)
    folder = cli.folder(pathlib.Path(workdir) / "figures", flag="workdir")
    run = run._replace(samples=read_samples(pathlib.Path(workdir) / SAMPLES))
    drawn = {name: draw(run) for name, draw in stage.figures.items()}
    drawn["figure_5_training_summary"] = dashboard.training_summary(run)
    return [
        plots.save(figure, folder / f"{name}.png")
        for name, figure in drawn.items()
        if any(axis.lines for axis in figure.axes)
    ]


def read_samples(path: pathlib.Path) -> Float[np.ndarray, "b h w c"] | None:
    """Returns f of the last samples; None where there are none, or no whole file."""
    try:
        samples = inputs.read_npy(path, remedy="figure 5 goes without it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logging.warning("%s", error)
        return None
    if samples.ndim == 4 and samples.size and samples.dtype.kind == "f":
        return samples
    logging.warning("%s holds no maps; figure 5 goes without it", path)
    return None


def latent_figures(
    workdir: pathlib.Path, stage: Charts, *, count: int
) -> list[pathlib.Path]:
    """Draws latents of some maps into figures/: channels, and a histogram.

    Raises:
      ValueError: the stage has no latents of its own.
    """
    if not stage.latents:
        raise ValueError(
            f"the stage of {workdir} has no latents of its own; give the folder of a "
            "first stage"
        )
    f, mode, sample, db = stage.latents(workdir, count=count)
    folder = pathlib.Path(workdir) / "figures"
    channels = latent_plots.channels(f, mode, db=db)
    title = f"latents of {len(sample)} maps, drawn from their posteriors"
    histogram = latent_plots.histogram(sample, title=title)
    return [
        plots.save(channels, folder / "latent_channels.png"),
        plots.save(histogram, folder / "latent_histogram.png"),
    ]


def after_training(
    workdir: pathlib.Path,
    stage: Charts = NO_CHARTS,
    *,
    latents: int = 0,
) -> list[pathlib.Path]:
    """Draws all there is to draw; what cannot be drawn is said and ends nothing.

    Args:
      latents: of so many maps, where the stage has latents of its own.
    """
    written = _attempt("the figures", lambda: training_figures(workdir, stage))
    if latents and stage.latents:
        draw = functools.partial(latent_figures, workdir, stage, count=latents)
        written += _attempt("the latents", draw)
    return written + _attempt("the report", lambda: [report_page.write(workdir, stage)])


def renew_report(
    workdir: pathlib.Path, stage: Charts = NO_CHARTS
) -> list[pathlib.Path]:
    """Writes the report again, with what was added to the run, if it has one."""
    if not (pathlib.Path(workdir) / "report.html").exists():
        return []
    return _attempt("the report", lambda: [report_page.write(workdir, stage)])


def _attempt(what: str, draw: Callable[[], list[pathlib.Path]]) -> list[pathlib.Path]:
    try:
        return draw()
    except Exception as error:  # a picture is not worth a run
        logging.error("%s could not be made: %r", what, error)
        return []
