"""The README and CONTRIBUTING: what they name is there, the snippet runs."""

import pathlib
import re

import numpy as np
import pytest
import tiny

from radiovae_jax import apply
from radiovae_jax.data import radiomap

PROJECT = pathlib.Path(__file__).resolve().parents[1]
README = PROJECT / "README.md"


PLACES = ("", "radiovae_jax", "configs", "docs", "tools", "benchmarks")
PAGES = [README, PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_and_link_that_a_page_names_is_there(page):
    text = page.read_text()
    named = {*re.findall(r"`([\w/.]+\.(?:py|md|cff))\b[^`]*`", text)}
    named |= {link for link in re.findall(r"\]\(([^)#]+)", text) if ":" not in link}
    places = [PROJECT / place for place in PLACES]
    missing = {n for n in named if not any((p / n).exists() for p in places)}
    assert named and not missing


@pytest.mark.usefixtures("quick_compile")
def test_the_snippet_gives_the_latents_of_apply_encode(city, tmp_path, monkeypatch):
    config = tiny.config(city, steps=1, validate_every=10)
    # A run that resizes: 64x64 as stored, 32x32 as the network sees it.
    config.data.image_size = 32
    config.data.update(root=str(tmp_path / "city"), synthetic=dict(maps=3, size=64))
    tiny.train(config, tmp_path / "runs/radio")
    source = next((city / "gain/DPM").glob("*.png"))
    radiomap.write_png(tmp_path / "0_0.png", radiomap.read_map(source))
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"## Use\n\n```python\n(.+?)```", README.read_text(), re.DOTALL)
    got: dict = {}
    exec(snippet[1], got)
    flags = ["--workdir=runs/radio", "--out=out"]
    assert apply.main(["encode", "0_0.png", *flags]) == 0
    assert apply.main(["reconstruct", "0_0.png", "--format=npy", *flags]) == 0
    with np.load("out/latents.npz") as latents:
        np.testing.assert_array_equal(got["z"], latents["mean"])
    np.testing.assert_array_equal(got["recon"][0, ..., 0], np.load("out/0_0.npy"))
    assert got["z"].shape == (1, 16, 16, 3) and got["error_db"].shape == (1, 64, 64, 1)
