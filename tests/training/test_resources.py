"""Where the time and the memory of a run go, and what TensorBoard shows of it."""

import time

import command
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax import metrics
from radiovae_jax.training import logbook, resources


@pytest.fixture
def clock(monkeypatch):
    """Returns a clock, and a function that lets so many seconds pass."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return resources.Clock(10), wait


def test_a_step_holds_its_waiting_for_data_and_no_pause(clock):
    clock, wait = clock
    for _ in range(4):
        with clock.spent_on("data", pause=False):
            wait(0.25)
        wait(0.75)
    with clock.spent_on("checkpoint"):
        wait(5)
    assert clock.lap(14, batch_size=8) == {
        "time/step_seconds": 1.0,
        "time/images_per_second": 8.0,
        "time/data_seconds": 0.25,
    }
    assert clock.seconds("checkpoint") == {"time/checkpoint_seconds": 5.0}
    assert clock.seconds("checkpoint") == {}
    wait(3)
    assert clock.lap(15, batch_size=8)["time/step_seconds"] == 3.0


def test_memory_grows_by_what_is_taken():
    before = resources.memory()["memory/host_bytes"]
    taken = np.ones(50_000_000)  # 400 MB
    after = resources.memory()["memory/host_bytes"]
    assert 300e6 < after - before < 600e6, taken.shape


def test_diversity_by_hand():
    # 0, 0.1 and 0.3 everywhere: 10, 30 and 20 dB apart.
    samples = jnp.asarray([0.0, 0.1, 0.3])[:, None, None, None] * jnp.ones((3, 4, 4, 1))
    np.testing.assert_allclose(metrics.diversity_db(samples), 20.0, rtol=1e-5)
    assert metrics.diversity_db(jnp.zeros((5, 4, 4, 1))) == 0


def test_a_histogram_counts_what_is_finite(tmp_path):
    log, shown = logbook.Logbook(tmp_path, step=0), {}
    log._board.add_histogram = lambda name, values, *_, **__: shown.update(
        {name: values}
    )
    log.histogram(3, "weights/encoder", np.asarray([0.0, 1.0, 1.0, 4.0, np.nan]))
    log.histogram(3, "weights/decoder", np.asarray([np.inf]))
    log.close()
    np.testing.assert_equal(
        shown, {"weights/encoder": np.asarray([0.0, 1.0, 1.0, 4.0])}
    )


def test_skipped_batches_past_a_step_are_forgotten_when_it_goes_back(tmp_path):
    log = logbook.Logbook(tmp_path, step=0)
    for step in (1, 2, 3):
        log.write(step, {"a": float(step)})
        log.skipped(step, [f"map_{step}"])
    log.rewind(1)
    log.write(2, {"a": 5.0})
    log.close()
    assert logbook.read(tmp_path / "skipped.jsonl") == [{"step": 1, "maps": ["map_1"]}]
    lines = logbook.read(tmp_path / "metrics.jsonl")
    assert lines == [{"step": 1, "a": 1.0}, {"step": 2, "a": 5.0}]


def test_tensorboard_on_a_full_disk_does_not_stop_the_run(tmp_path, caplog):
    log = logbook.Logbook(tmp_path, step=0)
    with command.full_disk(20_000):
        for step in range(30):  # its queue holds ten
            log.histogram(step, "a", np.arange(1000.0))
        log.close()
    (path,) = (tmp_path / "tensorboard").glob("events*")
    assert 0 < path.stat().st_size <= 20_000
    assert caplog.text.count("cannot be written") == 1
