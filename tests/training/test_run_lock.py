"""The lock of a run folder: one run at a time, and none is locked out by a dead one."""

import json
import os
import re
import signal
import subprocess
import time

import command
import pytest
import tiny
import toy

from radiovae_jax.training import run_lock, trainer

HOLD = """
import sys, time
from radiovae_jax.training import run_lock
with run_lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path."""
    with command.python("-c", HOLD, tmp_path) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_with_who_is_there_and_a_dead_one_is_followed(
    other, tmp_path, caplog
):
    lock = tmp_path / "run.lock"
    owner = json.loads(lock.read_text())
    remedy = "end it, or give another --workdir"
    since = re.escape(owner["since"])
    who = rf"in use .*process {other.pid} on {owner['host']}, since {since}"
    # However silent: of this machine the kernel knows.
    os.utime(lock, (0, 0))
    with pytest.raises(OSError, match=rf"{who}.*{remedy}"), run_lock.held(tmp_path):
        pass
    assert json.loads(lock.read_text()) == owner
    other.send_signal(signal.SIGKILL)
    other.wait()
    with run_lock.held(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert f"taken over from process {other.pid}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_given_back_after_an_error_and_no_child_keeps_it(tmp_path):
    with pytest.raises(KeyError), run_lock.held(tmp_path / "run"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        raise KeyError
    try:
        with run_lock.held(tmp_path / "run"):
            pass
    finally:
        child.kill()
        child.wait()


HERE, AWAY = {}, {"machine": "another", "host": "away"}


@pytest.mark.parametrize(
    "owner, free, silent, job, alive",
    [
        (HERE, False, 1000, "", True),  # it runs, and hangs
        (HERE, True, 0, "", False),  # it died a moment ago
        # Without flock the process tells.
        (HERE, None, 1000, "", True),
        (HERE | {"pid": 2**22 + 1}, None, 0, "", False),
        (HERE | {"started": "1"}, None, 0, "", False),  # another has its number by now
        # Of another machine its last sign of life tells, and the scheduler.
        (AWAY, True, 299, "", True),
        (AWAY, None, 299, "", True),
        (AWAY, True, 301, "", False),
        (AWAY | {"job": "7"}, True, 0, "7", False),
        (AWAY | {"job": "7"}, True, 0, "8", True),
        (AWAY | {"job": "7"}, False, 0, "7", True),  # flock reaches it: it runs
        (None, True, 0, "", False),  # made just now, by us or by another
        (None, False, 0, "", True),
    ],
)
def test_who_counts_as_alive(monkeypatch, owner, free, silent, job, alive):
    for name in run_lock.JOBS:
        monkeypatch.delenv(name, raising=False)
    whole = {} if owner is None else run_lock.me() | owner
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    assert run_lock.alive(whole, free=free, silent=float(silent)) is alive


def test_a_silent_lock_of_another_machine_is_taken_over_and_a_fresh_one_is_not(
    tmp_path, caplog
):
    lock = tmp_path / "run.lock"
    lock.write_text(json.dumps(run_lock.me() | AWAY))
    away = r"process \d+ on away.*sign of life is \d+ s old.*remove .*run\.lock"
    with pytest.raises(OSError, match=away), run_lock.held(tmp_path):
        pass
    assert json.loads(lock.read_text())["host"] == "away"
    past = time.time() - run_lock.SILENT_S - 1
    os.utime(lock, (past, past))
    with run_lock.held(tmp_path):
        assert "on away, which has ended" in caplog.text


def test_a_lock_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_S", 0.01)
    lock = tmp_path / "run.lock"
    with run_lock.held(tmp_path):
        os.utime(lock, (0, 0))
        time.sleep(0.5)
        assert lock.stat().st_mtime > 1e9


def test_a_run_whose_folder_another_one_took_ends_before_it_writes(tmp_path):
    program = HOLD.replace("with run", "run_lock.BEAT_S = 0.1\nwith run")
    with command.python("-c", program, tmp_path) as process:
        try:
            assert process.stdout.readline() == "held\n"
            (tmp_path / "run.lock").write_text("another's")
            assert process.wait(20) == 1
            assert f"error: another run has taken {tmp_path}" in process.stderr.read()
        finally:
            process.kill()


def test_a_folder_that_cannot_be_made_ends_in_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"cannot be made .* give another --workdir"),
        run_lock.held(tmp_path / "file" / "run"),
    ):
        pass


def test_training_begins_in_no_folder_that_is_in_use(other, tmp_path, monkeypatch):
    def train_in(workdir, config, setup, start_from):
        assert json.loads((workdir / "run.lock").read_text())["pid"] == os.getpid()
        assert (workdir / "config.json").exists()
        return {"nmse": 1.0}

    monkeypatch.setattr(trainer, "set_up", lambda make, config: None)
    monkeypatch.setattr(trainer, "train_in", train_in)
    config = tiny.config(tmp_path / "city")
    with pytest.raises(OSError, match=f"in use .*process {other.pid} "):
        trainer.run(toy.make, config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    other.kill()
    other.wait()
    assert trainer.run(toy.make, config, tmp_path) == {"nmse": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
