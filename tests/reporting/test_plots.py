"""Pictures: what they say, and that no map, however broken, stops a run."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from radiovae_jax.data import radiomap
from radiovae_jax.data.radiomap import DbRange
from radiovae_jax.reporting import plots


def maps(count=2, height=16, width=16, channels=1, offset=0.0):
    f = np.linspace(0.2, 0.8, count * height * width * channels) + offset
    return f.reshape(count, height, width, channels).astype(np.float32)


COLUMNS = ["map", "reconstruction", "reconstruction − map"]


def panels(figure):
    """Returns the axes that hold a map, row by row."""
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def bar_labels(figure):
    axes = [one for axis in figure.axes for one in (axis, *axis.child_axes)]
    return [axis.get_ylabel() for axis in axes if axis.get_ylabel()]


def titles(figure):
    return [row.get_suptitle() for row in figure.subfigs]


def test_a_row_says_name_error_and_unit():
    # 0.03 off everywhere is 3 dB.
    names = ["7_3", "8_1", "9_0"]
    figure = plots.reconstructions(
        maps(3), maps(3, offset=0.03), names=names, max_rows=2
    )
    assert titles(figure) == ["7_3, RMSE 3.00 dB", "8_1, RMSE 3.00 dB"]
    assert bar_labels(figure) == ["path gain (dB)", "error (dB)"] * 2
    assert [axis.get_title() for axis in panels(figure)[:3]] == COLUMNS


def test_panels_hold_db_on_shared_scales():
    target, recon = maps(), maps(offset=-0.04)
    figure = plots.reconstructions(jnp.asarray(target), jnp.asarray(recon))
    left, middle, right = (axis.images[0] for axis in panels(figure)[3:])
    np.testing.assert_allclose(left.get_array(), -147 + 100 * target[1, ..., 0])
    np.testing.assert_allclose(middle.get_array(), -147 + 100 * recon[1, ..., 0])
    np.testing.assert_allclose(right.get_array(), -4, atol=1e-4)
    assert left.get_clim() == middle.get_clim() == (-147, -47)
    np.testing.assert_allclose(right.get_clim(), (-4, 4), rtol=1e-5)


def test_buildings_are_outlined_on_the_map_alone_and_have_an_error():
    mask = np.zeros((2, 16, 16, 1), bool)
    mask[0, 3:6, 6:9] = True
    recon = maps() + np.where(mask, 0.16, 0.02)
    figure = plots.reconstructions(maps(), recon, buildings=mask)
    left, *others = panels(figure)[:3]
    (outline,) = left.collections
    (path,) = [p for p in outline.get_paths() if len(p.vertices)]
    # Rows 3 to 5, columns 6 to 8: the line runs half a pixel outside of them.
    np.testing.assert_allclose(path.vertices.min(axis=0), [5.5, 2.5])
    np.testing.assert_allclose(path.vertices.max(axis=0), [8.5, 5.5])
    assert len(left.images) == 1
    assert not any(axis.collections for axis in others)
    # 9 of 256 pixels are 16 dB off, the others 2 dB.
    whole = np.sqrt((9 * 16**2 + 247 * 2**2) / 256)
    assert titles(figure) == [
        f"map 0, RMSE {whole:.2f} dB, street 2.00 dB, buildings 16.00 dB",
        "map 1, RMSE 2.00 dB",
    ]
    # A map without any building, or nothing but one, has no line to draw.
    assert not any(axis.collections for axis in panels(figure)[3:])
    figure = plots.reconstructions(maps(), maps(), buildings=np.ones_like(mask))
    assert not any(axis.collections for axis in panels(figure))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
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


def test_three_channels_without_a_unit_are_red_green_and_blue():
    target = maps(channels=3)
    # 0.2 off in one of three channels: 0.2 / sqrt(3) everywhere.
    recon = target + np.array([0, 0, 0.2], np.float32)
    figure = plots.reconstructions(target, recon, db=radiomap.NO_DB)
    assert titles(figure)[0] == "map 0, 3 channels as RGB, RMSE 0.1155 in f"
    left, middle, right = (axis.images[0] for axis in panels(figure)[:3])
    np.testing.assert_allclose(left.get_array(), target[0], rtol=1e-6)
    np.testing.assert_allclose(middle.get_array(), recon[0], rtol=1e-6)
    np.testing.assert_allclose(right.get_array(), 0.2 / np.sqrt(3), rtol=1e-5)
    np.testing.assert_allclose(right.get_clim(), (0, 0.2 / np.sqrt(3)), rtol=1e-5)
    assert bar_labels(figure) == ["error (f)"] * 2
    shown = plots.samples(target, db=radiomap.NO_DB)
    assert "3 channels as RGB" in shown.get_suptitle()


def test_channels_in_db_have_one_row_each():
    target = maps(channels=2)
    recon = target + np.array([0, 0.04], np.float32)  # the other one is 4 dB off
    figure = plots.reconstructions(target, recon, max_rows=1)
    assert titles(figure) == [
        "map 0, channel 0 of 2, RMSE 0.00 dB",
        "map 0, channel 1 of 2, RMSE 4.00 dB",
    ]
    shown = [axis.images[0].get_array() for axis in panels(figure)]
    np.testing.assert_allclose(shown[3], -147 + 100 * target[0, ..., 1])
    np.testing.assert_allclose(shown[2], 0, atol=1e-4)
    np.testing.assert_allclose(shown[5], 4, rtol=1e-4)
    drawn = plots.samples(target)
    heads = [axis.get_title() for axis in panels(drawn)[:3]]
    assert heads == ["channel 0", "channel 1", ""]
    assert bar_labels(drawn) == ["path gain (dB)"]


@pytest.mark.parametrize(
    "db, gain, error, clim, label",
    [
        (DbRange(-318.75, 318.75), -318.75 + 318.75 * 0.5, 9.5625, (-318.75, 0), "dB"),
        (radiomap.NO_DB, 0.5, 0.03, (0, 1), "f"),
    ],
)
def test_maps_are_shown_in_their_own_unit(db, gain, error, clim, label):
    target = np.full((1, 8, 8, 1), 0.5)
    figure = plots.reconstructions(target, target + 0.03, db=db)
    left, middle, right = (axis.images[0] for axis in panels(figure))
    np.testing.assert_allclose(left.get_array(), gain)
    np.testing.assert_allclose(right.get_array(), error)
    assert left.get_clim() == middle.get_clim() == clim
    bar = "path gain (dB)" if label == "dB" else "f"
    assert bar_labels(figure) == [bar, f"error ({label})"]
    assert bar_labels(plots.samples(target, db=db)) == [bar]
    words = "9.56 dB" if label == "dB" else "0.0300 in f"
    assert titles(figure) == [f"map 0, RMSE {words}"]


@pytest.mark.parametrize("db", [radiomap.RADIOMAPSEER_DB, radiomap.NO_DB])
def test_a_few_large_errors_do_not_set_the_scale_and_are_pointed_at(db):
    target = np.full((1, 10, 20, 1), 0.5)
    recon = target + 0.02
    recon[0, 0, :3] = 0.9  # 1.5% of the pixels
    figure = plots.reconstructions(target, recon, db=db)
    axis = panels(figure)[2]
    right, (bar,) = axis.images[0], axis.child_axes
    unit = (db.span or 1) / 100
    np.testing.assert_allclose(right.get_clim(), (-2 * unit, 2 * unit))
    assert right.colorbar.extend == "max" and bar is right.colorbar.ax
    # Never beyond 15 dB, or 0.15.
    figure = plots.reconstructions(target, target + 0.3, db=db)
    clim = panels(figure)[2].images[0].get_clim()
    np.testing.assert_allclose(clim, (-15 * unit, 15 * unit))


def test_names_are_shown_as_they_are(tmp_path):
    figure = plots.reconstructions(maps(1), maps(1), names=["a$_{b\x1b"])
    assert titles(figure) == ["a$_{b\\x1b, RMSE 0.00 dB"]
    plots.save(figure, tmp_path / "a.png")  # mathtext would not parse it
    plots.save(plots.samples(maps(1), title="b$_{"), tmp_path / "b.png")


@pytest.mark.parametrize("count", [1, 3, 20])
def test_samples_fill_a_grid_with_one_scale_in_db(count):
    figure = plots.samples(maps(count, 8, 12))
    assert "noise is expected" in figure.get_suptitle()
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


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        plots.samples(maps(0))
    with pytest.raises(ValueError, match="not supported"):
        plots.save(plots.samples(maps()), tmp_path / "picture")


def test_the_projection_is_the_same_in_every_run():
    # NumPy's default_rng(0).standard_normal, first row; its stream is kept stable.
    np.testing.assert_allclose(
        plots.projection(5)[0], [0.12573022, -0.13210486, 0.64042265], rtol=1e-6
    )


def test_a_reconstruction_is_coloured_on_the_scale_of_its_map():
    target = np.random.default_rng(0).random((1, 8, 8, 5))
    half, weights = 0.5 * target, plots.projection(5)
    mixed = target @ weights
    low, high = mixed.min(axis=(0, 1, 2)), mixed.max(axis=(0, 1, 2))
    expected = np.clip((half @ weights - low) / (high - low), 0, 1)
    figure = plots.reconstructions(target, half, db=radiomap.NO_DB)
    shown = panels(figure)[1].images[0].get_array()
    np.testing.assert_allclose(shown, expected[0], atol=1e-12)
    assert "5 channels, mixed" in titles(figure)[0]


@pytest.mark.parametrize("channels", [2, 3])
def test_what_is_not_finite_is_magenta(channels):
    f = np.full((1, 2, 2, channels), 0.5)
    f[0, 1, 0, -1] = np.nan
    rgb = plots.to_rgb(f, f)
    np.testing.assert_array_equal(rgb[0, 1, 0], [1, 0, 1])
    assert not (rgb[0, 0, 0] == [1, 0, 1]).all()
    assert np.isfinite(plots.to_rgb(f * np.nan, f * np.nan)).all()
