"""A trained run as two functions on maps of any size: to latents, and back."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from radiovae_jax.data import datasets, radiomap
from radiovae_jax.data.batch import resize, resize_back, resized
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import run_folder, schema
from radiovae_jax.types import Array, Image, Latent
from radiovae_jax.vae import tiling

TILES = ("auto", "always", "never")
SIZES = ("auto", "training", "stored")
# More pixels than this go by bands, and more latent ones: their attention holds 1 GB of
# scores, with a down-sampling of 4 for a map of 512x512.
ONE_PASS, ONE_ATTENTION = 512 * 512, 128 * 128
# How many times the training's size a map may have to be resized to it unasked.
RESIZED = 2


class Frame(NamedTuple):
    """The sizes of a map: as stored, and as the network sees it before padding."""

    stored: tuple[int, int]
    seen: tuple[int, int]


class Coder(NamedTuple):
    """The functions of a run; both take and give f in [0, 1]."""

    encode: Callable[[Image], DiagonalGaussian]  # of padded maps
    decode: Callable[[Latent], Image]  # clipped to [0, 1]
    factor: int  # of the down-sampling
    channels: int  # of a map
    latent_channels: int
    image_size: int  # that the training resized to; 0: none
    training_size: tuple[int, int]
    size_field: str  # of the config, that says so
    description: str
    db: radiomap.DbRange = radiomap.RADIOMAPSEER_DB  # what f is in dB


def load(
    workdir: pathlib.Path | str,
    *,
    weights: str = "ema",
    step: int = 0,
    tiles: str = "auto",
) -> Coder:
    """Reads a run.

    Args:
      workdir: folder of the run.
      weights: "ema" or "live".
      step: which checkpoint; 0 is the best.
      tiles: "auto" takes maps of more than 512x512 pixels band by band, which gives
        the same numbers in little memory.

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
      ValueError: its config does not fit this version.
    """
    config = run_folder.read_config(workdir)
    schema.check(config)
    step, (model, params) = run_folder.hold(
        workdir, step, lambda step: run_folder.load(workdir, weights, step=step)
    )
    whole = {
        name: jax.jit(functools.partial(model.apply, params, method=name))
        for name in ("encode", "decode")
    }

    def by_bands(height: int, width: int) -> bool:
        most = min(ONE_PASS, ONE_ATTENTION * model.downsampling**2)
        return {"always": True, "never": False}.get(tiles, height * width > most)

    def encode(f: Image) -> DiagonalGaussian:
        x = radiomap.f_to_model(jnp.asarray(f))
        if by_bands(*x.shape[1:3]):
            return tiling.encode(params, x, progress="encode")
        return whole["encode"](x)

    def decode(z: Latent) -> Image:
        height, width = (side * model.downsampling for side in z.shape[1:3])
        if by_bands(height, width):
            x = tiling.decode(model, params, z, progress="decode")
        else:
            x = whole["decode"](z)
        return jnp.clip(radiomap.model_to_f(x), 0, 1)

    size_field, side = run_folder.training_side(config)
    return Coder(
        encode=encode,
        decode=decode,
        factor=model.downsampling,
        channels=model.in_channels,
        latent_channels=model.embed_dim,
        image_size=config.data.image_size,
        training_size=(side, side) if isinstance(side, int) else tuple(side),
        size_field=size_field,
        db=datasets.db_range(config),
        description=f"{workdir}, step {step}, {weights} weights",
    )


def frame(coder: Coder, stored: tuple[int, int], size: str) -> Frame:
    """Decides at which size the network sees a map.

    Args:
      stored: (height, width) of the map.
      size: "training" resizes as the training and the evaluation do; "stored" does not;
        "auto" is "training" for square maps up to twice its size, else "stored".

    Raises:
      ValueError: a map that is not square and would be squashed.
    """
    near = stored[0] == stored[1] and stored[0] <= RESIZED * coder.image_size
    if size == "training" or (size == "auto" and near):
        return Frame(stored, resized(*stored, coder.image_size))
    return Frame(stored, stored)


def padding(coder: Coder, frame: Frame) -> tuple[int, int]:
    """Returns the rows and columns that are added below and at the right."""
    rows, columns = (-side % coder.factor for side in frame.seen)
    return rows, columns


def encode(coder: Coder, f: Float[Array, "h w c"], frame: Frame) -> DiagonalGaussian:
    """Returns the posterior, of one map in [0, 1]; the sides are padded by mirroring.

    Raises:
      ValueError: another number of channels than the model has.
    """
    if f.shape[-1] != coder.channels:
        raise ValueError(
            f"the map has {f.shape[-1]} channels, and the model of "
            f"{coder.description} takes {coder.channels}; give another --workdir"
        )
    x = jnp.asarray(f)[None]
    if frame.seen != frame.stored:
        x = resize(x, frame.seen[0])
    rows, columns = padding(coder, frame)
    # One side may be shorter than its padding, and has nothing to mirror.
    mode = "reflect" if min(frame.seen) > coder.factor else "edge"
    return coder.encode(jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode))


def decode(
    coder: Coder, z: Float[Array, "p q z"], frame: Frame
) -> Float[np.ndarray, "h w c"]:
    """Returns the map in [0, 1], without padding and at its stored size.

    Raises:
      ValueError: as `check_latents`.
    """
    check_latents(coder, z, frame)
    height, width = frame.seen
    seen = coder.decode(jnp.asarray(z)[None])[:, :height, :width]
    return np.asarray(jnp.clip(resize_back(seen, *frame.stored), 0, 1))[0]


def check_latents(coder: Coder, z: Float[Array, "p q z"], frame: Frame) -> None:
    """Asks whether the decoder makes a map of this frame out of these latents.

    Raises:
      ValueError: the latents are another model's, or of a map of another size.
    """
    if z.shape[-1] != coder.latent_channels:
        raise ValueError(
            f"the latents have {z.shape[-1]} channels, and those of {coder.description}"
            f" {coder.latent_channels}: they are another model's; give its --workdir"
        )
    height, width = frame.seen
    sides = [-(-side // coder.factor) for side in frame.seen]
    if list(z.shape[:2]) != sides:
        raise ValueError(
            f"latents of {z.shape[0]}x{z.shape[1]} are of no map of {height}x{width}, "
            f"which has {sides[0]}x{sides[1]} in {coder.description}: they are another "
            "model's; give its --workdir"
        )
