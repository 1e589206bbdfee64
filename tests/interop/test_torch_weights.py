"""Weights to and from PyTorch, judged by what the two networks compute."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from radiovae_jax import losses
from radiovae_jax.data.batch import bare
from radiovae_jax.interop import torch_structure, torch_weights
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.training import updates
from radiovae_jax.vae import adversary, objectives, train_step
from radiovae_jax.vae.autoencoder import AutoencoderKL, attention_levels
from radiovae_jax.vae.discriminator import PatchDiscriminator

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")

STRUCTURES = {
    "two levels": dict(ch_mult=(1, 2)),
    "three levels, attention in two": dict(
        ch_mult=(1, 1, 2), attn_resolutions=((16, 16), (4, 4)), resolution=(16, 16)
    ),
    "three levels, attention in the first": dict(
        ch_mult=(1, 1, 2), attn_resolutions=((16, 16),), resolution=(16, 16)
    ),
    "four levels, embed_dim 2 of 5": dict(
        ch_mult=(1, 2, 1, 2), z_channels=5, embed_dim=2
    ),
    "three blocks, three channels, attention": dict(
        ch_mult=(2, 1),
        num_res_blocks=3,
        in_channels=3,
        out_ch=3,
        attn_resolutions=(8,),
        resolution=16,
    ),
    "two blocks, embed_dim above z": dict(
        ch_mult=(1, 2), num_res_blocks=2, z_channels=3, embed_dim=6
    ),
}


def pair(fields: dict):
    """Returns our model and the published one of the same structure, untrained."""
    model = AutoencoderKL(**(dict(ch=32, num_res_blocks=1) | fields))
    placed = ("attn_resolutions", "resolution")
    attends = attention_levels(
        model.resolution, model.attn_resolutions, len(model.ch_mult)
    )
    torch.manual_seed(0)
    rest = {name: value for name, value in fields.items() if name not in placed}
    return model, torch_models.AutoencoderKL(attends=attends, **rest)


def assert_same_outputs(model, params, theirs, size=16):
    """Compares moments and reconstruction of the two on random numbers."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, size, size, model.in_channels)).astype(np.float32)
    small = size // model.downsampling
    z = rng.normal(size=(2, small, small, model.embed_dim)).astype(np.float32)
    with torch.no_grad():
        moments = torch_models.nhwc(theirs.encode(torch_models.nchw(x)))
        recon = torch_models.nhwc(theirs.decode(torch_models.nchw(z)))
    posterior = jax.jit(lambda p, x: model.apply(p, x, method="encode"))(params, x)
    ours = np.concatenate([posterior.mean, posterior.logvar], axis=-1)
    np.testing.assert_allclose(ours, moments, rtol=1e-4, atol=1e-5)
    ours = jax.jit(lambda p, z: model.apply(p, z, method="decode"))(params, z)
    np.testing.assert_allclose(ours, recon, rtol=1e-4, atol=1e-5)


def random_params(model):
    """Returns parameters drawn without the network's own initialisation."""
    side = model.downsampling
    x = jnp.zeros((1, side, side, model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))
    rng = np.random.default_rng(3)
    return {
        "params": jax.tree.map(
            lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32),
            shapes["params"],
        )
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_imported_weights_compute_what_the_published_network_computes(name):
    model, theirs = pair(STRUCTURES[name])
    params = torch_weights.autoencoder_from_torch(torch_models.arrays(theirs))
    assert_same_outputs(model, params, theirs)


@pytest.mark.parametrize("name", STRUCTURES)
def test_exported_weights_load_strictly_and_compute_the_same_in_pytorch(name):
    model, theirs = pair(STRUCTURES[name])
    params = random_params(model)
    state = torch_weights.autoencoder_to_torch(params)
    theirs.load_state_dict(torch_models.tensors(state), strict=True)
    assert_same_outputs(model, params, theirs)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_structure_is_read_off_the_tensors(name):
    model, theirs = pair(STRUCTURES[name])
    state = torch_models.arrays(theirs)
    found = torch_structure.of_torch(state)
    assert found == torch_structure.of_flax(random_params(model)["params"])
    # Attention stands at the same levels whatever resolution it is told in.
    other = AutoencoderKL(**torch_structure.model_fields(found, (64, 32)))
    params = torch_weights.autoencoder_from_torch(state)
    assert_same_outputs(other, params, theirs)


