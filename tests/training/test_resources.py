"""Where the time and the memory of a run go, and what TensorBoard shows of it."""

import pathlib
import time
from types import SimpleNamespace

import command
import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX.proto.event_pb2 as events
from tqdm import tqdm

from radiovae_jax import metrics
from radiovae_jax.training import logbook, loop, resources


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


@pytest.mark.parametrize("shown", [True, False])
def test_a_pause_is_in_neither_the_bar_nor_the_steps(shown):
    bar = tqdm(total=10, disable=not shown)
    before = time.monotonic()
    lap = SimpleNamespace(clock=resources.Clock(0), bar=bar)
    with loop.Loop.pause(lap, "compile", jnp.zeros(())):
        time.sleep(0.5)
    bar.update(5)
    steps = 5 * lap.clock.lap(5, batch_size=1)["time/step_seconds"]
    elapsed = bar.format_dict["elapsed"]
    spent = time.monotonic() - before - 0.5
    assert lap.clock.seconds("compile")["time/compile_seconds"] >= 0.5
    assert steps <= spent + 0.1
    if shown:
        assert elapsed <= spent + 0.1
    bar.close()


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


def recorded(workdir: pathlib.Path):
    """Returns the histograms of a TensorBoard folder, by step and name."""
    (path,) = (workdir / "tensorboard").glob("events*")
    data, found = path.read_bytes(), {}
    while len(data) > 12:
        # A record: its length (8 bytes), a checksum (4), the event, a checksum (4).
        length = int.from_bytes(data[:8], "little")
        if len(data) < 16 + length:
            break  # torn
        event = events.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            if value.HasField("histo"):
                found[event.step, value.tag] = value.histo
    return found


def test_a_histogram_counts_what_is_finite(tmp_path):
    log = logbook.Logbook(tmp_path, step=0)
    log.histogram(3, "weights/encoder", np.asarray([0.0, 1.0, 1.0, 4.0, np.nan]))
    log.histogram(3, "weights/decoder", np.asarray([np.inf]))
    log.close()
    found = recorded(tmp_path)
    assert list(found) == [(3, "weights/encoder")]
    histogram = found[3, "weights/encoder"]
    assert (histogram.num, histogram.sum, histogram.sum_squares) == (4, 6, 18)
    assert (histogram.min, histogram.max) == (0, 4)


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
    assert 0 < len(recorded(tmp_path)) < 30
    assert caplog.text.count("cannot be written") == 1
