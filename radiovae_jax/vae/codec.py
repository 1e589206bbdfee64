"""Codec: encode maps of any size with a trained run to latents, and decode them.

`radiovae_jax.load_codec(workdir)` gives one. All that encodes or decodes with a trained
run goes through it: apply, evaluate, the export of latents, the figures of latents.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float, PyTree, Shaped

from radiovae_jax.data import batch, datasets, gains, radiomap
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import checkpoint, run_folder, schema
from radiovae_jax.types import Array, Batch, Image, Latent, PRNGKey
from radiovae_jax.vae import experiment, large_maps
from radiovae_jax.vae.autoencoder import AutoencoderKL

STREAM = ("auto", "always", "never")  # whether maps go through in bands of rows
RESIZE = ("auto", "training", "stored")
WEIGHTS = ("ema", "live")
# More pixels than this are streamed, and more latent ones: their attention holds 1 GB
# of scores, with a down-sampling of 4 for a map of 512x512.
ONE_PASS, ONE_ATTENTION = 512 * 512, 128 * 128
# How many times the training's size a map may have to be resized to it by "auto".
RESIZED = 2


class Sizes(NamedTuple):
    """(height, width) of maps as stored, and as the network gets them, unpadded."""

    stored: tuple[int, int]
    network: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """A trained first stage, frozen.

    `encode` and `decode` take and give maps of any size on the host; `posterior` and
    `image` are the bare network, to be called inside a jitted function.

    Attributes:
      model, params: what `radiovae_jax.load` gives.
      image_size: side that the training resized to; 0: none.
      training_size: (height, width) that the network saw in training.
      size_field: of the config, that says so.
      db: what f is in dB.
      step, description: which weights these are.
      stream: of STREAM; "auto" streams maps of more than 512x512 pixels row-wise.
    """

    model: AutoencoderKL
    params: PyTree
    image_size: int
    training_size: tuple[int, int]
    size_field: str
    db: radiomap.DbRange
    step: int
    description: str
    stream: str = "auto"

    @property
    def factor(self) -> int:
        return self.model.downsampling

    def posterior(self, params: PyTree, x: Image) -> DiagonalGaussian:
        """Encodes images in [-1, 1] whose sides the down-sampling divides."""
        return _apply(self.model, "encode", params, x)

    def image(self, params: PyTree, z: Latent) -> Image:
        """Decodes latents to images in [-1, 1], unclipped."""
        return _apply(self.model, "decode", params, z)

    def output(self, params: PyTree, z: Latent) -> Image:
        """Returns what the decoder's last layer gives: the image, or logits of it."""
        return _apply(self.model, "decode_output", params, z)

    def batch(self, raw: Mapping[str, Shaped[Array, "b ..."]]) -> Batch:
        """Returns what the network gets of a batch of a data set, as in training."""
        return batch.to_batch(
            raw, image_size=self.image_size, pixel_weights="none", conditional=False
        )

    def encode(
        self,
        maps: Any,  # [b, h, w, c], checked here: it comes from users
        *,
        unit: str = "f",
        resize: str = "auto",
        condition: Any = None,
    ) -> DiagonalGaussian:
        """Returns the posteriors, mean and logvar [b, h/factor, w/factor, z].

        Args:
          maps: f in [0, 1] or uint8 gray, or with unit="db" path gain in dB, of which
            what lies outside the run's range is clipped (-inf is no path). Sides that
            the down-sampling does not divide are mirrored at the end.
          resize: as for `sizes`.
          condition: None; the model has none.

        Raises:
          ValueError: another shape than [b, h, w, channels of the model], values
            outside the unit's range, dB of a run that has none, a condition.
        """
        _no_condition(condition)
        f = self._to_f(maps, unit)
        sizes = self.sizes(f.shape[1:3], resize)
        x = jnp.asarray(f)
        if sizes.network != sizes.stored:
            x = batch.resize(x, sizes.network[0])
        rows, columns = self.padding(sizes)
        # One side may be shorter than its padding, and has nothing to mirror.
        mode = "reflect" if min(sizes.network) > self.factor else "edge"
        x = jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode)
        x = radiomap.f_to_model(x)
        if self._streamed(*x.shape[1:3]):
            return large_maps.encode(self.params, x, progress="encode")
        return self.posterior(self.params, x)

    def decode(
        self,
        z: Float[Any, "b p q z"],
        *,
        size: Sizes | tuple[int, int] | None = None,
        unit: str = "f",
        condition: Any = None,
    ) -> Float[np.ndarray, "b h w c"]:
        """Returns maps, clipped to [0, 1], in f or dB.

        Args:
          z: latents, as `encode` gives their mean.
          size: (height, width) of the maps that were encoded, or their `sizes`; without
            one the maps are as large as the network makes them.

        Raises:
          ValueError: latents of another model or of maps of another size, dB of a run
            that has none, a condition.
        """
        _no_condition(condition)
        self.check_unit(unit)
        z = jnp.asarray(z)
        sizes = self._sizes_of(z.shape, size)
        self.check_latents(z.shape, sizes)
        height, width = (side * self.factor for side in z.shape[1:3])
        if self._streamed(height, width):
            x = large_maps.decode(self.model, self.params, z, progress="decode")
        else:
            x = self.image(self.params, z)
        height, width = sizes.network
        f = jnp.clip(radiomap.model_to_f(x), 0, 1)[:, :height, :width]
        f = np.asarray(jnp.clip(batch.resize_back(f, *sizes.stored), 0, 1))
        return radiomap.f_to_db(f, self.db) if unit == "db" else f

    def sizes(self, stored: tuple[int, int], resize: str = "auto") -> Sizes:
        """Decides at which size the network gets maps of (height, width) `stored`.

        Args:
          resize: "training" resizes as the training and the evaluation do; "stored"
            does not; "auto" is "training" for square maps up to twice its size, else
            "stored".

        Raises:
          ValueError: maps that are not square and would be squashed.
        """
        near = stored[0] == stored[1] and stored[0] <= RESIZED * self.image_size
        if resize == "training" or (resize == "auto" and near):
            return Sizes(stored, batch.resized(*stored, self.image_size))
        return Sizes(stored, stored)

    def padding(self, sizes: Sizes) -> tuple[int, int]:
        """Returns the rows and columns that are added below and at the right."""
        return -sizes.network[0] % self.factor, -sizes.network[1] % self.factor

    def latent_size(self, network: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of the latents of maps of this size."""
        return -(-network[0] // self.factor), -(-network[1] // self.factor)

    def check_latents(self, shape: tuple[int, ...], sizes: Sizes) -> None:
        """Raises a ValueError if latents are not [b, p, q, z] of such maps."""
        remedy = "they are another model's; give its --workdir"
        if len(shape) != 4 or shape[-1] != self.model.embed_dim:
            raise ValueError(
                f"the latents have {shape[-1]} channels, and those of "
                f"{self.description} {self.model.embed_dim}: {remedy}"
            )
        expected = self.latent_size(sizes.network)
        if tuple(shape[1:3]) != expected:
            raise ValueError(
                f"latents of {_by(shape[1:3])} are of no map of {_by(sizes.network)}, "
                f"which has {_by(expected)} in {self.description}: {remedy}"
            )

    def check_channels(self, channels: int, name: object) -> None:
        """Raises a ValueError if maps have other channels than the model takes."""
        if channels != self.model.in_channels:
            raise ValueError(
                f"{name} has {channels} channels, and the model of {self.description} "
                f"takes {self.model.in_channels}; give another --workdir, or other maps"
            )

    def check_unit(self, unit: str) -> None:
        """Raises a ValueError for an unknown unit, or dB of a run that has none."""
        radiomap.check_unit(unit, self.db, self.description)

    def _to_f(self, maps: Any, unit: str) -> Float[np.ndarray, "b h w c"]:
        self.check_unit(unit)
        maps = np.asarray(maps)
        if maps.ndim != 4:
            raise ValueError(f"maps have shape {maps.shape}, expected [b, h, w, c]")
        self.check_channels(maps.shape[-1], "the map")
        if unit == "db":
            f, _ = gains.to_f(maps, self.db)
        else:
            f = np.asarray(radiomap.gray_to_f(maps), np.float32)
        if f.size and not (f.min() >= 0 and f.max() <= 1):  # NaN is neither
            raise ValueError(
                f"maps span [{f.min():g}, {f.max():g}], expected f in [0, 1], or path "
                'gain in dB with unit="db"'
            )
        return f

    def _sizes_of(
        self, shape: tuple[int, ...], size: Sizes | tuple[int, int] | None
    ) -> Sizes:
        if isinstance(size, Sizes):
            return size
        if size is None:
            height, width = (side * self.factor for side in shape[1:3])
            return Sizes((height, width), (height, width))
        sizes = self.sizes(size)  # unless the latents are of maps as stored
        resized = self.latent_size(sizes.network) == tuple(shape[1:3])
        return sizes if resized else Sizes(size, size)

    def _streamed(self, height: int, width: int) -> bool:
        most = min(ONE_PASS, ONE_ATTENTION * self.factor**2)
        large = self.stream == "auto" and height * width > most
        return large or self.stream == "always"


# One program for all runs of one model: the weights are arguments.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(model: AutoencoderKL, method: str, params: PyTree, x: Array) -> Any:
    # The same numbers on every kind of device: no TF32, no bfloat16 passes.
    with jax.default_matmul_precision("highest"):
        return model.apply(params, x, method=method)


def _no_condition(condition: Any) -> None:
    if condition is not None:
        raise ValueError(
            f"condition={type(condition).__name__}: this autoencoder has no condition; "
            "leave it None"
        )


def load(
    workdir: pathlib.Path | str,
    weights: str = "ema",
    *,
    step: int = 0,
    stream: str = "auto",
) -> Codec:
    """Reads the codec of a run; public as `radiovae_jax.load_codec`.

    Args:
      workdir: folder of the run.
      weights: "ema" (the average that validation measures) or "live".
      step: which checkpoint; 0 is the one with the lowest validation NMSE.
      stream: of STREAM; see `Codec`. Row-wise the numbers are the same, in little
        memory.

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
      ValueError: unknown `weights`, or a config that does not fit this version.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is not 'ema' or 'live'")
    config = run_folder.read_config(workdir)
    if config.stage != "vae":
        raise ValueError(
            f"{workdir} is the run of a second stage, and has no autoencoder of its "
            f"own; the first stage is in {config.first_stage.run}"
        )
    schema.check(config)
    model = experiment.build_autoencoder(config)
    lists = ("ch_mult", "attn_resolutions", "resolution")  # in a JSON, so not hashable
    fields = {name: _tuples(getattr(model, name)) for name in lists}
    model = model.clone(dtype=jnp.float32, **fields)
    step, params = run_folder.hold(
        workdir, step, lambda step: _read_params(workdir, model, weights, step)
    )
    size_field, side = training_side(config)
    return Codec(
        model=model,
        params=params,
        image_size=config.data.image_size,
        training_size=(side, side) if isinstance(side, int) else side,
        size_field=size_field,
        db=datasets.db_range(config),
        step=step,
        description=f"{workdir}, step {step}, {weights} weights",
        stream=stream,
    )


def load_network(
    workdir: pathlib.Path | str, weights: str = "ema", *, step: int = 0
) -> tuple[AutoencoderKL, Any]:
    """Returns (model, params) of a run as of `load`; public as `radiovae_jax.load`.

    The model computes in float32 wherever it was trained.
    """
    codec = load(workdir, weights, step=step)
    return codec.model, codec.params


def _read_params(
    workdir: pathlib.Path | str, model: AutoencoderKL, weights: str, step: int
) -> PyTree:
    side = model.downsampling
    x = jnp.zeros((1, side, side, model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
    part = "ema" if weights == "ema" else "params"
    like = {part: {"autoencoder": shapes["params"]}}
    return {"params": checkpoint.restore_part(workdir, step, like)[part]["autoencoder"]}


def load_loss(workdir: pathlib.Path | str, *, step: int = 0) -> tuple[Any, Any]:
    """Returns (logvar, {"params", "batch_stats"} of the discriminator) of a run."""
    discriminator = experiment.build_discriminator(run_folder.read_config(workdir))
    init = functools.partial(experiment.init_discriminator, discriminator)
    shapes = jax.eval_shape(init, jax.random.key(0))
    like = {
        "params": {"logvar": jax.ShapeDtypeStruct((), jnp.float32)},
        "disc_params": shapes["params"],
        "disc_stats": shapes["batch_stats"],
    }
    _, restored = run_folder.hold(
        workdir, step, lambda step: checkpoint.restore_part(workdir, step, like)
    )
    disc = {"params": restored["disc_params"], "batch_stats": restored["disc_stats"]}
    return restored["params"]["logvar"], disc


def training_side(
    config: ml_collections.ConfigDict,
) -> tuple[str, int | tuple[int, ...]]:
    """Returns the field that says at which size a run trained, and its value.

    Of maps that are used as they are stored the config only has the size for which
    the autoencoder was laid out.
    """
    data, synthetic = config.data, config.data.source == "synthetic"
    fields = {
        "data.crop": data.crop,
        "data.image_size": data.image_size,
        "data.synthetic.size": synthetic and data.synthetic.size,
        "autoencoder.resolution": config.autoencoder.resolution,
    }
    return next((field, _tuples(side)) for field, side in fields.items() if side)


def sample_each(
    key: PRNGKey, index: Array, mean: Float[Array, "b p q z"], std
) -> Float[Array, "b p q z"]:
    """Draws a latent for every map; its noise depends on the map's number alone.

    So neither the batch nor the devices change what a map gets.

    Args:
      index: number of each map in its split.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    noise = jax.vmap(lambda one: jax.random.normal(one, mean.shape[1:]))(keys)
    return mean + std * noise


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
