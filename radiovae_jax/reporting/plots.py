"""Pictures of maps and of how far their reconstructions are off, in dB.

Functions take maps f = gray/255 in [0, 1], and what f is in dB; maps without a unit are
shown in f. They return a `Figure` that no global state of matplotlib knows of, safe in
a thread and without a display. The scale of the maps is always the whole range of f.

Maps of several channels are shown channel by channel where they are in dB. Else three
channels are red, green and blue, and any other number is mixed into three by a fixed
random projection: it keeps apart what differs, and does not say which channel it is.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure

from radiovae_jax import files, inputs
from radiovae_jax.data import radiomap
from radiovae_jax.data.batch import binary_mask
from radiovae_jax.data.radiomap import RADIOMAPSEER_DB, DbRange

Numbers = np.ndarray | jax.Array

# All read the same with colour-deficient sight; magenta, for what is not finite, is in
# none of them.
MAP_COLOURS = mpl.colormaps["viridis"].with_extremes(bad="magenta")
ERROR_COLOURS = mpl.colormaps["RdBu_r"].with_extremes(bad="magenta")
GRAYS = mpl.colormaps["gray"]
SIZE_COLOURS = mpl.colormaps["YlOrBr"].with_extremes(bad="magenta")

ERROR_SHARE = 0.98  # of the pixels that the scale of the error covers
# Shortest and longest scale of the error: 0.5 and 15 dB; in f as much of RadioMapSeer.
ERROR_LIMITS_F = (0.005, 0.15)
TITLE_LETTERS = 40
MOST_CHANNELS = 6  # that are shown
PROJECTION_SEED = 0  # pictures of all runs, steps and versions compare
NOWHERE = np.zeros((1, 1), bool)
NOISE = "noise is expected with a small KL weight"


def reconstructions(
    target_f: Float[Numbers, "b h w c"],
    recon_f: Float[Numbers, "b h w c"],
    *,
    names: Sequence[str] = (),
    buildings: Bool[Numbers, "b h w 1"] | None = None,
    max_rows: int = 6,
    db: DbRange = RADIOMAPSEER_DB,
    what: str = "reconstruction",
) -> Figure:
    """Returns rows of map, reconstruction and error, titled with name and RMSE.

    A map of several channels in dB has a row for each. All rows share their scales. The
    error's covers 98% of the pixels shown and ends at 15 dB; the bar's ends are pointed
    where errors lie beyond, and what is not finite is magenta.

    Args:
      recon_f: unclipped.
      names: one per image; none: the images are numbered.
      buildings: True inside; their contour is drawn on the map, and the title has the
        RMSE of the street and of the buildings.
      max_rows: the first so many maps are shown.

    Raises:
      ValueError: no image.
    """
    names = names or [f"map {i}" for i in range(len(target_f))]
    target, recon = (_float64(f[:max_rows]) for f in (target_f, recon_f))
    count, height, width, channels = target.shape
    building_mask = np.zeros(target.shape[:3], bool)
    if buildings is not None:
        building_mask = np.asarray(buildings[:max_rows, :, :, 0])
    parts = channel_parts(channels, db)
    error, scale = _error(target, recon, db)
    high, count = 2.35 * bounded(height / width) + 0.55, count * len(parts)
    figure = Figure(figsize=(9, count * high), layout="constrained")
    rows = iter(figure.subfigures(count, 1, squeeze=False)[:, 0])
    for name, x, y, off, inside in zip(
        names[:max_rows], target, recon, error, building_mask, strict=True
    ):
        name = inputs.printable(name, letters=TITLE_LETTERS)
        for channel, part in enumerate(parts):
            of = f"channel {channel} of {channels}" if len(parts) > 1 else ""
            row, f, f_recon = next(rows), x[..., part], y[..., part]
            title = _join([name, of, _row_title(f, f_recon, inside, db)])
            row.suptitle(title, fontsize=10.5, parse_math=False)
            off_here = off[..., channel]
            axes = _row(row, f, f_recon, off_here, target, scale, db, what)
            if inside.any() and not inside.all():  # matplotlib warns of no line to draw
                axes[0].contour(inside, levels=[0.5], colors="white", linewidths=0.6)
    return figure


def validated(
    examples: Mapping[str, np.ndarray], raw: Mapping[str, np.ndarray], **options
) -> Figure:
    """Returns `reconstructions` of examples of a validation.

    Args:
      examples: "target" and "recon", f.
      raw: their rows of the raw batches, with names, and buildings where known.
      **options: of `reconstructions`.
    """
    target, recon = examples["target"], examples["recon"]
    names = [str(name) for name in raw["name"]]
    buildings = building_mask(raw, target.shape[1])
    return reconstructions(target, recon, names=names, buildings=buildings, **options)


def building_mask(
    raw: Mapping[str, np.ndarray], height: int
) -> Bool[np.ndarray, "b _ _ 1"]:
    """Returns where buildings are, in pictures of this height; nowhere if unknown."""
    nowhere = np.zeros((*raw["gray"].shape[:3], 1), np.uint8)
    gray = raw.get("buildings", nowhere)
    return np.asarray(binary_mask(gray, height if gray.shape[1] != height else 0)) > 0


def samples(
    f: Float[Numbers, "b h w c"],
    *,
    max_images: int = 16,
    title: str = f"samples from the prior: {NOISE}",
    db: DbRange = RADIOMAPSEER_DB,
) -> Figure:
    """Returns a grid of maps with one scale, in dB where f has a unit."""
    parts = channel_parts(np.shape(f)[-1], db)
    maps = _float64(f[: max(1, max_images // len(parts))])
    count, height, width, channels = maps.shape
    images = [one[..., part] for one in maps for part in parts]
    columns = len(parts)
    if columns == 1:
        columns = min(count, max(2, math.ceil(math.sqrt(count))))
    rows = math.ceil(len(images) / columns)
    side = 7.2 / max(columns, 2)
    size = (side * columns + 1.4, side * rows * bounded(height / width) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    first = f"the first {count} of {len(f)}" if count < len(f) else ""
    notes = [inputs.printable(title), first, channel_words(channels, db)]
    words = _join([*notes, _finite_note(maps)])
    figure.suptitle(words, fontsize=11, wrap=True, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(images) :]:
        axis.set_axis_off()
    for number, (axis, one) in enumerate(zip(axes.flat, images, strict=False)):
        name = f"channel {number}" if number < len(parts) > 1 else ""
        shown = show_map(axis, one, name, reference=maps, db=db)
    if channels == 1 or len(parts) > 1:
        gain_bar(figure, shown, maps, db, ax=axes)
    return figure


def predictions(
    maps_f: Mapping[str, Float[Numbers, "n h w 1"]],
    *,
    buildings: Bool[Numbers, "n h w 1"],
    tx: Sequence[tuple[int, int]] | np.ndarray,
    names: Sequence[str],
    points: Float[np.ndarray, "p 2"] | None = None,
    target_f: Float[Numbers, "n h w 1"] | None = None,
    deviation_f: Float[Numbers, "n h w 1"] | None = None,
    db: DbRange = RADIOMAPSEER_DB,
) -> Figure:
    """Returns rows of condition, maps, deviation of samples and error of the last map.

    Args:
      maps_f: by their titles; the truth, where it is known, is the first of them.
      buildings: True inside.
      tx: (x, y) of each row's transmitter, column and row from the top; or none.
      names: one per row.
      points: (x, y) of measurements, drawn in all rows.
      target_f: the truth; the error has a column then.
      deviation_f: of samples; it has a column then.
    """
    maps = {title: _float64(f) for title, f in maps_f.items()}
    shown_f = np.stack([*maps.values()])
    last = [*maps.values()][-1]
    error = scale = None
    if target_f is not None:
        error, scale = _error(_float64(target_f), last, db)
    deviation = None
    if deviation_f is not None:
        deviation = (db.span or 1.0) * _float64(deviation_f)
        most = max(float(np.quantile(deviation, ERROR_SHARE)), 1e-3)
    rows, height, width, _ = last.shape
    columns = 1 + len(maps) + (deviation is not None) + (error is not None)
    size = 2.3 * columns + 1.8, rows * 2.5 * bounded(height / width)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, row in enumerate(axes):
        name = inputs.printable(names[number], letters=TITLE_LETTERS)
        image(row[0], 1.0 - np.asarray(buildings[number, ..., 0]), name, GRAYS)
        if points is not None:
            row[0].plot(*np.transpose(points), ".", color="tab:blue", markersize=3)
        if len(tx):
            row[0].plot(*tx[number], marker="^", color="tab:red", markersize=8)
        for axis, (title, f) in zip(row[1:], maps.items(), strict=False):
            if error is not None and f is last:
                title += f", {_row_title(target_f[number], f[number], NOWHERE, db)}"
            gain = show_map(axis, f[number], title, reference=f, db=db)
        if deviation is not None:
            values, scheme = deviation[number, ..., 0], SIZE_COLOURS
            axis = row[1 + len(maps)]
            spread = image(axis, values, "deviation", scheme, Normalize(0, most))
        if error is not None:
            values = error[number, ..., 0]
            off = image(row[-1], values, "error", ERROR_COLOURS, scale)
    thin = dict(fraction=0.1, aspect=20 * rows, shrink=0.98)
    gain_bar(figure, gain, shown_f, db, ax=[*axes[:, len(maps)]], **thin)
    if deviation is not None:
        label = f"deviation of samples ({db.unit})"
        places = [*axes[:, 1 + len(maps)]]
        colour_bar(figure, spread, deviation, label, ax=places, **thin)
    if error is not None:
        places = [*axes[:, -1]]
        colour_bar(figure, off, error, f"error ({db.unit})", ax=places, **thin)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a figure in the format of the path's suffix, all of it or nothing.

    The folder is made.

    Raises:
      ValueError: a suffix that matplotlib does not write.
      OSError: it cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
      reference: the maps that are shown together; see `to_rgb`.
    """
    if f.shape[-1] == 1:
        low = db.floor if db.span else 0.0
        scale = Normalize(low, low + (db.span or 1.0))
        return image(axis, in_unit(f, db)[..., 0], title, MAP_COLOURS, scale)
    return image(axis, to_rgb(f[None], reference)[0], title)


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


