"""The numbers of a run as curves: cleaned, smoothed within a phase, thinned.

What a line of metrics.jsonl does not hold (an older run, no validation, a value that
was not finite) is simply no point of its curve.
"""

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from radiovae_jax import inputs, metrics
from radiovae_jax.data import radiomap, sources
from radiovae_jax.training import logbook

# What only the discriminator's phase gives a meaning; logged as 0 before it.
ADVERSARIAL = frozenset(
    f"{part}/{name}"
    for part in ("train", "val")
    for name in (
        "g_loss disc_loss d_weight logits_real logits_fake disc_accuracy "
        "disc_grad_norm disc_update_norm disc_param_norm "
        "feature_matching_loss r1_loss lecam_loss"
    ).split()
)
D_WEIGHT_CLIP = 1e4  # of losses.adaptive_weight; then it is times disc_weight
WINDOWS = 40  # a smoothed curve sees 1/40 of the lines at a time
BAND = (0.1, 0.9)  # quantiles of the same lines
SMOOTH_POINTS = 400  # of each phase; computing and drawing more shows no more
NEEDED = (  # of a config
    ("loss", "disc_start"),
    ("loss", "disc_factor"),
    ("loss", "disc_weight"),
    ("loss", "kl_weight"),
    ("train", "steps"),
)
LARGEST = float(np.finfo(np.float32).max)  # of the type that all is computed in
LOG_SPAN = 20  # positive numbers that spread further are shown on a log scale

Line = Mapping[str, Any]


class Curve(NamedTuple):
    """Points in the order of their steps; all finite."""

    steps: Float[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]


class Run(NamedTuple):
    """What the pictures of a run's training are made of."""

    lines: Sequence[Line]  # of metrics.jsonl
    switch: float | int  # last step without the discriminator; inf: it never comes
    d_weight_clamp: float | int  # what d_weight cannot exceed
    kl_weight: float | int  # where the lines do not log one
    db: radiomap.DbRange  # what f is in dB
    frechet: str = ""  # what an evaluation says of it; training does not measure it


def read(workdir: pathlib.Path) -> Run:
    """Reads the numbers of a run, and from its config what they mean.

    Raises:
      FileNotFoundError: no run, or one that has not logged yet.
      ValueError: its config is damaged.
    """
    config = read_config(workdir)
    lines = logbook.read(pathlib.Path(workdir) / "metrics.jsonl")
    if not lines:
        raise FileNotFoundError(
            f"{workdir}/metrics.jsonl has no whole line yet; wait for the first "
            "train.log_every steps"
        )
    return of(lines, config)._replace(frechet=read_frechet(workdir))


def read_frechet(workdir: pathlib.Path) -> str:
    """Returns the Fréchet distances of the newest evaluation in words, "" without one.

    They are named by features, split and step: others do not compare.
    """
    found, newest = "", 0.0
    for path in (pathlib.Path(workdir) / "evaluation").glob("*.json"):
        # None, torn, or no record of an evaluation: the report says so.
        with contextlib.suppress(
            OSError, ValueError, TypeError, KeyError, AttributeError
        ):
            record, written = inputs.read_json(path, remedy=""), path.stat().st_mtime
            rows = record["frechet"]["rows"].items()
            numbers = [f"{row} {value:.3g}" for row, value in rows if is_number(value)]
            if written >= newest:
                found, newest = (
                    (
                        f"Fréchet distance of {record['frechet']['features']} "
                        f"({path.stem}, step {record['step']:,}): {', '.join(numbers)}"
                    ),
                    written,
                )
    return found


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the config of a run as plain values, with all that pictures need of it.

    Raises:
      FileNotFoundError: no run.
      ValueError: its config is damaged, or that of another program.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it has no config.json; give the "
            "--workdir of a training"
        )
    remedy = "put the run's config back, or give another --workdir"
    config = inputs.read_json(path, remedy=remedy)
    try:
        for section, field in NEEDED:
            config[section][field] + 0  # a number
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged, or no run's ({type(error).__name__}: {error}); "
            + remedy
        ) from error
    return config


def of(lines: Sequence[Line], config: Mapping[str, Any]) -> Run:
    """Returns the run of these lines and this config."""
    loss, data = config["loss"], config.get("data", {})
    source = data.get("source", "radiomapseer")
    db = sources.db_range(source, data.get("db_floor"), data.get("db_span"))
    return Run(
        lines=lines if db.span else [_in_f(line) for line in lines],
        switch=loss["disc_start"] if loss["disc_factor"] else math.inf,
        d_weight_clamp=D_WEIGHT_CLIP * loss["disc_weight"],
        kl_weight=loss["kl_weight"],
        db=db,
    )


