"""Pictures of latents: each channel beside its map, and how they are distributed."""

import math

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from radiovae_jax import inputs
from radiovae_jax.data.radiomap import RADIOMAPSEER_DB, DbRange
from radiovae_jax.reporting import plots, quantities
from radiovae_jax.reporting.plots import Numbers

LATENT_COLOURS = mpl.colormaps["PuOr"].with_extremes(bad="magenta")
PANEL = 2.1  # inches
MOST_BINS = 80


def channels(
    f: Float[Numbers, "b h w c"],
    z: Float[Numbers, "b p q z"],
    *,
    max_rows: int = 4,
    max_channels: int = 8,
    db: DbRange = RADIOMAPSEER_DB,
) -> Figure:
    """Returns rows of a map and the channels of its latent.

    A channel has one scale in all rows, symmetric about its mean, that holds 99% of its
    values; its colour bar stands below. A map of several channels in dB has a column
    for each.
    """
    maps, latents = (np.asarray(a[:max_rows]).astype(np.float64) for a in (f, z))
    count, height, width, map_channels = maps.shape
    shown = min(latents.shape[-1], max_channels)
    tall = PANEL * plots.bounded(height / width)
    parts = plots.channel_parts(map_channels, db)
    columns = len(parts) + shown
    size = (PANEL * columns + 0.6, tall * count + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    sides = "x".join(str(n) for n in latents.shape[1:])
    note = _shown_of(shown, latents.shape[-1])
    figure.suptitle(f"latent channels{note}, {sides}", fontsize=11)
    ratios = [tall] * count + [0.12]  # the last row holds the colour bars
    axes = figure.subplots(count + 1, columns, squeeze=False, height_ratios=ratios).T
    for number, ((*panels, bar), part) in enumerate(zip(axes, parts, strict=False)):
        for axis, one in zip(panels, maps[..., part], strict=True):
            drawn = plots.show_map(axis, one, "", reference=maps[..., part], db=db)
        title = f"map, channel {number}" if len(parts) > 1 else "map"
        if map_channels == 1 or db.span:
            below = dict(cax=bar, orientation="horizontal")
            plots.gain_bar(figure, drawn, maps[..., part], db, **below)
        else:
            title = plots.channel_words(map_channels, db)
            bar.set_axis_off()
        panels[0].set_title(title, fontsize=10)
    for channel, (*panels, bar) in enumerate(axes[len(parts) :]):
        values = latents[..., channel]
        scale = _about_mean(values)
        for axis, one in zip(panels, values, strict=True):
            drawn = plots.image(axis, one, "", LATENT_COLOURS, scale)
        panels[0].set_title(f"z{channel}", fontsize=10)
        below = dict(cax=bar, orientation="horizontal")
        plots.colour_bar(figure, drawn, values, "value", **below)
    for bar in axes[:, -1]:
        bar.tick_params(labelsize=8)
    return figure


def histogram(
    z: Float[Numbers, "b p q z"], *, title: str = "latents", max_channels: int = 12
) -> Figure:
    """Returns the density of each channel against N(0, 1), with its mean and std.

    The density is on a log scale where any channel is three times wider or narrower
    than N(0, 1): on a linear one the wider of the two is a flat line.
    """
    values = np.asarray(z).astype(np.float64).reshape(-1, np.shape(z)[-1])
    shown = min(values.shape[1], max_channels)
    columns = min(shown, 4)
    rows = math.ceil(shown / columns)
    size = (3.6 * columns + 0.4, 2.9 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    note = _shown_of(shown, values.shape[1])
    words = f"{inputs.printable(title)}: every channel against N(0, 1){note}"
    figure.suptitle(words, fontsize=11, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[shown:]:
        axis.set_axis_off()
    finite = [_finite(values[:, channel]) for channel in range(shown)]
    log = any(one.size and not 1 / 3 < one.std() < 3 for one in finite)
    for channel, (axis, one) in enumerate(zip(axes.flat, finite, strict=False)):
        _density(axis, one, f"z{channel}", bad=len(values) - one.size, log=log)
    for axis in axes[:, 0]:
        axis.set_ylabel("density", fontsize=9)
    axes[0, 0].legend(fontsize=8, framealpha=0.85)
    return figure


def _density(
    axis: Axes, finite: Float[np.ndarray, "n"], name: str, *, bad: int, log: bool
) -> None:
    axis.tick_params(labelsize=8)
    if not finite.size:
        axis.set_title(f"{name}: no finite value", fontsize=10)
        return
    mean, std = finite.mean(), finite.std()
    note = f", {bad} not finite" if bad else ""
    axis.set_title(f"{name}: mean {mean:.3g}, std {std:.3g}{note}", fontsize=10)
    reach = max(3.5, np.quantile(np.abs(finite), 0.999))
    count = min(max(int(math.sqrt(finite.size)), 8), MOST_BINS)
    bins = np.linspace(-reach, reach, count + 1)
    share = np.histogram(np.clip(finite, -reach, reach), bins)[0] / finite.size
    density = share / (bins[1] - bins[0])
    axis.stairs(density, bins, fill=True, color=quantities.SKY, label="latents")
    x = np.linspace(-reach, reach, 801)
    normal = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    axis.plot(x, normal, color=quantities.RED, lw=1.5, label="N(0, 1)")
    if log:
        lowest = min(density[density > 0].min(), 1e-3)
        axis.set_yscale("log")
        axis.set_ylim(lowest / 2, 2 * max(density.max(), normal.max()))


def _finite(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "n"]:
    return values[np.isfinite(values)]


def _about_mean(values: Float[np.ndarray, "b p q"]) -> Normalize:
    """Returns the scale about the mean that holds 99% of the values."""
    finite = _finite(values)
    mean = float(finite.mean()) if finite.size else 0.0
    apart = float(np.quantile(np.abs(finite - mean), 0.99)) if finite.size else 0.0
    apart = apart if apart > 1e-6 * abs(mean) else 1.0
    return Normalize(mean - apart, mean + apart)


def _shown_of(shown: int, count: int) -> str:
    return f", the first {shown} of {count}" if shown < count else ""