def to_rgb(
    f: Float[Numbers, "b h w c"], reference: Float[Numbers, "_ _ _ c"]
) -> Float[np.ndarray, "b h w 3"]:
    """Returns colours in [0, 1], clipped; magenta where a channel is not finite.

    Args:
      reference: maps whose projection spans the colours, so that a reconstruction is
        coloured as its map is.
    """
    f, reference = (np.asarray(maps, np.float64) for maps in (f, reference))
    channels, colours = f.shape[-1], f
    if channels != 3:
        mixed = reference.reshape(-1, channels) @ projection(channels)
        mixed = mixed[np.isfinite(mixed).all(axis=1)]
        low, high = (mixed.min(0), mixed.max(0)) if len(mixed) else (0.0, 1.0)
        span = np.where(high > low, high - low, 1.0)
        colours = (f @ projection(channels) - low) / span
    finite = np.isfinite(f).all(axis=-1, keepdims=True)
    return np.where(finite, np.clip(colours, 0, 1), mpl.colors.to_rgb("magenta"))


def projection(channels: int) -> Float[np.ndarray, "c 3"]:
    """Returns the weights of every channel in red, green and blue: N(0, 1), seeded.

    Source: taming-transformers shows segmentations so (VQModel, vqgan.py at 3ba01b2).
    """
    return np.random.default_rng(PROJECTION_SEED).standard_normal((channels, 3))


