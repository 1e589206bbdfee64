"""Pictures of latents."""

import numpy as np

from radiovae_jax.data import radiomap
from radiovae_jax.reporting import latent_plots


def latents(*shape, scale=1.0):
    return scale * np.random.default_rng(0).standard_normal(shape)


def test_each_channel_has_one_scale_in_all_rows_and_a_bar():
    f = np.full((2, 16, 16, 1), 0.5)
    z = np.stack([np.full((2, 4, 4), 3.0), np.full((2, 4, 4), -0.2)], axis=-1)
    figure = latent_plots.channels(f, z)
    axes = np.array(figure.axes[:9]).reshape(3, 3)  # two rows, then the bars
    for row in axes[:2]:
        # About the channel's mean; a constant has no spread to show.
        clims = [axis.images[0].get_clim() for axis in row[1:]]
        np.testing.assert_allclose(clims, [(2, 4), (-1.2, 0.8)])
        np.testing.assert_array_equal(row[1].images[0].get_array(), np.full((4, 4), 3))
    assert [axis.get_title() for axis in axes[0]] == ["map", "z0", "z1"]
    labels = ["path gain (dB)", "value", "value"]
    assert [axis.get_xlabel() for axis in axes[2]] == labels
    assert figure.get_suptitle() == "latent channels, 4x4x2"


def test_a_channel_is_centred_on_its_mean():
    # Half of the values 4, half 6: mean 5, all within 1 of it.
    z = np.where(np.arange(64).reshape(1, 8, 8, 1) % 2, 4.0, 6.0)
    figure = latent_plots.channels(np.zeros((1, 16, 16, 1)), z, db=radiomap.NO_DB)
    np.testing.assert_allclose(figure.axes[1].images[0].get_clim(), (4, 6))
    assert [axis.get_xlabel() for axis in figure.axes[2:4]] == ["f", "value"]


def test_a_map_of_channels_in_db_has_a_column_for_each():
    figure = latent_plots.channels(np.zeros((1, 8, 8, 2)), latents(1, 4, 4, 1))
    titles = [axis.get_title() for axis in figure.axes[:3]]
    assert titles == ["map, channel 0", "map, channel 1", "z0"]


def test_many_channels_and_broken_ones_are_said():
    z = latents(1, 4, 4, 32)
    z[..., 1] = np.nan
    figure = latent_plots.channels(np.zeros((1, 16, 16, 5)), z)
    assert "the first 8 of 32" in figure.get_suptitle()
    titles = [axis.get_title() for axis in latent_plots.histogram(z).axes]
    assert titles[1] == "z1: no finite value"


def test_the_histogram_is_a_density_beside_the_normal_one():
    # 40,000 numbers of N(0, 1) times 1 and 10.
    z = latents(1, 200, 200, 2) * np.array([1.0, 10.0])
    alone = latent_plots.histogram(z[..., :1]).axes
    assert [axis.get_yscale() for axis in alone] == ["linear"]
    narrow, wide = latent_plots.histogram(z).axes
    assert narrow.get_title() == (
        f"z0: mean {z[..., 0].mean():.3g}, std {z[..., 0].std():.3g}"
    )
    for axis in (narrow, wide):  # one scale, so that they can be compared
        assert axis.get_yscale() == "log"
        bars, (normal,) = axis.patches[0].get_data(), axis.lines
        area = np.sum(bars.values * np.diff(bars.edges))
        np.testing.assert_allclose(area, 1, rtol=1e-9)
        np.testing.assert_allclose(normal.get_ydata().max(), 0.39894, rtol=1e-4)
    near = narrow.patches[0].get_data().values
    np.testing.assert_allclose(near.max(), 0.399, atol=0.03)
