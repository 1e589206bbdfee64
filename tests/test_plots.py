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


def test_buildings_are_outlined_in_all_three_and_hide_nothing():
    roofs = np.zeros((2, 16, 16, 1), bool)
    roofs[0, 3:6, 6:9] = True
    figure = plots.reconstructions(maps(), maps(), buildings=roofs)
    for axis in panels(figure)[:3]:
        (outline,) = axis.collections
        (path,) = [p for p in outline.get_paths() if len(p.vertices)]
        # Rows 3 to 5, columns 6 to 8: the line runs half a pixel outside of them.
        np.testing.assert_allclose(path.vertices.min(axis=0), [5.5, 2.5])
        np.testing.assert_allclose(path.vertices.max(axis=0), [8.5, 5.5])
        assert len(axis.images) == 1
    # A map without any building, or nothing but one, has no line to draw.
    assert not any(axis.collections for axis in panels(figure)[3:])
    figure = plots.reconstructions(maps(), maps(), buildings=np.ones_like(roofs))
    assert not any(axis.collections for axis in panels(figure))


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


def test_three_channels_are_red_green_and_blue():
    target = maps(channels=3)
    # 0.2 off in one of three channels: 20 dB / sqrt(3) everywhere.
    recon = target + np.array([0, 0, 0.2], np.float32)
    figure = plots.reconstructions(target, recon)
    assert titles(figure)[0] == "map 0, 3 channels as RGB, RMSE 11.55 dB"
    left, middle, right = (axis.images[0] for axis in panels(figure)[:3])
    np.testing.assert_allclose(left.get_array(), target[0], rtol=1e-6)
    np.testing.assert_allclose(middle.get_array(), recon[0], rtol=1e-6)
    np.testing.assert_allclose(right.get_array(), 20 / np.sqrt(3), rtol=1e-5)
    assert right.get_clim() == (0, 20)
    assert bar_labels(figure) == ["error (dB)"] * 2
    assert "3 channels as RGB" in plots.samples(target).get_suptitle()


def test_five_channels_are_mixed_as_their_map_is():
    target = maps(channels=5)
    figure = plots.reconstructions(target, target)
    left, middle = (axis.images[0].get_array() for axis in panels(figure)[:2])
    assert left.shape == (16, 16, 3)
    np.testing.assert_array_equal(left, middle)
    assert "5 channels, mixed" in titles(figure)[0]


@pytest.mark.parametrize("count", [1, 2, 3, 16, 20])
def test_samples_fill_a_grid_with_one_scale_in_db(count):
    figure = plots.samples(maps(count, 8, 12))
    assert bar_labels(figure) == ["path gain (dB)"]
    shown = [axis for axis in panels(figure) if axis.images]
    assert len(shown) == min(count, 16)
    assert ("the first 16 of 20" in figure.get_suptitle()) == (count == 20)
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
