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
    ],
)
def test_bad_input_ends_in_one_message(tmp_path, arguments, words):
    done = command.quickstart(tmp_path, *arguments, devices=4)
    ends_with(done, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_and_variant_are_named(tmp_path):
    ends_with(command.main("--config=configs/radar.py"), "configs/radar.py")
    ends_with(command.main("--config=configs/radio.py:f16"), "f16", ":f8")
    ends_with(command.main(), "--config")


def test_help_shows_the_commands():
    done = command.main("--help")
    assert "--config configs/quickstart.py" in done.stdout
    assert "--workdir" in done.stdout
