"""The terms against hand arithmetic; the assembled objective against the goldens."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import published_loss
import pytest
import tiny

from radiovae_jax import losses
from radiovae_jax.vae import experiment, objectives


def image(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)


def test_reconstruction_kinds_are_their_formulas():
    expected = dict(l1=[0.5, 2.0, 0.0], mse=[0.25, 4.0, 0.0], l1_mse=[0.75, 6.0, 0.0])
    for kind, value in expected.items():
        rec_of = losses.RECONSTRUCTION[kind]
        rec = rec_of(image(1.0, -1.0, 0.0), image(0.5, 1.0, 0.0))
        np.testing.assert_allclose(rec.ravel(), value, err_msg=kind)


def test_a_pixel_that_is_exact_has_no_gradient():
    # PyTorch's |x| has gradient 0 at 0.
    gradient = jax.grad(lambda y: losses.reconstruction(image(0.5, 0.5), y).sum())
    np.testing.assert_allclose(gradient(image(0.5, 0.0)).ravel(), [0.0, -2.0])


def test_the_perceptual_distance_is_added_to_every_pixel_of_its_image():
    pixels = jnp.zeros((2, 1, 3, 1))
    rec = losses.add_perceptual(pixels, jnp.asarray([1.0, 2.0]), weight=0.5)
    np.testing.assert_allclose(rec[:, 0, :, 0], [[0.5] * 3, [1.0] * 3])


def test_nll_sums_pixels_and_averages_images():
    rec = jnp.ones((2, 1, 3, 1)) * 4.0
    logvar = jnp.log(2.0)
    expected = 3 * (4 / 2 + np.log(2))
    np.testing.assert_allclose(losses.nll(rec, logvar), expected, rtol=1e-6)
    weights = jnp.asarray([1.0, 0.0, 2.0]).reshape(1, 1, 3, 1).repeat(2, axis=0)
    np.testing.assert_allclose(losses.nll(rec, logvar, weights), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.nll(rec, logvar, 0 * weights), 0.0)
    mean = losses.nll(rec, logvar, reduction="mean")
    np.testing.assert_allclose(mean, expected / 3, rtol=1e-6)


def test_hinge_is_zero_beyond_the_margin_and_one_at_zero_logits():
    assert losses.discriminator_hinge(image(1.5), image(-1.5)) == 0.0
    assert losses.discriminator_hinge(image(0.0), image(0.0)) == 1.0
    # 0.5 * (relu(1 - 0.5) + relu(1 + 0.25))
    assert losses.discriminator_hinge(image(0.5), image(0.25)) == 0.875


def test_vanilla_is_the_cross_entropy_of_a_coin_at_zero_logits():
    np.testing.assert_allclose(
        losses.discriminator_vanilla(image(0.0), image(0.0)), np.log(2), rtol=1e-6
    )
    assert losses.discriminator_vanilla(image(50.0), image(-50.0)) < 1e-20


def test_the_generator_wants_high_logits():
    assert losses.generator(image(1.0, 3.0)) == -2.0


def test_the_adaptive_weight_is_the_ratio_of_lengths_within_its_clip():
    def weight(nll, g):
        return losses.adaptive_weight(jnp.asarray(nll), jnp.asarray(g))

    np.testing.assert_allclose(weight([3.0, 4.0], [0.0, 2.0]), 5 / 2.0001, rtol=1e-6)
    np.testing.assert_allclose(weight([0.3, 0.4], [0.0, 0.0]), 0.5 / 1e-4, rtol=1e-6)
    assert weight([3.0, 4.0], [0.0, 0.0]) == 1e4


def test_the_adaptive_weight_carries_no_gradient():
    def product(x):
        return x[0] * losses.adaptive_weight(x, x + 1.0)

    x = jnp.asarray([2.0, 1.0])
    weight = losses.adaptive_weight(x, x + 1.0)
    np.testing.assert_allclose(jax.grad(product)(x), [weight, 0.0])


def test_a_weight_is_adopted_at_exactly_its_threshold():
    assert losses.adopt_weight(0.7, 9, 10) == 0.0
    assert losses.adopt_weight(0.7, 10, 10) == jnp.float32(0.7)
    assert losses.adopt_weight(0.7, 9, 10, otherwise=0.1) == jnp.float32(0.1)


NAMES = {
    "LPIPSWithDiscriminator": "base",
    "LPIPSWithDiscriminator_Edge": "edge",
    "LPIPSWithDiscriminator_Edge_PINN": "edge_pinn",
    "LPIPSWithDiscriminator_DPM2IRT4": "dpm2irt4",
}
GOLDENS = """
base_hinge base_vanilla_logvar base_weights base_conditional base_noperceptual_nodisc
edge edge_weights edge_pinn dpm2irt4 dpm2irt4_weights
""".split()


def objective_of(config) -> objectives.Objective:
    """Returns the project's own weights of the objective, in the released forms."""
    project = tiny.read("radio")
    project.loss.update(
        objective=NAMES[config["loss"]], pinn_form="released", input_range="released"
    )
    return experiment.build_objective(project)


@pytest.fixture(scope="module", params=GOLDENS)
def published(request):
    """A golden file, and our step on its tensors, compiled once for all its steps."""
    arrays = golden.load(f"loss_{request.param}")
    objective = objective_of(arrays["config"])
    return arrays, jax.jit(lambda step: published_loss.run(arrays, step, objective))


@pytest.mark.parametrize("step", [9, 10, 11])
def test_every_objective_matches_the_published_loss(published, step):
    arrays, run = published
    grads, logs = run(step)
    expected = golden.below(arrays, f"step{step}/train/")
    if "edge_loss" in logs and "edge_loss" not in expected:
        expected["edge_loss"] = expected.pop("pinn_loss")  # as the Edge class calls it
    assert set(logs) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(logs[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
    totals = golden.below(arrays, f"step{step}/")
    last = totals["g_grad_last"]
    for found, wanted, atol in (
        (logs["total_loss"], totals["g_total"], 0),
        (logs["disc_loss"], totals["d_total"], 1e-6),
        (grads["kernel"], last, 1e-5 * np.abs(last).max()),
        (grads["logvar"], totals["g_grad_logvar"], 0),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=atol)
