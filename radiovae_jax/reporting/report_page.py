"""The HTML of a report: everything a run's folder holds, in one file, escaped."""

import base64
import contextlib
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from flax import traverse_util

from radiovae_jax import files, inputs, metrics
from radiovae_jax.data import radiomap
from radiovae_jax.evaluation import evaluator, record
from radiovae_jax.reporting import charts, curves, diagnosis, panels, quantities
from radiovae_jax.reporting.charts import Chart
from radiovae_jax.reporting.curves import DAMAGED, NO_CHARTS, Charts, Run
from radiovae_jax.training import run_record

PICTURE = re.compile(r"(_\d{7})?\.png$")  # the step in the name of a picture
TILES = 6  # numbers shown large, of the first charts; and the speed
TEXT = ' class="text"'  # a cell that is no number
# No script, style or picture but those in the file; nothing is sent anywhere.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


def write(workdir: pathlib.Path, stage: Charts = NO_CHARTS) -> pathlib.Path:
    """Writes `report.html` into the folder of a run and returns its path.

    Raises:
      FileNotFoundError: no run, or one that has not logged yet.
      OSError: it cannot be written.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "report.html"
    files.sweep(workdir)
    with files.written(path) as partial:
        # Paths may hold bytes that are no UTF-8.
        partial.write_text(page(workdir, stage), "utf-8", errors="backslashreplace")
    return path


def page(workdir: pathlib.Path, stage: Charts = NO_CHARTS) -> str:
    """Returns the report of a run as HTML."""
    run = curves.read(workdir, stage)
    drawn, constants = charts.of(run)
    name = escape(workdir.resolve().name)
    sections = {
        "Warnings": warnings(run),
        "Pictures": pictures(
            newest(workdir / "images") + newest(workdir / "evaluation")
        )
        or hint("No pictures yet: validation draws them (data.val_split)."),
        "Curves": curves_of(run, drawn, constants),
        "Evaluation": evaluations(workdir, run.db),
        "Validation in training": validations(run),
        "Latents": latents(workdir, run.stage),
        "Run": starts(run_record.read(workdir)),
        "Config": settings(run.config),
    }
    sections = {title: content for title, content in sections.items() if content}
    anchors = {title: re.sub(r"\W+", "-", title.lower()) for title in sections}
    links = (f'<a href="#{anchors[title]}">{title}</a>' for title in sections)
    progress = f"step {run.last_step:,} of {run.config['train']['steps']:,}"
    data = script_json(charts.data(run, drawn))
    headed = "\n".join(
        f'<h2 id="{anchors[title]}">{title}</h2>\n{content}'
        for title, content in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
{asset("report_page.css")}</style>
</head>
<body>
<main>
<h1>{name}</h1>
{hint("; ".join(filter(None, (progress, panels.phase_words(run)))))}
{tiles(run)}
<nav>{"".join(links)}</nav>
{headed}
</main>
<script type="application/json" id="run-data">{data}</script>
<script>
{asset("report_page.js")}</script>
</body>
</html>
"""


def tiles(run: Run) -> str:
    """Returns the latest numbers of the first charts, large."""
    cells, speed = [], "time/images_per_second"
    for name, *_ in charts.complete(run).values():
        steps, values = curves.curve(run, name)
        if len(values) and (len(cells) < TILES or name == speed):
            label, _, _, unit, _ = quantities.look(name, run.db)
            words = ", ".join(filter(None, (label, unit, f"step {steps[-1]:,.0f}")))
            latest = f"<b>{number(values[-1])}</b><span>{escape(words)}</span>"
            cells.append(f'<div class="card">{latest}</div>')
    return f'<div class="tiles">{"".join(cells)}</div>'


def warnings(run: Run) -> str:
    found = diagnosis.warnings(run)
    if not found:
        return '<div class="card fine">Nothing stands out in the numbers.</div>'
    cards = (card(one.what, f"<p>{escape(one.why)}</p>") for one in found)
    return f'<div class="warnings">{"".join(cards)}</div>'


