"""The config of a run: read from a file, with fields from the command line."""

import ast
import difflib
from collections.abc import Mapping
from typing import Any

import ml_collections

from radiovae_jax.training import config_files

_YES_NO = dict.fromkeys(("true", "t", "1"), True) | dict.fromkeys(
    ("false", "f", "0"), False
)


def read(name: str, overrides: Mapping[str, str] | None = None):
    """Returns the config of a name or path, with other values for some fields.

    Args:
      overrides: {"section.field": text}.

    Raises:
      ValueError: no such config, variant or field, or no such value.
    """
    config = config_files.read(name)
    override(config, overrides or {})
    return config


def override(config: ml_collections.ConfigDict, texts: Mapping[str, str]) -> None:
    """Sets fields of a config to values that are given as text.

    Raises:
      ValueError: there is no such field, or it takes no such value.
    """
    for name, text in texts.items():
        names = _names(config)
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            near = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"--config.{name}: there is no such field{near}")
        section, _, field = name.rpartition(".")
        place = config[section] if section else config
        try:
            with config.ignore_type():
                place[field] = _value(text, place.get_type(field))
        except (ValueError, SyntaxError, KeyError) as error:
            raise ValueError(f"--config.{name}={text}: {error}") from error


def _names(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Returns section, section.field, ..."""
    names = []
    for name, value in config.items():
        names.append(prefix + name)
        if isinstance(value, ml_collections.ConfigDict):
            names += _names(value, f"{prefix}{name}.")
    return names


def _value(text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        return _YES_NO[text.lower()]
    if kind in (int, float):
        return None if text == "None" else kind(text)
    if kind is tuple:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    raise ValueError("it is a section")
