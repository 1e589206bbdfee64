"""Figures of a second stage's evaluation, drawn from its record."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure

from radiovae_jax.reporting import panels

SCALE, REGION = "raw", "all"  # of the NMSE that is drawn


def prediction_error(record: Mapping[str, Any]) -> Figure:
    """Returns error against calls, and error against the samples' deviation.

    Args:
      record: of `radiovae_jax.evaluate`, of a second stage.
    """
    spread = record.get("calibration")
    columns = 1 if spread is None else 2
    figure = Figure(figsize=(5.6 * columns, 4.2), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    _by_calls(axes[0], record)
    if spread is not None:
        _calibration(axes[1], spread, record["scales"][SCALE].get("db_per_unit"))
    return figure


def plain_log(axis: Axis) -> None:
    """Labels a logarithmic axis with numbers, without powers of ten."""
    axis.set_major_formatter(panels.ShortLog())
    axis.set_minor_formatter(panels.ShortLog(minor_thresholds=(1.2, 0.5)))


def _by_calls(axis, record: Mapping[str, Any]) -> None:
    nmse = {name: of[SCALE][REGION]["nmse"] for name, of in record["rows"].items()}
    calls = record["calls"]
    values = [nmse.pop(f"calls_{n}") for n in calls]
    axis.plot(calls, values, "o-", color="tab:blue", label="one sample")
    mean = f"mean_of_{record['samples']}"
    if mean in nmse:
        label = f"mean of {record['samples']} samples"
        axis.plot(max(calls), nmse.pop(mean), "D", color="tab:orange", label=label)
    for number, (name, value) in enumerate(nmse.items()):
        label = name.replace("_", " ")
        axis.axhline(value, ls="--", lw=1.2, color=f"C{number + 2}", label=label)
    axis.set_yscale("log")
    plain_log(axis.yaxis)
    axis.set_xticks(calls)
    axis.set_xlabel("calls of the network")
    axis.set_ylabel("NMSE (raw scale, all pixels, mean over maps)")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)


def _calibration(axis, spread: Mapping[str, Any], db_per_unit: float | None) -> None:
    unit = "dB" if db_per_unit else "f"
    bins = spread["bins"]
    deviation, rmse = (
        [(db_per_unit or 1.0) * one[name] for one in bins]
        for name in ("deviation", "rmse")
    )
    pixels = [one["pixels"] for one in bins]
    sizes = [8 + 140 * count / max(pixels) for count in pixels]
    ends = min(*deviation, *rmse), max(*deviation, *rmse)
    axis.plot(ends, ends, color="0.5", lw=1, label="calibrated")
    covered, interval = spread["coverage"], spread["interval"]
    words = f"street: {covered:.0%} within the {interval:.0%} interval"
    axis.scatter(deviation, rmse, s=sizes, color="tab:blue", zorder=3, label=words)
    axis.set_xscale("log")
    axis.set_yscale("log")
    plain_log(axis.xaxis)
    plain_log(axis.yaxis)
    axis.set_xlabel(f"deviation of samples and first stage ({unit})")
    axis.set_ylabel(f"RMSE of the mean ({unit})")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