def test_the_published_weights_survive_the_way_to_pytorch():
    arrays = golden.load("autoencoder")
    config = arrays["config"]
    params = torch_weights.autoencoder_from_torch(golden.below(arrays, "state/"))
    attends = [False] * len(config["ch_mult"])
    fields = "in_channels out_ch ch ch_mult num_res_blocks z_channels embed_dim".split()
    theirs = torch_models.AutoencoderKL(
        attends=attends, **{name: config[name] for name in fields}
    )
    exported = torch_weights.autoencoder_to_torch(params)
    theirs.load_state_dict(torch_models.tensors(exported), strict=True)
    with torch.no_grad():
        moments = theirs.encode(torch_models.nchw(arrays["x"]))
        recon = theirs.decode(torch_models.nchw(arrays["z"]))
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(torch_models.nhwc(moments), arrays["moments"], **close)
    np.testing.assert_allclose(
        torch_models.nhwc(recon), arrays["reconstruction"], **close
    )


def test_the_pytorch_networks_of_these_tests_have_the_published_names():
    state = golden.below(golden.load("trajectory"), "state/")
    published = {name: value.shape for name, value in state.items()}
    found = torch_structure.of_torch(state)
    attends = found.pop("attn_levels")
    del found["mid_attention"]
    ours = torch_models.arrays(torch_models.AutoencoderKL(attends=attends, **found))
    loss = torch_models.arrays(torch_models.Loss(ndf=8))
    ours |= {f"loss.{name}": value for name, value in loss.items()}
    # The goldens leave PyTorch's counters out.
    kept = {k: v.shape for k, v in ours.items() if "num_batches_tracked" not in k}
    assert kept == published


