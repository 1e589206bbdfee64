"""How commands end: one message and a status, whatever goes wrong."""

import io
import logging as stdlib_logging
import os
import sys

import jax
import pytest
from absl import logging

from radiovae_jax import cli


@pytest.mark.parametrize(
    "error, status, words",
    [
        (ValueError("field x is 3"), 1, "error: field x is 3\n(--debug shows"),
        (OSError("no room"), 1, "error: no room"),
        (KeyError("x"), 1, "internal error: KeyError: 'x'"),
        (cli.Interrupted("at step 3"), 75, "interrupted: at step 3"),
        (KeyboardInterrupt(), 130, "\nstopped; begin again\n"),
    ],
)
def test_an_error_is_one_message_and_a_status(error, status, words, capsys):
    def work():
        raise error

    stopped = "stopped; begin again"
    assert cli.status(work, debug=False, stopped=stopped) == status
    assert words in capsys.readouterr().err


def test_done_is_0_and_debug_lets_the_error_through():
    assert cli.status(lambda: None, debug=False) == 0
    with pytest.raises(ZeroDivisionError):
        cli.status(lambda: 1 // 0, debug=True)


def test_results_that_cannot_be_written_name_place_and_flag(tmp_path):
    assert cli.folder(tmp_path / "a" / "b", flag="--out").is_dir()
    left = tmp_path / "a" / f".b.png.{2**22 + 1}.partial"
    left.touch()
    cli.folder(tmp_path / "a", flag="--out")
    assert not left.exists()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match=r"file.* cannot be .*; give another --out"):
            cli.folder(path, flag="--out")


@pytest.mark.parametrize("text", ["1", "10", "2.5", "two", "", "²"])
def test_flags_that_cannot_be_end_like_errors(text, capsys):
    parser = cli.Parser(prog="tool")
    parser.add_argument("--count", type=cli.at_least(2, 9))
    assert parser.parse_args(["--count=2"]).count == 2
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--count={text}"])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert f"{text!r} is no whole number from 2 to 9" in message
    assert "tool --help shows the flags" in message


MADVISE = "always [madvise] never"


@pytest.mark.parametrize(
    "again, given",
    [
        (True, {}),
        (True, dict(variables={"JAX_PLATFORMS": "cpu"}, device="nvidia0")),
        (False, dict(setting="[always] madvise never")),  # all programs have them
        (False, dict(variables={"GLIBC_TUNABLES": ""})),  # decided
        (False, dict(variables={"RADIOVAE_HUGE_PAGES": "0"})),
        (False, dict(device="nvidia0")),
        (False, dict(words=["--distributed"])),
        (False, dict(words=["--coordinator=localhost:1"])),
        (False, dict(trace=print)),  # a debugger
    ],
)
def test_a_program_starts_again_for_large_pages_where_it_has_to_ask(
    again, given, tmp_path, monkeypatch
):
    given = dict(setting=MADVISE, variables={}, device="", words=[], trace=None) | given
    starts = []
    monkeypatch.setattr(os, "execv", lambda *arguments: starts.append(arguments))
    monkeypatch.setattr(cli.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "environ", dict(given["variables"]))
    monkeypatch.setattr(sys, "argv", ["main", *given["words"]])
    monkeypatch.setattr(sys, "gettrace", lambda: given["trace"])
    (tmp_path / "dev" / given["device"]).mkdir(parents=True)
    path = tmp_path / "enabled"
    if given["setting"]:
        path.write_text(given["setting"])
    cli.with_huge_pages(path, tmp_path / "dev")
    cli.with_huge_pages(path, tmp_path / "dev")  # once, not again and again
    assert starts == [(sys.executable, sys.orig_argv)] * again


def test_a_path_flag_knows_the_home_folder_and_no_other_machine(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    parser = cli.Parser()
    parser.add_argument("--out", type=cli.path)
    assert parser.parse_args(["--out=~/a"]).out == tmp_path / "home" / "a"
    for wrong in ("", "gs://bucket/a", "s3://a", "~nobody_of_this_name/a"):
        with pytest.raises(SystemExit):
            parser.parse_args([f"--out={wrong}"])
        assert wrong in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, overrides",
    [
        ("--config.a.b=1,2 --config.a.b=1,2", {"a.b": "1,2"}),
        ("--config.a.b 1 -config.a.b=-2", {"a.b": "-2"}),
        ("--config.a.b=1 --config.a.b -2", {"a.b": "-2"}),
        ("--config.a=x=y --config.b=", {"a": "x=y", "b": ""}),
        ("--config.a.b -2 --count 3", {"a.b": "-2"}),
    ],
)
def test_of_a_field_that_is_given_twice_the_last_counts(words, overrides):
    parser = cli.ConfigParser()
    parser.add_argument("--config")
    parser.add_argument("--count", type=int)
    args = parser.parse_args(["--config=a", "--config", "b:c", *words.split()])
    assert (args.config, args.overrides) == ("b:c", overrides)
    assert args.count == (3 if "count" in words else None)


def test_help_is_no_error_for_a_reader_that_goes_away(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        with pytest.raises(SystemExit) as end:
            cli.Parser(doc="What it does.\n\nMore.").parse_args(["--help"])
        assert end.value.code == 0


def test_what_names_hold_does_not_reach_the_terminal(capsys):
    name = os.fsdecode(b"gr\xf6\x1b[31m")
    cli.say(f"{name}\nkl é 图")
    with pytest.raises(SystemExit):
        cli.fail(name)
    shown = capsys.readouterr()
    assert shown.out == "gr\\xf6\\x1b[31m\nkl é 图\n"
    assert shown.err == "\nerror: gr\\xf6\\x1b[31m\n"


def test_every_line_is_logged_once_and_plainly_whatever_a_library_installed(
    monkeypatch,
):
    root, stderr = stdlib_logging.root, io.StringIO()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(sys, "stderr", stderr)
    root.addHandler(stdlib_logging.StreamHandler(stderr))  # as basicConfig does
    for _ in range(2):
        cli.log_plainly(logging.INFO)
    for level in (stdlib_logging.INFO, stdlib_logging.WARNING):
        for path in ("radiovae_jax/training/loop.py", "orbax/a.py"):
            root.handle(root.makeRecord("absl", level, path, 1, "step %d", (3,), None))
    assert stderr.getvalue() == "step 3\nwarning: step 3\nwarning: step 3\n"


def test_devices_that_cannot_be_had_are_named_with_what_brings_them(monkeypatch):
    def no_plugin():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", no_plugin)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cuda")
    try:
        with pytest.raises(OSError, match=r"JAX_PLATFORMS=cuda: .*plugin") as info:
            cli.start_jax()
        assert jax.config.jax_platforms == "cuda"
    finally:
        jax.config.update("jax_platforms", before)
    assert 'pip install -e ".[cuda]"' in str(info.value)


def test_64_bits_are_switched_off_and_processes_joined_before_the_devices(caplog):
    joined = []
    jax.config.update("jax_enable_x64", True)
    try:
        cli.start_jax(lambda: joined.append(jax.config.jax_enable_x64))
        assert joined == [False]
    finally:
        jax.config.update("jax_enable_x64", False)


def test_work_goes_on_where_nobody_reads_what_it_says(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        with cli.one_message(debug=True):
            for _ in range(2):
                print("to nobody", flush=True)
        assert sys.stdout is nobody
