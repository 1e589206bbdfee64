"""The report: one file, whole, escaped, whatever the run holds."""

import base64
import html
import html.parser
import json
import re

import command
import pytest
import showcase
from matplotlib.figure import Figure

from radiovae_jax import stages
from radiovae_jax.reporting import artifacts, charts, curves, quantities, report_page
from radiovae_jax.reporting.curves import Charts
from radiovae_jax.vae.charts import CHARTS

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAA"
    "SUVORK5CYII="
)
VOID = ("meta", "img", "br", "input")


class Reader(html.parser.HTMLParser):
    """Collects texts, links and scripts; checks that what opens is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.links, self.tags, self.ids = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "data"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def curves_of(page):
    (found,) = re.findall(
        r'<script type="application/json" id="run-data">(.*?)</', page
    )
    return json.loads(found)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run with everything, half of it malicious."""
    folder = tmp_path_factory.mktemp("runs")
    config = showcase.CONFIG | {"data": {"root": "</script><script>alert(1)</script>"}}
    lines = showcase.lines()
    for line in lines:
        line["train/</script><b>"] = line["step"]
        line["val/d_weight"] = 0.0
    run = showcase.write(folder / "<i>run & more", lines, config)
    for path in (
        "images/reconstructions_0000100.png",
        "images/reconstructions_0000200.png",
        "images/samples_0000200.png",
        "figures/latent_histogram.png",
        'evaluation/"best" & <worst>.png',
    ):
        (run / path).parent.mkdir(exist_ok=True)
        (run / path).write_bytes(PNG)
    numbers = {"nmse": 0.0123456, "psnr": None, "rmse_db": 3.25}
    record = {
        "step": 150_000,
        "weights": "ema",
        "data": "<b>city</b>",
        "size": [64, 32, 1],
        "metrics_size": "stored",
        "commit": "0123abc",
        "summary": ["KL 7 nats"],
        "rows": {"autoencoder": {"raw": {"all": numbers, "street": numbers}}},
        "latent": {"of_each_channel": {"mean": [0.5, -0.25], "std": [2.0, 1.0]}},
    }
    (run / "evaluation" / "val.json").write_text(json.dumps(record))
    (run / "evaluation" / "torn.json").write_text('{"rows": ')
    (run / "latents").mkdir()
    statistics = {"mean": [1.5], "std": [0.0625], "maps": 7}
    (run / "latents" / "statistics.json").write_text(json.dumps(statistics))
    start = {"command": "main --workdir '<i>x'", "versions": {"jax": "0.10.2"}}
    start |= {"start": "2026-01-01T00:00:00+00:00", "end": None, "ended": "done"}
    resume = start | {"ended": "saved step 7", "command": "main again"}
    (run / "run.json").write_text(json.dumps(start | {"resumes": [resume]}))
    return run, report_page.page(run, CHARTS)


def test_every_start_of_the_run_is_in_it(full):
    texts = read(full[1]).texts
    at = texts.index("main --workdir '<i>x'")
    assert texts[at - 1 : at + 2] == ["command", "main --workdir '<i>x'", "main again"]
    assert {"jax 0.10.2", "saved step 7", "resume 1"} <= set(texts)


def test_it_loads_nothing_from_anywhere(full):
    _, page = full
    reader = read(page)
    anchors = {link[1:] for link in reader.links if link[0] == "#"}
    assert anchors <= set(reader.ids) and len(set(reader.ids)) == len(reader.ids)
    assert "search" in reader.ids  # of the config
    others = (link for link in reader.links if link[0] != "#")
    assert all(link.startswith("data:image/png;base64,") for link in others)
    assert not re.search(r"https?://|url\(|@import", page)


def test_nothing_of_the_run_becomes_markup(full):
    _, page = full
    reader = read(page)
    assert reader.tags.count("script") == 2
    assert not {"i", "worst"} & set(reader.tags)
    assert "<b>city" not in page and "<i>run" not in page
    assert "</script><script>alert(1)</script>" in "".join(reader.texts)
    assert "train/</script><b>" in "".join(reader.texts)


def test_the_newest_picture_of_each_kind_is_in_it(full):
    _, page = full
    captions = [text for text in read(page).texts if text.endswith(".png")]
    assert captions == [
        "images/reconstructions_0000200.png",
        "images/samples_0000200.png",
        'evaluation/"best" & <worst>.png',
        "figures/latent_histogram.png",
    ]
    assert page.count(base64.b64encode(PNG).decode()) == 4


