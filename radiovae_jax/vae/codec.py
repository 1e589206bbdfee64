"""A trained run as two functions on maps of any size: to latents, and back."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float

from radiovae_jax import inputs
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.data.batch import resize, resize_back, resized
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import checkpoint, run_folder, schema
from radiovae_jax.types import Array, Image, Latent
from radiovae_jax.vae import experiment, tiling
from radiovae_jax.vae.autoencoder import AutoencoderKL

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
        workdir, step, lambda step: load_network(workdir, weights, step=step)
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

    size_field, side = training_side(config)
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


def load_network(
    workdir: pathlib.Path | str, weights: str = "ema", *, step: int = 0
) -> tuple[AutoencoderKL, Any]:
    """Returns (model, params) of a run, ready for `encode` and `decode`.

    The model computes in float32 wherever it was trained.

    Args:
      workdir: folder of the run.
      weights: "ema" (the average that validation judges) or "live".
      step: which checkpoint; 0 is the one with the lowest validation NMSE.

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
      ValueError: unknown `weights`, or a config that does not fit this version.
    """
    if weights not in ("ema", "live"):
        raise ValueError(f"weights={weights!r} is not 'ema' or 'live'")
    return run_folder.hold(workdir, step, lambda step: _load(workdir, weights, step))[1]


def _load(
    workdir: pathlib.Path | str, weights: str, step: int
) -> tuple[AutoencoderKL, Any]:
    config = run_folder.read_config(workdir)
    schema.check(config)
    model = experiment.build_autoencoder(config).clone(dtype=jnp.float32)
    side = model.downsampling
    x = jnp.zeros((1, side, side, model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
    part = {"ema": "ema", "live": "params"}[weights]
    like = {part: {"autoencoder": shapes["params"]}}
    restored = checkpoint.restore_part(
        inputs.local(workdir, "workdir"), step, _here(like)
    )
    return model, {"params": restored[part]["autoencoder"]}


def load_loss(workdir: pathlib.Path | str, *, step: int = 0) -> tuple[Any, Any]:
    """Returns (logvar, {"params", "batch_stats"} of the discriminator) of a run.

    Args:
      step: as for `load_network`.
    """
    discriminator = experiment.build_discriminator(run_folder.read_config(workdir))
    init = functools.partial(experiment.init_discriminator, discriminator)
    shapes = jax.eval_shape(init, jax.random.key(0))
    like = {
        "params": {"logvar": jax.ShapeDtypeStruct((), jnp.float32)},
        "disc_params": shapes["params"],
        "disc_stats": shapes["batch_stats"],
    }
    like = _here(like)
    _, restored = run_folder.hold(
        workdir,
        step,
        lambda step: checkpoint.restore_part(
            inputs.local(workdir, "workdir"), step, like
        ),
    )
    disc = {"params": restored["disc_params"], "batch_stats": restored["disc_stats"]}
    return restored["params"]["logvar"], disc


def _here(like: Any) -> Any:
    """Returns the shapes as arrays on one device have them."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
    )


def training_side(
    config: ml_collections.ConfigDict,
) -> tuple[str, int | tuple[int, ...]]:
    """Returns the field that says at which size a run trained, and its value.

    Of maps that are used as they are stored the config only has the size for which
    the autoencoder was laid out.
    """
    fields = {
        "data.crop": config.data.crop,
        "data.image_size": config.data.image_size,
        "data.synthetic.size": config.data.source == "synthetic"
        and config.data.synthetic.size,
        "autoencoder.resolution": config.autoencoder.resolution,
    }
    field, side = next((field, side) for field, side in fields.items() if side)
    return field, side if isinstance(side, int) else tuple(side)  # JSON has lists
