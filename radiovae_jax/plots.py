"""Pictures of maps and of how far their reconstructions are off, in dB.

Functions take maps f = gray/255 in [0, 1] and return a `Figure` that no global state
of matplotlib knows of, so that they are safe in a thread and without a display. The
scale of the maps is always the whole range of f, and the scale of the error one of a
few round numbers: pictures of different steps compare at a glance. Maps of more than
one channel are shown in colours (colours.py says which).
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

from radiovae_jax import colours, whole_files
from radiovae_jax.data import radiomap

Numbers = np.ndarray | jax.Array

# Both scales read the same with colour-deficient sight. Magenta is in neither.
MAP_COLOURS = mpl.colormaps["viridis"].with_extremes(bad="magenta")
ERROR_COLOURS = mpl.colormaps["RdBu_r"].with_extremes(bad="magenta")
SIZE_COLOURS = mpl.colormaps["YlOrBr"].with_extremes(bad="magenta")

MAP_RANGE_DB = Normalize(radiomap.DB_FLOOR, radiomap.DB_FLOOR + radiomap.DB_SPAN)
ERROR_LIMITS_DB = (0.5, 1, 2, 5, 10, 20, 50, 100)
TITLE_LETTERS = 40


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
      buildings: True inside; outlined, so that what the model puts under a roof shows.
      max_rows: the first so many images are shown.

    Raises:
      ValueError: no image, or as many names as images are not given.
    """
    names = names or [f"map {i}" for i in range(len(target_f))]
    if len(names) != len(target_f):
        raise ValueError(f"{len(target_f)} images need as many names, got {len(names)}")
    target, recon = (_finite_type(f[:max_rows]) for f in (target_f, recon_f))
    roofs = np.zeros(target.shape[:3], bool)
    if buildings is not None:
        roofs = np.asarray(buildings[:max_rows, :, :, 0])
    error_db, words = _error(target, recon)
    error_range = _error_range(error_db, signed=target.shape[-1] == 1)

    count, height, width, _ = target.shape
    figure = Figure(
        figsize=(9, count * (2.45 * _bounded(height / width) + 0.65)),
        layout="constrained",
    )
    rows = figure.subfigures(count, 1, squeeze=False)[:, 0]
    for row, name, x, y, error, roof in zip(
        rows, names[:max_rows], target, recon, error_db, roofs, strict=True
    ):
        row.suptitle(_row_title(name, x, y), fontsize=10.5)
        left, middle, right = row.subplots(1, 3)
        show_map(left, x, "map", reference=target)
        shown = show_map(middle, y, "reconstruction", reference=target)
        if x.shape[-1] == 1:
            colour_bar(row, shown, [left, middle], "path gain (dB)", _db(y))
        scheme = ERROR_COLOURS if x.shape[-1] == 1 else SIZE_COLOURS
        shown = image(right, error, words, scheme, error_range)
        colour_bar(row, shown, [right], "error (dB)", error)
        for axis, colour in ((left, "white"), (middle, "white"), (right, "black")):
            _outline(axis, roof, colour)
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
    maps = _finite_type(f[:max_images])
    count, height, width, channels = maps.shape
    columns = min(count, max(2, math.ceil(math.sqrt(count))))
    rows = math.ceil(count / columns)
    panel = 7.2 / max(columns, 2)
    figure = Figure(
        figsize=(panel * columns + 1.4, panel * rows * _bounded(height / width) + 0.6),
        layout="constrained",
    )
    part = f"the first {count} of {len(f)}" if count < len(f) else ""
    notes = [title, part, colours.words(channels), _finite_note(maps)]
    figure.suptitle(_join(notes), fontsize=11, wrap=True)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis, one in zip(axes.flat[:count], maps, strict=True):
        shown = show_map(axis, one, "", reference=maps)
    if channels == 1:
        colour_bar(figure, shown, axes, "path gain (dB)", _db(maps))
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
    with whole_files.written(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=110)
    return path


def show_map(
    axis: Axes,
    f: Float[np.ndarray, "h w c"],
    title: str,
    *,
    reference: Float[np.ndarray, "_ _ _ c"],
) -> ScalarMappable:
    """Draws one map: a single channel in dB, several in colours.

    Args:
      reference: the maps that are shown together; see `colours.to_rgb`.
    """
    if f.shape[-1] == 1:
        return image(axis, _db(f)[..., 0], title, MAP_COLOURS, MAP_RANGE_DB)
    return image(axis, colours.to_rgb(f[None], reference)[0], title)


def image(
    axis: Axes,
    values: Float[np.ndarray, "h w *rgb"],
    title: str,
    scheme: Colormap = MAP_COLOURS,
    scale: Normalize = MAP_RANGE_DB,
) -> ScalarMappable:
    """Draws an image without ticks, what is not finite in magenta."""
    axis.set_title(title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(np.ma.masked_invalid(values), cmap=scheme, norm=scale)


def colour_bar(
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


def _finite_type(f: Float[Numbers, "b h w c"]) -> Float[np.ndarray, "b h w c"]:
    if not len(f):
        raise ValueError("a picture needs at least one image, got none")
    return np.asarray(f).astype(np.float64)


def _db(f: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return radiomap.f_to_db(f)


def _error(
    target: Float[np.ndarray, "b h w c"], recon: Float[np.ndarray, "b h w c"]
) -> tuple[Float[np.ndarray, "b h w"], str]:
    """Returns each pixel's error in dB (over several channels rms) and its name."""
    error_db = radiomap.DB_SPAN * (recon - target)
    if target.shape[-1] == 1:
        return error_db[..., 0], "reconstruction − map"
    return np.sqrt(np.mean(np.square(error_db), axis=-1)), "error, rms over channels"


def _error_range(error_db: Float[np.ndarray, "b h w"], *, signed: bool) -> Normalize:
    """Returns the smallest scale of the round ones that holds 99% of finite errors."""
    finite = np.abs(error_db[np.isfinite(error_db)])
    wanted = np.quantile(finite, 0.99) if finite.size else 0
    limit = next((x for x in ERROR_LIMITS_DB if x >= wanted), ERROR_LIMITS_DB[-1])
    return Normalize(-limit if signed else 0, limit)


def _bounded(ratio: float) -> float:
    return min(max(ratio, 0.4), 2.5)


def _outline(axis: Axes, where: Bool[np.ndarray, "h w"], colour: str) -> None:
    if where.any() and not where.all():  # matplotlib warns of no line to draw
        axis.contour(where, levels=[0.5], colors=colour, linewidths=0.6)


def _row_title(name: str, target, recon) -> str:
    if len(name) > TITLE_LETTERS:
        name = "…" + name[1 - TITLE_LETTERS :]
    rmse_db = radiomap.DB_SPAN * np.sqrt(np.mean(np.square(recon - target)))
    notes = [name, colours.words(target.shape[-1]), f"RMSE {rmse_db:.2f} dB"]
    return _join([*notes, _finite_note(recon)])


def _finite_note(f: Float[np.ndarray, "*b h w c"]) -> str:
    bad = int(np.sum(~np.isfinite(f).all(axis=-1)))
    return f"pixels not finite: {bad}" if bad else ""


def _join(notes: Sequence[str]) -> str:
    return ", ".join(note for note in notes if note)
