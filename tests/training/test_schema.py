"""The schema of the config: one table, from which all else about a field comes."""

import pathlib

import ml_collections
import pytest
import tiny

from radiovae_jax import losses
from radiovae_jax.data import augmentation, conditions, sources
from radiovae_jax.diffusion import process
from radiovae_jax.training import fields, schema
from radiovae_jax.vae import loss_schedules, objectives

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "config.md"


def test_the_page_of_the_fields_is_what_its_command_prints():
    command = "python -m radiovae_jax.training.schema > docs/config.md"
    assert command in PAGE.read_text()
    assert PAGE.read_text() == schema.page(), f"make it anew: {command}"


def test_the_table_s_choices_are_those_of_the_modules_that_own_them():
    assert fields.OBJECTIVES == objectives.TERMS
    assert fields.TERMS == objectives.Pixelwise._fields
    for name, choices in {
        "loss.reconstruction": losses.RECONSTRUCTION,
        "loss.reduction": losses.REDUCTION,
        "loss.kl_schedule": loss_schedules.KL,
        "data.augment": augmentation.AUGMENTATIONS,
        "process.kind": process.KINDS,
        "condition.planes": conditions.KINDS,
        "data.source": sources.KINDS,
    }.items():
        rule = schema.FIELDS[name].rule
        one = (lambda choice: (choice,)) if "tuple" in rule.words else str
        assert all(map(rule.allows, map(one, choices))), name
        words = rule.words.partition(";")[0].partition("one of ")[2]
        assert sorted(words.split(", ")) == sorted(map(repr, choices)), name


def test_every_default_keeps_its_rule_and_every_meaning_is_one_short_line():
    for name, field in schema.FIELDS.items():
        assert field.rule.allows(field.default), name
        assert field.older == () or field.rule.allows(field.older), name
        assert 2 < len(field.meaning) <= 80 and "\n" not in field.meaning, name
    for stage in fields.OWN:
        schema.check(schema.defaults(stage))


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("train.steps", "7", 7),
        ("train.init_from", "None", "None"),
        ("train.extend", "0", False),
        ("loss.kl_weight", "4", 4.0),
        ("data.db_span", "None", None),
        ("autoencoder.ch_mult", "1,2", (1, 2)),
        ("autoencoder.ch_mult", "[1, 2]", (1, 2)),
        ("autoencoder.resolution", "(64, 32)", (64, 32)),
        ("autoencoder.attn_resolutions", "16", (16,)),
        ("ema.of", "('autoencoder','logvar')", ("autoencoder", "logvar")),
        ("loss.objectives.edge.total", "1,2,0", (1, 2, 0)),
    ],
)
def test_a_field_takes_a_text_as_a_value_of_its_kind(name, text, value):
    config = schema.defaults()
    schema.override(config, {name: text})
    there = schema.flat(config)
    assert there[name] == value and type(there[name]) is type(value)
    assert {n for n, v in there.items() if v != schema.FIELDS[n].default} <= {name}


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("train.steps", "many", "train.steps='many' must be a whole number from 1"),
        ("train.extend", "maybe", "train.extend='maybe' must be True or False"),
        ("loss.kl_weight", "1e999", "loss.kl_weight=inf must be a number from 0"),
        ("denoiser.width", "64", "denoiser.width=64: denoiser.width is no field"),
    ],
)
def test_a_text_that_is_no_such_value_is_named_with_the_rule(name, text, message):
    with pytest.raises(ValueError) as error:
        schema.read("quickstart", {name: text})
    assert message in str(error.value)


def test_sections_that_are_missing_or_none_are_named_once():
    config = tiny.read("quickstart")
    del config.ema
    config.data.synthetic = ml_collections.ConfigDict({"maps": 1})
    with config.ignore_type():
        config.optimizer = 3
    config.trian = ml_collections.ConfigDict({"steps": 3, "stop_at": 2})
    with pytest.raises(ValueError) as error:
        schema.check(config)
    lines = str(error.value).split("\n  ")[1:]
    assert "ema is missing: a section" in lines
    assert (
        "data.synthetic.seed is missing: a whole number from 0 to 4294967295" in lines
    )
    assert "optimizer=3 must be a section" in lines
    assert "trian is no field; did you mean train?" in lines
    assert len(lines) == 6


def test_a_config_is_described_and_what_differs_is_marked():
    config = schema.read("quickstart", {"loss.lecam_weight": "0.5"})
    lines = schema.describe(config).splitlines()[1:]
    assert [line.split()[0 if line[0] == " " else 1] for line in lines] == [
        *fields.of("vae")
    ]
    marked = {line.split()[1] for line in lines if line.startswith("*")}
    assert {"loss.lecam_weight", "train.steps", "ema.decay"} < marked
    assert not {"seed", "loss.disc_weight", "ema.of"} & marked
    (weight,) = schema.describe(config, "past (").splitlines()[1:]
    assert weight.split(maxsplit=3) == [
        *("*", "loss.lecam_weight", "0.5"),
        "of the discriminator's distance from its past (default 0.0)",
    ]
    with pytest.raises(ValueError, match=r"no field has 'lecam_wieght'.*lecam_weight"):
        schema.describe(config, "lecam_wieght")


def test_another_default_of_a_newer_version_is_seen_in_what_an_older_run_lacks():
    changed = {n for n, v in schema.older().items() if v != schema.FIELDS[n].default}
    assert changed == {"data.split_by"}