def curves_of(run: Run, drawn: Sequence[Chart], constants: Sequence[str]) -> str:
    """Returns the charts, empty: the script draws into them."""
    listed = f"Constant, not drawn: {', '.join(constants)}." if constants else ""
    shaded = f"Shaded: with the {run.stage.later}. " * run.shows_switch
    return (
        '<p class="soft hint">The wheel or a drag zooms all of them along the steps, a '
        "double click shows everything; the boxes in a legend switch curves. Faint: as "
        f"logged; bold: running median over 1/{curves.WINDOWS} of the lines; dots: "
        f"validation. {shaded}A legend has the values at the step that is pointed at, "
        f"else the last ones.</p>\n{hint(listed)}\n"
        '<noscript><p class="card">The curves need JavaScript; as pictures they are in '
        'the folder figures/.</p></noscript>\n<div class="charts" id="charts">'
        '<p class="tools"><button id="all">all steps</button> '
        f'step <output id="step"></output></p>{"".join(map(chart, drawn))}</div>'
    )


def chart(one: Chart) -> str:
    lines, legend = [], []
    for curve in one.drawn:
        line = f'<path stroke-dasharray="{curve.dash}"/>'
        dots = '<path class="dots"/>' * (curve.circles or len(curve.points.steps) == 1)
        raw = '<path class="raw"/>' * (curve.raw is not None)
        lines.append(f'<g stroke="{curve.colour}">{raw}{line}{dots}</g>')
        # The same paths: the script fills those of the plot.
        sample = line.replace("/>", ' d="M0 5H24"/>')
        sample += dots.replace("/>", ' d="M12 5h.01"/>')
        legend.append(
            f'<label><input type="checkbox" checked><svg stroke="{curve.colour}">'
            f"{sample}</svg>{escape(curve.label)} <output></output></label>"
        )
    return (
        f'<figure class="card chart"><h3>{escape(one.title)}</h3><label>'
        f'<input type="checkbox" class="log"{" checked" * one.log}> log</label>'
        '<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none">'
        f'<rect height="1000"/>{"".join(lines)}</svg></div>'
        f'<div class="legend">{"".join(legend)}</div></figure>\n'
    )


