"""Pictures of maps and of how far their reconstructions are off, in dB.

Functions take maps f = gray/255 in [0, 1] and return a `Figure` that no global state
of matplotlib knows of, so that they are safe in a thread and without a display. The
scale of the maps is always the whole range of f, and the scale of the error one of a
few round numbers: pictures of different steps compare at a glance.
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
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from radiovae_jax.data import radiomap

Numbers = np.ndarray | jax.Array

# Both scales read the same with colour-deficient sight. Magenta is in neither.
MAP_COLOURS = mpl.colormaps["viridis"].with_extremes(bad="magenta")
ERROR_COLOURS = mpl.colormaps["RdBu_r"].with_extremes(bad="magenta")
BUILDING_COLOUR = (0.75, 0.75, 0.75)

MAP_RANGE_DB = Normalize(radiomap.DB_FLOOR, radiomap.DB_FLOOR + radiomap.DB_SPAN)
ERROR_LIMITS_DB = (0.5, 1, 2, 5, 10, 20, 50, 100)
TITLE_LETTERS = 44


def reconstructions(
    target_f: Float[Numbers, "b h w c"],
    recon_f: Float[Numbers, "b h w c"],
    *,
    names: Sequence[str] = (),
    buildings: Bool[Numbers, "b h w 1"] | None = None,
    max_rows: int = 6,
) -> Figure:
    """Returns rows of map, reconstruction and error, titled with name and RMSE.

    All rows share their scales. The error's covers 99% of the pixels shown; what lies
    beyond, and values that are not finite (magenta), can be read off the picture.

    Args:
      target_f: the maps.
      recon_f: their reconstructions, unclipped.
      names: one per image; none: the images are numbered.
      buildings: True inside; drawn gray in map and reconstruction, not in the error,
        where what the model puts under a roof should show.
      max_rows: the first so many images are shown.

    Raises:
      ValueError: no image, or as many names as images are not given.
    """
    names = names or [f"map {i}" for i in range(len(target_f))]
    if len(names) != len(target_f):
        raise ValueError(f"{len(target_f)} images need as many names, got {len(names)}")
    target_db = _first_channel_db(target_f[:max_rows])
    recon_db = _first_channel_db(recon_f[:max_rows])
    error_range = _error_range(recon_db - target_db)
    if buildings is None:
        roofs = np.zeros(target_db.shape, bool)
    else:
        roofs = np.asarray(buildings[:max_rows, :, :, 0])

    count, height, width = target_db.shape
    figure = Figure(
        figsize=(9, count * (2.45 * _bounded(height / width) + 0.65)),
        layout="constrained",
    )
    rows = figure.subfigures(count, 1, squeeze=False)[:, 0]
    for row, name, x, y, roof in zip(
        rows, names[:max_rows], target_db, recon_db, roofs, strict=True
    ):
        row.suptitle(_row_title(name, x, y, target_f.shape[-1]), fontsize=10.5)
        left, middle, right = row.subplots(1, 3)
        shown = _image(left, x, "map", MAP_COLOURS, MAP_RANGE_DB)
        _image(middle, y, "reconstruction", MAP_COLOURS, MAP_RANGE_DB)
        _cover(left, roof)
        _cover(middle, roof)
        _colour_bar(row, shown, [left, middle], "path gain (dB)", y)
        error = _image(right, y - x, "reconstruction − map", ERROR_COLOURS, error_range)
        _colour_bar(row, error, [right], "error (dB)", y - x)
    return figure


def samples(
    f: Float[Numbers, "b h w c"],
    *,
    max_images: int = 16,
    title: str = "samples from the prior",
) -> Figure:
    """Returns a grid of maps with one scale in dB.

    Raises:
      ValueError: no image.
    """
    maps_db = _first_channel_db(f[:max_images])
    count, height, width = maps_db.shape
    columns = min(count, max(2, math.ceil(math.sqrt(count))))
    rows = math.ceil(count / columns)
    panel = 7.2 / max(columns, 2)
    figure = Figure(
        figsize=(panel * columns + 1.4, panel * rows * _bounded(height / width) + 0.6),
        layout="constrained",
    )
    notes = [title, _channel_note(f.shape[-1]), _finite_note(maps_db)]
    figure.suptitle(_join(notes), fontsize=11, wrap=True)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis, map_db in zip(axes.flat[:count], maps_db, strict=True):
        shown = _image(axis, map_db, "", MAP_COLOURS, MAP_RANGE_DB)
    _colour_bar(figure, shown, axes, "path gain (dB)", maps_db)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a figure in the format of the path's suffix, all of it or nothing.

    The folder is made. A reader never sees half a picture: the file is written under
    another name beside it and renamed.

    Raises:
      ValueError: a path without suffix, or with one that matplotlib does not write.
    """
    path = pathlib.Path(path)
    if not path.suffix:
        raise ValueError(f"{path} names no picture format; end it in .png or .pdf")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(unfinished, format=path.suffix[1:], dpi=110)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _first_channel_db(f: Float[Numbers, "b h w c"]) -> Float[np.ndarray, "b h w"]:
    if not len(f):
        raise ValueError("a picture needs at least one image, got none")
    return radiomap.f_to_db(np.asarray(f)[..., 0].astype(np.float64))


def _error_range(error_db: Float[np.ndarray, "b h w"]) -> Normalize:
    """Returns the smallest symmetric scale that holds 99% of the finite errors."""
    finite = np.abs(error_db[np.isfinite(error_db)])
    wanted = np.quantile(finite, 0.99) if finite.size else 0
    limit = next((x for x in ERROR_LIMITS_DB if x >= wanted), ERROR_LIMITS_DB[-1])
    return Normalize(-limit, limit)


def _bounded(ratio: float) -> float:
    return min(max(ratio, 0.4), 2.5)


def _image(axis: Axes, values, title: str, colours, scale: Normalize) -> ScalarMappable:
    axis.set_title(title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(np.ma.masked_invalid(values), cmap=colours, norm=scale)


def _cover(axis: Axes, where: Bool[np.ndarray, "h w"]) -> None:
    colour = np.broadcast_to((*BUILDING_COLOUR, 1.0), (*where.shape, 4)).copy()
    colour[..., 3] = where
    axis.imshow(colour)


def _colour_bar(
    figure: Figure | SubFigure, shown: ScalarMappable, axes, label: str, values
) -> None:
    """Adds a colour bar; its ends are pointed where values lie beyond them."""
    finite = values[np.isfinite(values)]
    low = bool((finite < shown.norm.vmin).any())
    high = bool((finite > shown.norm.vmax).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    bar = figure.colorbar(shown, ax=axes, extend=extend[low, high], pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=9)


def _row_title(name: str, target_db, recon_db, channels: int) -> str:
    if len(name) > TITLE_LETTERS:
        name = "…" + name[1 - TITLE_LETTERS :]
    rmse_db = np.sqrt(np.mean(np.square(recon_db - target_db)))
    notes = [name, _channel_note(channels), f"RMSE {rmse_db:.2f} dB"]
    return _join([*notes, _finite_note(recon_db)])


def _channel_note(channels: int) -> str:
    return f"channel 1 of {channels}" if channels > 1 else ""


def _finite_note(values) -> str:
    bad = int(np.sum(~np.isfinite(values)))
    return f"pixels not finite: {bad}" if bad else ""


def _join(notes: Sequence[str]) -> str:
    return ", ".join(note for note in notes if note)
