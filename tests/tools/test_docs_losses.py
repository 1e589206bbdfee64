"""docs/losses.md: complete in its fields, true in its functions and numbers."""

import importlib
import pathlib
import re

import numpy as np
import pytest
import tiny
import tool

from radiovae_jax import losses, physics
from radiovae_jax.vae import objectives

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "losses.md").read_text()
QUOTED = re.findall(r"`([^`\n]+)`", PAGE)
FUNCTION = re.compile(r"(losses|physics|(?:nn|vae|training)\.\w+)\.(?!py)\w+")


@pytest.mark.parametrize("field", sorted(tiny.read("radio").loss))
def test_every_field_of_the_loss_is_there(field):
    # Either `field` itself or `field="choice"`.
    assert any(name.partition("=")[0] == field for name in QUOTED)


@pytest.mark.parametrize("name", sorted(set(filter(FUNCTION.fullmatch, QUOTED))))
def test_every_function_named_exists(name):
    module, _, function = name.rpartition(".")
    assert hasattr(importlib.import_module(f"radiovae_jax.{module}"), function)


@pytest.mark.parametrize(
    "module, left_out",
    [
        (losses, {"absolute"}),
        # Units and stencils, of which the terms are made.
        (
            physics,
            set(
                "gain_to_db db_to_gain db_to_watt watt_to_db model_to_gain rescaled "
                "to_radiomapseer interior laplacian neighbours".split()
            ),
        ),
    ],
)
def test_every_public_function_is_on_the_page(module, left_out):
    short = module.__name__.rpartition(".")[2]
    public = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
        and callable(value)
        and not isinstance(value, type)
        and not name.startswith("_")
    }
    missing = {name for name in public - left_out if f"{short}.{name}" not in QUOTED}
    assert not missing


def test_the_table_of_objectives_holds_the_configs_numbers():
    config = tiny.read("radio").loss.objectives
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| (\d.*)$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == set(config)
    for name, terms, rest in rows:
        assert tuple(terms.split(", ")) == objectives.TERMS[name]
        numbers = [
            [float(n) for n in re.findall(r"[\d.]+", cell)]
            for cell in rest.strip("| ").split(" | ")
        ]
        total, balance, pixel_weights = numbers
        assert tuple(total) == config[name].total
        assert tuple(balance) == config[name].balance
        shown = pixel_weights * (3 if len(pixel_weights) == 1 else 1)
        assert tuple(shown) == config[name].pixel_weights


def test_every_kind_and_choice_is_named():
    choices = [*losses.RECONSTRUCTION, *losses.REDUCTION, "hinge", "vanilla"]
    for name in choices:
        assert re.search(rf"\b{name}\b", PAGE), name


def test_the_pictures_are_the_tools_and_small():
    named = {
        name for name in re.findall(r"\]\((\w+\.png)\)", PAGE) if "sweep" not in name
    }
    assert named == set(tool.load("plot_losses").PICTURES)
    for name in named:
        assert (DOCS / name).stat().st_size < 200_000


def test_the_curves_are_the_losses():
    tools = tool.load("plot_losses")
    real, fake = tools.discriminator().axes
    # At logit 0 the halved hinge is 1/2 and the halved cross-entropy log(2) / 2; at -1
    # a real patch costs 1 and log(1 + e) / 2, and a fake one the generator 1.
    for axis, at, expected in (
        (real, 0, [0.5, np.log(2) / 2]),
        (real, -1, [1, np.log(1 + np.e) / 2]),
        (fake, 0, [0.5, np.log(2) / 2, 0]),
        (fake, -1, [0, np.log(1 + np.exp(-1)) / 2, 1]),
    ):
        found = [
            np.interp(at, *line.get_data())
            for line in axis.lines
            if line.get_label()[0] != "_"
        ]
        np.testing.assert_allclose(found, expected, atol=1e-3)
    constant, linear, cyclical = tools.kl_schedules().axes
    for axis, at, expected in (
        (constant, 0, 1),
        (linear, 150, 0.5),
        (cyclical, 250, 0),
    ):
        np.testing.assert_allclose(axis.lines[0].get_ydata()[at], expected)
