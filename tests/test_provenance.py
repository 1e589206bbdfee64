"""Which code it was: of a checkout, of a wheel, of neither."""

import importlib.metadata
import json
import pathlib

import pytest

import radiovae_jax
from radiovae_jax import provenance

PROJECT = pathlib.Path(provenance.__file__).resolve().parents[1]


class Wheel:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


NOTED = json.dumps(
    {"url": "", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
)
NONE = f"version {radiovae_jax.__version__}, no commit known"


@pytest.mark.parametrize(
    "checkout, noted, commit",
    [
        (str(PROJECT), NOTED, "of git"),
        ("/another/project", NOTED, "0123456789ab"),  # a virtual environment inside it
        ("", NOTED, "0123456789ab"),
        ("", None, NONE),
        ("", json.dumps({"url": "file:///a.whl", "archive_info": {}}), NONE),
        ("", "torn", NONE),
    ],
)
def test_a_commit_is_that_of_this_code(checkout, noted, commit, monkeypatch):
    def git(folder, *words):
        return checkout if words[0] == "rev-parse" else "of git"

    monkeypatch.setattr(provenance, "_git", git)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Wheel(noted))
    assert provenance.commit() == commit


def test_a_wheel_has_the_commit_that_it_was_built_from(monkeypatch, tmp_path):
    (tmp_path / "commit.txt").write_text("fedcba987654\n")
    monkeypatch.setattr(provenance, "_git", lambda folder, *words: "")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.commit() == "fedcba987654"


def test_versions_are_of_all_that_computes():
    found = provenance.versions()
    assert found["jax"] == importlib.metadata.version("jax")
    assert {"radiovae_jax", "python", "jaxlib", "flax", "optax", "numpy"} <= set(found)
