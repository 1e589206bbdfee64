"""The command line: what it prints, and how it ends on bad input."""

import command
import pytest


def ends_with(done, *words: str) -> None:
    """Checks for one message without a traceback, and a status that is not 0."""
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr, done.stderr
    print(done.stderr)
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.train.stepz=5"], ["stepz", "steps"]),
        (["--config.train.steps=many"], ["many", "steps"]),
        (
            ["--config.data.source=radiomapseer", "--config.data.root=/nowhere"],
            ["/nowhere", "radiomapseer.github.io"],
        ),
        (["--config.train.batch_size=3"], ["batch_size 3", "4 devices"]),
        (["surplus"], ["surplus", "--config.SECTION.FIELD=VALUE"]),
        (
            ["--config.data.root=gs://a/b", "--config.train.init_from=s3://c"],
            ["data.root=gs://a/b", "train.init_from=s3://c", "mount the bucket"],
        ),
    ],
)
def test_bad_input_ends_in_one_message(tmp_path, arguments, words):
    done = command.quickstart(tmp_path, *arguments, devices=4)
    ends_with(done, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_and_variant_are_named(tmp_path):
    listed = ("configs/quickstart.py", "configs/radio.py :native :f8", "Five minutes")
    ends_with(command.main("--config=configs/radar.py"), "configs/radar.py", *listed)
    ends_with(command.main("--config=configs/radio.py:f16"), "f16", ":f8")
    ends_with(command.main(), "--config", *listed)
    (tmp_path / "torn.py").write_text("def get_config(:")
    ends_with(command.main(f"--config={tmp_path}/torn.py"), "torn.py: SyntaxError")


def test_help_shows_the_commands_and_the_configs_and_is_no_error():
    done = command.main("--help")
    assert done.returncode == 0, done.stderr
    assert "--config configs/quickstart.py" in done.stdout
    assert "configs/vae.py :bce" in done.stdout
    assert "--workdir" in done.stdout


def test_a_platform_that_is_not_here_is_one_message(tmp_path, monkeypatch):
    there = command.environment() | {"JAX_PLATFORMS": "abacus"}
    monkeypatch.setattr(command, "environment", lambda devices: there)
    done = command.quickstart(tmp_path)
    ends_with(done, "JAX_PLATFORMS=abacus", "There is 1 x cpu", "without JAX_PLATFORMS")
    assert "internal error" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_work_without_their_docstrings(monkeypatch):
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    for name in ("apply", "report"):
        done = command.module(name, "--help")
        assert done.returncode == 0, done.stderr
