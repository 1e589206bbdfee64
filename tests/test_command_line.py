"""How commands end: one message and a status, whatever goes wrong."""

import os
import sys

import pytest

from radiovae_jax import command_line


@pytest.mark.parametrize(
    "error, status, words",
    [
        (ValueError("field x is 3"), 1, "error: field x is 3\n(--debug shows"),
        (OSError("no room"), 1, "error: no room"),
        (KeyError("x"), 1, "internal error: KeyError: 'x'"),
        (command_line.Interrupted("at step 3"), 75, "interrupted: at step 3"),
        (KeyboardInterrupt(), 130, "\nstopped; begin again\n"),
    ],
)
def test_an_error_is_one_message_and_a_status(error, status, words, capsys):
    def work():
        raise error

    stopped = "stopped; begin again"
    assert command_line.status(work, debug=False, stopped=stopped) == status
    assert words in capsys.readouterr().err


def test_done_is_0_and_debug_lets_the_error_through():
    assert command_line.status(lambda: None, debug=False) == 0
    with pytest.raises(ZeroDivisionError):
        command_line.status(lambda: 1 // 0, debug=True)


def test_words_that_are_no_flags_are_refused():
    command_line.nothing_more(["evaluate"])
    with pytest.raises(ValueError, match="unexpected 'runs/b test'"):
        command_line.nothing_more(["evaluate", "runs/b", "test"])


def test_results_that_cannot_be_written_name_place_and_flag(tmp_path):
    assert command_line.folder(tmp_path / "a" / "b", flag="--out").is_dir()
    left = tmp_path / "a" / f".b.png.{2**22 + 1}.partial"
    left.touch()
    command_line.folder(tmp_path / "a", flag="--out")
    assert not left.exists()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match=r"file.* cannot be .*; give another --out"):
            command_line.folder(path, flag="--out")


@pytest.mark.parametrize("text", ["1", "-3", "2.5", "two", "", "²"])
def test_flags_that_cannot_be_end_like_errors(text, capsys):
    parser = command_line.Parser(prog="tool")
    parser.add_argument("--count", type=command_line.at_least(2))
    assert parser.parse_args(["--count=2"]).count == 2
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--count={text}"])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert f"{text!r} is no whole number from 2" in message
    assert "tool --help shows the flags" in message


def test_seeds_that_jax_would_wrap_are_refused(capsys):
    parser = command_line.Parser()
    seed = command_line.at_least(0, command_line.MAX_SEED)
    parser.add_argument("--seed", type=seed)
    assert parser.parse_args(["--seed=4294967295"]).seed == 2**32 - 1
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed=4294967296"])
    assert "no whole number from 0 to 4294967295" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting, variables, again",
    [
        ("always [madvise] never", {}, True),
        ("always [madvise] never", {"GLIBC_TUNABLES": ""}, False),  # decided
        ("[always] madvise never", {}, False),  # all programs have them
        ("always madvise [never]", {}, False),
        (None, {}, False),  # no Linux
    ],
)
def test_a_program_starts_again_for_large_pages_where_it_has_to_ask(
    setting, variables, again, tmp_path, monkeypatch
):
    starts = []
    monkeypatch.setattr(os, "execv", lambda *arguments: starts.append(arguments))
    monkeypatch.setattr(command_line.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "environ", dict(variables))
    path = tmp_path / "enabled"
    if setting:
        path.write_text(setting)
    command_line.with_huge_pages(path)
    command_line.with_huge_pages(path)  # the program started again does not again
    assert starts == [(sys.executable, sys.orig_argv)] * again
