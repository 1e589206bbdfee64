"""Weights to and from PyTorch, judged by what the two networks compute."""

import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from radiovae_jax import losses
from radiovae_jax.data.batch import bare
from radiovae_jax.interop import torch_weights
from radiovae_jax.training import updates
from radiovae_jax.vae import adversary, experiment, objectives, train_step
from radiovae_jax.vae.autoencoder import AutoencoderKL, attention_levels
from radiovae_jax.vae.discriminator import PatchDiscriminator

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")

STRUCTURES = {
    "two levels, two blocks, embed_dim above z": dict(
        ch_mult=(1, 2), num_res_blocks=2, z_channels=3, embed_dim=6
    ),
    "four levels, attention in the first, embed_dim 2 of 5": dict(
        ch_mult=(1, 2, 1, 2),
        attn_resolutions=((16, 16),),
        resolution=(16, 16),
        z_channels=5,
        embed_dim=2,
    ),
    "three blocks, three channels, attention": dict(
        ch_mult=(2, 1),
        num_res_blocks=3,
        in_channels=3,
        out_ch=3,
        attn_resolutions=(8,),
        resolution=16,
    ),
}
TWO_LEVELS = dict(ch_mult=(1, 2))
CLOSE = dict(rtol=1e-4, atol=1e-5)


def levels_of(model) -> tuple[bool, ...]:
    """Returns whether each level of ours attends."""
    return attention_levels(
        model.resolution, model.attn_resolutions, len(model.ch_mult)
    )


def pair(fields: dict):
    """Returns our model and the published one of the same structure, untrained."""
    model = AutoencoderKL(**(dict(ch=32, num_res_blocks=1) | fields))
    torch.manual_seed(0)
    placed = ("attn_resolutions", "resolution")
    rest = {name: value for name, value in fields.items() if name not in placed}
    return model, torch_models.AutoencoderKL(attends=levels_of(model), **rest)


@pytest.mark.parametrize("name", STRUCTURES)
def test_both_ways_the_two_networks_compute_the_same(name):
    model, theirs = pair(STRUCTURES[name])
    state = torch_models.arrays(theirs)
    params = torch_weights.autoencoder_from_torch(state)
    torch_models.assert_same_outputs(model, params, theirs.encode, theirs.decode)
    # The structure comes from the tensors, whatever resolution attention is told in.
    found = torch_weights.structure_of_torch(state)
    assert found == torch_weights.structure_of_flax(params["params"])
    other = AutoencoderKL(**torch_weights.model_fields(found, (64, 32)))
    assert levels_of(other) == levels_of(model)
    assert other.clone(resolution=0, attn_resolutions=()) == model.clone(
        resolution=0, attn_resolutions=()
    )

    params = torch_models.random_params(model)
    state = torch_weights.autoencoder_to_torch(params)
    theirs.load_state_dict(torch_models.tensors(state), strict=True)
    torch_models.assert_same_outputs(model, params, theirs.encode, theirs.decode)


def test_the_published_weights_survive_the_way_to_pytorch():
    arrays = golden.load("autoencoder")
    config = arrays["config"]
    params = torch_weights.autoencoder_from_torch(golden.below(arrays, "state/"))
    fields = "in_channels out_ch ch ch_mult num_res_blocks z_channels embed_dim".split()
    theirs = torch_models.AutoencoderKL(
        attends=[False] * len(config["ch_mult"]), **{n: config[n] for n in fields}
    )
    exported = torch_weights.autoencoder_to_torch(params)
    theirs.load_state_dict(torch_models.tensors(exported), strict=True)
    with torch.no_grad():
        moments = torch_models.nhwc(theirs.encode(torch_models.nchw(arrays["x"])))
        recon = torch_models.nhwc(theirs.decode(torch_models.nchw(arrays["z"])))
    np.testing.assert_allclose(moments, arrays["moments"], **CLOSE)
    np.testing.assert_allclose(recon, arrays["reconstruction"], **CLOSE)


