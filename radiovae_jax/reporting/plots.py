"""Pictures of maps and of how far their reconstructions are off, in dB.

Functions take maps f = gray/255 in [0, 1], and what f is in dB; maps without a unit are
shown in f. They return a `Figure` that no global state of matplotlib knows of, so that
they are safe in a thread and without a display. The scale of the maps is always the
whole range of f: pictures of different steps compare at a glance. Maps of several
channels have one column a channel where they are in dB, else colours (colours.py says
which).
"""

import math
import os
import pathlib
from collections.abc import Sequence

import jax
import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import ScalarFormatter

from radiovae_jax import files, inputs
from radiovae_jax.data import radiomap
from radiovae_jax.data.radiomap import RADIOMAPSEER_DB, DbRange
from radiovae_jax.reporting import colours

Numbers = np.ndarray | jax.Array

# Both scales read the same with colour-deficient sight. Magenta is in neither.
MAP_COLOURS = mpl.colormaps["viridis"].with_extremes(bad="magenta")
ERROR_COLOURS = mpl.colormaps["RdBu_r"].with_extremes(bad="magenta")
SIZE_COLOURS = mpl.colormaps["YlOrBr"].with_extremes(bad="magenta")

ERROR_SHARE = 0.98  # of the pixels that the scale of the error covers
# Shortest and longest scale of the error: 0.5 and 15 dB; in f as much of RadioMapSeer.
ERROR_LIMITS_F = (0.005, 0.15)
TITLE_LETTERS = 40
MOST_CHANNELS = 6  # that have a column each
NOISE = "noise is expected with a small KL weight"


def reconstructions(
    target_f: Float[Numbers, "b h w c"],
    recon_f: Float[Numbers, "b h w c"],
    *,
    names: Sequence[str] = (),
    buildings: Bool[Numbers, "b h w 1"] | None = None,
    max_rows: int = 6,
    db: DbRange = RADIOMAPSEER_DB,
) -> Figure:
    """Returns rows of map, reconstruction and error, titled with name and RMSE.

    All rows share their scales. The error's covers 98% of the pixels shown and ends at
    15 dB; what lies beyond (the bar's ends are pointed then), and values that are not
    finite (magenta), can be read off the picture.

    Args:
      target_f: the maps.
      recon_f: their reconstructions, unclipped.
      names: one per image; none: the images are numbered.
      buildings: True inside; outlined on the map, and the title has the RMSE of the
        street and of the buildings.
      max_rows: the first so many images are shown.
      db: what f is in dB.

    Raises:
      ValueError: no image, or as many names as images are not given.
    """
    names = names or [f"map {i}" for i in range(len(target_f))]
    if len(names) != len(target_f):
        raise ValueError(f"{len(target_f)} images need as many names, got {len(names)}")
    target, recon = (_finite_type(f[:max_rows]) for f in (target_f, recon_f))
    count, height, width, channels = target.shape
    roofs = np.zeros(target.shape[:3], bool)
    if buildings is not None:
        roofs = np.asarray(buildings[:max_rows, :, :, 0])
    parts = channel_parts(channels, db)
    error, scale = _error(target, recon, db)
    wide = min(3 / len(parts), 1.0)  # as wide as one of three
    high = (1 if len(parts) == 1 else 3) * wide * 2.45 * _bounded(height / width)
    figure = Figure(figsize=(9, count * (high + 0.65)), layout="constrained")
    rows = figure.subfigures(count, 1, squeeze=False)[:, 0]
    for row, name, x, y, off, roof in zip(
        rows, names[:max_rows], target, recon, error, roofs, strict=True
    ):
        title = _row_title(name, x, y, roof, db)
        row.suptitle(title, fontsize=10.5, parse_math=False)
        _row(row, x, y, off, roof, reference=target, scale=scale, db=db)
    return figure


