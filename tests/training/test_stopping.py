"""How a run ends before its last step: by itself, or because nothing is learned."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
import tiny
import toy
from whole_runs import log, saved

from radiovae_jax.data import datasets, pipeline
from radiovae_jax.reporting import curves
from radiovae_jax.training import logbook, run_folder, stopping
from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.training.stopping import Validation
from radiovae_jax.vae import task

LIMITS = stopping.Limits(
    max_skipped=10,
    plateau_steps=20,
    plateau_since=0,
    divergence=10.0,
    of_stage=(task.kl_collapse(1e-8),),
)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "city"


def validations(*nmse: float) -> list[Validation]:
    """Returns validations every ten steps."""
    return [
        stopping.validation(10 * i, {"nmse": value}) for i, value in enumerate(nmse, 1)
    ]


@pytest.mark.parametrize(
    "nmse, since, ended",
    [
        ((0.5, 0.4, 0.3), 0, False),
        ((0.5, 0.3, 0.4), 0, False),  # 10 steps without a better one
        ((0.5, 0.3, 0.4, 0.31), 0, True),  # 20
        ((0.5, 0.3, 0.3, 0.3), 0, True),  # as good is not better
        ((0.5, 0.3, math.nan, 0.4), 0, True),
        ((0.1, 0.3, 0.4, 0.5), 10, True),  # the first phase does not count
        ((0.1, 0.1, 0.1, 0.5), 30, False),
        ((math.inf,) * 4, 0, False),  # maps without power, where nothing gets better
        ((), 0, False),
    ],
)
def test_a_plateau_is_so_many_steps_without_a_better_validation(nmse, since, ended):
    limits = LIMITS._replace(plateau_since=since)
    words = stopping.enough(validations(*nmse), limits)
    assert bool(words) == ended
    if nmse == (0.5, 0.3, 0.4, 0.31):
        assert "step 40" in words and "since step 20" in words
    assert not stopping.enough(validations(*nmse), limits._replace(plateau_steps=0))


@pytest.mark.parametrize(
    "values, nmse, words",
    [
        ({"train/kl_loss": 0.9e-8}, (), "KL collapse"),
        ({"val/kl_loss": 0.0, "val/nmse": 0.1}, (0.1,), "free_bits"),
        ({"train/kl_loss": 1e-8}, (0.1, 9.0), ""),  # the validation was earlier
        ({"train/kl_loss": math.nan}, (), ""),  # that is a skipped step
        ({"val/nmse": 1.01}, (0.1, 1.01), "more than 10 times the best one, 0.1"),
        ({"val/nmse": 1.0}, (0.1, 1.0), ""),
        ({"val/nmse": math.nan}, (0.1, math.nan), "not finite"),
        ({"val/nmse": math.inf}, (math.inf,), "not finite"),
        # Maps without any power; then a reconstruction that is NaN.
        ({"val/nmse": math.nan, "val/rmse_pooled": 0.1}, (math.inf,), ""),
        ({"val/nmse": math.nan, "val/rmse_pooled": math.nan}, (0.1, math.nan), "Lower"),
    ],
)
def test_collapse_and_divergence_are_told_apart_from_a_bad_day(values, nmse, words):
    problem = stopping.problem(values, validations(*nmse), LIMITS)
    off = LIMITS._replace(of_stage=(task.kl_collapse(0.0),), divergence=0.0)
    assert words == "not finite" or not stopping.problem(values, validations(1.0), off)
    assert (problem is not None) == bool(words)
    if problem:
        assert words in f"{problem.what} {problem.remedy}"


def test_the_history_is_read_from_the_log_up_to_a_step():
    lines = [
        {"step": 1, "train/nll_loss": 3.0},
        {"step": 2, "val/nmse": 0.5},
        {"step": 4, "val/nmse": None},
        {"step": 5, "val/nmse": None, "val/nmse_pooled": 0.2},
        {"step": 6, "val/nmse": 0.1},
    ]
    assert stopping.history(lines, until=5) == [
        Validation(2, 0.5),
        Validation(4, math.inf),
        Validation(5, 0.2),
    ]


def test_the_maps_are_named_of_the_skipped_batches_alone():
    pending = [
        (step, np.asarray([f"a{step}", f"b{step}"]), jnp.asarray(in_row))
        for step, in_row in enumerate([0, 1, 2, 0, 1], 1)
    ]
    assert stopping.settled(pending) == [
        (2, ["a2", "b2"], 1),
        (3, ["a3", "b3"], 2),
        (5, ["a5", "b5"], 1),
    ]


def last(workdir) -> dict:
    return logbook.read(workdir / "metrics.jsonl")[-1]


def config_of(city, every=2, *, validated=True, **fields):
    """Returns a config that logs every step and saves after so many."""
    fields = dict(steps=9, validate_every=every, checkpoint_every=every) | fields
    config = tiny.config(city, **{"images": 1} | fields)
    if not validated:
        config.data.val_split = ""
    return config


def state_of(workdir, config):
    return saved(workdir, config, toy.make)


def test_a_plateau_ends_the_run_saved_and_the_same_command_does_not_go_on(
    city, tmp_path
):
    config = config_of(city, steps=20, checkpoint_every=20)
    config.train.stop_on_plateau_steps = 4
    values = {2: 0.5, 4: 0.25, 6: 0.5, 8: 0.375}

    def run(**errors):
        error = lambda step: errors.get(f"at{step}", 0.4)  # noqa: E731
        return scripted.run(config, tmp_path, error=error)["best"]

    first = {f"at{step}": value for step, value in values.items()}
    for _ in range(2):
        assert run(**first) == pytest.approx(0.375)
        assert last(tmp_path)["step"] == 8
    assert int(state_of(tmp_path, config)[0].step) == 8
    config.train.update(extend=True)
    run(at10=0.3)
    assert last(tmp_path)["step"] == 14
    config.train.update(extend=False, stop_on_plateau_steps=0, stop_at=15)
    run()
    assert last(tmp_path)["step"] == 15


def test_a_finished_run_goes_on_with_other_rates_and_the_state_it_had(city, tmp_path):
    config = config_of(city, every=3, steps=3, validated=False)
    config.optimizer.update(schedule="constant", learning_rate=0.5)
    scripted.run(config, tmp_path)
    before, _ = state_of(tmp_path, config)
    config.train.update(steps=5, extend=True)
    config.optimizer.learning_rate = 1e-30
    scripted.run(config, tmp_path)
    rates = [line["train/learning_rate"] for line in log(tmp_path)]
    np.testing.assert_allclose(rates, [0.5] * 3 + [1e-30] * 2, rtol=1e-6)
    state, position = state_of(tmp_path, config)
    assert int(state.step) == position["position"] == 5
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)


def test_a_number_below_a_limit_ends_in_a_message_with_the_remedy(city, tmp_path):
    config = config_of(city, validated=False)
    with pytest.raises(
        FloatingPointError, match=r"step 5: train/loss is 1e-10; .* step 4 in .* Rest"
    ):
        scripted.run(config, tmp_path, loss=lambda step: 1.0 if step < 5 else 1e-10)
    assert last(tmp_path)["step"] == 5
    assert int(state_of(tmp_path, config)[0].step) == 4


@pytest.mark.parametrize(
    "last, words", [(0.6, r"0\.6, more"), (math.nan, "not finite")]
)
def test_what_ends_a_run_at_a_validation_is_saved_and_keeps_the_best(
    city, tmp_path, last, words
):
    """A new best is saved too, whatever checkpoint_every says."""
    config = config_of(city, checkpoint_every=9, keep_checkpoints=1)
    config.train.stop_on_divergence = 10.0
    error = {2: 0.1, 4: 0.05, 6: 0.07, 8: last}
    with pytest.raises(FloatingPointError, match=rf"step 8: .*{words}.* step 4 in"):
        scripted.run(config, tmp_path, error=lambda step: error.get(step, 0.0))
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [4, 8]
    checkpoints.close()
    assert run_folder.best_step(tmp_path) == 4
    lines = logbook.read(tmp_path / "metrics.jsonl")
    deciding = curves.deciding(curves.of(lines, run_folder.jsonable(config)))
    assert deciding.steps[deciding.values.argmin()] == 4


def skipped_of(workdir) -> list[dict]:
    return [*map(json.loads, (workdir / "skipped.jsonl").read_text().splitlines())]


def test_too_many_skipped_in_a_row_end_the_run_and_name_what_was_good(city, tmp_path):
    config = config_of(city, log_every=9, max_skipped=3, validated=False)
    bad = (2, 3, 5, 6, 7, 8)  # two in a row are borne
    words = r"3 updates .* up to step 7 .* step 4 in .*init_from.*rollback"
    with pytest.raises(FloatingPointError, match=words):
        scripted.run(config, tmp_path / "a", bad=lambda step, rate: step in bad)
    assert [line["step"] for line in skipped_of(tmp_path / "a")] == [2, 3, 5, 6, 7]
    config.train.update(log_every=3, checkpoint_every=9, rollback=2)
    words = r"up to step 3 \(train.max_skipped\); nothing saved in .* no checkpoint to"
    with pytest.raises(FloatingPointError, match=words):
        scripted.run(config, tmp_path / "b", bad=lambda step, rate: True)


def test_a_roll_back_lowers_the_rates_and_is_remembered(city, tmp_path):
    config = config_of(city, every=4, steps=10, validated=False)
    config.optimizer.update(schedule="constant", learning_rate=1.0)
    config.train.update(max_skipped=2, rollback=2, rollback_factor=0.25)

    def bad(step: int, rate: float) -> bool:
        # Lowered once is not enough, twice is. The checkpoint of step 8 is of a
        # skipped step: it goes back to step 4, and step 8 is saved again.
        return step >= 8 and rate > 0.1

    scripted.run(config, tmp_path / "one", bad=bad)
    lines = log(tmp_path / "one")
    assert [line["step"] for line in lines] == list(range(1, 11))
    rates = [line["train/learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [1.0] * 4 + [1 / 16] * 6)
    assert lines[-1]["train/skipped"] == 0
    assert skipped_of(tmp_path / "one") == []
    one, position = state_of(tmp_path / "one", config)
    assert position["rollbacks"] == 2
    for stop in (9, 0):
        config.train.stop_at = stop
        scripted.run(config, tmp_path / "two", bad=bad)
    two, _ = state_of(tmp_path / "two", config)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert lines == log(tmp_path / "two")
    config.train.rollback = 1
    with pytest.raises(FloatingPointError, match=r" up to step 9 .*rollback=4$"):
        scripted.run(config, tmp_path / "less", bad=bad)


def test_bad_batches_are_skipped_counted_and_named_and_training_goes_on(city, tmp_path):
    config = config_of(city, every=3, steps=6, log_every=6, validated=False)
    scripted.run(config, tmp_path, bad=lambda step, rate: step in (3, 4))
    state, position = state_of(tmp_path, config)
    assert (int(state.skipped), int(state.skipped_in_row)) == (2, 0)
    assert int(state.step) == position["position"] == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    source = datasets.open_data(config, "train")
    batches = pipeline.train_batches(
        source, batch_size=4, seed=config.seed, augment=config.data.augment, start=2
    )
    names = [[str(name) for name in next(batches)["name"]] for _ in range(2)]
    assert skipped_of(tmp_path) == [
        {"step": step, "maps": maps} for step, maps in zip((3, 4), names, strict=True)
    ]


def test_validation_maps_without_signal_are_named_and_the_run_goes_on(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for split, value in (("train", 1), ("val", 0)):
        (tmp_path / split).mkdir()
        for i in range(4):
            gray = value * rng.integers(0, 255, (32, 32), np.uint8)
            np.save(tmp_path / split / f"m{i}.npy", np.float32(gray / 255))
    config = config_of(tmp_path, steps=4, checkpoint_every=4)
    config.data.update(source="folder", root=str(tmp_path))
    config.train.stop_on_plateau_steps = 1
    assert math.isnan(scripted.run(config, tmp_path / "run")["best"])
    (found,) = [r.getMessage() for r in caplog.records if "signal" in r.getMessage()]
    assert "m0, m1, m2, m3" in found and "data.val_split" in found
    assert last(tmp_path / "run")["step"] == 4
    assert int(state_of(tmp_path / "run", config)[0].step) == 4
