import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax.interop import torch_weights
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.vae.autoencoder import AutoencoderKL, attention_levels


@pytest.fixture(scope="module")
def published():
    arrays = golden.load("autoencoder")
    params = torch_weights.autoencoder_from_torch(golden.below(arrays, "state/"))
    return arrays, AutoencoderKL(**arrays["config"]), params


def test_moments_and_posterior_match_the_published_encoder(published):
    arrays, model, params = published
    encoded = model.apply(params, arrays["x"], method=lambda m, x: m.encoder(x))
    posterior = model.apply(params, arrays["x"], method="encode")
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoded, arrays["encoder_out"], **close)
    np.testing.assert_allclose(posterior.mean, arrays["mean"], **close)
    np.testing.assert_allclose(posterior.logvar, arrays["logvar"], **close)


def test_the_reconstruction_matches_the_published_decoder(published):
    arrays, model, params = published
    recon = model.apply(params, arrays["z"], method="decode")
    np.testing.assert_allclose(recon, arrays["reconstruction"], rtol=1e-4, atol=1e-5)


def test_the_posterior_s_numbers_match_the_published_ones(published):
    arrays = published[0]
    posterior = DiagonalGaussian.from_moments(jnp.asarray(arrays["moments"]))
    other = DiagonalGaussian.from_moments(jnp.asarray(arrays["other_moments"]))
    z = posterior.mean + posterior.std * arrays["eps"]
    np.testing.assert_allclose(z, arrays["z"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(posterior.kl(), arrays["kl"], rtol=1e-4)
    np.testing.assert_allclose(posterior.kl(other), arrays["kl_other"], rtol=1e-4)
    np.testing.assert_allclose(posterior.nll(z), arrays["nll"], rtol=1e-4)


def count(**fields) -> int:
    model = AutoencoderKL(**fields)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)), jax.random.key(1)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_documented_config_and_that_without_attention_have_their_parameters():
    assert count() == 55_307_453  # DESIGN, section 3: counted in PyTorch
    # Norm 2 * 512, four 1x1 convolutions 512 -> 512 with bias; encoder and decoder.
    assert count() - count(mid_attention=False) == 2 * (1024 + 4 * (512 * 512 + 512))


def test_attention_stands_where_the_divided_resolution_says():
    assert attention_levels((64, 32), [(32, 16)], 3) == (False, True, False)
    assert attention_levels(64, [16, 64], 3) == (True, False, True)
    assert attention_levels((64, 64), (), 2) == (False, False)


def test_bad_sizes_and_settings_say_what_to_change():
    model = AutoencoderKL(ch=32, num_res_blocks=1)
    keys = jax.random.key(0), jax.random.key(1)

    def init(model, *shape):
        return jax.eval_shape(model.init, keys[0], jnp.zeros(shape), keys[1])

    with pytest.raises(ValueError, match="30x32 is not a multiple of the down-sampl"):
        init(model, 1, 30, 32, 1)
    with pytest.raises(ValueError, match="3 channels, the model in_channels=1"):
        init(model, 1, 32, 32, 3)
    with pytest.raises(ValueError, match="multiple of 32"):
        init(model.clone(ch=48), 1, 32, 32, 1)
    with pytest.raises(ValueError, match="double_z=False"):
        init(model.clone(double_z=False), 1, 32, 32, 1)
