"""The five figures: what they show, and that no log is too odd for them."""

import io
import json
import math

import numpy as np
import pytest
import showcase
import tool
from matplotlib.figure import Figure

from radiovae_jax.diffusion import charts as diffusion
from radiovae_jax.reporting import (
    artifacts,
    charts,
    curves,
    dashboard,
    figures,
    plots,
    quantities,
)
from radiovae_jax.vae.charts import CHARTS, weighed

NAMES = (
    "figure_1_training_phases",
    "figure_2_loss_components_comprehensive",
    "figure_3_multi_axis_analysis",
    "figure_4_normalized_comparison",
    "figure_5_training_summary",
)
PHASES = CHARTS.figures[NAMES[0]]
ALL = (*CHARTS.figures.values(), dashboard.training_summary)


@pytest.fixture(scope="module")
def run():
    return curves.of(showcase.lines(), showcase.CONFIG, CHARTS)


@pytest.fixture(scope="module")
def drawn(run):
    """The five figures of the made-up run, by their numbers."""
    return {number: draw(run) for number, draw in enumerate(ALL, start=1)}


def labelled(axis):
    return {line.get_label(): line for line in axis.lines if line.get_label()[0] != "_"}


def test_the_phases_are_split_at_the_switch_and_say_what_they_did(drawn):
    figure = drawn[1]
    rec, kl, adversarial = figure.axes
    for axis in figure.axes:
        (switch,) = [line for line in axis.lines if list(line.get_ydata()) == [0, 1]]
        assert list(switch.get_xdata()) == [50_001, 50_001]
    assert "after step 50,001" in figure.get_supxlabel()
    assert rec.get_yscale() == "log" and kl.get_yscale() == "linear"
    assert labelled(adversarial)["generator"].get_xdata().min() > 50_001
    notes = [text.get_text() for text in rec.texts]
    assert notes[0].startswith("without discriminator\nrec_loss 0.8")
    assert notes[1].startswith("with discriminator\nrec_loss 0.01")
    # Raw numbers stay visible behind their median.
    raw, bold = rec.lines[0], labelled(rec)["training"]
    assert raw.get_alpha() < 0.5 and len(raw.get_xdata()) == 300
    assert np.std(np.diff(bold.get_ydata())) < np.std(np.diff(raw.get_ydata()))


def test_each_loss_of_the_three_has_an_axis_in_its_colour(drawn):
    losses = ("rec_loss", "kl_loss", "g_loss")
    for axis, name in zip(drawn[3].axes, losses, strict=True):
        colour = quantities.look(name).colour
        assert axis.yaxis.label.get_color() == colour
        assert next(iter(labelled(axis).values())).get_color() == colour


def test_normalized_curves_span_one_scale():
    # By hand: 1, 2, 3 -> 0, 1/2, 1 and (v - 2) / sqrt(2/3).
    values = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(figures.min_max(values), [0, 0.5, 1])
    np.testing.assert_allclose(figures.z_score(values), [-1.224745, 0, 1.224745], 1e-6)
    np.testing.assert_array_equal(figures.min_max(values * 0), [0.5] * 3)
    np.testing.assert_array_equal(figures.z_score(values * 0), [0] * 3)


def test_what_spans_decades_is_normalized_as_a_logarithm(run, drawn):
    above, below, relative = drawn[4].axes
    curve = labelled(above)["rec_loss (log)"]
    points = curves.curve(run, "train/rec_loss")
    median = curves.smooth(points, run.switch, windows=15).values
    expected = np.log(median / median.min()) / np.log(median.max() / median.min())
    np.testing.assert_allclose(curve.get_ydata(), expected, atol=1e-12)
    assert "kl_loss" in labelled(above)
    assert len(above.lines) == len(below.lines) == len(relative.lines)
    # To the first number as logged, not to the first median.
    first = run.lines[0]["train/rec_loss"]
    np.testing.assert_allclose(relative.lines[0].get_ydata(), median / first)


