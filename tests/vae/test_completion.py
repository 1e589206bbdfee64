"""Completion with a linear decoder against the closed form: Gaussian regression."""

import types

import jax
import numpy as np
import pytest

from radiovae_jax.data import conditions
from radiovae_jax.vae import completion
from radiovae_jax.vae.codec import Codec

SIDE, NOISE = 8, 0.02


class Identity(Codec):
    """A first stage whose latent is f, of one channel."""

    params, model, image_size = (), types.SimpleNamespace(embed_dim=1), 0

    def __init__(self):
        pass

    def latent_size(self, network):
        return network

    def image(self, params, z):
        return 2 * z - 1


def smooth_maps(count: int) -> np.ndarray:
    """Maps around 0.5, smoothed by a Gaussian of two pixels, periodic."""
    rng = np.random.default_rng(0)
    frequency = np.fft.fftfreq(SIDE)
    square = frequency[:, None] ** 2 + frequency[None, : SIDE // 2 + 1] ** 2
    waves = np.fft.rfft2(rng.standard_normal((count, SIDE, SIDE)), norm="ortho")
    smooth = np.fft.irfft2(waves * np.exp(-80 * square), (SIDE, SIDE), norm="ortho")
    return (0.5 + 0.1 * smooth / smooth.std())[..., None]


@pytest.fixture(scope="module")
def prior():
    return completion.fit_prior(smooth_maps(5000))


@pytest.fixture(scope="module")
def covariance(prior):
    """Of two pixels of the prior, [64, 64], from its amplitude by hand."""
    # The covariance with pixel (0, 0) is the inverse transform of the power.
    power = np.float64(prior.amplitude[..., 0]) ** 2
    first = np.fft.irfft2(power, (SIDE, SIDE))
    pixels = np.indices((SIDE, SIDE)).reshape(2, -1)
    apart = (pixels[:, :, None] - pixels[:, None]) % SIDE
    return first[tuple(apart)]


def test_the_prior_has_mean_and_covariance_of_the_latents(prior, covariance):
    maps = smooth_maps(5000).reshape(5000, -1)
    np.testing.assert_allclose(prior.mean, [0.5], atol=0.01)
    np.testing.assert_allclose(np.cov(maps.T), covariance, atol=0.1 * covariance.max())
    white = jax.random.normal(jax.random.key(0), (5000, SIDE, SIDE, 1))
    drawn = np.asarray(prior.coloured(white)).reshape(5000, -1)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.1 * covariance.max())


def test_channels_that_belong_together_are_drawn_together():
    one = smooth_maps(2000)
    z = np.concatenate([one, 1 - 2 * one], axis=-1)
    prior = completion.fit_prior(z)
    white = jax.random.normal(jax.random.key(0), (100, SIDE, SIDE, 2))
    first, second = np.moveaxis(np.asarray(prior.coloured(white)), -1, 0)
    np.testing.assert_allclose(second, 1 - 2 * first, atol=0.02)


def test_with_a_linear_decoder_it_is_gaussian_regression(prior, covariance):
    points = np.array([[1.0, 1], [6, 2], [3, 6], [4, 6]])
    f = np.array([0.62, 0.45, 0.4, 0.42])
    measured = conditions.at_points(points, f, (SIDE, SIDE))
    samples = completion.complete(
        Identity(),
        prior,
        measured,
        jax.random.key(1),
        noise=NOISE,
        samples=600,
        steps=400,
    )[..., 0].reshape(600, -1)
    at = (points[:, 1] * SIDE + points[:, 0]).astype(int)
    gain = covariance[:, at] @ np.linalg.inv(
        covariance[np.ix_(at, at)] + NOISE**2 * np.eye(4)
    )
    mean = 0.5 + gain @ (f - 0.5)
    deviation = np.sqrt(np.diag(covariance - gain @ covariance[at]))
    np.testing.assert_allclose(samples.mean(0), mean, atol=5 * 0.1 / 600**0.5)
    np.testing.assert_allclose(samples.std(0), deviation, rtol=0.15, atol=2e-3)


@pytest.mark.parametrize(
    "points, f, shape, words",
    [
        (np.zeros((0, 2)), np.zeros(0), (8, 8), "no measurements"),
        ([[9, 1]], [0.5], (8, 8), "1 of 1 points lie outside the map of 8x8"),
        ([[1, 1]], [1.5], (8, 8), "outside the range of the maps"),
    ],
)
def test_measurements_that_cannot_be_are_refused(prior, points, f, shape, words):
    with pytest.raises(ValueError, match=words):
        completion.from_points(
            Identity(),
            prior,
            np.array(points, float),
            np.array(f),
            shape,
            jax.random.key(0),
            noise=NOISE,
            samples=1,
        )
