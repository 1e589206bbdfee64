"""What a step moves and what it leaves; its gradients are in test_step_terms.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
from small_step import build, length, random_batch


def one_step(built, state, batch):
    return small_step.compiled(built)(state, batch)


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