def test_what_never_changes_is_named_at_the_foot_and_not_drawn(drawn):
    figure = drawn[4]
    assert "d_weight" not in labelled(figure.axes[0])
    assert figure.get_supxlabel().endswith("constant, not drawn: d_weight 5000")
    figure = drawn[2]
    assert "logits of maps" not in labelled(figure.axes[3])
    _, _, listed = figure.get_supxlabel().partition("\nconstant, not drawn: ")
    assert listed == "rec, validation 0.02 per pixel, logits of maps 0.6"
    foot = drawn[5].get_supxlabel()
    # Of norms 0.01 and 50.
    assert foot.endswith("update / weights 0.0002, a step 0.1 seconds")


def test_the_foot_says_what_smooths_the_curves(drawn):
    for number, words in {
        1: "bold: running median over 1/40 of the lines",
        3: "10th to 90th percentile",
        4: "running median over 1/15 of the lines",
    }.items():
        assert words in drawn[number].get_supxlabel()
    short = curves.of(showcase.lines(20, 5000), showcase.CONFIG, CHARTS)
    for draw in ALL:
        assert "median" not in draw(short).get_supxlabel()


@pytest.mark.parametrize(
    "lines, changed, foot",
    [
        ((2, 60_000), {}, "with the discriminator from the first line on"),
        ((2, 500), {}, "the discriminator starts after step 50,001"),
        ((2, 500), {"disc_factor": 0.0}, "this run has no discriminator"),
    ],
)
def test_the_foot_says_where_the_phases_lie(lines, changed, foot):
    config = showcase.CONFIG | {"loss": showcase.CONFIG["loss"] | changed}
    run = curves.of(showcase.lines(*lines), config, CHARTS)
    assert PHASES(run).get_supxlabel().startswith(foot)


def test_numbers_that_differ_late_get_ticks_that_differ_and_no_offset():
    lines = [
        {"step": i, "train/rec_loss": 5 + 1e-7 * i, "train/kl_loss": 150_000 + i / 64}
        for i in range(5)
    ]
    figure = PHASES(curves.of(lines, showcase.CONFIG, CHARTS))
    figure.draw_without_rendering()
    for axis in figure.axes[:2]:
        labels = [tick.get_text() for tick in axis.get_yticklabels()]
        assert len(set(labels)) == len(labels) > 2
        assert axis.yaxis.get_offset_text().get_text() == ""


def test_a_quantity_has_one_colour_in_every_picture():
    def chosen(name):
        return quantities.look(name).colour

    for title, names in (CHARTS.columns | charts.OF_ANY_TRAINING).items():
        names = {name.rpartition("/")[2] for name in names}
        assert len({chosen(name) for name in names}) == len(names), title
    lines = showcase.lines(90, 2000)
    for i, line in enumerate(lines):  # nothing constant
        line |= {"train/perceptual_loss": 0.5 + i / 100, "val/rec_loss": 0.1 + i}
    run = curves.of(lines, showcase.CONFIG, CHARTS)
    phases, components = PHASES(run), CHARTS.figures[NAMES[1]](run)
    summary = dashboard.training_summary(run)
    train, val = (labelled(phases.axes[0])[word] for word in ("training", "validation"))
    assert train.get_color() == val.get_color() == chosen("rec_loss")
    assert val.get_marker() == "o" and not train.get_marker().strip("None")
    assert labelled(components.axes[1])["LPIPS"].get_color() == chosen(
        "perceptual_loss"
    )
    labels = [item for axis in summary.axes for item in labelled(axis).items()]
    generator = {line.get_color() for name, line in labels if name == "generator"}
    assert generator == {chosen("g_loss")}


