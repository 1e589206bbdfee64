"""run.json: every start of a run, and how it ended; never a reason to stop."""

import datetime
import json
import shlex
import sys

import pytest

from radiovae_jax.cli import Interrupted
from radiovae_jax.training import run_record


def live(workdir, step, error=None):
    with run_record.kept(workdir, step=step):
        noted = json.loads((workdir / run_record.NAME).read_text())
        if error is not None:
            raise error
    return noted


def test_every_start_is_there_with_how_it_ended(tmp_path):
    running = live(tmp_path, 0)
    assert (running["ended"], running["end"]) == (run_record.UNKNOWN, None)
    for step, error in (
        (3, Interrupted("saved step 5")),
        (5, FloatingPointError("KL collapse")),
        (5, KeyboardInterrupt()),
    ):
        with pytest.raises(type(error)):
            live(tmp_path, step, error)
    found = run_record.read(tmp_path)
    starts = [found, *found["resumes"]]
    assert [(one["step"], one["ended"]) for one in starts] == [
        (0, "done"),
        (3, "saved step 5"),
        (5, "FloatingPointError: KL collapse"),
        (5, "KeyboardInterrupt"),
    ]
    for one in starts:
        start, end = (datetime.datetime.fromisoformat(one[n]) for n in ("start", "end"))
        assert start.utcoffset() == datetime.timedelta(0)
        assert 0 <= (end - start).total_seconds() <= one["seconds"] + 2
        assert one["device"]["platform"] == "cpu"
        assert one["command"] == shlex.join(sys.orig_argv)
        assert one["commit"] and one["versions"]["jax"]


@pytest.mark.parametrize("text", ["{", "{}", '{"start": 1, "resumes": [3]}'])
def test_a_damaged_one_begins_anew_and_one_that_cannot_be_written_stops_nothing(
    tmp_path, text
):
    (tmp_path / "no" / run_record.NAME).mkdir(parents=True)
    with run_record.kept(tmp_path / "no", step=0):
        pass
    (tmp_path / run_record.NAME).write_text(text)
    live(tmp_path, 7)
    found = run_record.read(tmp_path)
    assert (found["step"], found["ended"], found["resumes"]) == (7, "done", [])
