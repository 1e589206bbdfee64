"""A batch in parts against the whole of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
from small_step import build, length, random_batch

from radiovae_jax import losses
from radiovae_jax.training import updates
from radiovae_jax.vae import adversary


def test_parts_interleave_the_images_and_hold_each_once():
    parts = updates.split(jnp.arange(6.0).reshape(6, 1), 3)
    np.testing.assert_array_equal(parts[..., 0], [[0, 3], [1, 4], [2, 5]])
    with pytest.raises(ValueError, match="6 does not split into 4 equal parts"):
        updates.split(jnp.zeros(6), 4)


@pytest.mark.parametrize("count", [1, 3])
def test_floats_are_averaged_counters_are_the_last_and_the_rest_is_stacked(count):
    parts = updates.split(jnp.arange(6.0), count)

    def function(part):
        return (part.mean(), jnp.asarray(4, jnp.int32)), 2 * part

    (mean, counter), stacked = updates.accumulate(function, parts)
    assert mean == 2.5
    assert counter == 4
    np.testing.assert_array_equal(stacked, 2 * parts)


LOSS = dict(
    use_actnorm=True,
    disc_loss="vanilla",
    fresh_reconstruction=True,
    ssim_weight=100.0,
    r1_weight=5.0,
    feature_matching_weight=10.0,
    kl_weight=1e-2,
)


def both_ways(*, adversarial):
    """Returns the state before, and (state, logs) after one part and after two."""
    results = []
    for parts in (1, 2):
        built, state = build(0.7, train=dict(accumulate_steps=parts), **LOSS)
        # ActNorm is set by the first part: here it has been set before.
        state = state._replace(disc_stats=jax.tree.map(jnp.ones_like, state.disc_stats))
        step = small_step.compiled(built, adversarial=adversarial)
        results.append(jax.device_get(step(state, random_batch(size=4))))
    return state, *results


@pytest.mark.slow
@pytest.mark.parametrize("adversarial", [False, True])
def test_two_parts_give_the_gradients_and_weights_of_the_whole_batch(adversarial):
    state, (whole, expected), (parts, logs) = both_ways(adversarial=adversarial)
    if adversarial:
        assert 0 < expected["d_weight"] < 5000  # not at its clamp
    assert set(logs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            logs[name], value, rtol=2e-4, atol=1e-6, err_msg=name
        )
    # Adam's first moment is a tenth of the clipped gradient.
    for name in ("opt_state", "disc_opt_state"):
        one, two = getattr(whole, name), getattr(parts, name)
        assert length(jax.tree.map(np.subtract, one, two)) <= 1e-3 * length(one)
    assert length(jax.tree.map(np.subtract, whole.params, state.params)) > 0


def test_running_statistics_and_logit_averages_move_as_in_one_pass():
    """The means of the whole batch; the variance lacks what the parts' means differ."""
    built, state = build(lecam_weight=1.0, lecam_decay=0.9)
    batch, moved = random_batch(size=4), []
    disc = adversary.Adversary(
        state.disc_params, state.disc_stats, losses.LeCamState.start()
    )
    recon = 0.5 * batch.image
    for count in (1, 2):
        _, after, _ = jax.jit(adversary.gradient, static_argnums=(0, 5))(
            built.networks.discriminator,
            disc,
            updates.split(batch, count),
            updates.split(recon, count),
            1.0,
            built.settings,
        )
        moved.append(after)
    one, two = moved
    means = [after.stats["norm_1"]["mean"] for after in moved]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-6)
    assert int(two.lecam.count) == int(one.lecam.count) == 1
    # Logits through BatchNorm: near, not equal.
    np.testing.assert_allclose(two.lecam.real, one.lecam.real, atol=2e-2)
