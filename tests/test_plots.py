"""Pictures: what they say, and that no map, however broken, stops a run."""

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from radiovae_jax import plots


def maps(count=2, height=16, width=16, channels=1, offset=0.0):
    f = np.linspace(0.2, 0.8, count * height * width * channels) + offset
    return f.reshape(count, height, width, channels).astype(np.float32)


def panels(figure):
    """Returns the axes that hold a map, row by row."""
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def bar_labels(figure):
    bars = [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]
    return [bar.get_ylabel() for bar in bars]


def titles(figure):
    return [row.get_suptitle() for row in figure.subfigs]


def test_a_row_says_name_error_and_unit():
    # 0.03 off everywhere is 3 dB.
    figure = plots.reconstructions(maps(), maps(offset=0.03), names=["7_3", "8_1"])
    assert isinstance(figure, Figure)
    assert titles(figure) == ["7_3, RMSE 3.00 dB", "8_1, RMSE 3.00 dB"]
    assert bar_labels(figure) == ["path gain (dB)", "error (dB)"] * 2
    assert [axis.get_title() for axis in panels(figure)[:3]] == [
        "map",
        "reconstruction",
        "reconstruction − map",
    ]


def test_panels_hold_db_on_shared_scales():
    target, recon = maps(), maps(offset=-0.04)
    figure = plots.reconstructions(jnp.asarray(target), jnp.asarray(recon))
    left, middle, right = (axis.images[0] for axis in panels(figure)[3:])
    np.testing.assert_allclose(left.get_array(), -147 + 100 * target[1, ..., 0])
    np.testing.assert_allclose(middle.get_array(), -147 + 100 * recon[1, ..., 0])
    np.testing.assert_allclose(right.get_array(), -4, atol=1e-4)
    assert left.get_clim() == middle.get_clim() == (-147, -47)
    assert right.get_clim() == (-5, 5)


def test_no_more_rows_than_asked_for():
    figure = plots.reconstructions(maps(5), maps(5), names="abcde", max_rows=2)
    assert titles(figure) == ["a, RMSE 0.00 dB", "b, RMSE 0.00 dB"]


def test_roofs_are_gray_on_the_maps_and_open_in_the_error():
    roofs = np.zeros((2, 16, 16, 1), bool)
    roofs[0, 3:5, 6:8] = True
    figure = plots.reconstructions(maps(), maps(), buildings=roofs)
    left, middle, right = panels(figure)[:3]
    for axis in (left, middle):
        np.testing.assert_array_equal(
            axis.images[1].get_array()[..., 3], roofs[0, :, :, 0]
        )
    assert len(right.images) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_values_are_shown_and_counted(value, tmp_path):
    recon = maps()
    recon[0, 2, 3] = value
    recon[1] = value
    figure = plots.reconstructions(maps(), recon)
    assert titles(figure)[0].endswith("dB, pixels not finite: 1")
    assert titles(figure)[1].endswith("dB, pixels not finite: 256")
    assert panels(figure)[1].images[0].get_array().mask[2, 3]
    plots.save(figure, tmp_path / "broken.png")
    plots.save(plots.samples(recon), tmp_path / "samples.png")


def test_of_many_channels_the_first_is_shown_and_the_title_says_so():
    target, recon = maps(channels=3), maps(channels=3)
    recon[..., 1:] += 0.5
    figure = plots.reconstructions(target, recon)
    assert titles(figure)[0] == "map 0, channel 1 of 3, RMSE 0.00 dB"
    assert "channel 1 of 3" in plots.samples(target).get_suptitle()


@pytest.mark.parametrize("count", [1, 2, 3, 16, 20])
def test_samples_fill_a_grid_with_one_scale_in_db(count):
    figure = plots.samples(maps(count, 8, 12))
    assert bar_labels(figure) == ["path gain (dB)"]
    shown = [axis for axis in panels(figure) if axis.images]
    assert len(shown) == min(count, 16)
    assert {axis.images[0].get_clim() for axis in shown} == {(-147, -47)}


def test_text_does_not_overlap(tmp_path):
    target, recon = maps(channels=12), maps(channels=12)
    recon[0] = np.nan
    figure = plots.reconstructions(target, recon, names=["WIDE/" * 30, "b"])
    plots.save(figure, tmp_path / "a.png")  # settles the layout
    width = figure.bbox.width
    for row in figure.subfigs:
        title = row._suptitle.get_window_extent()
        assert title.x0 >= 0 and title.x1 <= width
        for axis in row.axes:
            assert not title.overlaps(axis.get_tightbbox())


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "images" / "step_10.png"
    assert plots.save(plots.samples(maps()), path) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()

    def half_written(self, file, **kwargs):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        plots.save(plots.samples(maps()), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_nothing_global_is_touched():
    before = dict(mpl.rcParams)
    plots.reconstructions(maps(), maps())
    assert dict(mpl.rcParams) == before
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert pyplot.get_fignums() == []


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="2 images need as many names, got 1"):
        plots.reconstructions(maps(), maps(), names=["a"])
    with pytest.raises(ValueError, match="at least one image"):
        plots.samples(maps(0))
    with pytest.raises(ValueError, match=r"end it in \.png"):
        plots.save(plots.samples(maps()), tmp_path / "picture")
