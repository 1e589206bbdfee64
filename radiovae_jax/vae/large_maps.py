"""Exact row-wise streaming: the autoencoder on maps too large for one pass.

Tiles that go through the network one by one show in the result however they are
blended: GroupNorm's statistics and the mid block's attention are of the whole map. So a
map is not cut before the network but inside it: each layer goes over bands of rows of
the whole map, with the rows above and below that its 3x3 kernels need, and a norm's
statistics are summed over all bands before any band is normalised. What comes out is
what one pass gives, up to rounding.

A feature map is a `RowStream`, which computes a band of its rows when asked for one.
Only the output of a block is stored whole, in main memory, in place of its input where
their shapes agree. What lies between the norms of a block is computed anew for each of
them: 1.5 times the multiplications for half the memory. Attention goes over all pairs
of latent pixels; on large maps it takes most of the time.

The functions read the tree of parameters, by the names that vae/autoencoder.py gives,
and compute what nn/layers.py does, in float32.
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

from radiovae_jax.moments import RunningMoments
from radiovae_jax.nn.layers import EPSILON, GROUPS, upsample_nearest
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.progress import Bar
from radiovae_jax.types import Array, Image, Latent, Params
from radiovae_jax.vae.autoencoder import AutoencoderKL

Band = Float[Array, "h w c"]

BAND_FLOATS = 2**23  # features in one band: 32 MB
SCORE_FLOATS = 2**24  # attention of a band to some keys: 64 MB


class RowStream(NamedTuple):
    """A feature map of one image whose bands of rows are computed on demand."""

    height: int
    width: int
    channels: int
    work: float  # multiplications for one row
    rows: Callable[[int, int], Band]  # (first row, row after the last) -> the band
    array: np.ndarray | None = None  # the whole map, if it is stored


class Passes:
    """Goes over whole feature maps; without a bar it only counts the work."""

    def __init__(self, band_floats: int, bar: tqdm | None = None):
        self.band_floats, self.bar, self.work = band_floats, bar, 0.0

    def over(self, x: RowStream) -> Iterator[tuple[int, int, Band]]:
        """Yields (first row, row after the last, band) from the top down."""
        self.work += x.height * x.work
        if self.bar is None:
            return
        # Two rows at least: `store` in place needs them.
        step = max(2, self.band_floats // (x.width * x.channels))
        for start in range(0, x.height, step):
            stop = min(start + step, x.height)
            yield start, stop, x.rows(start, stop)
            self.bar.update((stop - start) * x.work)

    def store(self, x: RowStream, into: np.ndarray | None = None) -> RowStream:
        """Computes the whole map, in place of `into` if that has the same shape.

        The bands of x may read `into`, two rows beyond their own.
        """
        shape = (x.height, x.width, x.channels)
        if into is None or into.shape != shape:
            # Costs memory only where it is written to, so nothing while counting.
            into = np.empty(shape, np.float32)
        # Written one band late: the next one still reads the rows before its own.
        late, before = slice(0, 0), into[:0]
        for start, stop, band in self.over(x):
            band = np.asarray(band)
            into[late] = before
            late, before = slice(start, stop), band
        into[late] = before
        return stored(into)


def stored(array: Float[np.ndarray, "h w c"]) -> RowStream:
    """Returns the stream of a map that is there."""
    # A copy, for the memory may be overwritten while the band is in use.
    return RowStream(*array.shape, 0.0, lambda a, b: jnp.array(array[a:b]), array)


def encode(
    params: Params, image: Image, *, band_floats: int = BAND_FLOATS, progress: str = ""
) -> DiagonalGaussian:
    """Returns what `AutoencoderKL.encode` gives.

    Args:
      params: {"params": ...} of the model.
      band_floats: features in a band; fewer take less memory, and more time.
      progress: label of a progress bar; none without.
    """
    moments = _each(_moments, params["params"], image, band_floats, progress)
    return DiagonalGaussian.from_moments(jnp.asarray(moments))


def decode(
    model: AutoencoderKL,
    params: Params,
    z: Latent,
    *,
    band_floats: int = BAND_FLOATS,
    progress: str = "",
) -> Image:
    """Returns what `AutoencoderKL.decode` gives; arguments as for `encode`."""
    output = _each(_output, params["params"], z, band_floats, progress)
    return model.to_image(jnp.asarray(output))


def _each(
    network: Callable[[Params, RowStream, Passes], RowStream],
    tree: Params,
    batch: Float[Array, "b _ _ _"],
    band_floats: int,
    progress: str,
) -> Float[np.ndarray, "b _ _ _"]:
    """Sends the images of a batch through the network, one after another."""
    images = [stored(np.asarray(image, np.float32)) for image in batch]
    count = Passes(band_floats)
    network(tree, images[0], count)
    with (
        Bar(
            total=len(images) * count.work,
            desc=progress,
            disable=not progress,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        ) as bar,
        jax.default_matmul_precision("highest"),
    ):
        passes = Passes(band_floats, bar)
        return np.stack([network(tree, image, passes).array for image in images])


def _moments(tree: Params, image: RowStream, passes: Passes) -> RowStream:
    """The encoder and quant_conv."""
    encoder = tree["encoder"]
    h = passes.store(conv(encoder["conv_in"], image))
    for i in range(_levels(encoder, "down")):
        h = _blocks(encoder, f"down_{i}", h, passes)
        if f"down_{i}_downsample" in encoder:
            h = passes.store(conv(encoder[f"down_{i}_downsample"], h, stride=2))
    h = _mid(encoder["mid"], h, passes)
    h = norm(encoder["norm_out"], h, passes, swish=True)
    return passes.store(conv(tree["quant_conv"], conv(encoder["conv_out"], h)))


def _output(tree: Params, z: RowStream, passes: Passes) -> RowStream:
    """post_quant_conv and the decoder."""
    decoder = tree["decoder"]
    h = conv(decoder["conv_in"], conv(tree["post_quant_conv"], z))
    h = _mid(decoder["mid"], passes.store(h), passes)
    for i in reversed(range(_levels(decoder, "up"))):
        h = _blocks(decoder, f"up_{i}", h, passes)
        if f"up_{i}_upsample" in decoder:
            # Not stored: nothing in the network is larger.
            h = conv(decoder[f"up_{i}_upsample"], upsample(h))
    h = norm(decoder["norm_out"], h, passes, swish=True)
    return passes.store(conv(decoder["conv_out"], h))


def _levels(tree: Params, way: str) -> int:
    return sum(name.startswith(way) and name.endswith("_block_0") for name in tree)


def _blocks(tree: Params, level: str, h: RowStream, passes: Passes) -> RowStream:
    """The ResnetBlocks of one level, each with its attention if it has one."""
    for j in range(sum(name.startswith(f"{level}_block") for name in tree)):
        h = _resnet(tree[f"{level}_block_{j}"], h, passes)
        if f"{level}_attn_{j}" in tree:
            h = _attention(tree[f"{level}_attn_{j}"], h, passes)
    return h


def _mid(tree: Params, h: RowStream, passes: Passes) -> RowStream:
    h = _resnet(tree["block_1"], h, passes)
    if "attn_1" in tree:
        h = _attention(tree["attn_1"], h, passes)
    return _resnet(tree["block_2"], h, passes)


def _resnet(tree: Params, x: RowStream, passes: Passes) -> RowStream:
    x = _last_band_cached(x)
    h = conv(tree["conv1"], norm(tree["norm1"], x, passes, swish=True))
    h = conv(tree["conv2"], norm(tree["norm2"], h, passes, swish=True))
    shortcut = conv(tree["nin_shortcut"], x) if "nin_shortcut" in tree else x
    return passes.store(add(shortcut, h), into=x.array)


def _attention(tree: Params, x: RowStream, passes: Passes) -> RowStream:
    normed = norm(tree["norm"], x, passes, swish=False)
    keys, values = (passes.store(conv(tree[name], normed)) for name in ("k", "v"))
    attended = attention(conv(tree["q"], normed), keys, values)
    return passes.store(add(x, conv(tree["proj_out"], attended)), into=x.array)


def _last_band_cached(x: RowStream) -> RowStream:
    """Remembers the band that was computed last, of which the next may be a part."""
    if x.array is not None:
        return x
    last: list = [0, 0, None]

    def rows(start: int, stop: int) -> Band:
        if not last[0] <= start <= stop <= last[1]:
            last[:] = start, stop, x.rows(start, stop)
        return last[2][start - last[0] : stop - last[0]]

    return x._replace(rows=rows)


def conv(tree: Params, x: RowStream, *, stride: int = 1) -> RowStream:
    """A 1x1 or 3x3 convolution; with stride 2 padded right and below only."""
    size, _, inputs, outputs = tree["kernel"].shape
    before = 0 if stride == 2 else size // 2
    width = x.width // stride

    def rows(start: int, stop: int) -> Band:
        first = start * stride - before
        after = first + (stop - start - 1) * stride + size
        inside = x.rows(max(first, 0), min(after, x.height))
        outside = (max(-first, 0), max(after - x.height, 0))  # these rows are zero
        band = jnp.pad(inside, (outside, (0, 0), (0, 0)))
        return _convolve(tree["kernel"], tree["bias"], band, stride, before)

    work = float(width * size**2 * inputs * outputs) + stride * x.work
    return RowStream(x.height // stride, width, outputs, work, rows)


def upsample(x: RowStream) -> RowStream:
    """Repeats every pixel 2x2."""

    def rows(start: int, stop: int) -> Band:
        first = start // 2
        band = upsample_nearest(x.rows(first, -(-stop // 2))[None])[0]
        return band[start - 2 * first : stop - 2 * first]

    return RowStream(2 * x.height, 2 * x.width, x.channels, x.work / 2, rows)


def norm(tree: Params, x: RowStream, passes: Passes, *, swish: bool) -> RowStream:
    """GroupNorm with the statistics of the whole map, then swish if so wanted."""
    total = RunningMoments(mean=np.zeros(GROUPS), scatter=np.zeros(GROUPS))
    for start, stop, band in passes.over(x):
        count = (stop - start) * x.width * x.channels // GROUPS
        total = total.merge(RunningMoments(count, *map(np.float64, _deviations(band))))
    std = np.sqrt(total.scatter / max(total.count, 1) + EPSILON)
    shift, factor = (
        jnp.asarray(np.repeat(each_group, x.channels // GROUPS), jnp.float32)
        for each_group in (total.mean, 1 / std)
    )

    def rows(start: int, stop: int) -> Band:
        band = x.rows(start, stop)
        return _normalise(band, shift, factor, tree["scale"], tree["bias"], swish)

    return x._replace(rows=rows, array=None)


def attention(query: RowStream, keys: RowStream, values: RowStream) -> RowStream:
    """Attends from every pixel to all pixels of `keys` and `values`: stored ones."""

    def rows(start: int, stop: int) -> Band:
        most = SCORE_FLOATS // ((stop - start) * query.width * keys.width)
        block = max(d for d in range(1, max(most, 1) + 1) if keys.height % d == 0)
        return _attend(query.rows(start, stop), keys.array, values.array, block)

    pixels = keys.height * keys.width
    work = query.work + 2.0 * query.width * pixels * query.channels
    return query._replace(rows=rows, work=work)


def add(x: RowStream, y: RowStream) -> RowStream:
    """The sum; a band of y is computed first."""

    def rows(start: int, stop: int) -> Band:
        first = y.rows(start, stop)
        return x.rows(start, stop) + first

    return y._replace(rows=rows, work=x.work + y.work, array=None)


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