def test_tables_hold_the_numbers_of_evaluation_and_latents(full):
    _, page = full
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    row = ["autoencoder", "raw", "street", "0.01235", "3.25", "–", "–"]
    assert " ".join(row) in " ".join(cells)
    assert "KL 7 nats" in page
    assert "seen at 64x32, metrics at the stored size, commit 0123abc" in page
    assert "z0 0.5 2 z1 -0.25 1" in " ".join(cells)
    assert "z0 1.5 0.0625" in " ".join(cells)
    assert "disc_start 50001" in " ".join(cells)
    assert "psnr" in page and '<td class="text">d_weight</td>' not in page
    assert "d_weight is at its clamp" in page  # a warning


@pytest.mark.parametrize("text", ['{"rows": ', '{"rows": null, "latent": null}', "[]"])
def test_a_damaged_record_is_called_so_with_the_command_that_writes_it(tmp_path, text):
    run = showcase.write(tmp_path / "run", showcase.lines(2))
    (run / "evaluation" / "all.json").mkdir(parents=True)
    (run / "evaluation" / "val.json").write_text(text)
    (run / "latents").mkdir()
    (run / "latents" / "statistics.json").write_text('{"mean": [1, 2], "std": [1]}')
    page = report_page.page(run)
    for split in ("all", "val"):
        assert f"{split}.json is damaged" in page
        assert f"--workdir {run} --split {split}" in page
    assert "latents/statistics.json is damaged" in page
    assert "Not evaluated yet" not in page


def test_curves_are_the_logged_numbers(full):
    run, page = full
    data, (drawn, _) = curves_of(page), charts.of(curves.read(run, CHARTS))
    assert data["switch"] == 50_001 and data["range"] == [500, 150_000]
    titles = re.findall(r'<figure class="card chart"><h3>(.*?)</h3>', page)
    assert titles == [html.escape(chart.title) for chart in drawn]
    curves_in, labels = {}, {}
    for chart, points in zip(drawn, data["charts"], strict=True):
        labels[chart.title] = [one.label for one in chart.drawn]
        curves_in[chart.title] = points
    (psnr,) = curves_in["PSNR (dB)"]
    assert psnr["steps"][:2] == [5000, 10_000] and psnr["raw"] is None
    title = "Reconstruction, rec_loss (per pixel)"
    median, _ = curves_in[title]
    assert labels[title] == ["training", "validation"]
    first = showcase.line(500)["train/rec_loss"]
    assert median["raw"]["values"][0] == pytest.approx(first, 1e-5)
    assert median["values"][0] != median["raw"]["values"][0]
    log = {chart.title: chart.log for chart in drawn}
    assert log[title] and not log["KL (nats per image)"]
    assert "Memory" not in " ".join(titles)  # not logged
    assert "d_weight" not in titles  # 5000 wherever it is logged
    # Those of maps are 0.6 throughout: beside others that tells something.
    both = ["logits of maps", "logits of reconstructions"]
    assert labels["Logits of the discriminator"] == both


def test_every_curve_of_the_page_has_its_paths_box_and_value(full):
    _, page = full
    cards = re.findall(r'<figure class="card chart">.*?</figure>', page)
    for card, points in zip(cards, curves_of(page)["charts"], strict=True):
        plot, legend = card.split('<div class="legend">')
        groups = re.findall(r"<g .*?</g>", plot)
        assert len(groups) == legend.count("<output>") == len(points)
        assert legend.count('<input type="checkbox" checked>') == len(points)
        for group, curve in zip(groups, points, strict=True):
            assert ('class="raw"' in group) == (curve["raw"] is not None)
    psnr, rec = cards[0], cards[4]
    assert 'class="dots"' in psnr and 'class="log">' in psnr
    assert 'class="log" checked>' in rec
    assert f'stroke="{quantities.look("psnr").colour}"' in psnr


def test_constants_are_named(full):
    (named,) = re.findall(r"Constant, not drawn: (.*?)\.</p>", full[1])
    assert set(named.split(", ")) == {
        "train/d_weight 5000",
        "train/ae_update_norm 0.01",
        "train/ae_param_norm 50",
        "time/step_seconds 0.1",
        "time/images_per_second 80",
    }


