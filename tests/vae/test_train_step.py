"""The step against its own definition, term by term, with plain `jax.grad`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
from small_step import KEY, build, length, random_batch

from radiovae_jax import losses
from radiovae_jax.vae import train_step


def one_step(built, state, batch):
    return small_step.compiled(built)(state, batch)


def literal(built, state, batch):
    """Returns the terms as separate functions of the parameters."""
    networks, settings = built.networks, built.settings
    sample_key, _, _ = jax.random.split(jax.random.fold_in(KEY, state.step), 3)

    def recon_of(params):
        variables = {"params": params["autoencoder"]}
        posterior = networks.autoencoder.apply(variables, batch.image, method="encode")
        z = posterior.sample(sample_key)
        return networks.autoencoder.apply(variables, z, method="decode"), posterior

    def nll(params, weights=1.0):
        recon, _ = recon_of(params)
        distance = networks.perceptual((), batch.image, recon)
        pixels = losses.reconstruction(batch.image, recon)
        rec = pixels + settings.perceptual_weight * distance.reshape(-1, 1, 1, 1)
        return losses.nll(rec, params["logvar"], weights)

    def g(params):
        logits, _ = networks.discriminator.apply(
            {"params": state.disc_params, "batch_stats": state.disc_stats},
            jnp.concatenate([recon_of(params)[0], batch.cond], -1),
            train=True,
            mutable=["batch_stats"],
        )
        return -logits.mean()

    def kl(params):
        return recon_of(params)[1].kl().mean()

    return nll, g, kl


def test_the_one_vjp_equals_the_literal_gradients():
    built, state = build(0.7, kl_weight=1e-3, logvar_init=0.3)
    batch = random_batch(weights=1)
    nll, g, kl = literal(built, state, batch)

    @jax.jit
    def expected(params):
        nll_grad = train_step.last_kernel(jax.grad(nll)(params))
        g_grad = train_step.last_kernel(jax.grad(g)(params))
        ratio = jnp.linalg.norm(nll_grad.ravel()) / (
            jnp.linalg.norm(g_grad.ravel()) + 1e-4
        )
        d_weight = 0.5 * jnp.clip(ratio, 0, 1e4)

        def total(params):
            weighted = nll(params, batch.weights)
            return weighted + 1e-3 * kl(params) + d_weight * g(params)

        return d_weight, total(params), jax.grad(total)(params)

    d_weight, total, gradient = expected(state.params)
    new, logs = one_step(built, state, batch)
    assert 0 < d_weight < 5000
    np.testing.assert_allclose(logs["d_weight"], d_weight, rtol=1e-4)
    np.testing.assert_allclose(logs["total_loss"], total, rtol=1e-4)

    # The step's gradient, through the first moment of Adam: (1 - beta1) * clipped.
    inner = new.opt_state.inner_states["autoencoder"].inner_state
    moments = next(part.mu for part in inner if hasattr(part, "mu"))["autoencoder"]
    clipped = jax.tree.map(
        lambda leaf: 0.1 * leaf / max(length(gradient["autoencoder"]), 1.0),
        gradient["autoencoder"],
    )
    difference = jax.tree.map(jnp.subtract, moments, clipped)
    assert length(difference) < 1e-3 * length(clipped)


@pytest.mark.slow
def test_the_weight_balances_the_two_gradients_at_the_last_layer():
    built, state = build()
    nll, g, _ = literal(built, state, random_batch())
    _, logs = one_step(built, state, random_batch())
    nll_length = length(train_step.last_kernel(jax.jit(jax.grad(nll))(state.params)))
    g_length = length(train_step.last_kernel(jax.jit(jax.grad(g))(state.params)))
    # disc_weight is 0.5; the offset 1e-4 beside g's gradient is felt a little.
    np.testing.assert_allclose(
        logs["d_weight"] * g_length, 0.5 * nll_length, rtol=1e-4 / g_length + 1e-3
    )


@pytest.mark.slow
def test_the_released_mode_moves_the_idle_discriminator():
    built, state = build(disc_start=1000, loss_scale=0.5, fresh_reconstruction=True)
    new, logs = one_step(built, state, random_batch())
    assert float(logs["disc_factor"]) == float(logs["disc_loss"]) == 0.0
    assert float(logs["d_weight"]) > 0  # measured, and weighted by 0
    # Its gradient is zero; the decay alone shrinks it: 1 - rate * 0.01.
    before, after = (s.disc_params["conv_0"]["kernel"] for s in (state, new))
    rate = float(built.schedules.disc_rate(5))
    np.testing.assert_allclose(after, before * (1 - rate * 0.01), rtol=1e-6)
    assert length(jax.tree.map(jnp.subtract, new.disc_stats, state.disc_stats)) > 0


@pytest.mark.slow
def test_a_conditional_actnorm_discriminator_is_set_by_the_first_batch_and_trains():
    built, state = build(disc_conditional=True, use_actnorm=True, disc_loss="vanilla")
    new, logs = one_step(built, state, random_batch(cond=2))
    assert float(new.disc_stats["norm_1"]["initialized"]) == 1
    assert np.isfinite(float(logs["disc_loss"]))
    scale = new.disc_params["norm_1"]["scale"]
    assert float(jnp.abs(scale - 1).max()) > 0.1


@pytest.fixture(scope="module")
def plain():
    """The step before disc_start, the state that it gets and what it makes of it."""
    built, state = build()
    step = small_step.compiled(built, adversarial=False)
    return step, state, *step(state, random_batch())


def test_without_the_adversary_only_the_autoencoder_and_its_average_move(plain):
    _, state, new, logs = plain
    for part in ("disc_params", "disc_stats", "disc_opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(new, part), getattr(state, part)
        )
    moved = jax.tree.map(jnp.subtract, new.params, state.params)
    assert min(length(leaf) for leaf in jax.tree.leaves(moved)) > 0
    assert int(new.step) == int(state.step) + 1
    zero = ("d_weight", "disc_factor", "g_loss", "disc_loss", "logits_real")
    assert [float(logs[name]) for name in zero] == [0.0] * 5
    decay = min(0.98, 6 / 15)  # (1 + 5) / (10 + 5) at step 5
    expected = jax.tree.map(
        lambda old, now: decay * old + (1 - decay) * now,
        state.ema["autoencoder"],
        new.params["autoencoder"],
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, new.ema["autoencoder"], expected)


def test_the_same_key_and_step_draw_the_same_noise_and_another_step_other(plain):
    step, state, _, first = plain
    again = step(state, random_batch())[1]
    later = step(state._replace(step=jnp.asarray(6)), random_batch())[1]
    assert float(first["nll_loss"]) == float(again["nll_loss"])
    assert float(first["nll_loss"]) != float(later["nll_loss"])