def samples(
    f: Float[Numbers, "b h w c"],
    *,
    max_images: int = 16,
    title: str = f"samples from the prior: {NOISE}",
    db: DbRange = RADIOMAPSEER_DB,
) -> Figure:
    """Returns a grid of maps with one scale, in dB where f has a unit.

    Raises:
      ValueError: no image.
    """
    parts = channel_parts(np.shape(f)[-1], db)
    maps = _finite_type(f[: max(1, max_images // len(parts))])
    count, height, width, channels = maps.shape
    panels = [one[..., part] for one in maps for part in parts]
    columns = len(parts)
    if columns == 1:
        columns = min(count, max(2, math.ceil(math.sqrt(count))))
    rows = math.ceil(len(panels) / columns)
    panel = 7.2 / max(columns, 2)
    figure = Figure(
        figsize=(panel * columns + 1.4, panel * rows * _bounded(height / width) + 0.6),
        layout="constrained",
    )
    part = f"the first {count} of {len(f)}" if count < len(f) else ""
    notes = [inputs.printable(title), part, channel_words(channels, db)]
    words = _join([*notes, _finite_note(maps)])
    figure.suptitle(words, fontsize=11, wrap=True, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for number, (axis, one) in enumerate(zip(axes.flat, panels, strict=False)):
        name = f"channel {number}" if number < len(parts) > 1 else ""
        shown = show_map(axis, one, name, reference=maps, db=db)
    if channels == 1 or len(parts) > 1:
        colour_bar(figure, shown, axes, gain_label(db), in_unit(maps, db))
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a figure in the format of the path's suffix, all of it or nothing.

    The folder is made. A reader never sees half a picture: the file is written under
    another name beside it and renamed.

    Raises:
      ValueError: a path without suffix, or with one that matplotlib does not write.
      OSError: it cannot be written.
    """
    path = pathlib.Path(path)
    if not path.suffix:
        raise ValueError(f"{path} names no picture format; end it in .png or .pdf")
    path.parent.mkdir(parents=True, exist_ok=True)
    for axis in figure.axes:
        for one in (axis.xaxis, axis.yaxis):
            ticks = one.get_major_formatter()
            if isinstance(ticks, ScalarFormatter):
                # Whole numbers, not what is to be added to one in the corner.
                ticks.set_useOffset(False)
                ticks.set_powerlimits((-4, 7))
    with files.written(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=110)
    return path


def show_map(
    axis: Axes,
    f: Float[np.ndarray, "h w c"],
    title: str,
    *,
    reference: Float[np.ndarray, "_ _ _ _"],
    db: DbRange = RADIOMAPSEER_DB,
) -> ScalarMappable:
    """Draws one map: a single channel in dB or f, several in colours.

    Args:
      reference: the maps that are shown together; see `colours.to_rgb`.
    """
    if f.shape[-1] == 1:
        low = db.floor if db.span else 0.0
        scale = Normalize(low, low + (db.span or 1.0))
        return image(axis, in_unit(f, db)[..., 0], title, MAP_COLOURS, scale)
    return image(axis, colours.to_rgb(f[None], reference)[0], title)


def image(
    axis: Axes,
    values: Float[np.ndarray, "h w *rgb"],
    title: str,
    scheme: Colormap = MAP_COLOURS,
    scale: Normalize | None = None,
) -> ScalarMappable:
    """Draws an image without ticks, what is not finite in magenta."""
    axis.set_title(title, fontsize=10, parse_math=False)
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(np.ma.masked_invalid(values), cmap=scheme, norm=scale)


def colour_bar(
    figure: Figure | SubFigure, shown: ScalarMappable, axes, label: str, values, **place
) -> None:
    """Adds a colour bar; its ends are pointed where values lie beyond them.

    Args:
      axes: beside which it stands.
      **place: others of `Figure.colorbar`'s, such as cax in place of axes.
    """
    finite = values[np.isfinite(values)]
    low = bool((finite < shown.norm.vmin).any())
    high = bool((finite > shown.norm.vmax).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    place = place or dict(ax=axes, pad=0.02)
    bar = figure.colorbar(shown, extend=extend[low, high], **place)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=9)


def channel_parts(channels: int, db: DbRange) -> list[slice]:
    """Returns what has a column of its own: every channel in dB, else the whole map."""
    if channels == 1 or not db.span:
        return [slice(None)]
    return [slice(i, i + 1) for i in range(min(channels, MOST_CHANNELS))]


def channel_words(channels: int, db: DbRange) -> str:
    """Returns what a picture has to say about the channels of its maps."""
    shown = len(channel_parts(channels, db))
    if shown == 1:
        return colours.words(channels)
    return f"the first {shown} of {channels} channels" if shown < channels else ""


def in_unit(f: Float[np.ndarray, "*s"], db: DbRange) -> Float[np.ndarray, "*s"]:
    """Returns dB where f has them, else f."""
    return radiomap.f_to_db(f, db) if db.span else f


def gain_label(db: DbRange) -> str:
    return "path gain (dB)" if db.span else "f"


def _row(
    figure: SubFigure,
    x: Float[np.ndarray, "h w c"],
    y: Float[np.ndarray, "h w c"],
    off: Float[np.ndarray, "h w k"],
    roof: Bool[np.ndarray, "h w"],
    *,
    reference: Float[np.ndarray, "_ _ _ c"],
    scale: Normalize,
    db: DbRange,
) -> None:
    """Draws map, reconstruction and error; of channels in dB, one column a channel."""
    parts = channel_parts(x.shape[-1], db)
    apart = len(parts) > 1
    grid = figure.subplots(*((3, len(parts)) if apart else (1, 3)), squeeze=False)
    grid = grid if apart else grid.T
    names, scheme = ("map", "reconstruction", "reconstruction − map"), ERROR_COLOURS
    if scale.vmin == 0:
        names, scheme = (*names[:2], "error, rms over channels"), SIZE_COLOURS
    for number, (column, part) in enumerate(zip(grid.T, parts, strict=True)):
        for axis, f, name in zip(column[:2], (x, y), names, strict=False):
            shown = show_map(axis, f[..., part], name, reference=reference, db=db)
        errors = image(column[2], off[..., number], names[2], scheme, scale)
        _outline(column[0], roof)
    if apart:  # what the lines hold stands at their left
        for line, name in zip(grid, names, strict=True):
            line[0].set_ylabel(name, fontsize=10)
        for axis in grid[1:].flat:
            axis.set_title("")
        for number, axis in enumerate(grid[0]):
            axis.set_title(f"channel {number}", fontsize=10)
    if scale.vmin < 0:
        colour_bar(figure, shown, [*grid[:2].flat], gain_label(db), in_unit(y, db))
    colour_bar(figure, errors, [*grid[2]], f"error ({db.unit})", off)


def _finite_type(f: Float[Numbers, "b h w c"]) -> Float[np.ndarray, "b h w c"]:
    if not len(f):
        raise ValueError("a picture needs at least one image, got none")
    return np.asarray(f).astype(np.float64)


def _error(
    target: Float[np.ndarray, "b h w c"],
    recon: Float[np.ndarray, "b h w c"],
    db: DbRange,
) -> tuple[Float[np.ndarray, "b h w k"], Normalize]:
    """Returns each pixel's error and its scale: 98% of them, from 0.5 to 15 dB.

    Several channels that are not in dB have one error, the rms over them.
    """
    error, channels = (db.span or 1.0) * (recon - target), target.shape[-1]
    mixed = channels > 1 and not db.span
    if mixed:
        error = np.sqrt(np.mean(np.square(error), axis=-1, keepdims=True))
    finite = np.abs(error[np.isfinite(error)])
    wanted = np.quantile(finite, ERROR_SHARE) if finite.size else 0
    limits = np.multiply(ERROR_LIMITS_F, radiomap.DB_SPAN if db.span else 1.0)
    limit = float(np.clip(wanted, *limits))
    return error[..., :MOST_CHANNELS], Normalize(0 if mixed else -limit, limit)


def _bounded(ratio: float) -> float:
    return min(max(ratio, 0.4), 2.5)


def _outline(axis: Axes, where: Bool[np.ndarray, "h w"]) -> None:
    if where.any() and not where.all():  # matplotlib warns of no line to draw
        axis.contour(where, levels=[0.5], colors="white", linewidths=0.6)


def _row_title(name: str, target, recon, roof: Bool[np.ndarray, "h w"], db) -> str:
    squared = np.square(recon - target)
    errors = [f"RMSE {db.words(float(np.sqrt(np.mean(squared))))}"]
    if roof.any() and not roof.all():
        errors += [
            f"{place} {db.words(float(np.sqrt(np.mean(squared[where]))))}"
            for place, where in (("street", ~roof), ("buildings", roof))
        ]
    notes = [inputs.printable(name, letters=TITLE_LETTERS)]
    notes += [channel_words(target.shape[-1], db), *errors, _finite_note(recon)]
    return _join(notes)


def _finite_note(f: Float[np.ndarray, "*b h w c"]) -> str:
    bad = int(np.sum(~np.isfinite(f).all(axis=-1)))
    return f"pixels not finite: {bad}" if bad else ""


def _join(notes: Sequence[str]) -> str:
    return ", ".join(note for note in notes if note)
