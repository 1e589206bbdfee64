"""A step with every term against plain `jax.grad`; what bad numbers leave out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
from small_step import KEY, build, length, random_batch

from radiovae_jax import losses
from radiovae_jax.data import radiomap
from radiovae_jax.vae import adversary, train_step, validate
from radiovae_jax.vae.state import PHASES

LOSS = dict(
    reconstruction="bce",
    reduction="mean",
    ssim_weight=0.3,
    ssim_balance=0.2,
    feature_matching_weight=10.0,
    r1_weight=5.0,
    lecam_weight=0.3,
    lecam_decay=0.9,
    kl_weight=0.5,
    kl_schedule="linear",
    kl_warmup_steps=10,
    free_bits=0.05,
    logvar_init=0.3,
)


BATCH = random_batch(weights=1)


@pytest.fixture(scope="module")
def all_on():
    """The step, its state before and after, and the logs."""
    built, state = build(0.7, optimizer=dict(clip_weights=0.2), **LOSS)
    step = small_step.compiled(built)
    new, logs = step(state, BATCH)
    return built, step, state, new, jax.device_get(logs)


@pytest.fixture(scope="module")
def literal(all_on):
    """The same losses and gradients, written out and differentiated by jax.grad."""
    built, _, state, _, logs = all_on
    networks, batch = built.networks, BATCH
    sample_key, *_ = jax.random.split(jax.random.fold_in(KEY, 5), 3)

    def logits_of(params):
        variables = {"params": params["autoencoder"]}
        posterior = networks.autoencoder.apply(variables, batch.image, method="encode")
        z = posterior.sample(sample_key)
        output = networks.autoencoder.apply(variables, z, method="decode_output")
        return output, posterior

    def discriminate(image, params=state.disc_params):
        return adversary.discriminate(
            networks.discriminator, params, state.disc_stats, image, batch.cond
        )

    def parts(params):
        output, posterior = logits_of(params)
        f, recon = (batch.target + 1) / 2, 2 * jax.nn.sigmoid(output) - 1
        cross = -f * jax.nn.log_sigmoid(output) - (1 - f) * jax.nn.log_sigmoid(-output)
        distance = jnp.mean((batch.target - recon) ** 2, axis=(1, 2, 3))
        rec = cross + 0.7 * distance.reshape(-1, 1, 1, 1)
        logvar = params["logvar"]
        nll = rec / jnp.exp(logvar) + logvar
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar)
        kl = jnp.maximum(kl.mean(axis=0), 0.05).mean()
        ssim = losses.ssim(batch.target, recon).mean()
        logits, _, fake = discriminate(recon)
        matching = losses.feature_matching(discriminate(batch.target)[2], fake)
        weighted = (batch.weights * nll).mean()
        g = -logits.mean()
        return nll.mean(), weighted, kl, ssim, g, matching, distance.mean()

    def total(params):
        _, weighted, kl, ssim, g, matching, _ = parts(params)
        adversarial = logs["d_weight"] * (g + 10 * matching)
        return weighted + 0.3 * ssim + 0.25 * kl + adversarial

    def balance(params):
        nll, _, _, ssim, *_ = parts(params)
        return nll + 0.2 * ssim

    def disc_loss(params):
        recon = jnp.tanh(logits_of(state.params)[0] / 2)
        real, fake = (
            discriminate(batch.target, params)[0],
            discriminate(recon, params)[0],
        )
        r1 = losses.r1(lambda image: discriminate(image, params)[0], batch.target)
        lecam = losses.lecam_update(state.lecam, real, fake, decay=0.9)
        return (
            losses.discriminator_hinge(real, fake)
            + 5.0 * r1
            + 0.3 * losses.lecam(lecam, real, fake, decay=0.9)
        )

    @jax.jit
    def everything(params, disc_params):
        value, gradient = jax.value_and_grad(total)(params)
        last = [
            jnp.linalg.norm(train_step.last_kernel(jax.grad(term)(params)).ravel())
            for term in (balance, lambda params: parts(params)[4])
        ]
        distance = parts(params)[6]
        gradients = gradient["autoencoder"], last, jax.grad(disc_loss)(disc_params)
        return value, distance, *gradients

    return everything(state.params, state.disc_params)


def test_all_terms_together_are_their_literal_sum_and_gradient(all_on, literal):
    *_, new, logs = all_on
    total, distance, gradient, last, _ = literal
    np.testing.assert_allclose(logs["perceptual_loss"], distance, rtol=1e-4)
    np.testing.assert_allclose(logs["kl_weight"], 0.25)  # half-way up a line to 0.5
    np.testing.assert_allclose(logs["total_loss"], total, rtol=1e-4)
    np.testing.assert_allclose(logs["ae_grad_norm"], length(gradient), rtol=1e-3)
    assert 0 < logs["d_weight"] < 5000  # not at its clamp
    np.testing.assert_allclose(
        logs["d_weight"], 0.5 * last[0] / (last[1] + 1e-4), rtol=1e-3
    )
    # The step's gradient, through the first moment of Adam: (1 - beta1) * clipped.
    inner = new.opt_state.inner_states["autoencoder"].inner_state
    moments = next(part.mu for part in inner if hasattr(part, "mu"))["autoencoder"]
    scale = 0.1 / max(length(gradient), 1.0)
    difference = jax.tree.map(lambda m, g: m - scale * g, moments, gradient)
    assert length(difference) < 1e-3 * scale * length(gradient)


def test_validation_logs_the_perceptual_distance_of_its_images(all_on):
    built, _, state, *_ = all_on
    gray = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    raw = {"gray": gray, "mask": np.float32([1, 0])}
    sums = jax.jit(
        functools.partial(validate.sums, built, metrics_size="stored"),
        static_argnums=3,
    )
    totals, examples = sums((), state, raw, PHASES[False])
    # Only the first image is real; logits' images need no clipping.
    expected = 4 * np.mean((examples["target"][0] - examples["recon"][0]) ** 2)
    none = {"samples": np.zeros((0, 16, 16, 1), np.float32)}
    numbers = validate.numbers(totals, none, db=radiomap.RADIOMAPSEER_DB)
    np.testing.assert_allclose(numbers["perceptual_loss"], expected, rtol=1e-4)


def test_the_discriminator_learns_from_its_terms_together(all_on, literal):
    _, _, state, new, logs = all_on
    np.testing.assert_allclose(logs["disc_grad_norm"], length(literal[-1]), rtol=1e-3)
    assert logs["r1_loss"] > 0 and logs["lecam_loss"] > 0
    np.testing.assert_allclose(new.lecam.real, 0.1 * logs["logits_real"], rtol=1e-5)
    np.testing.assert_allclose(new.lecam.fake, 0.1 * logs["logits_fake"], rtol=1e-5)
    assert int(new.lecam.count) == int(state.lecam.count) + 1


def test_norms_and_ranges_are_those_of_the_state_and_the_reconstruction(all_on):
    _, _, state, new, logs = all_on
    for name, before, after in (
        ("ae", state.params["autoencoder"], new.params["autoencoder"]),
        ("disc", state.disc_params, new.disc_params),
    ):
        update = length(jax.tree.map(jnp.subtract, after, before))
        np.testing.assert_allclose(logs[f"{name}_update_norm"], update, rtol=1e-5)
        np.testing.assert_allclose(logs[f"{name}_param_norm"], length(after), rtol=1e-5)
    # Of logits: an image all the same.
    assert -1 <= logs["recon_min"] < logs["recon_max"] <= 1
    assert logs["posterior_logvar_min"] < logs["posterior_logvar_max"]
    assert 0 <= logs["disc_accuracy"] <= 1
    # Step 5 is the last of 6: the end of the cosine, 0.05 of 1e-3.
    np.testing.assert_allclose(logs["learning_rate"], 5e-5, rtol=1e-3)


def test_clipped_weights_stay_within_the_bound_and_logvar_is_left_alone(all_on):
    _, _, state, new, _ = all_on
    bound = np.float32(0.2)
    for tree in (new.params["autoencoder"], new.disc_params):
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)) <= bound
    assert length(state.params["autoencoder"]) > length(new.params["autoencoder"])
    assert float(new.params["logvar"]) > 0.2


def poisoned(kind: str):
    if kind == "one map":
        return BATCH._replace(image=BATCH.image.at[1, 3, 4].set(jnp.nan))
    # Finite numbers whose square is not: the loss alone overflows.
    return BATCH._replace(target=BATCH.target.at[0, 0, 0].set(1e25))


@pytest.mark.parametrize("kind", ["one map", "loss"])
def test_bad_numbers_leave_everything_as_it_was_but_the_step(all_on, kind):
    _, step, _, state, _ = all_on
    new, logs = step(state, poisoned(kind))
    assert int(new.step) == int(state.step) + 1
    assert int(new.skipped) == int(new.skipped_in_row) == 1
    assert not np.isfinite(logs["total_loss"])
    assert float(logs["ae_update_norm"]) == 0
    counted = dict(step=0, skipped=0, skipped_in_row=0)
    jax.tree.map(
        np.testing.assert_array_equal,
        new._replace(**counted),
        state._replace(**counted),
    )


def test_skips_are_counted_in_a_row_and_since_the_start_and_training_goes_on(all_on):
    _, step, _, state, _ = all_on
    for batch in (poisoned("loss"), poisoned("one map"), BATCH):
        state, logs = step(state, batch)
    assert int(state.skipped) == 2
    assert int(state.skipped_in_row) == 0
    assert np.isfinite(logs["total_loss"]) and float(logs["ae_update_norm"]) > 0


def test_a_bad_discriminator_alone_skips_the_update_of_both(all_on):
    _, step, _, state, _ = all_on
    bias = state.disc_params["conv_2"]["bias"] + jnp.inf
    broken = {**state.disc_params, "conv_2": {**state.disc_params["conv_2"]}}
    broken["conv_2"]["bias"] = bias
    new, _ = step(state._replace(disc_params=broken), BATCH)
    assert int(new.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def test_terms_that_are_off_are_not_logged_and_idle_ones_are_0():
    optional = {"ssim_loss", "feature_matching_loss", "r1_loss", "lecam_loss"}
    optional |= {"perceptual_loss"}
    for weight, loss, adversarial, expected in (
        (0.0, {}, True, set()),
        (0.7, LOSS, False, optional),
    ):
        built, state = build(weight, **loss)
        step = small_step.compiled(built, adversarial=adversarial)
        _, logs = jax.eval_shape(step, state, random_batch())
        assert optional & logs.keys() == expected
    idle = adversary.idle_logs(built.settings)
    assert idle.keys() >= {"r1_loss", "disc_loss", "disc_accuracy", "disc_grad_norm"}
    assert not any(idle.values())