def test_the_summary_says_the_frechet_distance_of_an_evaluation(tmp_path):
    folder = showcase.write(tmp_path, showcase.lines(20, 5000))
    assert curves.read(folder, CHARTS).frechet == ""
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "torn.json").write_text('{"frechet": ')
    (folder / "evaluation" / "odd.json").write_text('{"frechet": {"rows": [1]}}')
    rows = {"autoencoder": 0.1234, "pca": None, "prior_samples": 45.6}
    frechet = {"features": "pixels_8x8", "rows": rows}
    record = {"step": 90_000, "frechet": frechet}
    (folder / "evaluation" / "val.json").write_text(json.dumps(record))
    run = curves.read(folder)
    title = dashboard.training_summary(run).axes[0].get_title(loc="left")
    assert title.startswith("validation quality: PSNR ")
    assert " ".join(title.split()).endswith(
        "Fréchet distance of pixels_8x8 (val, step 90,000): autoencoder 0.123, "
        "prior_samples 45.6"
    )


def test_the_dashboard_shows_the_samples_and_the_clamp():
    maps = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    lines = showcase.lines()
    lines[-1]["val/sample_diversity"] = 24.53
    run = curves.of(lines, showcase.CONFIG, CHARTS)
    figure = dashboard.training_summary(run._replace(samples=maps))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert "loss balance: d_weight at its clamp in 100% of lines" in titles
    assert "resources: 80 images a second (median)" in titles
    best = 0.002 + 0.03 * math.exp(-7.5)  # of the made-up run, at its last step
    assert f"convergence: best NMSE {best:.3g}, step 150,000" in titles
    shown = next(
        axis for axis in figure.axes if "samples" in axis.get_title(loc="left")
    )
    assert "diversity 24.5 dB" in shown.get_title(loc="left")
    drawn = [child.images[0].get_array() for child in shown.child_axes]
    np.testing.assert_allclose(drawn, 100 * maps[:4, ..., 0] - 147, rtol=1e-5)


def test_the_second_stage_has_its_own_summary_without_an_empty_panel():
    lines = [
        {
            "step": step,
            "train/loss": 1 / step,
            "train/c_loss": 2 / step,
            "train/denoiser_update_norm": 0.5,
            "train/denoiser_param_norm": 50.0 + step,
            "time/step_seconds": 0.1 + 0.01 * step,
            "val/loss": 1.1 / step,
            "val/nmse": 0.1 / step,
            "val/psnr": 20 + step,
        }
        for step in range(1, 21)
    ]
    config = {"train": {"steps": 20}}
    figure = dashboard.training_summary(curves.of(lines, config, diffusion.CHARTS))
    assert all(axis.lines and not axis.texts for axis in figure.axes)
    names = {name for axis in figure.axes for name in labelled(axis)}
    assert {"loss", "loss, validation", "C", "update / weights"} <= names
    assert "discriminator" not in figure.get_supxlabel()


def test_two_validations_that_rise_alike_do_not_hide_each_other():
    lines = [
        {"step": i, "val/psnr": 20.0 + i, "val/ssim": 0.8 + i / 10} for i in (0, 1)
    ]
    figure = dashboard.training_summary(curves.of(lines, showcase.CONFIG, CHARTS))
    left, right = (
        axis for axis in figure.axes if axis.get_ylabel() in ("PSNR (dB)", "SSIM")
    )
    heights = [
        axis.transLimits.transform(axis.lines[0].get_xydata())[:, 1]
        for axis in (left, right)
    ]
    assert np.all(heights[1] - heights[0] > 0.1)


def test_the_legend_of_the_adversarial_losses_is_on_no_curve(drawn):
    figure = drawn[2]
    figure.draw_without_rendering()
    axis = figure.axes[-1]
    assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0


