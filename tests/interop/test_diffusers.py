"""diffusers' AutoencoderKL, in PyTorch, against ours: in both directions."""

import jax
import numpy as np
import pytest

from radiovae_jax.interop import diffusers_weights, torch_files, torch_weights
from radiovae_jax.vae.autoencoder import AutoencoderKL

torch = pytest.importorskip("torch")
torch_models = pytest.importorskip("torch_models")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("safetensors")

STRUCTURES = {
    "three levels, attention in the first, two blocks": dict(
        ch_mult=(1, 1, 2),
        attn_resolutions=((16, 16),),
        resolution=(16, 16),
        num_res_blocks=2,
    ),
    "four levels, four latents, three channels": dict(
        ch_mult=(1, 2, 1, 2), z_channels=4, embed_dim=4, in_channels=3, out_ch=3
    ),
    "three blocks, no attention": dict(
        ch_mult=(1, 2), num_res_blocks=3, mid_attention=False
    ),
}
SMALL = dict(ch_mult=(1,))


def ours(fields: dict):
    """Returns our model with parameters that no initialisation made."""
    model = AutoencoderKL(**(dict(ch=32, num_res_blocks=1) | fields))
    return model, torch_models.random_params(model)


def config_of(params) -> dict:
    structure = torch_weights.structure_of_flax(params["params"])
    return diffusers_weights.config_json(structure, sample_size=16)


def assert_same_outputs(model, params, theirs, size=16):
    def encode(x):
        posterior = theirs.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    def decode(z):
        return theirs.decode(z).sample

    torch_models.assert_same_outputs(model, params, encode, decode, size)


def there_and_back(fields: dict, folder, size: int) -> None:
    model, params = ours(fields)
    state = diffusers_weights.autoencoder_to_diffusers(params)
    torch_files.write_diffusers(folder / "ours", state, config_of(params))
    theirs, report = diffusers.AutoencoderKL.from_pretrained(
        folder / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_same_outputs(model, params, theirs, size)

    torch.manual_seed(0)  # now theirs, as diffusers initialises and writes it
    fresh = diffusers.AutoencoderKL.from_config(theirs.config)
    fresh.save_pretrained(folder / "theirs")
    taken, config = torch_files.read(folder / "theirs", "auto")
    names = diffusers_weights.names_of(taken.state)
    assert config["sample_size"] == 16
    params = torch_weights.autoencoder_from_torch(taken.state, names)
    assert_same_outputs(model, params, fresh, size)


@pytest.mark.parametrize("name", STRUCTURES)
def test_both_give_the_same_moments_and_reconstructions(name, tmp_path):
    there_and_back(STRUCTURES[name], tmp_path, size=16)


@pytest.mark.slow
def test_both_give_the_same_at_full_size(tmp_path):
    there_and_back(dict(ch=128, ch_mult=(1, 2, 4), num_res_blocks=2), tmp_path, size=64)


def test_files_of_before_diffusers_0_15_are_understood():
    _, params = ours(SMALL)
    state = diffusers_weights.autoencoder_to_diffusers(params)
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    before = {}
    for name, tensor in state.items():
        for new, old in renamed.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        before[name] = tensor
    assert before.keys() != state.keys()
    assert diffusers_weights.names_of(before) is torch_weights.DIFFUSERS_OLD
    again = torch_weights.autoencoder_from_torch(before, torch_weights.DIFFUSERS_OLD)
    # Whether these numbers are right is what the other tests show.
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_model_without_quant_convs_gets_ones_that_do_nothing(tmp_path):
    torch.manual_seed(0)
    model, params = ours(SMALL)
    config = config_of(params) | dict(use_quant_conv=False, use_post_quant_conv=False)
    theirs = diffusers.AutoencoderKL.from_config(config)
    theirs.save_pretrained(tmp_path)
    taken, config = torch_files.read(tmp_path, "auto")
    assert "quant_conv.weight" not in taken.state
    state = diffusers_weights.with_quant_convs(taken.state, config)
    params = torch_weights.autoencoder_from_torch(state, torch_weights.DIFFUSERS)
    assert_same_outputs(model, params, theirs)


@pytest.mark.parametrize(
    "fields, reason",
    [
        (dict(ch_mult=(1,), embed_dim=2), "no embed_dim apart .* embed_dim=2"),
        (dict(ch_mult=(2, 2)), r"ch_mult=\(2, 2\)"),
    ],
)
def test_what_diffusers_cannot_say_is_refused_with_the_reason(fields, reason):
    _, params = ours(fields)
    with pytest.raises(ValueError, match=reason):
        diffusers_weights.autoencoder_to_diffusers(params)
    with pytest.raises(ValueError, match=reason):
        config_of(params)


@pytest.mark.parametrize(
    "config, words",
    [
        ({"_class_name": "AutoencoderTiny"}, "_class_name='AutoencoderTiny'"),
        ({"_class_name": "AutoencoderKL", "act_fn": "relu"}, "act_fn='relu'"),
        ({"autoencoder": {}}, "_class_name=None"),
    ],
)
def test_other_networks_of_diffusers_are_refused_by_their_config(config, words):
    with pytest.raises(ValueError, match=words):
        diffusers_weights.check_config(config)
