"""The schema of the config: read, check and describe one by the table in fields.py.

python -m radiovae_jax.training.schema > docs/config.md
"""

import ast
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from radiovae_jax import inputs
from radiovae_jax.training import config_files, fields
from radiovae_jax.training.fields import FIELDS
from radiovae_jax.training.rules import Field

YES_NO = dict(true=True, t=True, yes=True, false=False, f=False, no=False)
YES_NO |= {"1": True, "0": False}
Nested = dict | ml_collections.ConfigDict
PAGE = """# The fields of the config

Every field, with its default (`configs/radio.py`, the documented run); a config file
says what differs. `autoencoder` and `loss` are of the first stage alone, `first_stage`,
`process`, `denoiser` and `condition` of the second. `--config.SECTION.FIELD=VALUE` sets
one on the command line, `--print_config` shows those of a config,
`--print_config=lecam` those with that word.
*Resumed*: whether a run that goes on may have another value.

This page is made of `radiovae_jax/training/fields.py`, and a test compares them:

    python -m radiovae_jax.training.schema > docs/config.md
"""


def defaults(stage: str = "vae") -> ml_collections.ConfigDict:
    """Returns a config of the stage's defaults, to be changed by a config file."""
    config = ml_collections.ConfigDict()
    for name, field in fields.of(stage).items():
        nothing = field.default is None
        put(config, name, config_dict.placeholder(float) if nothing else field.default)
    config.stage = stage
    return config


def read(
    name: str, overrides: Mapping[str, str] | None = None
) -> ml_collections.ConfigDict:
    """Returns the checked config of a name or path, with other values for some fields.

    Args:
      overrides: {"section.field": text}.

    Raises:
      ValueError: no such config, variant or field, or no such value.
    """
    config = config_files.read(name)
    override(config, overrides or {})
    check(config)
    return config


def override(config: ml_collections.ConfigDict, texts: Mapping[str, str]) -> None:
    """Sets fields, which must be there, to values that are given as text, unchecked."""
    known = fields.of(config.get("stage", "vae"))
    for name, text in texts.items():
        if name not in known:
            section = f"{name}." in {field[: len(name) + 1] for field in known}
            what = f"no field{near(name, known)}"
            what = "a section: give its fields" if section else what
            raise ValueError(f"--config.{name}={text}: {name} is {what}")
        if name == "stage" and text != config.stage:
            raise ValueError(f"--config.stage={text}: choose a --config of that stage")
        put(config, name, _value(text, FIELDS[name]))


def put(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Sets "section.field"; sections that are not there are made."""
    *sections, field = name.split(".")
    for section in sections:
        if section not in config:
            config[section] = ml_collections.ConfigDict()
        config = config[section]
    with config.unlocked(), config.ignore_type():
        config[field] = value


def _value(text: str, field: Field) -> Any:
    """Returns what a text is of the kind that a field has; else the text."""
    default = field.default
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return YES_NO.get(text.lower(), text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, tuple) and not field.rule.allows(value):
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    whole = type(value) is int
    return float(value) if whole and isinstance(default, float | None) else value


def near(name: str, known: Mapping[str, Field]) -> str:
    """Returns "; did you mean ...?" where a known field or section has such a name.

    Of a field or section that only another stage has it says so.
    """
    for stage in fields.OWN:
        there = fields.of(stage)
        if name in {*there, *(field.rpartition(".")[0] for field in there)} - {""}:
            return f" of this stage: it is of stage={stage}, and of its configs"
    names = {*known, *(field.rpartition(".")[0] for field in known)}
    if "." not in name:
        names |= {field.rpartition(".")[2] for field in known}
    close = difflib.get_close_matches(name, sorted(names), 1)
    return f"; did you mean {close[0]}?" if close else ""


def check(config: ml_collections.ConfigDict) -> None:
    """Writes the home folder for ~ in the config's paths; checks every field.

    Raises a ValueError that names all that are unknown, missing or impossible.
    """
    values = config.to_dict()
    known = fields.of(values.get("stage", "vae"))
    problems = list(_problems(values, "", known))
    problems = problems or [*fields.contradictions(config), *_paths(config)]
    if problems:
        raise ValueError(
            "the config does not fit this version:\n  " + "\n  ".join(problems)
        )


def _problems(
    values: Mapping[str, Any], prefix: str, known: Mapping[str, Field]
) -> Iterator[str]:
    here = {name.removeprefix(prefix) for name in known if name.startswith(prefix)}
    here = {name.partition(".")[0] for name in here}
    for name in sorted(here - values.keys()):
        field = known.get(prefix + name)
        yield f"{prefix}{name} is missing: {field.rule.words if field else 'a section'}"
    for part, value in values.items():
        name = prefix + part
        if part not in here:
            yield f"{name} is no field{near(name, known)}"
        elif name in known:
            if not known[name].rule.allows(value):
                yield f"{name}={value!r} must be {known[name].rule.words}"
        elif isinstance(value, dict):
            yield from _problems(value, f"{name}.", known)
        else:
            yield f"{name}={value!r} must be a section"


def _paths(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Writes the home folder for ~; yields paths that are not of this machine."""
    for name in fields.of(config.stage).keys() & set(fields.PATHS):
        path = config[name]
        try:
            local = str(inputs.local(path, name))
            if path.startswith("~"):
                put(config, name, local)
        except ValueError as error:
            yield str(error)


def flat(values: Nested, prefix: str = "") -> dict[str, Any]:
    """Returns {"section.field": value} of a config or of its JSON."""
    items: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Nested)
        items |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return items


def names(resume: str) -> tuple[str, ...]:
    """Returns the fields that a resumed run may change so, see rules.py."""
    return tuple(name for name, field in FIELDS.items() if field.resume == resume)


def older(stage: str = "vae") -> dict[str, Any]:
    """Returns the fields that version 0.1 lacked, with the values it acted by."""
    return {name: f.older for name, f in fields.of(stage).items() if f.older != ()}


def describe(config: ml_collections.ConfigDict, word: str = "") -> str:
    """Returns a line for each field (with a word): name, value, meaning."""
    lines, values, known = [], flat(config), fields.of(config.stage)
    for name, field in known.items():
        value = values[name]
        same = value == field.default
        note = "" if same else f" (default {field.default!r})"
        line = f"{name:<32} {value!r:<20} {field.meaning}{note}"
        if word.lower() in line.lower():
            lines.append(f"{' ' if same else '*'} {line}")
    if not lines:
        raise ValueError(f"no field has {word!r} in its line{near(word, known)}")
    return "\n".join(["* differs from the default", *lines])


def page() -> str:
    """Returns docs/config.md."""
    lines, last = [PAGE.rstrip()], None
    for name, field in FIELDS.items():
        section, _, short = name.rpartition(".")
        if section != last:
            head = f"\n## {section}\n" if section else ""
            lines.append(f"{head}\n| field | default | may be | what | resumed |")
            lines.append("|---|---|---|---|---|")
            last = section
        words = field.rule.words.replace(" to 2147483647", "").partition(";")[0]
        cells = (f"`{short}`", f"`{field.default!r}`", words, field.meaning)
        lines.append(f"| {' | '.join(cells)} | {field.resume} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