def colour_bar(
    figure: Figure | SubFigure,
    shown: ScalarMappable,
    values: Float[np.ndarray, "..."],
    label: str,
    **place,
) -> None:
    """Adds a colour bar; its ends are pointed where values lie beyond them.

    Args:
      **place: of `Figure.colorbar`: ax, the axes beside which it stands, or cax.
    """
    finite = values[np.isfinite(values)]
    beyond = (finite < shown.norm.vmin).any(), (finite > shown.norm.vmax).any()
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond]
    if "ax" in place:
        place["pad"] = 0.02
    bar = figure.colorbar(shown, extend=extend, **place)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=9)


def beside(axis: Axes) -> Axes:
    """Returns a place for a colour bar, exactly as high as the image of an axis."""
    return axis.inset_axes((1.03, 0, 0.05, 1))


def gain_bar(
    figure: Figure | SubFigure,
    shown: ScalarMappable,
    f: Float[np.ndarray, "..."],
    db: DbRange,
    **place,
) -> None:
    """Adds the colour bar of maps, in dB where f has them."""
    label = "path gain (dB)" if db.span else "f"
    colour_bar(figure, shown, in_unit(f, db), label, **place)


def channel_parts(channels: int, db: DbRange) -> list[slice]:
    """Returns what is shown by itself: every channel in dB, else the whole map."""
    if channels == 1 or not db.span:
        return [slice(None)]
    return [slice(i, i + 1) for i in range(min(channels, MOST_CHANNELS))]


