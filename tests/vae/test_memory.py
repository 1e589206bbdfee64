"""What saves memory changes no number: rematerialisation, attention in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import equations

from radiovae_jax.nn import layers
from radiovae_jax.vae.autoencoder import AutoencoderKL

FIELDS = dict(
    ch=32,
    ch_mult=(1,),
    num_res_blocks=1,
    resolution=(16, 16),
    attn_resolutions=(16,),
    dropout=0.1,
)


def autoencoder(**fields):
    model = AutoencoderKL(**FIELDS, **fields)
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    params = jax.jit(model.init)(jax.random.key(1), x, jax.random.key(2))

    def loss(params):
        rngs = {"dropout": jax.random.key(3)}
        posterior = model.apply(params, x, True, method="encode", rngs=rngs)
        recon = model.apply(params, posterior.mode(), True, method="decode", rngs=rngs)
        return jnp.sum((recon - x) ** 2)

    return params, loss


@pytest.fixture(scope="module")
def plain():
    params, loss = autoencoder()
    return params, *jax.jit(jax.value_and_grad(loss))(params)


def relative(tree, expected) -> float:
    """Returns the global norm of the difference over that of the expected tree."""

    def norm(tree):
        return np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree)))

    return norm(jax.tree.map(np.subtract, tree, expected)) / norm(expected)


@pytest.mark.parametrize("fields", [{"remat": True}, {"attention_chunk": 60}])
def test_parameters_loss_and_gradients_are_those_without(plain, fields):
    params, value, grads = plain
    same, loss = autoencoder(**fields)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    new_value, new_grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(new_value, value, rtol=1e-6)
    assert jax.tree.structure(new_grads) == jax.tree.structure(grads)
    assert relative(jax.device_get(new_grads), jax.device_get(grads)) < 1e-6


# Resnet blocks: 1 in the encoder, 2 in the decoder, 2 in each middle; attention: 1 and
# 2 at 16x16, 1 in each middle.
@pytest.mark.parametrize("remat, blocks", [(False, 0), (True, 7 + 5)])
def test_every_block_is_computed_again_where_it_is_asked_for(remat, blocks):
    params, loss = autoencoder(remat=remat)
    program = jax.make_jaxpr(loss)(params)
    found = [e for e in equations(program.jaxpr) if "remat" in e.primitive.name]
    assert len(found) == blocks


N = 49  # queries: no multiple of the chunk


@pytest.fixture(scope="module")
def qkv():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, N, 32))
    return 2 * q, k, v


def attended(qkv, chunk: int):
    def loss(q, k, v):
        out = layers.attend(q, k, v, chunk=chunk)
        return jnp.sum(jnp.sin(3 * out)), out

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, out), grads = run(*qkv)
    return jax.device_get((out, grads))


def test_attention_matches_the_formula_in_double_precision(qkv):
    q, k, v = (np.asarray(x, np.float64) for x in qkv)
    scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(32))
    expected = (scores / scores.sum(-1, keepdims=True)) @ v
    for chunk in (0, 10):
        out = layers.attend(*qkv, chunk=chunk)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [10, 100])
def test_attention_in_chunks_is_attention_gradients_too(qkv, chunk):
    whole, parts = attended(qkv, 0), attended(qkv, chunk)
    assert relative(parts, whole) < 1e-6


@pytest.mark.parametrize("chunk, held", [(0, True), (7, False)])
def test_no_step_of_the_way_back_holds_all_scores_in_chunks(qkv, chunk, held):
    def loss(q, k, v):
        return jnp.sum(layers.attend(q, k, v, chunk=chunk) ** 2)

    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*qkv)
    largest = max(out.aval.size for e in equations(program.jaxpr) for out in e.outvars)
    assert (largest >= 2 * N * N) is held
