import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.interop import torch_weights
from radiovae_jax.vae import discriminator as discriminator_lib
from radiovae_jax.vae.discriminator import BatchNorm, PatchDiscriminator

TINY = dict(in_channels=1, ndf=8, num_layers=3)


def published(norm: str):
    arrays = golden.load(f"discriminator_{norm}")
    fields = dict(TINY, use_actnorm=norm == "actnorm")
    table = torch_weights.discriminator_table(**fields)
    before, after = (
        torch_weights.from_torch(golden.below(arrays, prefix), table)
        for prefix in ("state/", "after/")
    )
    return arrays, PatchDiscriminator(**fields), before, after


@pytest.mark.parametrize("norm", ["batchnorm", "actnorm"])
def test_logits_and_moved_statistics_match_the_published_code(norm):
    arrays, model, before, after = published(norm)
    x = jnp.asarray(arrays["x"])
    params, stats = discriminator_lib.initialize(
        model, before["params"], before["batch_stats"], x
    )
    variables = {"params": params, "batch_stats": stats}
    logits, moved = model.apply(variables, x, train=True, mutable=["batch_stats"])
    evaluated = model.apply({"params": params, **moved}, x, train=False)
    np.testing.assert_allclose(logits, arrays["logits_train"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evaluated, arrays["logits_eval"], rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-6
        ),
        {"params": params, **moved},
        after,
    )


def test_actnorm_is_set_by_the_first_batch_only():
    _, model, _, after = published("actnorm")
    other = jax.random.normal(jax.random.key(0), (2, 48, 48, 1))
    params, _ = discriminator_lib.initialize(
        model, after["params"], after["batch_stats"], other
    )
    jax.tree.map(np.testing.assert_array_equal, params, after["params"])


def test_a_256_image_gives_30x30_logits():
    model = PatchDiscriminator()
    x = jnp.zeros((1, 256, 256, 1))
    shape = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x))[0]
    assert shape.shape == (1, 30, 30, 1)


def test_kernels_start_as_normal_0_02_and_scales_around_one():
    model = PatchDiscriminator(ndf=64)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    kernel = variables["params"]["conv_2"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.02)
    scale = variables["params"]["norm_3"]["scale"]
    np.testing.assert_allclose(scale.mean(), 1.0, atol=0.005)
    np.testing.assert_allclose(scale.std(), 0.02, rtol=0.15)


def test_batch_norm_stores_the_unbiased_variance_and_divides_by_the_biased():
    x = jnp.asarray([1.0, 3.0]).reshape(2, 1, 1, 1)  # biased 1, unbiased 2
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, True)
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    scale = variables["params"]["scale"][0]
    np.testing.assert_allclose(y.ravel(), [-scale, scale], rtol=1e-4)
    np.testing.assert_allclose(moved["batch_stats"]["var"], [0.9 + 0.1 * 2], rtol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], [0.1 * 2], rtol=1e-6)


def test_wrong_inputs_say_what_to_change():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"given 2 channels.*disc_in_channels"):
        PatchDiscriminator().init(key, jnp.zeros((1, 32, 32, 2)))
    with pytest.raises(ValueError, match="too small for a discriminator of 3 layers"):
        PatchDiscriminator().init(key, jnp.zeros((1, 8, 8, 1)))