def test_the_pytorch_networks_of_these_tests_have_the_published_names():
    state = golden.below(golden.load("trajectory"), "state/")
    found = torch_weights.structure_of_torch(state)
    attends = found.pop("attn_levels")
    del found["mid_attention"]
    ours = torch_models.arrays(torch_models.AutoencoderKL(attends=attends, **found))
    loss = torch_models.arrays(torch_models.Loss(ndf=8))
    ours |= {f"loss.{name}": value for name, value in loss.items()}
    # The goldens leave PyTorch's counters out.
    kept = {k: v.shape for k, v in ours.items() if "num_batches_tracked" not in k}
    assert kept == {name: value.shape for name, value in state.items()}


def test_the_full_size_names_are_those_of_the_released_config():
    """Shapes alone: 55,307,453 numbers."""
    table = torch_weights.autoencoder_table(
        in_channels=1,
        out_ch=1,
        ch=128,
        ch_mult=(1, 2, 4),
        num_res_blocks=2,
        attn_levels=(False, False, False),
        z_channels=3,
        embed_dim=3,
        mid_attention=True,
    )
    with torch.device("meta"):
        released = torch_models.AutoencoderKL(
            attends=(False,) * 3, ch=128, ch_mult=(1, 2, 4), num_res_blocks=2
        )
    expected = {k: tuple(v.shape) for k, v in released.state_dict().items()}
    assert {entry.torch: entry.shape for entry in table} == expected
    assert sum(np.prod(shape, dtype=int) for shape in expected.values()) == 55_307_453


@pytest.mark.parametrize("actnorm", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_discriminator_computes_the_same_after_both_ways(actnorm, layers):
    torch.manual_seed(1)
    fields = dict(layers=layers, actnorm=actnorm)
    theirs = torch_models.PatchGAN(channels=2, ndf=8, **fields)
    theirs(torch.randn(4, 2, 48, 48))  # moves the running statistics
    variables = torch_weights.discriminator_from_torch(torch_models.arrays(theirs))
    exported = torch_weights.discriminator_to_torch(variables)
    again = torch_models.PatchGAN(channels=2, ndf=8, **fields)
    again.load_state_dict(torch_models.tensors(exported), strict=True)
    x = np.random.default_rng(2).normal(size=(2, 48, 48, 2)).astype(np.float32)
    model = PatchDiscriminator(2, 8, layers, actnorm)
    for train in (False, True):
        logits = model.apply(variables, x, train=train, mutable=["batch_stats"])[0]
        for module in (theirs, again):
            with torch.no_grad():
                expected = module.train(train)(torch_models.nchw(x))
            np.testing.assert_allclose(logits, torch_models.nhwc(expected), **CLOSE)


def test_parameters_that_do_not_fit_are_named():
    params = torch_models.random_params(pair(TWO_LEVELS)[0])["params"]
    kernel = params["decoder"]["conv_in"]["kernel"]
    params["decoder"]["conv_in"] = {"kernel": kernel[..., :5]}
    params["stray"] = jnp.zeros(1)
    with pytest.raises(ValueError) as error:
        torch_weights.autoencoder_to_torch({"params": params})
    message = str(error.value)
    assert "missing: decoder/conv_in/bias (64,)" in message
    assert "extra: stray (1,)" in message
    assert "wrong shape: decoder/conv_in/kernel (3, 3, 3, 5)" in message


BROKEN = np.full(64, np.nan, np.float32)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"encoder.conv_in.weight": np.zeros(3)}, r"conv_in.weight has the shape \(3,"),
        ({"encoder.conv_out.weight": np.zeros((1, 64, 3, 3))}, r"expected \(2, 64, 3"),
        (
            {"encoder.conv_in.weight": np.zeros((48, 1, 3, 3))},
            "not multiples of the 48",
        ),
        ({"decoder.conv_in.bias": BROKEN}, r"infinity: decoder\.conv_in\.bias$"),
        (
            {"decoder.conv_in.bias": np.zeros(64, np.int8)},
            r"no weights .*: decoder\.conv_in\.bias int8$",
        ),
    ],
)
def test_tensors_that_no_network_has_are_refused_by_name(wrong, words):
    state = torch_models.arrays(pair(TWO_LEVELS)[1])
    with pytest.raises(ValueError, match=words):
        torch_weights.autoencoder_from_torch(state | wrong)


