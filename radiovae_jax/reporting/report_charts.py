"""Which curves a report shows, and their points for its script."""

import math
from typing import Any, NamedTuple

import numpy as np

from radiovae_jax.reporting import curves, panels
from radiovae_jax.reporting.curves import Curve, Run

MOST_POINTS = 1200  # of a raw curve: more than a screen has pixels for
DASHES = {"-": "", "--": "7 3", ":": "2 3", "-.": "8 3 2 3"}  # of panels.QUANTITIES


class Chart(NamedTuple):
    title: str
    columns: tuple[tuple[str, str], ...]  # (name in metrics.jsonl, label)
    of_errors: bool = False  # in dB here; in f where maps have no unit


def _pairs(prefix: str, **labels: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{prefix}/{name}", label) for name, label in labels.items())


CHARTS = (
    Chart("PSNR (dB)", _pairs("val", psnr="validation")),
    Chart("SSIM", _pairs("val", ssim="validation")),
    Chart("NMSE", _pairs("val", nmse="validation")),
    Chart(
        "RMSE and MAE (dB)",
        _pairs("val", rmse_db="RMSE", mae_db="MAE"),
        of_errors=True,
    ),
    Chart(
        "Reconstruction (rec_loss, per pixel)",
        (*_pairs("train", rec_loss="training"), *_pairs("val", rec_loss="validation")),
    ),
    Chart(
        "Further pixelwise terms",
        _pairs("train", edge_loss="edge", pinn_loss="pinn", ssim_loss="1 − SSIM"),
    ),
    Chart(
        "LPIPS (unweighted)",
        (
            *_pairs("train", perceptual_loss="training"),
            *_pairs("val", perceptual_loss="validation"),
        ),
    ),
    Chart(
        "Total and likelihood (per image)",
        (
            *_pairs("train", total_loss="total", nll_loss="nll"),
            *_pairs("val", total_loss="total, validation"),
        ),
    ),
    Chart(
        "KL (nats per image)",
        (*_pairs("train", kl_loss="training"), *_pairs("val", kl_loss="validation")),
    ),
    Chart(
        "Adversarial losses",
        _pairs("train", g_loss="generator", disc_loss="discriminator"),
    ),
    Chart(
        "Logits of the discriminator",
        _pairs("train", logits_real="maps", logits_fake="reconstructions"),
    ),
    Chart("Discriminator's accuracy", _pairs("train", disc_accuracy="share")),
    Chart("d_weight", _pairs("train", d_weight="d_weight")),
    Chart(
        "Further adversarial terms",
        _pairs(
            "train",
            feature_matching_loss="feature matching",
            r1_loss="R1",
            lecam_loss="LeCAM",
        ),
    ),
    Chart("logvar (learned)", _pairs("train", logvar="logvar")),
    Chart(
        "Norms, autoencoder",
        _pairs(
            "train",
            ae_grad_norm="gradient",
            ae_update_norm="update",
            ae_param_norm="weights",
        ),
    ),
    Chart(
        "Norms, discriminator",
        _pairs(
            "train",
            disc_grad_norm="gradient",
            disc_update_norm="update",
            disc_param_norm="weights",
        ),
    ),
    Chart(
        "Range of reconstructions (maps: ±1)",
        _pairs("train", recon_min="lowest", recon_max="highest"),
    ),
    Chart(
        "Range of the posterior's log-variance",
        _pairs("train", posterior_logvar_min="lowest", posterior_logvar_max="highest"),
    ),
    Chart(
        "Diversity of samples (dB)",
        _pairs("val", sample_diversity="mean distance"),
        of_errors=True,
    ),
    Chart("Learning rate", _pairs("train", learning_rate="autoencoder")),
    Chart("KL weight", _pairs("train", kl_weight="kl_weight")),
    Chart("Skipped updates", _pairs("train", skipped="all", skipped_in_row="in a row")),
    Chart(
        "Seconds a step",
        _pairs("time", step_seconds="all", data_seconds="waiting for data"),
    ),
    Chart("Images a second", _pairs("time", images_per_second="training")),
    Chart(
        "Seconds a time",
        _pairs("time", validation_seconds="validation", checkpoint_seconds="saving"),
    ),
    Chart(
        "Memory (bytes)",
        _pairs("memory", host_bytes="host", device_bytes="device"),
    ),
)


def data(run: Run) -> dict[str, Any]:
    """Returns what the page's script draws; only finite numbers, so it is plain JSON.

    A chart that nothing was logged for is left out. Training columns that no chart
    names get one each. A chart in which nothing changes is a word of "constants".
    """
    named = {name for chart in CHARTS for name, _ in chart.columns} | {
        "train/disc_factor"
    }
    others = {name for line in run.lines for name in line} - named
    more = [Chart(name, ((name, name),)) for name in sorted(others) if "train/" in name]
    known = [_in_unit(chart, run) for chart in CHARTS]
    constant = [chart for chart in known if _constant(run, chart)]
    charts = [_chart(run, one) for one in (*known, *more) if one not in constant]
    return {
        "range": [run.lines[0]["step"], run.lines[-1]["step"]],
        "switch": None if math.isinf(run.switch) else run.switch,
        "charts": [chart for chart in charts if chart["curves"]],
        "constants": [words for chart in constant for words in _values(run, chart)],
    }


def _in_unit(chart: Chart, run: Run) -> Chart:
    """Returns a chart of errors in dB as one in f where maps have no unit."""
    if not chart.of_errors:
        return chart
    columns = [(n.replace("_db", run.db.suffix), label) for n, label in chart.columns]
    return Chart(chart.title.replace("dB", run.db.unit), tuple(columns))


def _constant(run: Run, chart: Chart) -> bool:
    """Whether no curve of a chart ever changes; one beside others tells something."""
    found = [curves.curve(run, name) for name, _ in chart.columns]
    return all(curves.constant(points) or not len(points.values) for points in found)


def _values(run: Run, chart: Chart) -> list[str]:
    """Returns the columns that were logged, each with its first value."""
    found = ((name, curves.curve(run, name).values) for name, _ in chart.columns)
    return [f"{name} {values[0]:.6g}" for name, values in found if len(values)]


def _chart(run: Run, chart: Chart) -> dict[str, Any]:
    drawn, shown = [], [np.zeros(0)]
    for name, label in chart.columns:
        points = curves.curve(run, name)
        if not len(points.values):
            continue
        _, colour, dash, _ = panels.look(name)
        style = {"label": label, "colour": colour, "dash": DASHES[dash]}
        mean = curves.smooth(points, run.switch)
        dots = name.startswith("val/")
        if mean is not points and not dots:
            raw = curves.thin(points, MOST_POINTS)
            drawn.append(
                {**style, "dash": "", **_points(raw), "raw": True, "dots": False}
            )
            points = mean
        drawn.append({**style, **_points(points), "raw": False, "dots": dots})
        shown.append(points.values)
    log = curves.spans_decades(np.concatenate(shown))
    return {"title": chart.title, "log": log, "curves": drawn}


def _points(points: Curve) -> dict[str, list]:
    return {
        "steps": [int(step) for step in points.steps],
        "values": [float(f"{value:.6g}") for value in points.values],
    }
