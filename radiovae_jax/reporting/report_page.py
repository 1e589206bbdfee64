"""The HTML of a report: everything a run's folder holds, in one file, escaped."""

import base64
import contextlib
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from radiovae_jax import files, inputs, metrics
from radiovae_jax.data import radiomap
from radiovae_jax.evaluation import evaluator, record
from radiovae_jax.reporting import curves, diagnosis, report_charts
from radiovae_jax.reporting.curves import Run
from radiovae_jax.training import run_record

PICTURE = re.compile(r"(?P<name>.+?)(_(?P<step>\d{7}))?\.png")
TILES = (
    ("val/psnr", "PSNR (dB)"),
    ("val/ssim", "SSIM"),
    ("val/nmse", "NMSE"),
    ("val/rmse_db", "RMSE (dB)"),
    ("train/rec_loss", "rec_loss, training"),
    ("train/kl_loss", "KL, nats per image"),
    ("time/images_per_second", "images a second"),
)
FOLDED = 4  # columns that a telephone shows beside each other
# What a torn file raises, or one of another form, a list for an object.
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError)
# No script, style or picture but those in the file; nothing is sent anywhere.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


def write(workdir: pathlib.Path) -> pathlib.Path:
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
        partial.write_text(page(workdir), "utf-8", errors="backslashreplace")
    return path


