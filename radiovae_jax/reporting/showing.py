"""What a run looks like: its figures, its latents, its report.

Reads a run's folder; for the latents, its checkpoint and data as well.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from absl import logging
from jaxtyping import Float

from radiovae_jax import cli, inputs
from radiovae_jax.reporting import (
    curves,
    dashboard,
    figures,
    latent_plots,
    plots,
    report_page,
)
from radiovae_jax.training import validation
from radiovae_jax.vae import latents


def training_figures(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draws the five figures of the numbers in metrics.jsonl into figures/.

    Raises:
      FileNotFoundError: no run, or one that has not logged yet.
      OSError: its folder cannot be written.
    """
    run = curves.read(workdir)
    folder = cli.folder(pathlib.Path(workdir) / "figures", flag="workdir")
    samples = read_samples(pathlib.Path(workdir) / "images" / validation.NEWEST_SAMPLES)
    return [
        plots.save(figure, folder / f"{name}.png")
        for name, figure in (
            ("figure_1_training_phases", figures.training_phases(run)),
            ("figure_2_loss_components_comprehensive", figures.loss_components(run)),
            ("figure_3_multi_axis_analysis", figures.three_axes(run)),
            ("figure_4_normalized_comparison", figures.normalized(run)),
            (
                "figure_5_training_summary",
                dashboard.training_summary(run, samples=samples),
            ),
        )
    ]


def read_samples(path: pathlib.Path) -> Float[np.ndarray, "b h w c"] | None:
    """Returns f of the last samples; None where there are none, or no whole file."""
    if not path.exists():
        return None
    try:
        found = inputs.read_npy(path, remedy="")
    except (OSError, ValueError) as error:
        logging.warning("%s is damaged (%s); figure 5 goes without it", path, error)
        return None
    maps = found.ndim == 4 and found.size and found.dtype.kind == "f"
    if not maps:
        logging.warning("%s holds no maps; figure 5 goes without it", path)
    return found if maps else None


def latent_figures(workdir: pathlib.Path, *, count: int) -> list[pathlib.Path]:
    """Draws latents of the best checkpoint into figures/: channels, histogram.

    Args:
      count: of so many maps of the validation split (else the training one), of
        different cities where it has them.

    Raises:
      FileNotFoundError, ValueError: no run, no checkpoint, or no data.
    """
    shown = latents.examples(workdir, count=count)
    title = f"latents of {len(shown.f)} maps, drawn from their posteriors"
    folder = pathlib.Path(workdir) / "figures"
    channels = latent_plots.channels(shown.f, shown.mode, db=shown.db)
    return [
        plots.save(channels, folder / "latent_channels.png"),
        plots.save(
            latent_plots.histogram(shown.sample, title=title),
            folder / "latent_histogram.png",
        ),
    ]


def after_training(workdir: pathlib.Path, *, latents: int) -> list[pathlib.Path]:
    """Draws all there is to draw; what cannot be drawn is said and ends nothing.

    Args:
      latents: of so many maps; 0 leaves them out.
    """
    written: list[pathlib.Path] = []
    tasks: dict[str, Callable[[], list[pathlib.Path]]] = {
        "the figures": lambda: training_figures(workdir),
        "the latents": lambda: latent_figures(workdir, count=latents),
        "the report": lambda: [report_page.write(workdir)],
    }
    if not latents:
        del tasks["the latents"]
    for what, draw in tasks.items():
        written += _drawn(what, draw)
    return written


def renew_report(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Writes the report again, with what was added to the run, if it has one."""
    if not (pathlib.Path(workdir) / "report.html").exists():
        return []
    return _drawn("the report", lambda: [report_page.write(workdir)])


def _drawn(what: str, draw: Callable[[], list[pathlib.Path]]) -> list[pathlib.Path]:
    try:
        return draw()
    except Exception as error:  # a picture is not worth a run
        logging.error("%s could not be made: %r", what, error)
        return []