def test_what_is_another_network_is_said():
    with pytest.raises(ValueError, match=r"no encoder/conv_in/kernel.* are.*conv_0"):
        torch_weights.autoencoder_to_torch({"params": {"conv_0": {"a": np.zeros(1)}}})
    with pytest.raises(
        ValueError, match=r"not the weights of a PatchGAN.*conv\.weight"
    ):
        torch_weights.discriminator_from_torch({"conv.weight": np.zeros(1)})


@pytest.mark.parametrize(
    "name, tensor, words",
    [
        ("logvar", np.zeros(1), r"loss.logvar \(1,\), expected \(\)"),
        ("discriminator.main.3.bias", np.zeros(5), r"^loss.*: main.3.bias \(5,\), exp"),
        ("discriminator.main.0.weight", np.zeros(5), "^loss.discriminator.*: main.0"),
    ],
)
def test_the_tensors_of_a_loss_are_named_as_in_the_file(name, tensor, words):
    loss = torch_models.arrays(torch_models.Loss(ndf=8, layers=2))
    state = {f"loss.{name}": value for name, value in loss.items()}
    state[f"loss.{name}"] = np.float32(tensor)
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)):
        torch_weights.loss_from_torch(state, "loss")


def test_the_gradients_of_the_total_loss_match_pytorch_s():
    """With respect to the input, to logvar and to all weights, four by name."""
    model, theirs = pair(TWO_LEVELS)
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
    disc = torch_weights.discriminator_from_torch(torch_models.arrays(patch))
    expected_total = published_total(image, scale)
    expected_total.backward()

    settings = experiment.build_settings(tiny.read("radio"))._replace(
        disc_weight=disc_weight,
        kl_weight=kl_weight,
        perceptual_weight=perceptual_weight,
    )
    discriminator = PatchDiscriminator(ndf=8, num_layers=2)

    def terms_of(params, _):
        variables = {"params": params["autoencoder"]}
        image = params["x"]
        posterior = model.apply(variables, image, method="encode")
        z = posterior.mean + posterior.std * eps
        recon = model.apply(variables, z, method="decode")
        distance = ((image - recon) ** 2 * (1 + jnp.abs(image))).mean(axis=(1, 2, 3))
        nothing = jnp.zeros((2, 16, 16, 0))
        logits, *_ = adversary.discriminate(
            discriminator, disc["params"], disc["batch_stats"], recon, nothing
        )
        made = objectives.Reconstruction(recon, recon, posterior)
        terms, _ = objectives.loss_terms(
            bare(image), made, distance, params["logvar"], settings
        )
        return terms._replace(g=losses.generator(logits)), ((), ())

    params = {
        "autoencoder": torch_weights.autoencoder_from_torch(
            torch_models.arrays(theirs)
        )["params"],
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
    total = expected_total.detach().numpy()
    np.testing.assert_allclose(logs["total_loss"], total, rtol=1e-4)

    ours = torch_weights.autoencoder_to_torch({"params": grads["autoencoder"]})
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
    everything, all_expected = (
        np.concatenate([gradients[name].ravel() for name in expected])
        for gradients in (ours, expected)
    )
    for what, found, wanted in (
        ("input", grads["x"], torch_models.nhwc(image.grad)),
        ("logvar", grads["logvar"], scale.grad.numpy()),
        ("all weights", everything, all_expected),
        *(
            (name, ours[name], expected[name])
            for name in (
                "encoder.conv_in.weight",
                "encoder.mid.attn_1.v.weight",
                "decoder.up.1.upsample.conv.weight",
                "decoder.conv_out.weight",
            )
        ),
    ):
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < 1e-4, f"{what}: {error}"