def pictures(paths: Sequence[pathlib.Path]) -> str:
    """Returns pictures with their names, embedded; "" if there are none."""
    shown = []
    for path in paths:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        caption = escape(f"{path.parent.name}/{path.name}")
        shown.append(
            f'<figure class="card"><img src="data:image/png;base64,{content}" '
            f'alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="pictures">{"".join(shown)}</div>' if shown else ""


def newest(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns of NAME_0000100.png, NAME_0000200.png, ... the last, for every NAME."""
    paths = sorted(folder.glob("*.png"))
    return [*{PICTURE.sub("", path.name): path for path in paths}.values()]


def evaluations(workdir: pathlib.Path, db: radiomap.DbRange) -> str:
    """Returns a table for every record in evaluation/."""
    command = f"python -m radiovae_jax.evaluate --workdir {workdir}"
    parts = []
    for path in sorted((workdir / "evaluation").glob("*.json")):
        try:
            parts.append(evaluation(path.stem, read_json(path), db))
        except DAMAGED:
            wrong = f"{path.name} is damaged, or no record of an evaluation"
            parts.append(hint(f"{wrong}. To write it: {command} --split {path.stem}"))
    return "\n".join(parts) or hint(f"Not evaluated yet: {command}")


def evaluation(split: str, found: Mapping[str, Any], db: radiomap.DbRange) -> str:
    names = *evaluator.columns(db.suffix), *evaluator.pooled_columns(db.suffix)
    rows = [
        (row, scale, region, *(numbers.get(name) for name in names))
        for row, by_scale in found["rows"].items()
        for scale, by_region in by_scale.items()
        for region, numbers in by_region.items()
    ]
    notes = [found["data"], record.conditions(found), *found.get("summary", ())]
    title = f"{split}, step {found['step']}, {found['weights']} weights"
    return (
        f"<h3>{escape(title)}</h3>"
        f'<p class="soft">{"<br>".join(escape(str(note)) for note in notes)}</p>'
        + table(("row", "scale", "region", *names), rows)
        + hint("–: infinite, or not there. Pooled: all pixels taken as one map.")
    )


def validations(run: Run) -> str:
    """Returns the last validation beside the best one."""

    def names(line: curves.Line) -> list[str]:
        # What is 0 in all of them has no meaning there, as a weight that balances
        # gradients, or none yet.
        return sorted(n for n in line if n.startswith("val/") and n in measured)

    def deciding(line: curves.Line) -> float:
        value = metrics.deciding(line, "val/")
        return value if curves.is_number(value) else math.inf

    measured = {n for line in run.lines for n, value in line.items() if value != 0}
    validated = [line for line in run.lines if names(line)]
    if not validated:
        return hint("No validation yet.")
    last, best = validated[-1], min(validated, key=deciding)
    columns = {"last": last} | ({"best": best} if deciding(best) < math.inf else {})
    head = ("", *(f"{word}, step {line['step']:,}" for word, line in columns.items()))
    rows = [
        (name.removeprefix("val/"), *(line.get(name) for line in columns.values()))
        for name in names(last)
    ]
    return table(head, rows)


def latents(workdir: pathlib.Path, stage: Charts) -> str:
    """Returns pictures and statistics of each channel, of exports and evaluations.

    "" where the stage has no latents of its own.
    """
    parts = [pictures(sorted(workdir.glob("figures/latent_*.png")))]
    for path in sorted(workdir.glob("latents*/**/statistics.json")):
        name = str(path.relative_to(workdir))
        try:
            parts.append(channels(name, read_json(path)))
        except DAMAGED:
            parts.append(hint(f"{name} is damaged; export the latents again"))
    for path in sorted((workdir / "evaluation").glob("*.json")):
        with contextlib.suppress(*DAMAGED):  # none, or torn: see `evaluations`
            of_each = read_json(path)["latent"]["of_each_channel"]
            parts.append(channels(str(path.relative_to(workdir)), of_each))
    none = "No latents yet: tools/plot_run.py --latents 4 draws some."
    return "\n".join(filter(None, parts)) or hint(none * bool(stage.latents))


def channels(name: str, statistics: Mapping[str, Any]) -> str:
    """Returns a table of what is known of each channel."""
    columns = {key: v for key, v in statistics.items() if isinstance(v, list)}
    rows = enumerate(zip(*columns.values(), strict=True))
    return f"<h3>{escape(name)}</h3>" + table(
        ("channel", *columns), [(f"z{i}", *row) for i, row in rows]
    )


def settings(config: Mapping[str, Any]) -> str:
    """Returns a table for every section of the config."""
    plain = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    nested = {k: v for k, v in config.items() if isinstance(v, Mapping)}
    cards = []
    for name, fields in {"run": plain, **nested}.items():
        flat = traverse_util.flatten_dict(fields, sep=".", keep_empty_nodes=True)
        rows = [(k, json.dumps(v, ensure_ascii=False)) for k, v in flat.items()]
        cards.append(card(name, table((), rows)))
    search = '<p><input type="search" id="search" placeholder="search the fields"></p>'
    return f'{search}<div class="sections">{"".join(cards)}</div>'


def starts(found: Mapping[str, Any]) -> str:
    """Returns a column for each start of a run, from its run.json."""
    if not found:
        return hint("No run.json: the run is older, or the file is damaged.")

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {inner}" for name, inner in value.items())
        return "–" if value is None else str(value)

    columns = [found, *found.get("resumes", ())]
    head = ("", "first start", *(f"resume {i}" for i in range(1, len(columns))))
    names = [name for name in found if name != "resumes"]
    rows = [(name, *(words(one.get(name)) for one in columns)) for name in names]
    return table(head, rows)


def card(title: str, content: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{content}</div>'


def hint(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table, all cells escaped."""
    rows = [list(row) for row in rows]
    texts = [isinstance(value, str) for value in (rows[0] if rows else head)]
    top = "".join(
        f"<th{TEXT * text}>{escape(name)}</th>"
        for name, text in zip(head, texts, strict=False)  # no head: nothing
    )
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    thead = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f'<div class="wide"><table>{thead}<tbody>{body}</tbody></table></div>'


def cell(value: Any) -> str:
    if isinstance(value, str):
        return f"<td{TEXT}>{escape(value)}</td>"
    return f"<td>{number(value)}</td>"


def number(value: Any) -> str:
    """Returns four digits; a dash for what is not there or was not finite."""
    if not curves.is_number(value):
        return "–" if value is None else escape(str(value))
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def script_json(value: Any) -> str:
    """Returns JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a file; see DAMAGED for what a torn one raises."""
    return inputs.read_json(path, remedy="")


def asset(name: str) -> str:
    return pathlib.Path(__file__).with_name(name).read_text("utf-8")
