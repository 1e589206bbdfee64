"""The numbers of a run as curves: cleaned, smoothed within a phase, thinned.

What a line of metrics.jsonl does not hold (an older run, no validation, a value that
was not finite) is simply no point of its curve.
"""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from radiovae_jax import inputs, metrics
from radiovae_jax.data import radiomap, sources
from radiovae_jax.reporting import quantities
from radiovae_jax.training import logbook

WINDOWS = 40  # a smoothed curve sees 1/40 of the lines at a time
BAND = (0.1, 0.9)  # quantiles of the same lines
SMOOTH_POINTS = 400  # of each phase; computing and drawing more shows no more
LARGEST = float(np.finfo(np.float32).max)  # of the type that all is computed in
LOG_SPAN = 20  # positive numbers that spread further are shown on a log scale
# What a torn file raises, or one of another form, a list for an object.
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError)

Line = Mapping[str, Any]


class Curve(NamedTuple):
    """Points in the order of their steps; all finite."""

    steps: Float[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]


class Charts(NamedTuple):
    """How the training of a stage is shown: tables of what it logs."""

    # Charts of the report: title -> columns of metrics.jsonl.
    columns: Mapping[str, Sequence[str]] = {}
    # Run -> what it warns of, beside what diagnosis.py looks for in any.
    checks: Sequence[Callable[["Run"], Iterable[Any]]] = ()
    # Name of a file in figures/ -> what draws it of a run.
    figures: Mapping[str, Callable[["Run"], Any]] = {}
    # Panels of figure 5 beside those of any training, see dashboard.py.
    panels: Sequence[Callable[[Any, "Run"], None]] = ()
    network: str = ""  # of train/NETWORK_update_norm, that figure 5 shows
    # (folder of the run, count=) -> maps, latents' modes and samples, what f is in dB.
    latents: Callable[..., Sequence[Any]] | None = None
    # The second phase, of a stage that has one: what it is with, the config -> the last
    # step before it (inf: it never comes), and what is logged as 0 until then.
    later: str = ""
    switch: Callable[[Mapping[str, Any]], float | int] = lambda config: -math.inf
    later_columns: Set[str] = frozenset()


NO_CHARTS = Charts()


class Run(NamedTuple):
    """What the pictures of a run's training are made of."""

    lines: Sequence[Line]  # of metrics.jsonl
    config: Mapping[str, Any]
    stage: Charts
    db: radiomap.DbRange  # what f is in dB
    frechet: str = ""  # what an evaluation says of it; training does not measure it
    samples: Float[np.ndarray, "b h w c"] | None = None  # f of those drawn last

    @property
    def switch(self) -> float | int:
        """Last step of the first phase; inf: of all; -inf: the stage has one phase."""
        return self.stage.switch(self.config)

    @property
    def last_step(self) -> int:
        return self.lines[-1]["step"]

    @property
    def shows_switch(self) -> bool:
        """Whether some lines are from the first phase, and some from the second."""
        return self.lines[0]["step"] <= self.switch < self.last_step