def page(workdir: pathlib.Path) -> str:
    """Returns the report of a run as HTML."""
    run = curves.read(workdir)
    config = curves.read_config(workdir)
    drawn = report_charts.data(run)
    name = escape(workdir.resolve().name)
    step, steps = run.lines[-1]["step"], config["train"]["steps"]
    sections = {
        "Warnings": warnings(run),
        "Pictures": pictures(workdir),
        "Curves": charts(drawn["constants"]),
        "Evaluation": evaluations(workdir, run.db),
        "Validation in training": validations(run),
        "Latents": latents(workdir),
        "Run": starts(run_record.read(workdir)),
        "Config": settings(config),
    }
    body = "\n".join(
        (
            f"<h1>{name}</h1>",
            f'<p class="soft">step {step:,} of {steps:,}; {escape(phase(run))}</p>',
            tiles(run),
            f"<nav>{''.join(link(title) for title in sections)}</nav>",
            *(section(title, content) for title, content in sections.items()),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{asset('report_page.css')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="run-data">'
        f"{script_json(drawn)}</script>\n"
        f"<script>\n{asset('report_page.js')}</script>\n</body>\n</html>\n"
    )


def phase(run: Run) -> str:
    if run.lines[-1]["step"] > run.switch:
        return f"with the discriminator after step {run.switch:,}"
    return "without discriminator so far"


def tiles(run: Run) -> str:
    """Returns the latest numbers, large."""
    cells = []
    in_f = {"val/rmse_db": ("val/rmse", "RMSE (f)")}
    for name, label in TILES:
        if not run.db.span:
            name, label = in_f.get(name, (name, label))
        points = curves.curve(run, name)
        if len(points.values):
            step = f"step {points.steps[-1]:,.0f}"
            cells.append(
                f'<div class="card"><b>{number(points.values[-1])}</b>'
                f"<span>{escape(label)}, {step}</span></div>"
            )
    return f'<div class="tiles">{"".join(cells)}</div>'


def warnings(run: Run) -> str:
    found = diagnosis.warnings(run)
    if not found:
        return '<div class="card fine">Nothing stands out in the numbers.</div>'
    cards = (
        f'<div class="card"><h3>{escape(one.what)}</h3><p>{escape(one.why)}</p></div>'
        for one in found
    )
    return f'<div class="warnings">{"".join(cards)}</div>'


def charts(constants: Sequence[str]) -> str:
    listed = f"Constant, not drawn: {', '.join(constants)}." if constants else ""
    return (
        '<p class="soft hint">The wheel or a drag zooms all of them along the steps, a '
        "double click shows everything; names in a legend switch curves. Faint: as "
        f"logged; bold: running median over 1/{curves.WINDOWS} of the lines; circles: "
        "validation. Shaded: with the discriminator.</p>\n"
        f"{hint(listed)}\n"
        '<noscript><p class="card">The curves need JavaScript; as pictures they are in '
        'the folder figures/.</p></noscript>\n<div class="charts" id="charts"></div>'
    )


def pictures(workdir: pathlib.Path) -> str:
    """Returns the newest picture of each kind."""
    paths = [
        *newest(workdir / "images"),
        *newest(workdir / "evaluation"),
    ]
    if not paths:
        return hint("No pictures yet: validation draws them (data.val_split).")
    return f'<div class="pictures">{"".join(map(embedded, paths))}</div>'


def newest(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns of NAME_0000100.png, NAME_0000200.png, ... the last, for every NAME."""
    latest: dict[str, pathlib.Path] = {}
    for path in matching(folder, "*.png"):
        found = PICTURE.fullmatch(path.name)
        if found:
            latest[found["name"]] = path
    return list(latest.values())


def matching(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def embedded(path: pathlib.Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = escape(f"{path.parent.name}/{path.name}")
    return (
        f'<figure class="card"><img src="data:image/png;base64,{content}" '
        f'alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


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
    return (
        f"<h3>{escape(split)}, step {escape(str(found['step']))}, "
        f"{escape(str(found['weights']))} weights</h3>"
        f'<p class="soft">{"<br>".join(escape(str(note)) for note in notes)}</p>'
        + table(("row", "scale", "region", *names), rows)
        + hint("–: infinite, or not there. Pooled: all pixels taken as one map.")
    )


def validations(run: Run) -> str:
    """Returns the last validation beside the best one."""
    judged = [
        line for line in run.lines if curves.is_number(metrics.deciding(line, "val/"))
    ]
    if not judged:
        return hint("No validation yet.")
    best = min(judged, key=lambda line: metrics.deciding(line, "val/"))
    last = judged[-1]
    # Validation has no gradients to balance: its d_weight is a 0 that means nothing.
    names = sorted(n for n in last if n.startswith("val/") and n != "val/d_weight")
    head = ("", f"last, step {last['step']:,}", f"best, step {best['step']:,}")
    return table(head, [(name[4:], last[name], best.get(name)) for name in names])


def latents(workdir: pathlib.Path) -> str:
    """Returns pictures and statistics of each channel, of exports and evaluations."""
    parts = []
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
    drawn = matching(workdir / "figures", "latent_*.png")
    if not parts and not drawn:
        return hint("No latents yet: tools/plot_run.py --latents 4 draws some.")
    pictures_of = f'<div class="pictures">{"".join(map(embedded, drawn))}</div>'
    return "\n".join((pictures_of, *parts))


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
    for name, section_of in {"": plain, **nested}.items():
        rows = [
            (key, json.dumps(value, ensure_ascii=False))
            for key, value in flat(section_of).items()
        ]
        cards.append(
            f'<div class="card"><h3>{escape(name or "run")}</h3>{table((), rows)}</div>'
        )
    return f'<div class="sections">{"".join(cards)}</div>'


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"name.inner": value}."""
    items: dict[str, Any] = {}
    for name, value in nested.items():
        deeper = isinstance(value, Mapping)
        items |= flat(value, f"{prefix}{name}.") if deeper else {prefix + name: value}
    return items


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


def section(title: str, content: str) -> str:
    return f'<h2 id="{anchor(title)}">{escape(title)}</h2>\n{content}'


def link(title: str) -> str:
    return f'<a href="#{anchor(title)}">{escape(title)}</a>'


def anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())


def hint(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table, all cells escaped.

    One of many columns is folded on a narrow screen: a block for each row, in which
    every number has its column's name.
    """
    rows = list(rows)
    left = [isinstance(value, str) for value in rows[0]] if rows else [True] * len(head)
    top = "".join(
        f'<th class="text">{escape(name)}</th>' if text else f"<th>{escape(name)}</th>"
        for name, text in zip(head, left, strict=False)  # no head: nothing
    )
    names = [f' data-name="{escape(name)}"' for name in head] or [""] * len(left)
    body = "".join("<tr>" + "".join(map(cell, row, names)) + "</tr>" for row in rows)
    thead = f"<thead><tr>{top}</tr></thead>" if top else ""
    kind = "wide folded" if len(head) > FOLDED else "wide"
    return f'<div class="{kind}"><table>{thead}<tbody>{body}</tbody></table></div>'


def cell(value: Any, name: str) -> str:
    if isinstance(value, str):
        return f'<td class="text"{name}>{escape(value)}</td>'
    return f"<td{name}>{number(value)}</td>"


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
    return (
        importlib.resources.files("radiovae_jax.reporting")
        .joinpath(name)
        .read_text("utf-8")
    )
