"""The terms of plain VAEs and the optional ones, against hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from radiovae_jax import losses
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.vae import experiment, objectives


def image(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)


def test_bce_from_logits_is_the_cross_entropy_in_float64():
    f = np.linspace(0, 1, 11)[:, None]
    logits = np.linspace(-12, 12, 25)[None]
    p = 1 / (1 + np.exp(-logits))
    expected = -f * np.log(p) - (1 - f) * np.log1p(-p)
    x, logits = (
        jnp.asarray(np.broadcast_to(a, (11, 25)), jnp.float32)[None, ..., None]
        for a in (2 * f - 1, logits)
    )
    found = losses.RECONSTRUCTION["bce"](x, logits)
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-5, atol=1e-6)
    shown = losses.image_from_logits(logits)
    np.testing.assert_allclose(shown[0, 0, :, 0], 2 * p[0] - 1, rtol=1e-5, atol=1e-6)


def test_bce_is_exact_and_its_gradient_finite_at_extreme_logits():
    x = image(1.0, -1.0, 1.0, -1.0, 0.0)
    logits = image(1e4, -1e4, -1e4, 1e4, 1e4)
    value, pullback = jax.vjp(lambda logits: losses.bce(x, logits), logits)
    np.testing.assert_array_equal(value.ravel(), [0.0, 0.0, 1e4, 1e4, 5e3])
    (grad,) = pullback(jnp.ones_like(value))  # sigmoid(logits) - f
    np.testing.assert_array_equal(grad.ravel(), [0.0, 0.0, -1.0, 1.0, 0.5])


def test_the_elementwise_kl_is_the_posterior_s():
    posterior = DiagonalGaussian.from_moments(
        jax.random.normal(jax.random.key(0), (3, 4, 5, 6))
    )
    kl = losses.gaussian_kl(posterior.mean, posterior.logvar)
    np.testing.assert_allclose(kl.sum(axis=(1, 2, 3)), posterior.kl(), rtol=1e-5)
    # N(2, 1) is 2 nats from N(0, 1); N(0, 4) is (4 - 1 - log 4) / 2.
    one = losses.gaussian_kl(image(2.0, 0.0), image(0.0, np.log(4.0)))
    np.testing.assert_allclose(one.ravel(), [2.0, 0.5 * (3 - np.log(4))], rtol=1e-6)


def test_a_deterministic_posterior_costs_nothing_and_its_gradient_is_finite():
    moments = jax.random.normal(jax.random.key(0), (2, 3, 4, 10))
    q = DiagonalGaussian.from_moments(moments, deterministic=True)
    np.testing.assert_array_equal(losses.gaussian_kl(q.mean, q.logvar), 0.0)
    gradients = jax.grad(
        lambda mean, logvar: losses.gaussian_kl(mean, logvar).sum(), argnums=(0, 1)
    )(q.mean, q.logvar)
    assert all((gradient == 0).all() for gradient in gradients)
    # A number that is not one is not taken for deterministic.
    assert np.isnan(losses.gaussian_kl(q.mean, jnp.nan * q.mean)).all()


def test_free_bits_hold_each_entry_at_the_floor_after_averaging_the_batch():
    # Three entries of two images; means 0.5, 1 and 3 against a floor of 1.
    kl = jnp.asarray([[0.0, 2.0, 5.0], [1.0, 0.0, 1.0]]).reshape(2, 1, 1, 3)
    held, pullback = jax.vjp(lambda kl: losses.free_bits(kl, minimum=1.0), kl)
    np.testing.assert_allclose(held.ravel(), [1.0, 1.0, 3.0])
    (grad,) = pullback(jnp.ones_like(held))
    np.testing.assert_allclose(grad[:, 0, 0, 0], 0.0)  # below: no gradient
    np.testing.assert_allclose(grad[:, 0, 0, 2], 0.5)  # above: the mean's
    # Every image by itself: 1, 2, 5 and 1, 1, 1.
    held, pullback = jax.vjp(
        lambda kl: losses.free_bits(kl, minimum=1.0, per="entry"), kl
    )
    np.testing.assert_allclose(held.ravel(), [1, 2, 5, 1, 1, 1])
    (grad,) = pullback(jnp.ones_like(held))
    np.testing.assert_allclose(grad[:, 0, 0, 1], [1, 0])


# Two images of three latent entries, N(mean, 1): kl is mean^2 / 2, that is
# (0, 2, 4.5) and (0.5, 0, 0.5).
POSTERIOR = DiagonalGaussian(
    jnp.asarray([[0.0, 2.0, 3.0], [1.0, 0.0, 1.0]]).reshape(2, 1, 1, 3),
    jnp.zeros((2, 1, 1, 3)),
)


@pytest.mark.parametrize(
    "fields, plain, held",
    [
        # Free bits of 1: the batch means 0.25, 1, 2.5 become 1, 1, 2.5; by entry the
        # six become (1, 2, 4.5) and (1, 1, 1).
        (dict(reduction="sum"), 3.75, 4.5),
        (dict(reduction="sum", free_bits_per="entry"), 3.75, 5.25),
        (dict(reduction="mean"), 1.25, 1.5),
        (dict(reduction="mean", free_bits_per="entry"), 1.25, 1.75),
        (dict(reduction="mean", kl_reduction="sum"), 3.75, 4.5),
    ],
)
def test_the_kl_term_is_held_and_reduced_as_the_fields_say(fields, plain, held):
    config = tiny.config("unused")
    config.loss.update(free_bits=1.0, **fields)
    settings = experiment.build(config, (32, 32, 1)).settings
    found = objectives.kl_terms(POSTERIOR, settings)
    np.testing.assert_allclose(found, (held, plain), rtol=1e-6)


# f of the images below, and what is taken for logits of it.
PAIRS = ((1, 0.5), (0, 0), (0.5, 0), (1, 1), (0.5, 0.25), (0.5, 0))
BCE = sum(np.log1p(np.exp(logit)) - f * logit for f, logit in PAIRS) / 2


@pytest.mark.parametrize(
    "options, expected",
    [
        # Per image 0.5^2 + 1 = 1.25 and 0.25^2 = 0.0625 of squares, 3 pixels each.
        ({}, (1.3125 / 2 + 3.75, 1.3125 / 2, 3.75)),
        ({"beta": 4.0}, (1.3125 / 2 + 15, 1.3125 / 2, 3.75)),
        ({"reduction": "mean"}, (1.3125 / 6 + 1.25, 1.3125 / 6, 1.25)),
        (
            {"reduction": "mean", "kl_reduction": "sum"},
            (1.3125 / 6 + 3.75, 1.3125 / 6, 3.75),
        ),
        ({"kind": "l1"}, (1.75 / 2 + 3.75, 1.75 / 2, 3.75)),
        ({"kind": "bce"}, (BCE + 3.75, BCE, 3.75)),
    ],
)
def test_the_plain_vae_loss_is_its_closed_form(options, expected):
    x = jnp.asarray([[1.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).reshape(2, 1, 3, 1)
    recon = jnp.asarray([[0.5, 0.0, 0.0], [1.0, 0.25, 0.0]]).reshape(2, 1, 3, 1)
    found = losses.vae_loss(recon, x, *POSTERIOR, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Of any shape: a tutorial's rows of pixels and of latents.
    flat = (a.reshape(2, 3) for a in (recon, x, *POSTERIOR))
    np.testing.assert_allclose(losses.vae_loss(*flat, **options), expected, rtol=1e-6)


def test_the_ssim_loss_is_0_for_equal_images_and_its_gradient_finite_on_flat_ones():
    x = jnp.tanh(jax.random.normal(jax.random.key(0), (2, 16, 16, 1)))
    np.testing.assert_allclose(losses.ssim(x, x), 0.0, atol=1e-5)
    # Constant f_1 and f_2: luminance alone, (2 f_1 f_2 + c) / (f_1^2 + f_2^2 + c).
    flat = jnp.zeros((2, 16, 16, 1))
    expected = 1 - (2 * 0.5 * 0.75 + 1e-4) / (0.5**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(losses.ssim(flat, flat + 0.5), expected, rtol=1e-3)
    for target, recon in ((flat, flat), (flat - 1, flat + 1), (x, flat), (flat, x)):
        grad = jax.grad(lambda y, x: losses.ssim(x, y).sum())(recon, target)
        assert np.isfinite(grad).all()


def test_the_ssim_loss_of_less_than_its_window_is_refused_before_training():
    config = tiny.config("unused")
    config.loss.update(ssim_balance=1.0, disc_num_layers=1)
    config.data.image_size = 10
    with pytest.raises(ValueError, match=r"at least 11x11 pixels, got 10x10; set loss"):
        experiment.build(config, (32, 32, 1))


def test_feature_matching_adds_layers_and_leaves_the_real_ones_alone():
    real = [jnp.ones((1, 4, 4, 2)), jnp.zeros((1, 2, 2, 8))]
    fake = [jnp.full((1, 4, 4, 2), 0.75), jnp.full((1, 2, 2, 8), 2.0)]
    assert losses.feature_matching(real, fake) == 0.25 + 2.0
    to_real, to_fake = jax.grad(losses.feature_matching, argnums=(0, 1))(real, fake)
    assert all((grad == 0).all() for grad in to_real)
    np.testing.assert_allclose(to_fake[0], -1 / 32)


def test_r1_of_a_quadratic_discriminator():
    # Score = mean over 2x2 patches of 3 s^2, s the image's sum: d/dx = 6 s.
    def discriminator(images):
        total = images.sum(axis=(1, 2, 3)).reshape(-1, 1, 1, 1)
        return jnp.tile(3 * total**2, (1, 2, 2, 1))

    images = jnp.stack([jnp.full((2, 2, 1), 0.5), jnp.full((2, 2, 1), -0.25)])
    # s is 2 and -1: |grad|^2 = 4 pixels (6 s)^2 = 576 and 144; half their mean.
    assert losses.r1(discriminator, images) == 0.5 * (576 + 144) / 2


def test_lecam_anchors_are_debiased_averages_of_the_other_side():
    state = losses.LeCamState.start()
    real, fake = image(2.0, 4.0), image(-1.0, 0.0)
    state = losses.lecam_update(state, real, fake, decay=0.9)
    # After one update the anchors are the batch's means, 3 and -0.5:
    # mean(2.5^2, 4.5^2) + mean(4^2, 3^2).
    loss = losses.lecam(state, real, fake, decay=0.9)
    np.testing.assert_allclose(loss, 13.25 + 12.5, rtol=1e-5)
    # A second batch of means 0 and 0: 3 * 0.9 / 1.9 and -0.5 * 0.9 / 1.9.
    state = losses.lecam_update(state, 0 * real, 0 * fake, decay=0.9)
    loss = losses.lecam(state, 0 * real, 0 * fake, decay=0.9)
    np.testing.assert_allclose(loss, (0.45 / 1.9) ** 2 + (2.7 / 1.9) ** 2, rtol=1e-5)
    # Real below the fakes' anchor and fake above the reals' cost nothing.
    assert losses.lecam(state, real - 9, fake + 9, decay=0.9) == 0.0
    assert losses.lecam(losses.LeCamState.start(), -real, real, decay=0.9) == 0.0
    grad = jax.grad(losses.lecam, argnums=1)(state, real, fake, decay=0.9)
    np.testing.assert_allclose(
        grad.ravel(), [2 + 0.45 / 1.9, 4 + 0.45 / 1.9], rtol=1e-5
    )
