"""What --dry_run says, against counts by hand; and that it leaves nothing behind."""

import re

import command
import jax
import jax.numpy as jnp
import pytest
import tiny

from radiovae_jax.training import dry_run, overview, trainer
from radiovae_jax.vae import task
from radiovae_jax.vae.state import PHASES


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry")
    done = command.quickstart(
        folder,
        "--dry_run",
        "--config.loss.disc_num_layers=1",
        "--config.train.fsdp=2",
        devices=2,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["city"]
    return done.stdout


@pytest.fixture(scope="module")
def setup(city, tmp_path_factory):
    config = tiny.config(tmp_path_factory.mktemp("data") / "city")
    config.optimizer.update(learning_rate=1e-3, end_factor=0.1, warmup_steps=10)
    config.loss.disc_start = 50
    config.train.steps = 101
    setup = trainer.set_up(task.make, config)
    setup.batches.close()
    return config, setup


def numbers(page: str, start: str) -> list[float]:
    """Returns the numbers of the line that starts with these words."""
    (line,) = (line for line in page.splitlines() if line.startswith(start))
    found = re.findall(r"[\d,]+\.?\d*(?:e-?\d+)?", line.removeprefix(start))
    return [float(number.replace(",", "")) for number in found]


@pytest.mark.slow
def test_the_page_counts_what_is_there(page):
    # conv_in 320, conv_out 289, 1x1 convolutions around the latent 42 + 12, decoder's
    # conv_in 896, encoder's conv_out 1734, two norms 128, down and up 9,248 each;
    # blocks of two norms and two 3x3 convolutions, attention of a norm and four 1x1
    # convolutions.
    blocks = (2 + 2 * 2 + 2 * 2) * 18_624 + 2 * 4_288
    by_hand = 320 + 289 + 42 + 12 + 896 + 1_734 + 128 + 2 * 9_248 + blocks
    assert numbers(page, "autoencoder") == [by_hand]
    # 4x4 convolutions 1 -> 8 -> 16 -> 1, the middle one normalised, not biased.
    discriminator = (16 * 8 + 8) + (16 * 8 * 16 + 32) + (16 * 16 + 1)
    assert numbers(page, "discriminator") == [discriminator]
    assert numbers(page, "LPIPS, fixed") == [0]
    assert "computed in float32" in page
    assert "mesh data 1 x fsdp 2" in page
    assert "4 images, 2 a device" in page
    assert re.search(r"training .*split train: \d+ images", page)


@pytest.mark.parametrize("kind", ["without discriminator", "with discriminator"])
@pytest.mark.slow
def test_the_peak_is_what_lies_there_at_once(page, kind):
    arguments, outputs, reused, temporaries, _, peak, _, tera = numbers(page, kind)
    assert peak == pytest.approx(arguments + outputs - reused + temporaries, abs=0.3)
    (state,) = numbers(page, "state")
    # The donated state makes room for the next one; the batch comes with it.
    assert reused == pytest.approx(state, rel=0.02, abs=0.1)
    assert arguments == pytest.approx(state, rel=0.05, abs=0.2)
    # Forward and twice that backward, two operations a multiplication: the resnet
    # blocks of four images, three of them at 32x32 and seven at a quarter of it.
    convolutions = 3 * 2 * (3 + 7 / 4) * (2 * 9 * 32 * 32) * 32 * 32 * 4
    assert convolutions < tera * 1e12 < 1.5 * convolutions


def test_the_rates_stand_at_every_corner(setup):
    _, setup = setup
    page = dry_run.rates(setup.task, last=100)
    lines = [line.split() for line in page.splitlines()[1:]]
    # A tenth of 1e-3 more with each of ten steps, then a cosine over the 91 others:
    # 1e-4 + 4.5e-4 (1 + cos(pi 41 / 91)) in its 41st.
    assert [line[:-3] for line in lines] == [
        ["first", "0", "0.0001"],
        ["warm-up", "done", "9", "0.001"],
        ["disc_start", "50", "0.0006196"],
        ["last", "100", "0.0001"],
    ]
    assert [line[-1] for line in lines] == ["0", "0", "1", "1"]


def test_remat_keeps_the_inputs_of_blocks_alone_for_the_backward_pass(setup):
    """16x16, one level, no attention; a micro-batch of two images on one device."""
    config, kept = setup[0].copy_and_resolve_references(), {}
    for remat in (False, True):
        config.autoencoder.update(ch_mult=(1,), mid_attention=False, remat=remat)
        stage = task.make(config, (16, 16, 1))
        state = jax.eval_shape(stage.init, jax.random.key(0))
        raw = {"gray": jax.ShapeDtypeStruct((4, 16, 16, 1), jnp.uint8)}
        kept[remat] = dry_run.residual_bytes(
            stage, state, raw, phase=PHASES[False], images=2
        )
    # In both: conv_in's outputs and blocks' (3 + 4 inputs) of two images; each further
    # array of 32 channels in a block is one that rematerialisation drops.
    inputs = 7 * 2 * 16 * 16 * 32 * 4
    assert inputs < kept[True] < 3 * inputs
    # A block's norms, swishes and convolutions leave at least eight such arrays.
    assert kept[False] - kept[True] > 8 * inputs


def test_a_run_says_at_its_start_what_it_is_made_of(setup):
    config, setup = setup
    lines = overview.start(config, setup).splitlines()
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(setup.fresh))
    assert f"{size / 1e6:,.1f} MB a device" in lines[-3]
    words = dict(line.split(maxsplit=1) for line in lines)
    assert words["training"].startswith("synthetic city DPM, split train: 16 images")
    assert words["devices"] == "1 cpu (cpu), mesh data 1 x fsdp 1"
    assert words["batch"].endswith("computed in float32")
    assert words["phases"] == "101 steps, discriminator after step 50"
    assert f"jax {jax.__version__}," in words["code"]


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(disc_start=6), "6 steps without discriminator (loss.disc_start=6 is"),
        (dict(disc_factor=0.0), "6 steps without discriminator (loss.disc_factor=0)"),
        (dict(disc_start=0), "6 steps, discriminator after step 0"),
        (
            dict(discriminator_before_start="released"),
            "6 steps, discriminator after step 3 (trained from the first)",
        ),
    ],
)
def test_phases_are_said_in_words(fields, words):
    config = tiny.config("city")
    config.loss.update(fields)
    assert task.phases(config).startswith(words)