def _in_f(line: Line) -> Line:
    """Returns a line of maps without a unit as it is logged now.

    Older versions logged them as if 100 dB were one unit of f.
    """
    kept = {name: value for name, value in line.items() if "_db" not in name}
    if "val/rmse_db" in line and is_number(line.get("val/sample_diversity")):
        kept["val/sample_diversity"] /= radiomap.DB_SPAN
    return kept


def curve(run: Run, name: str) -> Curve:
    """Returns the finite values of a column; adversarial ones past the switch only."""
    return product(run, name)


def deciding(run: Run) -> Curve:
    """Returns the validation NMSE by which `best` is chosen, where it is finite."""
    points = [
        (line["step"], value)
        for line in run.lines
        if is_number(value := metrics.deciding(line, "val/"))
    ]
    return Curve(*np.asarray(points, np.float64).reshape(-1, 2).T)


def product(run: Run, *names: str) -> Curve:
    """Returns the product of columns, where a line has all of them."""
    steps, values = columns(run, *names)
    return Curve(steps, values.prod(axis=1))


def columns(
    run: Run, *names: str
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n k"]]:
    """Returns the steps at which all these columns are finite, and their values."""
    start = run.switch if ADVERSARIAL.intersection(names) else -math.inf
    points = [
        (line["step"], *(line[name] for name in names))
        for line in run.lines
        if line["step"] > start and all(is_number(line.get(name)) for name in names)
    ]
    table = np.asarray(points, np.float64).reshape(-1, 1 + len(names))
    return table[:, 0], table[:, 1:]


def is_number(value: Any) -> bool:
    """Whether this is a finite number; JSON has null for what was not.

    What float32 does not hold no run has logged, and axes could not be laid out for.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return bool(real and abs(value) <= LARGEST)


def phases(points: Curve, switch: float | int) -> tuple[Curve, Curve]:
    """Returns what lies before the discriminator's first step, and from it on."""
    late = points.steps > switch
    return (
        Curve(points.steps[~late], points.values[~late]),
        Curve(points.steps[late], points.values[late]),
    )


def smooth(points: Curve, switch: float | int, *, windows: int = WINDOWS) -> Curve:
    """Returns a running median that does not look across the switch.

    Centred, over one of `windows` equal parts of the curve, cut at the ends. A median:
    single spikes, and a d_weight that is at its clamp but for a few lines, do not
    move it. Few enough points to draw remain of a long curve.
    """
    return _running(points, switch, windows, np.median)


def band(
    points: Curve, switch: float | int, *, windows: int = WINDOWS
) -> tuple[Curve, Curve]:
    """Returns running 10th and 90th percentiles, in the windows of `smooth`."""
    low, high = (
        _running(points, switch, windows, lambda values, q=q: np.quantile(values, q))
        for q in BAND
    )
    return low, high


def constant(points: Curve) -> bool:
    """Whether it has several points, and all of one value: nothing to see."""
    return len(points.values) > 1 and bool(np.ptp(points.values) == 0)


def _running(
    points: Curve, switch: float | int, windows: int, statistic: Callable
) -> Curve:
    width = len(points.values) // windows
    if width < 2:
        return points
    parts = [_of_windows(part, width, statistic) for part in phases(points, switch)]
    return Curve(*(np.concatenate(both) for both in zip(*parts, strict=True)))


def spans_decades(values: Float[np.ndarray, "n"]) -> bool:
    """Whether a log scale suits: all positive, and far apart."""
    return bool(
        len(values) and values.min() > 0 and values.max() > LOG_SPAN * values.min()
    )


def thin(points: Curve, limit: int) -> Curve:
    """Returns at most `limit` points: of each stretch its lowest and its highest.

    A spike that lasts one line stays.
    """
    count = len(points.values)
    if count <= limit:
        return points
    kept = {0, count - 1}
    for stretch in np.array_split(np.arange(1, count - 1), (limit - 2) // 2):
        values = points.values[stretch]
        kept |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    index = np.array(sorted(kept))
    return Curve(points.steps[index], points.values[index])


def _of_windows(points: Curve, width: int, statistic: Callable) -> Curve:
    count = len(points.values)
    if not count:
        return points
    centres = np.unique(np.linspace(0, count - 1, SMOOTH_POINTS).astype(int))
    half = width // 2
    values = [
        statistic(points.values[max(i - half, 0) : i + half + 1]) for i in centres
    ]
    return Curve(points.steps[centres], np.array(values))