def read(workdir: pathlib.Path, stage: Charts = NO_CHARTS) -> Run:
    """Reads the numbers of a run, and from its config what they mean.

    Raises:
      FileNotFoundError: no run, or one that has not logged yet.
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
    lines = logbook.read(pathlib.Path(workdir) / "metrics.jsonl")
    try:
        run = of(lines, config, stage)
        run.switch + config["train"]["steps"]  # TypeError if one is no number
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, or no run's ({type(error).__name__}: {error}); "
            + remedy
        ) from error
    if not lines:
        raise FileNotFoundError(
            f"{workdir}/metrics.jsonl has no whole line yet; wait for the first "
            "train.log_every steps"
        )
    return run._replace(frechet=read_frechet(workdir))


def read_frechet(workdir: pathlib.Path) -> str:
    """Returns the Fréchet distances of the newest evaluation in words; "" without."""
    found = [(0.0, "")]
    for path in (pathlib.Path(workdir) / "evaluation").glob("*.json"):
        with contextlib.suppress(*DAMAGED):  # or no Fréchet distances
            record, written = inputs.read_json(path, remedy=""), path.stat().st_mtime
            rows = record["frechet"]["rows"].items()
            # A line is broken between them alone.
            numbers = [
                f"{row}\N{NO-BREAK SPACE}{v:.3g}" for row, v in rows if is_number(v)
            ]
            title = f"Fréchet distance of {record['frechet']['features']}"
            where = f"{path.stem}, step {record['step']:,}"
            found.append((written, f"{title} ({where}): {', '.join(numbers)}"))
    return max(found)[1]


def of(
    lines: Sequence[Line], config: Mapping[str, Any], stage: Charts = NO_CHARTS
) -> Run:
    """Returns the run of these lines and this config."""
    data = config.get("data", {})
    source = data.get("source", "radiomapseer")
    db = sources.db_range(source, data.get("db_floor"), data.get("db_span"))
    return Run(lines, config, stage, db)


def curve(run: Run, name: str) -> Curve:
    """Returns the finite values of a column, in the unit that quantities.py gives it.

    Those of the second phase past the switch only.
    """
    steps, values = columns(run, name)
    return Curve(steps, values[:, 0] * quantities.look(name).scale)


def product(run: Run, *names: str) -> Curve:
    """Returns the product of columns, where a line has all of them."""
    steps, values = columns(run, *names)
    return Curve(steps, values.prod(axis=1))


def columns(
    run: Run, *names: str
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n k"]]:
    """Returns the steps at which all these columns are finite, and their values."""
    late = run.stage.later_columns.intersection(names)
    start = run.switch if late else -math.inf
    points = [
        (line["step"], *(line[name] for name in names))
        for line in run.lines
        if line["step"] > start and all(is_number(line.get(name)) for name in names)
    ]
    table = np.asarray(points, np.float64).reshape(-1, 1 + len(names))
    return table[:, 0], table[:, 1:]


def deciding(run: Run) -> Curve:
    """Returns the validation NMSE by which `best` is chosen, where it is finite."""
    points = [
        (line["step"], value)
        for line in run.lines
        if is_number(value := metrics.deciding(line, "val/"))
    ]
    return Curve(*np.asarray(points, np.float64).reshape(-1, 2).T)


def is_number(value: Any) -> bool:
    """Whether this is a finite number of float32; JSON has null for what was not."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return bool(real and abs(value) <= LARGEST)


def phases(points: Curve, switch: float | int) -> tuple[Curve, Curve]:
    """Returns what lies before the second phase, and in it."""
    late = points.steps > switch
    return _at(points, ~late), _at(points, late)


def smooth(
    points: Curve,
    switch: float | int,
    *,
    windows: int = WINDOWS,
    statistic: Callable = np.median,
) -> Curve:
    """Returns a running median that does not look across the switch.

    Centred, over one of `windows` equal parts of the curve, cut at the ends. A median:
    single spikes, and a d_weight that is at its clamp but for a few lines, do not
    move it. Few enough points to draw remain of a long curve; a short one stays.
    """
    half = len(points.values) // windows // 2
    if not half:
        return points
    smoothed = []
    for part in phases(points, switch):
        count = len(part.values)
        centres = np.linspace(0, count - 1, min(count, SMOOTH_POINTS)).astype(int)
        windowed = [part.values[max(at - half, 0) : at + half + 1] for at in centres]
        smoothed.append((part.steps[centres], [*map(statistic, windowed)]))
    return Curve(*map(np.concatenate, zip(*smoothed, strict=True)))


def band(points: Curve, switch: float | int) -> tuple[Curve, Curve]:
    """Returns running 10th and 90th percentiles, in the windows of `smooth`."""
    low, high = (
        smooth(points, switch, statistic=functools.partial(np.quantile, q=q))
        for q in BAND
    )
    return low, high


def constant(points: Curve) -> bool:
    """Whether it has several points, and all of one value: nothing to see."""
    return len(points.values) > 1 and bool(np.ptp(points.values) == 0)


def spans_decades(values: Float[np.ndarray, "n"]) -> bool:
    """Whether a log scale suits: all positive, and far apart."""
    return bool(
        len(values) and values.min() > 0 and values.max() > LOG_SPAN * values.min()
    )


def thin(points: Curve, limit: int) -> Curve:
    """Returns at most `limit` points: of each stretch its lowest and its highest."""
    count = len(points.values)
    if count <= limit:
        return points
    chosen = {0, count - 1}
    for stretch in np.array_split(np.arange(1, count - 1), (limit - 2) // 2):
        values = points.values[stretch]
        chosen |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    return _at(points, np.array(sorted(chosen)))


def _at(points: Curve, index: np.ndarray) -> Curve:
    return Curve(points.steps[index], points.values[index])
