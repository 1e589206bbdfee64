"""Completion: a map from a few measurements, by descent on z through the decoder.

Any first stage is a prior of radio maps: z is Gaussian with the mean, the correlation
of channels and the power spectrum of the latents of training maps, and its decoder
makes maps of it. Each sample is the z that explains randomly disturbed measurements and
stays near a random draw of the prior (randomised maximum a posteriori): with a linear
decoder these are exact samples of the posterior, so their deviation is the uncertainty.

Source: Bora et al. 2017 (arXiv:1703.03208) for descent through a generator; Oliver et
al. 1996 and Bardsley et al. 2014 (doi 10.1137/140964023) for the samples.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, UInt8
from scipy import ndimage

from radiovae_jax.data import batch, conditions, radiomap, sources
from radiovae_jax.data.conditions import Measurements
from radiovae_jax.types import Array, Image, Latent, PRNGKey
from radiovae_jax.vae import latents
from radiovae_jax.vae.codec import Codec

MAPS = 512  # of the training that the prior is of
LEAST_NOISE = 0.005  # in f: 0.5 dB; below it the descent chases single pixels


class Prior(NamedTuple):
    """A stationary Gaussian of latents.

    Attributes:
      mean: of each channel.
      mixing: the principal directions of the channels, in rows.
      amplitude: of each direction and frequency, of rfft2 with norm="ortho".
    """

    mean: Float[Array, "z"]
    mixing: Float[Array, "z z"]
    amplitude: Float[Array, "p f z"]

    def coloured(self, white: Float[Array, "b p q z"]) -> Latent:
        """Returns the z of independent standard normal numbers."""
        waves = jnp.fft.rfft2(white, axes=(1, 2), norm="ortho") * self.amplitude[None]
        sides = white.shape[1:3]
        z = jnp.fft.irfft2(waves, sides, axes=(1, 2), norm="ortho") @ self.mixing
        return z + self.mean[None, None, None]


def fit_prior(z: Float[np.ndarray, "n p q z"]) -> Prior:
    """Returns the Gaussian of latents of training maps, of one size."""
    mean = z.mean(axis=(0, 1, 2))
    _, directions = np.linalg.eigh(np.atleast_2d(np.cov(z.reshape(-1, z.shape[-1]).T)))
    mixed = (z - mean) @ directions
    waves = np.fft.rfft2(mixed, axes=(1, 2), norm="ortho")
    amplitude = np.sqrt(np.mean(np.abs(waves) ** 2, axis=0))
    return Prior(*map(np.float32, (mean, directions.T, amplitude)))


def prior_of(
    source: sources.Source, run: Codec, *, maps: int = MAPS
) -> tuple[Prior, float]:
    """Returns the prior of a run's training maps, and the RMSE of f of its modes.

    Args:
      source: the training split.
    """
    found, off = zip(*latents.of_training(source, run, maps=maps), strict=True)
    z = np.concatenate([posterior.mode() for posterior in found])
    return fit_prior(z), float(np.sqrt(np.concatenate(off).mean()))


def from_points(
    run: Codec,
    prior: Prior,
    points: Float[np.ndarray, "n 2"],
    f: Float[np.ndarray, "n"],
    shape: tuple[int, int],
    key: PRNGKey,
    *,
    buildings: UInt8[np.ndarray, "h w"] | None = None,
    tx: Float[np.ndarray, "m 2"] | None = None,
    **options: Any,
) -> Float[np.ndarray, "samples h w 1"]:
    """Returns samples of a map of this shape from measurements at points.

    Args:
      points, f: as for `conditions.at_points`.
      buildings: 255 inside, where f is 0 but for the outermost pixels.
      tx: (x, y) of transmitters, where f is 1.
      **options: of `complete`.

    Raises:
      ValueError: no point, points that cannot be, or a shape of which the prior is not.
    """
    if not len(points):
        raise ValueError("no measurements: give one or more")
    measured = conditions.at_points(points, f, shape)
    known_f, known = (plane[0, ..., 0] for plane in measured)
    if buildings is not None:
        inner = ndimage.binary_erosion(buildings > 0, border_value=1)
        known[inner] = 1.0
        known_f[inner] = 0.0
    if tx is not None and len(tx):
        column, row = np.int64(np.floor(tx)).T
        known[row, column] = known_f[row, column] = 1.0
    sizes = run.sizes(shape)
    planes = (plane[None, ..., None] for plane in (known_f, known))
    size = sizes.network[0] if sizes.network != sizes.stored else 0
    at_network = conditions.resized(Measurements(*planes), size)
    sides = run.latent_size(sizes.network)
    if prior.amplitude.shape[:2] != (sides[0], sides[1] // 2 + 1):
        raise ValueError(
            f"maps of {radiomap.by(shape)} have latents of {radiomap.by(sides)}, and "
            f"those of the training maps are of another size; crop or resize the map"
        )
    samples = complete(run, prior, at_network, key, **options)
    stored = batch.resize_back(samples, *sizes.stored)
    return np.asarray(jnp.clip(stored, 0, 1))


def complete(
    codec: Codec,
    prior: Prior,
    measured: Measurements,
    key: PRNGKey,
    *,
    noise: Float[Array, ""] | float,
    samples: int,
    steps: int = 300,
    rate: float = 0.1,
) -> Float[Array, "samples h w 1"]:
    """Returns samples of the map of measurements, as f in [0, 1].

    Args:
      measured: of one map, at the network's size.
      noise: deviation in f of what is measured from what the decoder can give.
      samples: each is a descent of its own.
      steps: of Adam, whose rate falls to 0 by a cosine.
    """
    given = codec.params, prior, measured, key, noise
    return _descend(codec, samples, steps, rate, *given)


# The weights are an argument: within the program they would be constants of it.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _descend(codec, samples, steps, rate, params, prior, measured, key, noise):
    f, known = measured
    shape = (1, *codec.latent_size(f.shape[1:3]), codec.model.embed_dim)
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def decoded(white: Float[Array, "b p q z"]) -> Image:
        x = codec.image(params, prior.coloured(white))
        return radiomap.model_to_f(x)

    def one(key: PRNGKey) -> Float[Array, "h w 1"]:
        start_key, noise_key = jax.random.split(key)
        start = jax.random.normal(start_key, shape)
        wanted = f + noise * jax.random.normal(noise_key, f.shape)

        def loss(white):
            off = jnp.square(known * (decoded(white) - wanted)).sum() / noise**2
            return (off + jnp.square(white - start).sum()) / 2

        def step(state, _):
            white, opt_state = state
            updates, opt_state = adam.update(jax.grad(loss)(white), opt_state)
            return (optax.apply_updates(white, updates), opt_state), None

        (white, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=steps)
        return jnp.clip(decoded(white)[0], 0, 1)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, jax.random.split(key, samples))
