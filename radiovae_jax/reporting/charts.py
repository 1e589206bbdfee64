"""The report's charts: which columns are drawn together, and their points.

A stage names its charts. Those of what every training logs, and one for each column
that no chart names, come by themselves.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from radiovae_jax.reporting import curves, quantities
from radiovae_jax.reporting.curves import Curve, Run

Columns = Mapping[str, Sequence[str]]  # title -> columns of metrics.jsonl

OF_ANY_TRAINING: Columns = {
    "Learning rate": ("train/learning_rate",),
    "Skipped updates": ("train/skipped", "train/skipped_in_row"),
    "A step": ("time/step_seconds", "time/data_seconds"),
    "Speed": ("time/images_per_second",),
    "Validation and saving": ("time/validation_seconds", "time/checkpoint_seconds"),
    "Memory": ("memory/host_bytes", "memory/device_bytes"),
}
# For a stage to name: of a validation on maps.
OF_MAPS: Columns = {
    "PSNR": ("val/psnr",),
    "SSIM": ("val/ssim",),
    "NMSE": ("val/nmse",),
    "RMSE and MAE": ("val/rmse_db", "val/mae_db"),
}
MOST_POINTS = 1200  # of a raw curve: more than a screen has pixels for
DASHES = {"-": "", "--": "7 3", ":": "2 3", "-.": "8 3 2 3"}  # of Quantity.style


class Drawn(NamedTuple):
    """A curve of a chart."""

    label: str
    colour: str
    dash: str  # of SVG
    raw: Curve | None  # as logged, behind its running median; None: `points` are that
    points: Curve
    circles: bool  # of validations


class Chart(NamedTuple):
    title: str
    log: bool
    drawn: list[Drawn]


def norms(network: str) -> tuple[str, ...]:
    """Returns the columns of `updates.norms`."""
    return tuple(f"train/{network}_{kind}_norm" for kind in ("grad", "update", "param"))


def of(run: Run) -> tuple[list[Chart], list[str]]:
    """Returns the charts in which something changes, and in words what does not."""
    drawn, constants = [], []
    for title, names in complete(run).items():
        found = {name: curves.curve(run, name) for name in names}
        found = {name: points for name, points in found.items() if len(points.values)}
        # A constant beside others tells something.
        if all(curves.constant(points) for points in found.values()):
            constants += [f"{n} {points.values[0]:.6g}" for n, points in found.items()]
        else:
            drawn.append(_chart(run, title, found))
    return drawn, constants


def complete(run: Run) -> Columns:
    """Returns the stage's charts, those of the columns it does not name, and the rest.

    A training column has its validation twin beside it; where a stage names no charts,
    the other columns of validation have some of their own.
    """
    charts = run.stage.columns
    named = {
        name
        for names in (*charts.values(), *OF_ANY_TRAINING.values())
        for name in names
    }
    logged = sorted({name for line in run.lines for name in line} - named)
    others = {}
    for name in logged:
        part, _, short = name.partition("/")
        twin = f"val/{short}"
        if part == "train":
            others[name] = (name, *{twin}.intersection(logged))
        elif part == "val" and not charts and f"train/{short}" not in logged:
            others[name] = (name,)
    in_unit = {
        title: [name.replace("_db", run.db.suffix) for name in names]
        for title, names in charts.items()
    }
    return in_unit | others | OF_ANY_TRAINING


def _chart(run: Run, title: str, found: Mapping[str, Curve]) -> Chart:
    drawn, units = [], []
    for place, (name, label) in enumerate(quantities.labels(found).items()):
        _, colour, style, unit, _ = quantities.look(name, run.db, place=place)
        logged = found[name]
        circles = name.startswith("val/")
        points = logged if circles else curves.smooth(logged, run.switch)
        raw = None if points is logged else curves.thin(logged, MOST_POINTS)
        drawn.append(Drawn(label, colour, DASHES[style], raw, points, circles))
        units.append(unit)
    if len(set(units)) == 1 and units[0]:
        title = f"{title} ({units[0]})"
    values = np.concatenate([one.points.values for one in drawn])
    return Chart(title, curves.spans_decades(values), drawn)


def data(run: Run, drawn: Sequence[Chart]) -> dict[str, Any]:
    """Returns what the page draws; only finite numbers, so it is plain JSON."""
    return {
        "range": [run.lines[0]["step"], run.last_step],
        "switch": run.switch if math.isfinite(run.switch) else None,
        "charts": [
            [
                _points(one.points) | {"raw": one.raw and _points(one.raw)}
                for one in chart.drawn
            ]
            for chart in drawn
        ],
    }


def _points(points: Curve) -> dict[str, list]:
    return {
        "steps": [int(step) for step in points.steps],
        "values": [float(f"{value:.6g}") for value in points.values],
    }
