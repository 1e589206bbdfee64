"""docs/fidelity.md against the configs: its table says what they hold."""

import ast
import pathlib

import pytest
import tiny

from radiovae_jax.training import schema

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "fidelity.md"
COLUMNS = ["point", "documents", "released code", "field"]
CONFIGS = {"radio.py": "radio", "radio_reference.py": "radio_reference"}


def rows() -> list[dict[str, str]]:
    """Returns the first table of the page, a dict a row."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| point"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    header, _, *body = table
    assert header == COLUMNS + list(CONFIGS)
    return [dict(zip(header, cells, strict=True)) for cells in body]


def quoted(cell: str) -> list[str]:
    """Returns what stands in backticks, but for remarks in parentheses."""
    found, depth = [], 0
    for i, part in enumerate(cell.split("`")):
        if i % 2 and not depth:
            found.append(part)
        elif not i % 2:
            depth += part.count("(") - part.count(")")
    return found


def settings(name: str) -> dict:
    """Returns {"section.field": value} of a config, tuples as they are."""
    return schema.flat(tiny.read(name).to_dict())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["point"])
def test_the_row_says_what_both_configs_hold(row):
    if row["field"] == "decided":
        assert row["radio.py"] == row["radio_reference.py"]
        assert not quoted(row["radio.py"])
        return
    fields = quoted(row["field"])
    assert fields
    for column, name in CONFIGS.items():
        values = [ast.literal_eval(text) for text in quoted(row[column])]
        config = settings(name)
        assert values == [config[field] for field in fields], column


def test_every_field_in_which_the_two_differ_is_in_the_table():
    one, two = (settings(name) for name in CONFIGS.values())
    differing = {name for name in one if one[name] != two[name]}
    named = {field for row in rows() for field in quoted(row["field"])}
    # `resolution` only places attention, of which both have none outside the middle.
    assert differing - named == {"autoencoder.resolution"}
    assert one.keys() == two.keys()
