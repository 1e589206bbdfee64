"""Files are whole under their name, whoever writes them, and whatever ends it."""

import json
import math
import os

import command
import numpy as np
import pytest
from PIL import Image

from radiovae_jax import files


def test_two_processes_may_write_one_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with files.written(path) as first:
        first.write_text("same")
        monkeypatch.setattr(os, "getpid", lambda: 7)
        with files.written(path) as second:
            second.write_text("same")
        assert path.read_text() == "same"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.written(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finite_is_null_in_json(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [math.nan, 1.5], "b": {"c": (-math.inf, "nan")}})

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    read = json.loads(path.read_text(), parse_constant=no_constant)
    assert read == {"a": [None, 1.5], "b": {"c": [None, "nan"]}}


def test_only_what_killed_processes_left_is_swept(tmp_path):
    # Linux numbers its processes below 2^22; the parent of the tests runs.
    dead, alive = 2**22 + 1, os.getppid()
    here, away = f".a.npz.{files.HOST}@", ".a.npz.another-host@"
    stays = [f"{here}{alive}.partial", f".a.npz.{alive}.partial", "a.npz"]
    # Of another host the last write tells.
    stays += [".mine.partial", f"{away}{dead}.partial"]
    goes = [f"{here}{dead}.partial", f".a.npz.{dead}.partial", f"{away}{alive}.partial"]
    for name in (*stays, *goes):
        (tmp_path / name).touch()
    os.utime(tmp_path / goes[-1], (0, 0))
    files.sweep(tmp_path, "b.npz")
    assert len(list(tmp_path.iterdir())) == len(stays + goes)
    (tmp_path / f".city.{dead}.partial" / "png").mkdir(parents=True)
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stays)


def by_text(path):
    path.write_text("x" * 200_000)


def by_numpy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(200_000))


def by_pillow(path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    Image.fromarray(noise).save(path, format="PNG")


@pytest.mark.parametrize("write", [by_text, by_numpy, by_pillow])
def test_a_disk_without_room_is_said_with_the_file_and_what_helps(tmp_path, write):
    path = tmp_path / "a.png"
    with command.full_disk(100_000), pytest.raises(files.NoRoomError) as error:
        with files.written(path) as partial:
            write(partial)
    assert str(error.value).startswith(f"{path} cannot be written (")
    assert "make room, or write elsewhere" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("letter", ["a", "é", "图"])
def test_a_name_as_long_as_may_be_is_written(tmp_path, letter):
    name = letter * (251 // len(letter.encode())) + ".png"
    with files.written(tmp_path / name) as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    longer = [f"{letter}{name[:-4]}_{end}.png" for end in ("error", "errors")]
    fitting = [files.fitting(one) for one in longer]
    assert len({*fitting}) == 2 and fitting[0].endswith("_error.png")
    for one in fitting:
        (tmp_path / one).touch()
    assert files.fitting(name) == name
