"""The radio objectives from the config: masks, pairs, and training that lowers them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from radiovae_jax import experiment, logbook, losses, physics, train, train_step
from radiovae_jax.data import pipeline, radiomap, synthetic
from radiovae_jax.data.batch import to_batch


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A city with DPM maps and, for one transmitter a map, IRT4 maps."""
    root = tmp_path_factory.mktemp("data") / "city"
    synthetic.write_city(root, maps=10, transmitters=2, size=32, seed=42)
    shutil.copytree(root / "gain" / "DPM", root / "gain" / "IRT4")
    for path in (root / "gain" / "IRT4").glob("*_1.png"):
        path.unlink()
    return root


def config_of(city, objective: str, **data):
    config = tiny.config(city)
    config.loss.objective = objective
    config.loss.objectives.edge_pinn.total = (1.0, 1.0, 0.1)
    config.data.update(source="radiomapseer", **data)
    return config


def test_an_objective_trains_from_the_config_and_lowers_its_terms(city, tmp_path):
    config = config_of(city, "edge_pinn")
    config.train.update(steps=40, validate_every=40, checkpoint_every=40)
    config.loss.disc_start = 30
    train.run(config, tmp_path)
    lines = logbook.read(tmp_path / "metrics.jsonl")
    for name in ("rec", "edge", "pinn"):
        values = [line[f"train/{name}_loss"] for line in lines]
        assert np.mean(values[-10:]) < 0.8 * np.mean(values[:5]), name
        assert f"val/{name}_loss" in lines[-1]


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(k, marks=pytest.mark.slow) for k in ("edge", "dpm2irt4")), "bce"],
)
def test_the_other_kinds_of_loss_go_down_in_40_steps(city, kind):
    config = config_of(city, "base")
    config.train.steps = 40
    if kind in losses.RECONSTRUCTION:
        config.loss.reconstruction = kind
    else:
        config.loss.objective = kind
    config.data.simulation = "IRT4" if kind == "dpm2irt4" else "DPM"
    source = experiment.open_data(config, "train")
    built = experiment.build(config, source.shape)
    state = experiment.init_state(config, built, jax.random.key(0))

    @jax.jit
    def step(state, raw):
        return train_step.train_step(
            built.networks,
            built.opt,
            built.schedules,
            built.settings,
            (),
            state,
            built.to_batch(raw),
            jax.random.key(1),
            adversarial=False,
        )

    batches = pipeline.train_batches(source, batch_size=4, seed=0, augment="none")
    logs = []
    for _ in range(config.train.steps):
        raw = next(batches)
        raw.pop("name")
        state, log = step(state, raw)
        logs.append(jax.device_get(log))
    batches.close()
    names = {"edge": ["rec", "edge"], "dpm2irt4": ["rec", "edge", "pinn"]}
    for name in names.get(kind, ["rec"]):
        values = [log[f"{name}_loss"] for log in logs]
        assert np.mean(values[-10:]) < 0.9 * np.mean(values[:3]), name


def test_dpm2irt4_encodes_dpm_and_aims_at_irt4_of_the_same_pair(city, caplog):
    config = config_of(city, "dpm2irt4", simulation="IRT4")
    with caplog.at_level("INFO"):
        source = experiment.open_data(config, "train")
    assert "8 of 8 IRT4 images have their DPM pair" in caplog.text
    record = source[0]
    name = str(record["name"])
    dpm, irt4 = (
        radiomap.read_map(city / "gain" / simulation / f"{name}.png")
        for simulation in ("DPM", "IRT4")
    )
    raw = {key: value[None] for key, value in record.items() if key != "name"}
    raw["DPM"] = raw["DPM"] // 2  # to tell them apart
    built = experiment.build(config, source.shape)
    batch = built.to_batch(raw)
    np.testing.assert_array_equal(batch.target[0], 2 * (irt4 / np.float32(255)) - 1)
    np.testing.assert_array_equal(
        batch.image[0], 2 * ((dpm // 2) / np.float32(255)) - 1
    )
    assert batch.transmitter.max() == 1.0


def test_pairs_that_do_not_exist_end_in_a_message(city, tmp_path):
    root = tmp_path / "city"
    shutil.copytree(city, root)
    shutil.rmtree(root / "gain" / "DPM")
    (root / "gain" / "DPM").mkdir()
    config = config_of(root, "dpm2irt4", simulation="IRT4")
    with pytest.raises((ValueError, FileNotFoundError), match="DPM"):
        experiment.open_data(config, "train")
    config.data.simulation = "DPM"
    with pytest.raises(ValueError, match=r"set data.simulation=IRT4"):
        train.run(config, tmp_path / "run")


def test_the_k2_mask_is_read_where_it_is_stored_and_else_computed(city, tmp_path):
    root = tmp_path / "city"
    shutil.copytree(city, root)
    config = config_of(root, "edge")
    source = experiment.open_data(config, "train")
    assert "k2_neg_norm" not in source[0]
    raw = {key: value[None] for key, value in source[0].items() if key != "name"}
    options = dict(image_size=0, pixel_weights="none", conditional=False)
    computed = to_batch(raw, objective="edge", **options).k2_neg_norm
    f, tx = (radiomap.gray_to_f(raw[name]) for name in ("gray", "antenna"))
    expected = physics.k2_neg_norm(jnp.asarray(f), jnp.asarray(tx)) / np.float32(255)
    np.testing.assert_allclose(computed, expected, atol=1e-6)

    folder = root / "gain" / "DPM_k2_neg_norm"
    folder.mkdir()
    for path in (root / "gain" / "DPM").glob("*.png"):
        radiomap.write_png(folder / path.name, np.full((32, 32), 51, np.uint8))
    record = experiment.open_data(config, "train")[0]
    raw = {key: value[None] for key, value in record.items() if key != "name"}
    stored = to_batch(raw, objective="edge", **options).k2_neg_norm
    np.testing.assert_allclose(stored, 0.2, atol=1e-6)


def test_the_released_transmitter_mask_is_255_and_survives_a_resize():
    antenna = np.zeros((1, 32, 32, 1), np.uint8)
    antenna[0, 10, 20] = 255
    raw = {"gray": np.full_like(antenna, 100), "antenna": antenna}
    for size in (0, 40, 16):
        batch = jax.jit(
            lambda raw, size=size: to_batch(
                raw,
                image_size=size,
                pixel_weights="none",
                conditional=False,
                objective="dpm2irt4",
                mask_range="released",
            )
        )(raw)
        np.testing.assert_allclose(batch.transmitter.max(), 255.0, rtol=1e-5)
