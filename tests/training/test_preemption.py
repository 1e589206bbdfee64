"""Signals: one saves at the next step, two end at once, and none is left behind."""

import os
import signal
import sys
import time

import command
import jax
import numpy as np
import pytest
import scripted
import tiny
import toy
from whole_runs import log, saved

from radiovae_jax.cli import Interrupted
from radiovae_jax.training import logbook
from radiovae_jax.training.preemption import Interruption

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
HUNG_UP = """
import time
from radiovae_jax.training.preemption import Interruption
with Interruption() as interruption:
    print("ready", flush=True)
    while not interruption.reached(1):
        time.sleep(0.1)
    print("saving", flush=True)
{written}("saved")
"""


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "city"


def heard(interruption: Interruption, step: int = 1) -> bool:
    """Waits a moment for the listening thread."""
    for _ in range(500):
        if interruption.reached(step):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noticed_and_the_handlers_are_put_back(number):
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption() as interruption:
        assert not interruption.reached(1)
        assert not interruption.noticed()
        os.kill(os.getpid(), number)
        assert heard(interruption)
        assert interruption.noticed()
    after = [signal.getsignal(number) for number in SIGNALS]
    assert before == after
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_nohup_or_a_trap_had_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            assert not interruption.reached(1)
            assert signal.getsignal(number) == signal.SIG_IGN
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_terminal_that_closes_takes_no_message_and_ends_nothing(tmp_path):
    process, terminal = os.forkpty()
    if not process:
        written = f"open({str(tmp_path / 'written')!r}, 'w').write"
        program = HUNG_UP.format(written=written)
        os.execv(sys.executable, [sys.executable, "-c", program])
    assert b"ready" in os.read(terminal, 1000)
    os.close(terminal)  # SIGHUP, and an error for all that is written there
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "written").read_text() == "saved"


# A mutex locked twice never comes back to Python, signals or not: as a compilation.
BUSY = """
import ctypes
from radiovae_jax.training.preemption import Interruption
with Interruption():
    print("ready", flush=True)
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex), lock(mutex)
"""


@pytest.mark.parametrize(
    "first, second, status",
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGUSR1, signal.SIGTERM, 143),
        (signal.SIGHUP, signal.SIGUSR1, 138),
    ],
)
def test_a_second_signal_ends_at_once_though_the_main_thread_is_busy(
    first, second, status
):
    with command.python("-c", BUSY) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        # The same one at once, as `timeout` sends it: not a second one.
        time.sleep(0.01)
        process.send_signal(first)
        time.sleep(0.8)
        assert process.poll() is None
        process.send_signal(second)
        try:
            assert process.wait(10) == status
            assert "ending at once" in process.stderr.read()
        finally:
            process.kill()


def stop_me() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_run_is_saved_and_goes_on_as_the_unbroken_one(city, tmp_path):
    config = tiny.config(city, steps=8, checkpoint_every=4)
    config.data.val_split = ""
    scripted.run(config, tmp_path / "unbroken")
    with pytest.raises(Interrupted, match=r"saved step 6 of 8 in .*the same command"):
        scripted.run(config, tmp_path / "broken", at=(6, stop_me))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert int(saved(tmp_path / "broken", config, toy.make)[0].step) == 6
    scripted.run(config, tmp_path / "broken")
    folders = [tmp_path / name for name in ("unbroken", "broken")]
    runs = [saved(folder, config, toy.make) for folder in folders]
    jax.tree.map(np.testing.assert_array_equal, *runs)
    logs = [log(folder) for folder in folders]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, 9))


def test_a_signal_during_the_validation_does_not_wait_for_its_end(city, tmp_path):
    config = tiny.config(
        city, steps=4, validate_every=2, validation_batch_size=1, images=1
    )
    with pytest.raises(Interrupted, match="saved step 2"):
        scripted.run(config, tmp_path, at=(2, stop_me), during_validation=True)
    lines = logbook.read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert "val/best" not in lines[-1]
    assert scripted.run(config, tmp_path)["best"] > 0
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4]


# Two processes of one run; the first alone is told to end.
TOGETHER = """
import sys, time
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from radiovae_jax.training import stopping
from radiovae_jax.training.preemption import Interruption
print(stopping.of_all_processes(["é" + sys.argv[2], "\\udcf6" * 127]), flush=True)
with Interruption() as interruption:
    for step in range(1, 2000):
        print(step, flush=True)
        if interruption.reached(step):
            print("end", flush=True)
            break
        time.sleep(0.01 * (1 + int(sys.argv[2])))
"""


def first_line(output) -> str:
    """Returns the first line that is not of JAX's transport."""
    return next(line for line in output if not line.startswith("[Gloo]"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_all_processes_end_after_one_step_when_one_gets_the_notice(number):
    processes = command.two(TOGETHER)
    names = [first_line(process.stdout) for process in processes]
    other = "\\udcf6" * 127  # bytes that are no UTF-8, in a name as long as may be
    assert names == [f"['é0', '{other}', 'é1', '{other}']\n"] * 2
    processes[0].stdout.readline()
    processes[0].send_signal(number)
    ends = [process.communicate(timeout=60)[0].split()[-2:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert ends[0] == ends[1]
    assert ends[0][1] == "end"
