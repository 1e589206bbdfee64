"""The tables of docs/ on the published code against the configs: what they hold."""

import ast
import pathlib

import pytest
import tiny

from radiovae_jax.training import schema

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
# Page -> its configs, the columns after the first four.
PAGES = {
    "fidelity.md": ("radio", "radio_reference"),
    "second_stage.md": ("radio_ldm", "radio_ldm_reference"),
}


def rows(page: str) -> list[dict[str, str]]:
    """Returns the table of a page, a dict a row."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| point"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    header, _, *body = table
    assert header[0] == "point" and header[2:4] == ["released code", "field"]
    assert header[4:] == [f"{name}.py" for name in PAGES[page]]
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


@pytest.mark.parametrize(
    "page, row",
    [
        pytest.param(page, row, id=f"{page[:-3]}-{row['point']}")
        for page in PAGES
        for row in rows(page)
    ],
)
def test_the_row_says_what_both_configs_hold(page, row):
    columns = [f"{name}.py" for name in PAGES[page]]
    if row["field"] == "decided":
        assert row[columns[0]] == row[columns[1]]
        assert not quoted(row[columns[0]])
        return
    fields = quoted(row["field"])
    assert fields
    for column, name in zip(columns, PAGES[page], strict=True):
        values = [ast.literal_eval(text) for text in quoted(row[column])]
        config = settings(name)
        assert values == [config[field] for field in fields], column


@pytest.mark.parametrize("page", PAGES)
def test_every_field_in_which_the_two_differ_is_in_the_table(page):
    one, two = (settings(name) for name in PAGES[page])
    differing = {name for name in one if one[name] != two[name]}
    named = {field for row in rows(page) for field in quoted(row["field"])}
    # `resolution` only places attention, of which both have none outside the middle.
    assert differing - named <= {"autoencoder.resolution"}
    assert one.keys() == two.keys()
