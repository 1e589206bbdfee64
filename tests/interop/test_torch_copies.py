"""Which copy of the weights is taken from the checkpoints that trainers write."""

import pytest

from radiovae_jax.interop import torch_copies

NAMES = ("encoder.conv_in.weight", "decoder.up.0.block.0.norm1.bias", "loss.logvar")
RAW, AVERAGE = (dict.fromkeys(NAMES, value) for value in (0.5, 0.0))


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def dotless(state):
    return {f"model_ema.{n.replace('.', '')}": value for n, value in state.items()}


LUCIDRAINS = under("ema_model.", AVERAGE) | under("online_model.", RAW)
BUFFERS = {"model_ema.decay": 0.9, "model_ema.num_updates": 3}
# Both copies, the average by another name each time.
LAYOUTS = {
    "RadioDiff": {"model": RAW, "ema": LUCIDRAINS | {"initted": 1, "step": 2}},
    "DiT, SiT, REPA": {"model": RAW, "ema": AVERAGE, "opt": {"state": {0: 1}}},
    "timm": {"state_dict": RAW, "state_dict_ema": AVERAGE},
    "model_ema": {"model": RAW, "model_ema": under("module.", AVERAGE)},
    "ema_model": {"model": RAW, "ema_model": AVERAGE},
    "accelerate": {"model": RAW, "ema_state_dict": AVERAGE},
    "BasicSR": {"params": RAW, "params_ema": AVERAGE},
    "a level more": {"model": {"vae": RAW}, "ema": {"shadow": AVERAGE}},
    "two levels": {"state": {"model": RAW, "EMA": AVERAGE}},
    "module. under both": {
        "model": under("module._orig_mod.", RAW),
        "ema": under("module.model.module.", AVERAGE),
    },
    "side by side": {"state_dict": under("model.", RAW) | under("ema.model.", AVERAGE)},
    "dotted model_ema": {"state_dict": RAW | under("model_ema.", AVERAGE) | BUFFERS},
    "LitEma": {"state_dict": RAW | dotless(AVERAGE) | BUFFERS},
    "LitEma in Lightning": {
        "state_dict": under("vae.", RAW | dotless(AVERAGE)) | {"unet.a.b": 3}
    },
    "AveragedModel": {
        "model": RAW,
        "swa": {"n_averaged": 3} | under("module.", AVERAGE),
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_average_is_taken_wherever_it_lies(name, capsys):
    for weights, expected in (("auto", AVERAGE), ("ema", AVERAGE), ("model", RAW)):
        taken = torch_copies.take(LAYOUTS[name], weights)
        assert taken.state == expected
        assert taken.average is (expected is AVERAGE)
        said = capsys.readouterr().out
        kind = "an average" if taken.average else "raw weights"
        assert said.endswith(f"; taking {taken}\n") and f"{taken} " not in kind
        assert said.count("an average") + said.count("raw weights") >= 3
        assert f"taking {taken.address} ({kind})" in said or not taken.address


@pytest.mark.parametrize(
    "content",
    [
        RAW,
        {"state_dict": RAW, "epoch": 3},
        {"model_state_dict": RAW, "use_ema": True, "schema": {"a": 1}},
        {"state_dict": under("model.model.", RAW)},
        {"module": under("first_stage_model.", RAW) | {"model_ema.a": 1, "x.y": 2}},
        {"model": {n.replace(".conv", "._orig_mod.conv"): v for n, v in RAW.items()}},
    ],
)
def test_raw_weights_alone_are_taken_and_no_average_is_made_up(content):
    assert torch_copies.take(content, "auto").state == RAW
    with pytest.raises(ValueError, match="no average"):
        torch_copies.take(content, "ema")


def test_what_has_no_average_is_the_model_s():
    buffer = {"loss.discriminator.main.3.running_mean": 0.25}
    taken = torch_copies.take(RAW | buffer | dotless(AVERAGE), "auto")
    assert taken.state == AVERAGE | buffer


TWO = {"a": {"model": RAW, "ema": AVERAGE}, "b": {"model": AVERAGE}}


@pytest.mark.parametrize(
    "content, options, words",
    [
        ({"model": RAW, "state_dict": RAW}, {}, r"one of \['model.', 'state_dict.'\]"),
        ({"ema": AVERAGE, "ema2": AVERAGE}, {}, r"one of \['ema.', 'ema2.'\]"),
        (RAW | {"old": RAW}, {}, r"one of \['old.'\], or --ignore"),
        (RAW | under("module.", RAW), {}, "is there twice, once as module.encoder"),
        (TWO, dict(weights="model"), r"one of \['a.model.', 'b.model.'\]"),
        (TWO, dict(prefix="c"), r"under c\.\*; found a.model \(raw weights\), a.ema"),
        (TWO, dict(weights="ema", prefix="b"), "no average"),
        ({"ema": AVERAGE}, dict(weights="model"), "no raw weights; found ema"),
        (
            RAW | {"model_ema.encoderconv_inweight": 1},
            {},
            "fit 1 of .* 2; give --ignore",
        ),
        ({"a\x1b[2J": {"b": 1}}, {}, r"KL autoencoder.*found a\\x1b\[2J \(dict\)"),
    ],
)
def test_what_is_not_there_or_there_twice_is_asked_about(content, options, words):
    with pytest.raises(ValueError, match=words):
        torch_copies.take(content, **({"weights": "auto"} | options))


def test_a_prefix_chooses_by_key_or_by_name():
    assert torch_copies.take(TWO, "auto", prefix="a").address == "a.ema"
    assert torch_copies.take(TWO, "model", prefix="a.").state == RAW
    assert torch_copies.take(TWO, "auto", prefix="b.model").state == AVERAGE
    wrapped = {"state_dict": under("x.", RAW) | under("y.module.", AVERAGE)}
    assert torch_copies.take(wrapped, "auto", prefix="y.module.").state == AVERAGE
    taken = torch_copies.take(wrapped, "auto", ignore=["y.module"])
    assert taken.state == RAW


@pytest.mark.parametrize(
    "content, way",
    [
        ({"model": RAW, "ema": {"decay": 0.9, "shadow_params": [0.0]}}, "ema"),
        ({"a": RAW, "b": {"EMA": {"ema_state_dict": AVERAGE}}}, "b.EMA"),
        ({"a": RAW, "b": {"c": {"d": {"ema": AVERAGE}}}}, "b.c.d.ema"),
    ],
)
def test_an_average_that_cannot_be_read_is_said_to_be_there(content, way, capsys):
    assert torch_copies.take(content, "model").state == RAW
    assert f"{way} is not read: no" in capsys.readouterr().out
