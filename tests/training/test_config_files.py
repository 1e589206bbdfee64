"""Configs are found by name and by path, and listed."""

import pytest

from radiovae_jax.training import config_files


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_configs_are_listed_with_their_variants_and_first_lines(elsewhere):
    lines = config_files.listed().splitlines()
    (radio,) = (line for line in lines if line.startswith("  radio "))
    assert radio.split(maxsplit=3)[:3] == ["radio", ":native", ":f8"]
    assert radio.endswith(
        "The documented run: the RadioDiff VAE on RadioMapSeer at 320x320."
    )
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "mine.py").write_text('"""What it is.\n\nMore."""')
    (elsewhere / "configs" / "torn.py").write_text("def")
    more = config_files.listed().splitlines()[len(lines) :]
    assert [line.split() for line in more] == [
        ["configs/mine.py", "What", "it", "is."],
        ["configs/torn.py"],
    ]


def test_a_config_is_found_by_name_and_by_path(elsewhere):
    here = config_files.FOLDER / "radio.py"
    own = elsewhere / "configs" / "mine.py"
    own.parent.mkdir()
    for path in (own, own.with_name("radio.py"), elsewhere / "radio.py"):
        path.touch()
    assert config_files.find("radio:native") == (here, "native")
    assert config_files.find(f"{here}:f8") == (here, "f8")
    assert config_files.find("~/radio.py") == (elsewhere / "radio.py", "")
    assert config_files.find("mine")[0].samefile(own)
    assert config_files.find("configs/radio.py")[0].samefile(own.with_name("radio.py"))
