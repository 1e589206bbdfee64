"""A new run from the weights of another: what is taken over, and what is not."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from radiovae_jax.training import logbook, run_folder
from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.vae import experiment, warm_start
from radiovae_jax.vae.state import averaged

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "city"


def shapes_of(config):
    built = experiment.build(config, (32, 32, 1))
    return experiment.state_shapes(config, built)


def started(folder, fresh):
    start = warm_start.prepared(str(folder), fresh, reconstruction="l1_mse")
    return start(fresh)


def random_like(shapes, seed: int):
    """Returns a state whose every number is another, as no initialisation makes it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(1, 0.1, leaf.shape).astype(leaf.dtype)),
        shapes,
    )


@pytest.fixture(scope="module")
def donor(city, tmp_path_factory):
    """The folder of a run at step 5, and its state."""
    config = tiny.config(city)
    state = random_like(shapes_of(config), seed=0)._replace(step=jnp.int32(5))
    folder = tmp_path_factory.mktemp("runs") / "donor"
    run_folder.claim(folder, config)
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, {}, None)
    checkpoints.wait()
    checkpoints.close()
    return folder, state


def assert_equal(one, two) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_averaged_weights_start_the_run_and_nothing_else_does(city, donor):
    folder, theirs = donor
    shapes = shapes_of(tiny.config(city))
    fresh = random_like(shapes, seed=1)._replace(step=jnp.int32(0))
    state = started(folder, fresh)
    assert_equal(state.params["autoencoder"], theirs.ema["autoencoder"])
    assert_equal(state.ema["autoencoder"], theirs.ema["autoencoder"])
    assert_equal(state.params["logvar"], theirs.params["logvar"])
    assert_equal(state.disc_params, theirs.disc_params)
    assert_equal(state.disc_stats, theirs.disc_stats)
    for part in ("step", "opt_state", "disc_opt_state"):
        assert_equal(getattr(state, part), getattr(fresh, part))


def test_an_average_over_everything_starts_as_what_it_is_of(city, donor):
    config = tiny.config(city)
    config.ema.of = ("autoencoder", "logvar", "disc_params", "disc_stats")
    shapes = shapes_of(config)
    state = started(donor[0], random_like(shapes, seed=1))
    assert_equal(state.ema, averaged(state, config.ema.of))


def test_a_discriminator_of_another_shape_is_left_fresh_and_said(city, donor, caplog):
    config = tiny.config(city)
    config.loss.disc_ndf = 16
    shapes = shapes_of(config)
    fresh = random_like(shapes, seed=1)
    with caplog.at_level("INFO"):
        state = started(donor[0], fresh)
    assert "discriminator has another shape: starting a fresh one" in caplog.text
    assert_equal(state.disc_params, fresh.disc_params)
    assert_equal(state.params["autoencoder"], donor[1].ema["autoencoder"])


def test_a_folder_that_cannot_start_a_run_stops_it_before_it_is_made(
    city, donor, tmp_path
):
    config = tiny.config(city, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"train.init_from: .*nowhere is not"):
        tiny.train(config, tmp_path / "run")
    config = tiny.config(city, init_from=str(donor[0]))
    config.autoencoder.ch_mult = (1, 2)
    with pytest.raises(ValueError) as error:
        tiny.train(config, tmp_path / "run")
    assert "holds another autoencoder" in str(error.value)
    assert "'ch_mult': [1, 1]" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_decoder_of_images_starts_no_run_of_logits_and_none_of_logits_one_of_images(
    city, donor, tmp_path
):
    config = tiny.config(city, init_from=str(donor[0]))
    config.loss.reconstruction = "bce"
    with pytest.raises(ValueError) as error:
        tiny.train(config, tmp_path / "run")
    assert "with loss.reconstruction=l1_mse and this run has bce" in str(error.value)
    assert "Set loss.reconstruction=l1_mse" in str(error.value)
    assert not (tmp_path / "run").exists()
    # The other way round; but any kind of images starts any other.
    folder, shapes = tmp_path / "logits", shapes_of(config)
    shutil.copytree(donor[0], folder)
    assert warm_start.prepared(str(folder), shapes, reconstruction="mse")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"l1_mse"', '"bce"'))
    with pytest.raises(ValueError, match=r"reconstruction=bce and this run has mse"):
        warm_start.prepared(str(folder), shapes, reconstruction="mse")


@pytest.mark.slow
def test_a_run_goes_on_when_the_folder_it_started_from_is_gone(city, donor, tmp_path):
    folder = tmp_path / "donor"
    shutil.copytree(donor[0], folder)
    tiny.train(tiny.config(city, init_from=str(folder), stop_at=1), tmp_path / "run")
    shutil.rmtree(folder)
    tiny.train(tiny.config(city, init_from=str(folder), stop_at=2), tmp_path / "run")
    lines = logbook.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    np.testing.assert_allclose(
        lines[0]["train/logvar"], donor[1].params["logvar"], rtol=1e-6
    )