def channel_words(channels: int, db: DbRange) -> str:
    """Returns what a picture has to say about the channels of its maps."""
    shown = len(channel_parts(channels, db))
    if shown > 1:
        return f"the first {shown} of {channels} channels" if shown < channels else ""
    if channels == 1:
        return ""
    return "3 channels as RGB" if channels == 3 else f"{channels} channels, mixed"


def in_unit(f: Float[np.ndarray, "*s"], db: DbRange) -> Float[np.ndarray, "*s"]:
    """Returns dB where f has them, else f."""
    return radiomap.f_to_db(f, db) if db.span else f


def bounded(ratio: float) -> float:
    """Returns how high a panel is for its width, within what a page can hold."""
    return min(max(ratio, 0.4), 2.5)


def _row(
    figure: SubFigure,
    x: Float[np.ndarray, "h w c"],
    y: Float[np.ndarray, "h w c"],
    off: Float[np.ndarray, "h w"],
    reference: Float[np.ndarray, "_ _ _ _"],
    scale: Normalize,
    db: DbRange,
    what: str,
) -> np.ndarray:
    """Draws map, reconstruction and error; returns their axes."""
    title, scheme = f"{what} − map", ERROR_COLOURS
    if scale.vmin == 0:
        title, scheme = "error, rms over channels", SIZE_COLOURS
    axes = figure.subplots(1, 3)
    show_map(axes[0], x, "map", reference=reference, db=db)
    shown = show_map(axes[1], y, what, reference=reference, db=db)
    errors = image(axes[2], off, title, scheme, scale)
    if y.shape[-1] == 1:
        gain_bar(figure, shown, y, db, cax=beside(axes[1]))
    colour_bar(figure, errors, off, f"error ({db.unit})", cax=beside(axes[2]))
    return axes


def _float64(f: Float[Numbers, "b h w c"]) -> Float[np.ndarray, "b h w c"]:
    if not len(f):
        raise ValueError("a picture needs at least one image, got none")
    return np.asarray(f).astype(np.float64)


def _error(
    target: Float[np.ndarray, "b h w c"],
    recon: Float[np.ndarray, "b h w c"],
    db: DbRange,
) -> tuple[Float[np.ndarray, "b h w k"], Normalize]:
    """Returns each pixel's error and its scale; of channels not in dB, one, the rms."""
    error, channels = (db.span or 1.0) * (recon - target), target.shape[-1]
    mixed = channels > 1 and not db.span
    if mixed:
        error = np.sqrt(np.mean(np.square(error), axis=-1, keepdims=True))
    finite = np.abs(error[np.isfinite(error)])
    wanted = np.quantile(finite, ERROR_SHARE) if finite.size else 0
    limits = np.multiply(ERROR_LIMITS_F, radiomap.DB_SPAN if db.span else 1.0)
    limit = float(np.clip(wanted, *limits))
    return error[..., :MOST_CHANNELS], Normalize(0 if mixed else -limit, limit)


def _row_title(target, recon, inside: Bool[np.ndarray, "h w"], db) -> str:
    squared = np.square(recon - target)
    errors = [f"RMSE {db.words(float(np.sqrt(np.mean(squared))))}"]
    if inside.any() and not inside.all():
        errors += [
            f"{place} {db.words(float(np.sqrt(np.mean(squared[where]))))}"
            for place, where in (("street", ~inside), ("buildings", inside))
        ]
    words = channel_words(target.shape[-1], db)
    return _join([words, *errors, _finite_note(recon)])


def _finite_note(f: Float[np.ndarray, "*b h w c"]) -> str:
    bad = int(np.sum(~np.isfinite(f).all(axis=-1)))
    return f"pixels not finite: {bad}" if bad else ""


def _join(notes: Sequence[str]) -> str:
    return ", ".join(note for note in notes if note)