def test_a_young_run_has_hints_in_place_of_what_is_missing(tmp_path):
    run = showcase.write(tmp_path / "young", showcase.lines(1))
    page = report_page.page(run, CHARTS)
    read(page)
    hints = ("Nothing stands out", "No pictures yet", "Not evaluated yet")
    for hint in (*hints, "No validation yet", "No latents yet"):
        assert hint in page


def test_broken_numbers_stay_valid_json(tmp_path):
    run = showcase.write(tmp_path / "run", showcase.lines(3))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2000, "train/rec_loss": NaN, "train/kl_loss": Infinity}\n')
        file.write('{"step": NaN}\n{"step": Infinity}\n')
    page = report_page.page(run)
    assert "Numbers that are not finite" in page
    assert not re.search(r"NaN|Infinity", re.search(r"run-data.*", page)[0])


def test_the_command_writes_the_file(tmp_path):
    run = showcase.write(tmp_path / "run", showcase.lines(5))
    done = command.call("report", f"--workdir={run}")
    assert done.stdout == f"written: {run}/report.html\n", done.stderr
    assert read((run / "report.html").read_text())


def test_maps_without_a_unit_have_no_db_in_the_report(tmp_path):
    lines = [line | {"val/rmse": 0.04, "val/mae": 0.03} for line in showcase.lines(20)]
    for line in lines:
        line.pop("val/rmse_db", None)
    config = showcase.CONFIG | {"data": {"source": "folder"}}
    run = showcase.write(tmp_path, lines, config)
    numbers = {"nmse": 0.01, "rmse": 0.0456, "rmse_db": 4.56}
    record = {"rows": {"autoencoder": {"raw": {"all": numbers}}}, "data": "maps"}
    record |= {"step": 1, "weights": "ema", "size": [8, 8, 1]}
    record |= {"metrics_size": "stored", "commit": "abc"}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "val.json").write_text(json.dumps(record))
    page = report_page.page(run, CHARTS)
    shown = "".join(read(page).texts).replace("PSNR (dB)", "")
    shown = shown.replace("PSNR, dB", "")
    assert "RMSE, f" in shown and "0.0456" in shown and "4.56" not in shown
    assert "dB" not in shown and "_db" not in shown


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run of another stage: names of its own, no discriminator, no data set."""
    lines = [
        {
            "step": step,
            "train/<loss>": 1 / step,
            "train/gate": step % 3,
            "train/r1_loss": 0.5 / step,
            "time/step_seconds": 0.1 + 0.01 * step,
        }
        | ({"val/<loss>": 2 / step, "val/score": step} if step % 5 == 0 else {})
        for step in range(1, 21)
    ]
    config = {"train": {"steps": 20}, "loss": {"kind": "l2"}}
    return showcase.write(tmp_path_factory.mktemp("toy") / "run", lines, config)


def test_a_stage_that_names_no_charts_has_one_for_each_number(toy):
    drawn, constants = charts.of(curves.read(toy))
    found = {chart.title: [one.label for one in chart.drawn] for chart in drawn}
    assert found == {
        "train/<loss>": ["training", "validation"],
        "train/gate": ["gate"],
        "train/r1_loss": ["R1"],
        "val/score": ["score, validation"],
        "A step (seconds)": ["a step"],
    }
    assert constants == []


def test_a_stage_names_its_charts_and_unknown_columns_have_colours_of_their_own(toy):
    named = Charts(columns={"Mine": ("train/<loss>", "train/gate")})
    drawn, _ = charts.of(curves.read(toy, named))
    assert [chart.title for chart in drawn] == [
        "Mine",
        "train/r1_loss",
        "A step (seconds)",
    ]
    colours = [one.colour for one in drawn[0].drawn]
    assert len(set(colours)) == 2


def test_the_folder_of_another_stage_gives_a_report_and_a_summary(toy, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", showcase.touch)
    assert stages.charts(toy) == CHARTS  # its config says no name
    for stage in (CHARTS, Charts()):
        assert "KL" not in "".join(read(report_page.page(toy, stage)).texts)
    summary, page = artifacts.after_training(toy)
    # No panel of the other four figures has a number to show.
    assert summary.stem == "figure_5_training_summary"
    page = page.read_text()
    texts = "".join(read(page).texts)
    assert "discriminator after" not in texts and "KL" not in texts
    assert "Nothing stands out" in texts and "last, step 20" in texts
    _, _, validation = texts.split("Validation in training")  # in the links, above it
    assert "best" not in validation.partition("No run.json")[0]
    assert "Latents" not in texts
