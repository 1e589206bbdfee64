"""What a run looks like: its figures, its latents, its report.

Reads a run's folder; for the latents, its checkpoint and data as well.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
from absl import logging

from radiovae_jax import (
    curves,
    dashboard,
    experiment,
    figures,
    judging,
    latent_plots,
    plots,
    report_page,
    run_folder,
)
from radiovae_jax.data import pipeline, radiomap
from radiovae_jax.data.batch import to_batch

LATENT_SEED = 0


def training_figures(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Draws the five figures of the numbers in metrics.jsonl into figures/.

    Raises:
      FileNotFoundError: no run, or one that has not logged yet.
    """
    run, folder = curves.read(workdir), pathlib.Path(workdir) / "figures"
    drawn = pathlib.Path(workdir) / "images" / judging.NEWEST_SAMPLES
    samples = np.load(drawn) if drawn.exists() else None
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


def latent_figures(workdir: pathlib.Path, *, count: int) -> list[pathlib.Path]:
    """Draws latents of the best checkpoint into figures/: channels, histogram.

    Args:
      count: of the first so many maps of the validation split (else the training one).

    Raises:
      FileNotFoundError, ValueError: no run, no checkpoint, or no data.
    """
    config = run_folder.read_config(workdir)
    source = experiment.open_data(
        config, config.data.val_split or config.data.train_split
    )
    model, params = run_folder.load(workdir)
    raw = pipeline.stack([source[i] for i in range(min(count, len(source)))])
    names = raw.pop("name")
    size = config.data.image_size
    batch = to_batch(raw, image_size=size, pixel_weights="none", conditional=False)

    @jax.jit
    def encode(params, image, key):
        posterior = model.apply(params, image, method="encode")
        return posterior.mode(), posterior.sample(key)

    mode, z = encode(params, batch.image, jax.random.key(LATENT_SEED))
    maps = radiomap.model_to_f(batch.image)
    title = f"latents of {len(names)} maps, drawn from their posteriors"
    folder = pathlib.Path(workdir) / "figures"
    return [
        plots.save(latent_plots.channels(maps, mode), folder / "latent_channels.png"),
        plots.save(
            latent_plots.histogram(z, title=title), folder / "latent_histogram.png"
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
