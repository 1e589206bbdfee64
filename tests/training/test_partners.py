"""Processes that die or fail: the others hear of it, and why."""

import sys

import pytest

from radiovae_jax.training import partners


class Store:
    """A key-value store as the runtime's, in which nobody waits."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        if key in self.values and not allow_overwrite:
            raise ValueError("ALREADY_EXISTS")
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        return [pair for pair in self.values.items() if pair[0].startswith(prefix)]

    def blocking_key_value_get(self, key, timeout_in_ms):
        if key not in self.values:
            raise ValueError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
        return self.values[key]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(partners.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(partners.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(partners, "GRACE_S", 0.05)
    return now


@pytest.fixture
def watches(clock):
    store = Store()
    return [partners.Watch(store, process, 10.0) for process in range(3)]


def test_a_process_that_fails_tells_all_others_why(watches, monkeypatch):
    assert [watch.look("0") for watch in watches] == [""] * 3
    watches[1].tell("process 1 has ended: the disk is full")
    watches[2].tell("process 2 has ended: it lost another one")  # the first one counts
    monkeypatch.setattr(partners, "end", sys.exit)
    for watch in watches[0], watches[2]:
        with pytest.raises(SystemExit, match="process 1 has ended: the disk is full"):
            watch.run()


def test_the_first_process_finds_one_that_is_silent_and_tells_it(watches, clock):
    for watch in watches:
        watch.look("0")
    for beat in range(1, 11):  # process 2 says nothing
        clock[0] = float(beat)
        assert watches[1].look(str(beat)) == watches[0].look(str(beat)) == ""
    clock[0] = 11.5
    problem = watches[0].look("11")
    assert "process 2 has died or hangs" in problem
    assert "for 10 s (--heartbeat_s)" in problem and "same command" in problem
    assert watches[1].look("11") == problem


def test_one_that_is_done_is_not_missed_and_looks_no_more(watches, clock, monkeypatch):
    for watch in watches:
        watch.look("0")
    watches[2].stop()
    for beat in range(1, 100):
        clock[0] = float(beat)
        assert watches[1].look(str(beat)) == watches[0].look(str(beat)) == ""
    monkeypatch.setattr(partners, "end", pytest.fail)
    watches[1].tell("it failed")
    watches[2].run()