def saved(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_samples_that_are_damaged_are_left_out(tmp_path, caplog):
    path = tmp_path / "samples.npy"
    assert artifacts.read_samples(path) is None and not caplog.text
    whole = saved(np.zeros((2, 8, 8, 1), np.float32))
    path.write_bytes(whole)
    assert artifacts.read_samples(path).shape == (2, 8, 8, 1)
    no_map, one_image = np.zeros((0, 8, 8, 1)), np.zeros((8, 8))
    for content in (b"", whole[:-100], saved(no_map), saved(one_image)):
        caplog.clear()
        path.write_bytes(content)
        assert artifacts.read_samples(path) is None
        assert "figure 5 goes without it" in caplog.text


def test_the_balance_weighs_every_term(run):
    terms = {quantity.label: points for quantity, points in weighed(run)}
    kl = terms["kl_weight · kl"]
    np.testing.assert_allclose(kl.values[0], 1e-6 * run.lines[0]["train/kl_loss"])
    g = terms["|d_weight · disc_factor · g|"]
    np.testing.assert_allclose(g.values[-1], 5000 * -run.lines[-1]["train/g_loss"])


def spiked():
    lines = showcase.lines(600, 250)
    for line in lines[::300]:
        line["train/rec_loss"] *= 1e5
        line["train/g_loss"] *= -1e5
    return [{n: v for n, v in line.items() if n[:4] != "val/"} for line in lines]


LINES = showcase.lines(20, 5000)
ODD = {
    "one line": LINES[:1],
    "two lines": LINES[-2:],
    "no value": [{"step": 1}],
    "nothing finite": [
        dict.fromkeys(one, None) | {"step": one["step"]} for one in LINES
    ],
    "constant": [dict.fromkeys(one, 0.0) | {"step": one["step"]} for one in LINES],
    "spikes, no validation": spiked(),
}


@pytest.mark.filterwarnings("error")
# What a coroutine of an earlier test left for the garbage collector is not ours.
@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("config", [showcase.CONFIG, {}])
@pytest.mark.parametrize("kind", ODD)
def test_no_log_is_too_odd_to_draw(kind, config):
    run = curves.of(ODD[kind], config, CHARTS)
    for draw in ALL:
        figure = draw(run)
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert axis.axison is False or axis.lines or axis.texts or axis.images


def test_spikes_do_not_set_the_scale_of_a_linear_axis():
    run = curves.of(spiked(), showcase.CONFIG, CHARTS)
    adversarial = PHASES(run).axes[2]
    # Both losses are within 1, but for one line in 400, whose g is 4.5e4.
    assert adversarial.get_ylim()[1] < 2
    assert abs(labelled(adversarial)["generator"].get_ydata()).max() < 1


def test_the_tool_writes_the_five_files_of_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", showcase.touch)
    showcase.write(tmp_path / "run", showcase.lines(20, 5000))
    (tmp_path / "run" / "images").mkdir()
    np.save(tmp_path / "run" / "images" / "samples.npy", np.zeros((1, 8, 8, 3)))
    assert tool.load("plot_run").main([str(tmp_path / "run")]) == 0
    folder = tmp_path / "run" / "figures"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(NAMES)
    assert capsys.readouterr().out.split() == [str(folder / f"{n}.png") for n in NAMES]


def test_the_tool_ends_in_one_message_where_there_is_no_run(tmp_path, capsys):
    assert tool.load("plot_run").main([str(tmp_path)]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
    (showcase.write(tmp_path, showcase.lines(2)) / "figures").write_text("not ours")
    assert tool.load("plot_run").main([str(tmp_path)]) == 1
    assert "figures cannot be made or written" in capsys.readouterr().err


def test_a_picture_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, caplog):
    showcase.write(tmp_path, showcase.lines(5))

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(plots, "save", full)
    stage = CHARTS._replace(latents=full)
    written = artifacts.after_training(tmp_path, stage, latents=4)
    assert [path.name for path in written] == ["report.html"]
    for what in ("figures", "latents"):
        assert f"the {what} could not be made: OSError('disk full')" in caplog.text


def test_an_evaluation_renews_the_report_that_is_there(tmp_path, caplog):
    showcase.write(tmp_path, showcase.lines(5))
    assert artifacts.renew_report(tmp_path) == []
    (tmp_path / "report.html").write_text("old")
    assert artifacts.renew_report(tmp_path) == [tmp_path / "report.html"]
    assert "<h1>" in (tmp_path / "report.html").read_text()
    (tmp_path / "metrics.jsonl").unlink()
    assert artifacts.renew_report(tmp_path) == []
    assert "the report could not be made" in caplog.text
