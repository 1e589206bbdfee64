"""The command line: what it prints, and how it ends on bad input."""

import pathlib

import command
import pytest

from radiovae_jax import evaluate, main


def ends_with(done, *words: str) -> None:
    """Checks for one message without a traceback, and a status that is not 0."""
    assert getattr(done, "status", None) or getattr(done, "returncode", None)
    assert "Traceback" not in done.stderr, done.stderr
    print(done.stderr)
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.train.stepz=5"], ["train.stepz", "did you mean train.steps?"]),
        (["--config.trian.steps=5"], ["trian.steps", "did you mean train.steps?"]),
        (["--config.train.steps=many"], ["train.steps='many'", "a whole number"]),
        (["--config.train.steps"], ["--config.train.steps=VALUE"]),
        (["--config.train=5"], ["train", "a section"]),
        (
            ["--config.data.source=radiomapseer", "--config.data.root=/nowhere"],
            ["/nowhere", "radiomapseer.github.io"],
        ),
        (["surplus"], ["surplus", "--config.SECTION.FIELD=VALUE"]),
        (["--workdr=x"], ["--workdr=x", "did you mean --workdir?"]),
        (["--workdir=gs://a/b"], ["gs://a/b", "mount the bucket"]),
        (
            ["--config.data.root=gs://a/b", "--config.train.init_from=s3://c"],
            ["data.root=gs://a/b", "train.init_from=s3://c", "mount the bucket"],
        ),
    ],
)
def test_bad_input_ends_in_one_message(tmp_path, arguments, words):
    done = command.call("main", *command.tiny_quickstart(tmp_path, *arguments))
    ends_with(done, *words)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_spread_over_the_devices_ends_in_one_message(tmp_path):
    done = command.quickstart(tmp_path, "--config.train.batch_size=3", devices=4)
    ends_with(done, "batch_size 3", "4 devices")
    assert "absl" not in done.stderr
    assert not (tmp_path / "run").exists()


LISTED = ("  quickstart  ", "  radio :native :f8  ", "Five minutes")


@pytest.mark.parametrize(
    "config, words",
    [
        ("configs/radar.py", ["configs/radar.py", *LISTED]),
        ("radar", ["radar", *LISTED]),
        ("radio:f16", ["'f16'", ":native, :f8"]),
        ("quickstart:f16", ["no variant 'f16'"]),
        ("gs://a/b.py", ["gs://a/b.py", "mount the bucket"]),
        ("torn.py", ["torn.py: SyntaxError"]),
        ("ends.py", ["ends.py: set MAPS first"]),
        ("empty.py", ["empty.py", "get_config"]),
        ("none.py", ["none.py", "no ConfigDict"]),
        ("", LISTED),
    ],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path, monkeypatch, config, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.py").write_text("def get_config(:")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('set MAPS first')")
    (tmp_path / "empty.py").touch()
    (tmp_path / "none.py").write_text("def get_config(): pass")
    ends_with(command.call("main", *[f"--config={config}"] * bool(config)), *words)


def test_a_platform_that_is_not_here_is_one_message(tmp_path, monkeypatch):
    there = command.environment() | {"JAX_PLATFORMS": "abacus"}
    monkeypatch.setattr(command, "environment", lambda devices: there)
    done = command.quickstart(tmp_path)
    ends_with(done, "JAX_PLATFORMS=abacus", "without JAX_PLATFORMS")
    assert "internal error" not in done.stderr
    assert list(tmp_path.iterdir()) == []


COMMANDS = ["main", "evaluate", "report", "apply"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_without_its_docstring_too(monkeypatch, name):
    done = command.module(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m radiovae_jax.{name} " in done.stdout
    assert ("vae :bce" in done.stdout) == (name == "main")
    monkeypatch.setattr(f"radiovae_jax.{name}.__doc__", None)
    assert command.call(name, "--help").status == 0


def test_the_fields_of_a_config_are_printed_and_nothing_is_trained(tmp_path):
    words = command.tiny_quickstart(tmp_path, "--print_config=disc_ndf")
    done = command.call("main", *words)
    assert (done.status, done.stderr) == (0, "")
    _, line = done.stdout.splitlines()
    assert line.split()[:3] == ["*", "loss.disc_ndf", "8"]
    assert "default 64" in line and not list(tmp_path.iterdir())
    whole = command.call("main", "--print_config").stdout
    assert "\n  loss.lecam_weight " in whole and "\n*" not in whole


def test_a_path_that_is_not_given_is_none_and_not_the_folder_one_stands_in():
    for module in (main, evaluate):
        args = module.parser().parse_args(["--workdir=x"])
        paths = {
            n for n, value in vars(args).items() if isinstance(value, pathlib.Path)
        }
        assert paths == {"workdir"}
