"""The denoiser: derivatives through all of it, what it reads, what remat leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.diffusion.denoiser import Attention, Denoiser, TimeEmbedding

TINY = dict(
    heads=2,
    channels=3,
    downsampling=4,
    width=32,
    mult=(1, 2),
    blocks=1,
    attention_levels=1,
    condition_width=32,
)


def inputs(key=0):
    keys = jax.random.split(jax.random.key(key), 2)
    x = jax.random.normal(keys[0], (2, 8, 8, 3))
    planes = jax.random.normal(keys[1], (2, 32, 32, 5))
    return x, jnp.array([0.7, 0.2]), jnp.array([0.3, 0.2]), planes


@pytest.fixture(scope="module")
def network():
    """A denoiser of random parameters, none of them 0, and its jitted call."""
    model = Denoiser(**TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs())
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [
        rng.normal(0, leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.3, leaf.shape)
        for leaf in leaves
    ]
    params = jax.tree.unflatten(tree, map(jnp.float32, drawn))
    return model, params, jax.jit(model.apply)


def test_forward_mode_goes_through_all_of_it(network):
    model, params, apply = network
    x, t, r, planes = inputs()
    v = jax.random.normal(jax.random.key(2), x.shape)

    def along(step):
        moved = x + step * v, t + step, r
        return apply(params, *moved, planes)[0]

    @jax.jit
    def slope():
        tangents = v, jnp.ones(2), jnp.zeros(2)
        function = lambda x, t, r: model.apply(params, x, t, r, planes)[0]  # noqa: E731
        return jax.jvp(function, (x, t, r), tangents)[1]

    found, h = slope(), 2e-3
    # The five-point difference, whose error is of the fourth order in h.
    points = [(-1, 2), (8, 1), (-8, -1), (1, -2)]
    expected = sum(weight * along(h * at) for weight, at in points) / (12 * h)
    error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
    assert error < 2e-3


@pytest.mark.parametrize("log_time, t", [(False, 0.0), (True, 1e-4)])
def test_times_have_finite_features_and_derivatives_at_the_end(log_time, t):
    module = TimeEmbedding(64, log_time)
    t = jnp.full(2, t)
    params = module.init(jax.random.key(0), t, t)
    tangents = jnp.ones(2), jnp.zeros(2)
    value, slope = jax.jvp(lambda t, r: module.apply(params, t, r), (t, t), tangents)
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


def test_a_network_reads_every_input(network):
    _, params, apply = network
    x, t, r, planes = inputs()
    before = apply(params, x, t, r, planes)
    for changed in (
        (x + 0.1, t, r, planes),
        (x, t + 0.1, r, planes),
        (x, t, r - 0.1, planes),
        *((x, t, r, planes.at[..., i].add(0.1)) for i in range(5)),
    ):
        for old, new in zip(before, apply(params, *changed), strict=True):
            assert np.abs(new - old).max() > 1e-4
    # Each image by itself.
    alone = apply(params, x[1:], t[1:], r[1:], planes[1:])
    np.testing.assert_allclose(alone[0], before[0][1:], atol=1e-5)


def test_the_condition_is_encoded_once_for_many_calls(network):
    model, params, apply = network
    x, t, r, planes = inputs()
    condition = model.apply(params, planes, method="encode")
    assert [level.shape for level in condition] == [(2, 8, 8, 32), (2, 4, 4, 32)]
    found = model.apply(params, x, t, r, condition, method="predict")
    expected = apply(params, x, t, r, planes)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
    )


def test_remat_keeps_the_parameters_and_computes_every_block_again(network):
    _, params, _ = network
    model = Denoiser(**TINY, remat=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs())
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    program = str(jax.make_jaxpr(model.apply)(params, *inputs()))
    assert program.count("remat2") + program.count("checkpoint") >= 6


def test_attention_is_over_all_pixels_and_its_scores_are_bounded():
    module = Attention()
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 64))
    params = module.init(jax.random.key(1), x)
    np.testing.assert_allclose(module.apply(params, x), x)  # nothing added at first
    params["params"]["proj_out"]["kernel"] += jnp.eye(64)[None, None]
    moved = module.apply(params, x.at[0, 0, 0, 0].add(3.0)) - module.apply(params, x)
    assert (jnp.abs(moved).max(axis=-1) > 1e-5).all()
    huge = module.apply(params, 1e6 * x)
    assert np.isfinite(huge).all()
