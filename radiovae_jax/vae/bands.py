"""Feature maps that are made band by band, and the layers on them.

A feature map is described by `Rows`, which makes a band of its rows when it is asked
for one. A convolution asks its input for the rows above and below as well; a norm goes
over the whole map once, for its statistics, before it describes its output. Only what
`Passes.keep` makes is ever there as a whole.

The numbers are those of nn/layers.py in float32, up to rounding.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float
from tqdm import tqdm

from radiovae_jax.nn.layers import EPSILON, GROUPS, upsample_nearest
from radiovae_jax.types import Array, Params

Band = Float[Array, "h w c"]

SCORE_FLOATS = 2**24  # attention of a band to some keys: 64 MB


class Rows(NamedTuple):
    """A feature map of one image whose bands are made when they are asked for."""

    height: int
    width: int
    channels: int
    work: float  # multiplications for one row
    make: Callable[[int, int], Band]  # (first row, row after the last) -> the band
    array: np.ndarray | None = None  # the whole map, if it is kept


class Passes:
    """Goes over whole feature maps; without a bar it only counts the work."""

    def __init__(self, band_floats: int, bar: tqdm | None = None):
        self.band_floats, self.bar, self.work = band_floats, bar, 0.0

    def over(self, rows: Rows) -> Iterator[tuple[int, int, Band]]:
        """Yields (first row, row after the last, band) from the top down."""
        self.work += rows.height * rows.work
        if self.bar is None:
            return
        # Two rows at least: `keep` in place needs them.
        step = max(2, self.band_floats // (rows.width * rows.channels))
        for start in range(0, rows.height, step):
            stop = min(start + step, rows.height)
            yield start, stop, rows.make(start, stop)
            self.bar.update((stop - start) * rows.work)

    def keep(self, rows: Rows, into: np.ndarray | None = None) -> Rows:
        """Makes the whole map.

        Args:
          rows: what to make. Its bands may read `into`, two rows beyond their own.
          into: a map to overwrite, if it has the same shape.
        """
        shape = (rows.height, rows.width, rows.channels)
        if into is None or into.shape != shape:
            # Costs memory only where it is written to, so nothing while counting.
            into = np.empty(shape, np.float32)
        # Written one band late: the next one still reads the rows before its own.
        late = slice(0, 0), into[:0]
        for start, stop, band in self.over(rows):
            made = np.asarray(band)
            into[late[0]] = late[1]
            late = slice(start, stop), made
        into[late[0]] = late[1]
        return kept(into)


def kept(array: Float[np.ndarray, "h w c"]) -> Rows:
    """Describes a map that is there."""
    # A copy, for the memory may be overwritten while the band is in use.
    return Rows(*array.shape, 0.0, lambda a, b: jnp.array(array[a:b]), array)


def remembered(rows: Rows) -> Rows:
    """Keeps the band that was made last, of which the next may be a part."""
    if rows.array is not None:
        return rows
    last: list = [0, 0, None]

    def make(start: int, stop: int) -> Band:
        if not last[0] <= start <= stop <= last[1]:
            last[:] = start, stop, rows.make(start, stop)
        return last[2][start - last[0] : stop - last[0]]

    return rows._replace(make=make)


def conv(tree: Params, x: Rows, *, stride: int = 1) -> Rows:
    """A 1x1 or 3x3 convolution; with stride 2 padded right and below only."""
    size, _, inputs, outputs = tree["kernel"].shape
    before = 0 if stride == 2 else size // 2
    width = x.width // stride

    def make(start: int, stop: int) -> Band:
        first = start * stride - before
        band = _around(x, first, first + (stop - start - 1) * stride + size)
        return _convolve(tree["kernel"], tree["bias"], band, stride, before)

    work = float(width * size**2 * inputs * outputs) + stride * x.work
    return Rows(x.height // stride, width, outputs, work, make)


def upsample(x: Rows) -> Rows:
    """Repeats every pixel 2x2."""

    def make(start: int, stop: int) -> Band:
        first = start // 2
        band = upsample_nearest(x.make(first, -(-stop // 2))[None])[0]
        return band[start - 2 * first : stop - 2 * first]

    return Rows(2 * x.height, 2 * x.width, x.channels, x.work / 2, make)


def norm(tree: Params, x: Rows, passes: Passes, *, swish: bool) -> Rows:
    """GroupNorm with the statistics of the whole map, then swish if so told.

    Source: Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances", eq. 2.1, for merging means and squared deviations
    of two bands; E[x^2] - E[x]^2 would cancel.
    """
    count, mean, squares = 0, np.zeros(GROUPS), np.zeros(GROUPS)
    for start, stop, band in passes.over(x):
        new = (stop - start) * x.width * x.channels // GROUPS
        band_mean, band_squares = map(np.float64, _deviations(band))
        apart = band_mean - mean
        squares += band_squares + apart**2 * count * new / (count + new)
        count += new
        mean += apart * new / count
    std = np.sqrt(squares / max(count, 1) + EPSILON)
    shift, factor = (
        jnp.asarray(np.repeat(each_group, x.channels // GROUPS), jnp.float32)
        for each_group in (mean, 1 / std)
    )

    def make(start: int, stop: int) -> Band:
        band = x.make(start, stop)
        return _normalise(band, shift, factor, tree["scale"], tree["bias"], swish)

    return x._replace(make=make, array=None)


def attention(query: Rows, keys: Rows, values: Rows) -> Rows:
    """Attends from every pixel to all pixels of `keys` and `values`, which are kept."""
    pixels = keys.height * keys.width

    def make(start: int, stop: int) -> Band:
        rows = SCORE_FLOATS // ((stop - start) * query.width * keys.width)
        block = max(d for d in range(1, max(rows, 1) + 1) if keys.height % d == 0)
        band = query.make(start, stop)
        return _attend(band, keys.array, values.array, block)

    work = query.work + 2.0 * query.width * pixels * query.channels
    return query._replace(make=make, work=work)


def add(x: Rows, y: Rows) -> Rows:
    """The sum; a band of y is made first."""

    def make(start: int, stop: int) -> Band:
        first = y.make(start, stop)
        return x.make(start, stop) + first

    return y._replace(make=make, work=x.work + y.work, array=None)


def _around(rows: Rows, start: int, stop: int) -> Band:
    """Returns rows of which some may lie outside the map: those are zero."""
    inside = rows.make(max(start, 0), min(stop, rows.height))
    above, below = max(-start, 0), max(stop - rows.height, 0)
    return jnp.pad(inside, ((above, below), (0, 0), (0, 0)))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _convolve(
    kernel: Float[Array, "s s c d"],
    bias: Float[Array, "d"],
    band: Band,
    stride: int,
    before: int,
) -> Float[Array, "_ _ d"]:
    """Convolves without padding the rows; `before` zeros left of the columns."""
    out = jax.lax.conv_general_dilated(
        band[None],
        kernel,
        (stride, stride),
        [(0, 0), (before, kernel.shape[0] // 2)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out[0] + bias[None, None]


@jax.jit
def _deviations(band: Band) -> tuple[Float[Array, "g"], Float[Array, "g"]]:
    """Returns the mean of each group, and the sum of squares about it."""
    groups = band.reshape(-1, GROUPS, band.shape[-1] // GROUPS)
    mean = groups.mean(axis=(0, 2))
    return mean, ((groups - mean[None, :, None]) ** 2).sum(axis=(0, 2))


@functools.partial(jax.jit, static_argnums=5)
def _normalise(
    band: Band,
    shift: Float[Array, "c"],
    factor: Float[Array, "c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    swish: bool,
) -> Band:
    band = (band - shift[None, None]) * (factor * scale)[None, None] + bias[None, None]
    return nn.swish(band) if swish else band


@functools.partial(jax.jit, static_argnums=3)
def _attend(
    band: Band,
    keys: Float[Array, "n m c"],
    values: Float[Array, "n m c"],
    rows: int,
) -> Band:
    """Attends to so many rows of keys at a time; `rows` divides n.

    Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), algorithm 3, for the softmax
    in one pass; Rabe and Staats 2021 (arXiv:2112.05682) for attention by it.
    """
    channels = band.shape[-1]
    q = band.reshape(-1, channels) * channels**-0.5

    def step(carry, block):
        top, total, attended = carry
        k, v = block
        scores = q @ k.T
        new_top = jnp.maximum(top, scores.max(axis=1, keepdims=True))
        weights, fade = jnp.exp(scores - new_top), jnp.exp(top - new_top)
        total = fade * total + weights.sum(axis=1, keepdims=True)
        return (new_top, total, fade * attended + weights @ v), None

    nothing = jnp.zeros((len(q), 1))
    blocks = [a.reshape(-1, rows * a.shape[1], channels) for a in (keys, values)]
    start = (nothing - jnp.inf, nothing, jnp.zeros_like(q))
    (_, total, attended), _ = jax.lax.scan(step, start, tuple(blocks))
    return (attended / total).reshape(band.shape)
