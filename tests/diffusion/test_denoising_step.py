"""The second stage's step: it learns, resumes, splits into micro-batches, skips NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_ldm as small

from radiovae_jax.diffusion import process, train_step


@pytest.fixture(scope="module")
def rectified():
    built = small.built()
    init = functools.partial(train_step.init_state, built, image_size=(32, 32))
    return built, jax.jit(init)(jax.random.key(0)), small.step_of(built)


def run(built, state, step, steps, raw=None):
    raw, logs = raw or small.raw(), []
    state = jax.tree.map(jnp.copy, state)
    for _ in range(steps):
        state, numbers = step(built.first.frozen, state, raw, jax.random.key(1))
        logs.append(jax.device_get(numbers))
    return state, logs


def test_a_fresh_network_predicts_zeros_so_the_first_loss_is_known(rectified):
    built, state, _ = rectified
    drawn = train_step.examples(
        built, built.first.frozen, small.raw(), jax.random.key(0)
    )
    loss, _ = train_step.loss(built, state.params, drawn, jax.random.key(2))
    velocity = drawn.noise - drawn.z
    np.testing.assert_allclose(loss, jnp.square(velocity).mean(), rtol=1e-5)


def test_it_learns_and_the_average_follows(rectified):
    built, state, step = rectified
    new, logs = run(built, state, step, 60)
    losses = [line["loss"] for line in logs]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    assert int(new.step) == 60
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.ema, state.ema)
    assert max(jax.tree.leaves(moved)) > 1e-3
    one, _ = run(built, state, step, 1)
    expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.ema, one.params)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        one.ema,
        expected,
    )


def test_a_step_is_a_function_of_state_and_key_alone(rectified):
    built, state, step = rectified
    whole, logs = run(built, state, step, 4)
    half, _ = run(built, state, step, 2)
    again, later = run(built, half, step, 2)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert logs[2:] == later
    assert logs[0]["loss"] != logs[1]["loss"]  # each step draws its own noise


def test_micro_batches_give_the_gradient_of_the_whole_batch(rectified):
    built, state, step = rectified
    parts = built._replace(accumulate_steps=2)
    one, logs = run(built, state, step, 1)
    two, others = run(parts, state, small.step_of(parts), 1)
    for name, value in logs[0].items():
        np.testing.assert_allclose(others[0][name], value, rtol=2e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
        two.opt_state,
        one.opt_state,
    )


def test_an_update_that_is_not_finite_is_left_out_and_counted(rectified):
    built, state, step = rectified
    bad = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
    new, _ = run(built, bad, step, 1)
    assert (int(new.step), int(new.skipped), int(new.skipped_in_row)) == (1, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, new.ema, state.ema)


def test_latents_are_of_mean_zero_and_deviation_one_to_the_process():
    frozen = small.first_stage().frozen
    z = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    np.testing.assert_allclose(frozen.normalised(0.2 + 0.5 * z), z, atol=1e-6)
    np.testing.assert_allclose(frozen.restored(z), 0.2 + 0.5 * z, atol=1e-6)


def test_measurements_are_as_many_as_asked_for_or_drawn(rectified):
    built, raw = rectified[0], small.raw(64)
    known = train_step.draw_planes(built, raw, jax.random.key(0))[..., -1].sum((1, 2))
    assert 0.1 < float((known == 0).mean()) < 0.45
    assert known.max() <= 20
    fixed = train_step.draw_planes(built, raw, jax.random.key(0), count=100)
    np.testing.assert_array_equal(fixed[..., -1].sum((1, 2)), 100)
    np.testing.assert_array_equal(fixed[..., -1] * fixed[..., 0], 0)  # off buildings
    f = built.first.target(raw)
    np.testing.assert_array_equal(fixed[..., -2], f[..., 0] * fixed[..., -1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", process.KINDS)
def test_every_process_learns(kind):
    built = small.built(kind)
    state = train_step.init_state(built, jax.random.key(0), (32, 32))
    name = {"mean_flow": "v_loss"}.get(kind, "loss")
    _, logs = run(built, state, small.step_of(built), 80)
    losses = [line[name] for line in logs]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])