@pytest.mark.parametrize("actnorm", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_discriminator_computes_the_same_after_both_ways(actnorm, layers):
    torch.manual_seed(1)
    theirs = torch_models.PatchGAN(channels=2, ndf=8, layers=layers, actnorm=actnorm)
    theirs(torch.randn(4, 2, 48, 48))  # moves the running statistics
    x = np.random.default_rng(2).normal(size=(2, 48, 48, 2)).astype(np.float32)

    def both(module, variables):
        model = PatchDiscriminator(
            in_channels=2, ndf=8, num_layers=layers, use_actnorm=actnorm
        )
        for train in (False, True):
            logits = model.apply(variables, x, train=train, mutable=["batch_stats"])[0]
            with torch.no_grad():
                expected = module.train(train)(torch_models.nchw(x))
            np.testing.assert_allclose(
                logits, torch_models.nhwc(expected), rtol=1e-4, atol=1e-5
            )

    variables = torch_weights.discriminator_from_torch(torch_models.arrays(theirs))
    exported = torch_weights.discriminator_to_torch(variables)
    again = torch_models.PatchGAN(channels=2, ndf=8, layers=layers, actnorm=actnorm)
    again.load_state_dict(torch_models.tensors(exported), strict=True)
    both(theirs, variables)
    both(again, variables)


def test_parameters_that_do_not_fit_are_named():
    model, _ = pair(STRUCTURES["two levels"])
    params = random_params(model)["params"]
    kernel = params["decoder"]["conv_in"]["kernel"]
    params["decoder"]["conv_in"] = {"kernel": kernel[..., :5]}
    params["stray"] = jnp.zeros(1)
    with pytest.raises(ValueError) as error:
        torch_weights.autoencoder_to_torch({"params": params})
    message = str(error.value)
    assert "missing: decoder/conv_in/bias (64,)" in message
    assert "extra: stray (1,)" in message
    assert "wrong shape: decoder/conv_in/kernel (3, 3, 3, 5)" in message
    with pytest.raises(ValueError, match=r"no 'encoder' in them; found \['conv_0'\]"):
        torch_weights.autoencoder_to_torch({"params": {"conv_0": {}}})
    with pytest.raises(ValueError, match="not the weights of a PatchGAN"):
        torch_weights.discriminator_from_torch({"conv.weight": np.zeros(1)})


def test_tensors_that_no_network_has_are_refused_by_name():
    state = torch_models.arrays(pair(STRUCTURES["two levels"])[1])
    flat = state | {"encoder.conv_in.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"conv_in.weight has the shape \(3,\)"):
        torch_weights.autoencoder_from_torch(flat)
    broken = state["decoder.conv_in.bias"].copy()
    broken[0] = np.nan
    with pytest.raises(ValueError, match=r"infinity: decoder\.conv_in\.bias$"):
        torch_weights.autoencoder_from_torch(state | {"decoder.conv_in.bias": broken})
    quantised = {"decoder.conv_in.bias": np.zeros(broken.shape, np.int8)}
    with pytest.raises(
        ValueError, match=r"no weights .*: decoder\.conv_in\.bias int8$"
    ):
        torch_weights.autoencoder_from_torch(state | quantised)


def test_the_tensors_of_a_loss_are_named_as_in_the_file():
    loss = torch_models.arrays(torch_models.Loss(ndf=8, layers=2))
    state = {f"loss.{name}": value for name, value in loss.items()}
    state["loss.logvar"] = np.zeros(1, np.float32)
    del state["loss.discriminator.main.3.bias"]
    with pytest.raises(ValueError) as error:
        torch_weights.loss_from_torch(state, "loss")
    assert "wrong shape: loss.logvar (1,), expected ()" in str(error.value)
    assert "missing: loss.discriminator.main.3.bias (16,)" in str(error.value)
    del state["loss.discriminator.main.0.weight"]
    with pytest.raises(ValueError, match=r"^loss.discriminator\.\*: these are not"):
        torch_weights.loss_from_torch(state, "loss")


def test_the_gradients_of_the_total_loss_match_pytorch_s():
    """With respect to the input, to logvar and to all weights, three by name."""
    model, theirs = pair(STRUCTURES["two levels"])
    torch.manual_seed(5)
    patch = torch_models.PatchGAN(ndf=8, layers=2)
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
    eps = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    kl_weight, disc_weight, perceptual_weight, logvar = 1e-2, 0.5, 0.7, 0.3

    def published_total(image, scale):
        mean, log_variance = theirs.encode(image).chunk(2, dim=1)
        log_variance = log_variance.clamp(-30.0, 20.0)
        z = mean + (0.5 * log_variance).exp() * torch_models.nchw(eps)
        recon = theirs.decode(z)
        difference = image - recon
        p = (difference**2 * (1 + image.abs())).mean(dim=(1, 2, 3), keepdim=True)
        rec = difference.abs() + difference**2 + perceptual_weight * p
        nll = (rec / scale.exp() + scale).sum() / len(image)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / len(image)
        g = -patch(recon).mean()
        last = theirs.decoder.conv_out.weight
        lengths = [
            torch.autograd.grad(term, last, retain_graph=True)[0].norm()
            for term in (nll, g)
        ]
        balance = (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4).detach()
        return nll + kl_weight * kl + disc_weight * balance * g

    image = torch_models.nchw(x).requires_grad_()
    scale = torch.tensor(logvar, requires_grad=True)
    state, disc_state = torch_models.arrays(theirs), torch_models.arrays(patch)
    expected_total = published_total(image, scale)
    expected_total.backward()

    settings = train_step.LossSettings(
        objective=tiny.BASE,
        disc_loss="hinge",
        disc_factor=1.0,
        disc_weight=disc_weight,
        kl_weight=kl_weight,
        perceptual_weight=perceptual_weight,
        pixelloss_weight=1.0,
        loss_scale=1.0,
        fresh_reconstruction=False,
    )
    disc = torch_weights.discriminator_from_torch(disc_state)
    discriminator = PatchDiscriminator(ndf=8, num_layers=2)
    nothing = jnp.zeros((2, 16, 16, 0))

    def terms_of(params, _):
        variables = {"params": params["autoencoder"]}
        image = params["x"]
        posterior = model.apply(variables, image, method="encode")
        assert isinstance(posterior, DiagonalGaussian)
        z = posterior.mean + posterior.std * eps
        recon = model.apply(variables, z, method="decode")
        distance = ((image - recon) ** 2 * (1 + jnp.abs(image))).mean(axis=(1, 2, 3))
        logits, *_ = adversary.discriminate(
            discriminator, disc["params"], disc["batch_stats"], recon, nothing
        )
        terms, _ = objectives.loss_terms(
            bare(image),
            objectives.Reconstruction(recon, recon, posterior),
            distance,
            params["logvar"],
            settings,
        )
        return terms._replace(g=losses.generator(logits)), ((), ())

    params = {
        "autoencoder": torch_weights.autoencoder_from_torch(state)["params"],
        "logvar": jnp.float32(logvar),
        "x": jnp.asarray(x),
    }
    grads, *_, logs = jax.jit(
        lambda params: train_step.pull_back(
            terms_of,
            params,
            updates.split(x, 1),
            train_step.last_kernel,
            settings,
            kl_weight=kl_weight,
            disc_factor=jnp.float32(1.0),
            adversarial=True,
        )
    )(params)

    def assert_close(ours, expected, what):
        error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
        assert error < 1e-4, f"{what}: {error}"

    np.testing.assert_allclose(
        logs["total_loss"], expected_total.detach().numpy(), rtol=1e-4
    )
    assert_close(grads["x"], torch_models.nhwc(image.grad), "input")
    assert_close(grads["logvar"], scale.grad.numpy(), "logvar")
    ours = torch_weights.autoencoder_to_torch({"params": grads["autoencoder"]})
    for name in (
        "encoder.conv_in.weight",
        "encoder.mid.attn_1.v.weight",
        "decoder.up.1.upsample.conv.weight",
        "decoder.conv_out.weight",
    ):
        gradient = theirs.get_parameter(name).grad.numpy()
        assert_close(ours[name], gradient, name)
    everything = np.concatenate([ours[n].ravel() for n, _ in theirs.named_parameters()])
    expected = np.concatenate(
        [p.grad.numpy().ravel() for _, p in theirs.named_parameters()]
    )
    assert_close(everything, expected, "all weights")
