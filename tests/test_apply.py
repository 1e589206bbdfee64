"""`apply` and the codec: files in, files out, by hand and by the functions below."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny
from matplotlib.figure import Figure
from PIL import Image

import radiovae_jax
from radiovae_jax import DiagonalGaussian, apply, apply_commands
from radiovae_jax.data import mapfiles, radiomap, sionna
from radiovae_jax.vae import codec, large_maps

pytestmark = pytest.mark.usefixtures("quick_compile")

# Every command loads; here the first one does.
load_once = functools.cache(codec.load)
HEIGHT, WIDTH = 30, 27  # the columns are no multiple of 2, the down-sampling


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A folder with run/ (32x32, two levels), a.png, b.png, and one map in dB."""
    folder = tmp_path_factory.mktemp("apply")
    shutil.copytree(trained / "run", folder / "run")
    maps = sorted((trained / "city" / "gain" / "DPM").glob("*.png"))
    shutil.copy(maps[0], folder / "a.png")
    shutil.copy(maps[-1], folder / "b.png")
    f = radiomap.gray_to_f(radiomap.read_map(maps[0]))[:HEIGHT, :WIDTH, 0]
    np.save(folder / "in_db.npy", radiomap.f_to_db(f))
    np.save(folder / "in_f.npy", f)
    return folder


@pytest.fixture(scope="module")
def autoencode(run):
    """[h, w] f -> (mean, reconstructed f), by the public functions alone."""
    model, params = radiovae_jax.load(run / "run")

    @jax.jit
    def both(x):
        mean = model.apply(params, x, method="encode").mode()
        return mean, model.apply(params, mean, method="decode")

    def of(f):
        mean, recon = both(radiomap.f_to_model(f[None, :, :, None]))
        return np.asarray(mean[0]), np.clip((recon[0, :, :, 0] + 1) / 2, 0, 1)

    return of


@pytest.fixture
def call(run, tmp_path, monkeypatch, capsys):
    """Calls a subcommand; returns the folder of its results and what it printed.

    Args:
      fields: of the codec, that are to be others than the run's.
    """

    def of(verb, *arguments, out=tmp_path / "out", status=0, **fields):
        load = lambda *a, **k: dataclasses.replace(load_once(*a, **k), **fields)  # noqa: E731
        monkeypatch.setattr(codec, "load", load)
        flags = [f"--workdir={run / 'run'}", f"--out={out}"]
        assert apply.main([verb, *map(str, arguments), *flags]) == status
        printed = capsys.readouterr()
        return out, printed.err if status else printed.out

    return of


def gray(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float32)


def test_a_png_comes_back_as_the_model_makes_it(run, call, autoencode):
    out, printed = call("reconstruct", run / "a.png")
    f = gray(run / "a.png") / 255
    _, recon = autoencode(f)
    np.testing.assert_allclose(gray(out / "a.png"), 255 * recon, atol=0.51)
    rmse_db = 100 * np.sqrt(np.mean((recon - f) ** 2))
    assert f"a: RMSE {rmse_db:.2f} dB" in printed
    assert (out / "a_error.png").read_bytes().startswith(b"\x89PNG")


def test_db_stay_db_and_odd_sides_are_mirrored_and_cut(run, call, autoencode):
    out, printed = call("reconstruct", run / "in_db.npy", "--unit=db")
    assert "0 rows and 1 columns mirrored" in printed
    assert (
        "maps of 30x27: the training's size is 32x32 (data.synthetic.size)" in printed
    )
    f = np.load(run / "in_f.npy")
    _, recon = autoencode(np.pad(f, ((0, 0), (0, 1)), "reflect"))
    found_db = np.load(out / "in_db.npy")
    assert found_db.dtype == np.float32
    # float32 at 147 dB; a PNG would be off by up to 0.2 dB.
    np.testing.assert_allclose(found_db, 100 * recon[:, :WIDTH] - 147, atol=1e-3)
    of_run = radiovae_jax.load_codec(run / "run")
    given = np.load(run / "in_db.npy")[None, ..., None]
    z = of_run.encode(given, unit="db").mode()
    decoded = of_run.decode(z, size=given.shape[1:3], unit="db")
    np.testing.assert_array_equal(decoded[0, ..., 0], found_db)


def test_a_sionna_scene_comes_back_as_one(run, call, autoencode):
    f = gray(run / "a.png") / 255
    maps = np.stack([f, gray(run / "b.png") / 255, f[::-1]])
    gain = 10 ** ((100 * maps[:, ::-1] - 147) / 10)
    cells = np.array([[1, 2], [3, 4], [5, 6]])
    scene = dict(cell_size=[2.0, 2.0], tx_cell_indices=cells)
    np.savez(run / "scene.npz", path_gain=gain, **scene)
    out, _ = call("reconstruct", run / "scene.npz")
    found, given = (sionna.read_scene(p / "scene.npz") for p in (out, run))
    for i, one in enumerate(maps):
        _, recon = autoencode(one)
        np.testing.assert_allclose(found.f[i, ..., 0], recon, atol=1e-5)
    np.testing.assert_array_equal(found.antenna, given.antenna)
    np.testing.assert_array_equal(found.cell_size, given.cell_size)
    call("reconstruct", run / "scene.npz", "--format=npy", "--overwrite")
    np.testing.assert_allclose(
        np.load(out / "scene_0.npy"), found.f[0, ..., 0], atol=1e-6
    )


def test_latents_hold_the_posterior_and_decode_to_the_reconstruction(run, call):
    out, _ = call("encode", run / "a.png", run / "b.png", run / "in_f.npy")
    odd = np.load(out / "latents_30x27.npz")
    both = np.load(out / "latents_32x32.npz")
    assert both["names"].tolist() == ["a", "b"]
    assert both["mean"].shape == both["logvar"].shape == (2, 16, 16, 3)
    assert odd["mean"].shape == (1, 15, 14, 3)
    # The variance of z: that of the means plus the posteriors' own.
    variance = both["mean"].var(axis=(0, 1, 2)) + np.exp(both["logvar"]).mean((0, 1, 2))
    np.testing.assert_allclose(both["scale"], variance**-0.5, rtol=1e-4)
    call("reconstruct", run / "in_f.npy", out=out / "recon")
    call("decode", out / "latents_30x27.npz", out=out / "decoded")
    recon, decoded = (np.load(out / d / "in_f.npy") for d in ("recon", "decoded"))
    assert decoded.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(decoded, recon, atol=1e-6)


def test_a_sample_depends_on_the_seed_and_its_number_alone(call):
    two, printed = call("sample", "--count=2", "--seed=5", "--side=31")
    assert "N(0, 1)" in printed
    one, _ = call("sample", "--count=1", "--seed=5", out=two / "one")
    other, _ = call("sample", "--count=1", "--seed=6", out=two / "other")
    first = np.load(two / "sample_5_000.npy")
    assert first.shape == (31, 31)
    # Without --side as in training; 31 needs as many latents, and is cut.
    whole = np.load(one / "sample_5_000.npy")
    np.testing.assert_array_equal(first, whole[:31, :31])
    assert np.abs(first - np.load(two / "sample_5_001.npy")).max() > 1e-3
    assert np.abs(whole - np.load(other / "sample_6_000.npy")).max() > 1e-3


def test_interpolation_is_straight_in_latent_space(run, call, autoencode):
    out, _ = call("interpolate", run / "a.png", run / "b.png", "--steps=3")
    (mean_a, recon_a), (mean_b, recon_b) = (
        autoencode(gray(run / name) / 255) for name in ("a.png", "b.png")
    )
    model, params = radiovae_jax.load(run / "run")
    middle = model.apply(params, 0.5 * (mean_a + mean_b)[None], method="decode")
    middle = np.clip((middle[0, :, :, 0] + 1) / 2, 0, 1)
    for i, expected in enumerate((recon_a, middle, recon_b)):
        found = np.load(out / f"a_to_b_{i:02d}.npy")
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (out / "a_to_b.png").exists()


@pytest.mark.parametrize(
    "stream, one_pass, one_attention, by_rows",
    [
        ("auto", 32 * 32 - 1, 16 * 16, True),
        ("auto", 32 * 32, 16 * 16 - 1, True),
        ("always", 32 * 32, 16 * 16, True),
        ("never", 0, 0, False),
    ],
)
def test_large_maps_are_streamed_row_wise(
    run, monkeypatch, stream, one_pass, one_attention, by_rows
):
    monkeypatch.setattr(codec, "ONE_PASS", one_pass)
    monkeypatch.setattr(codec, "ONE_ATTENTION", one_attention)
    marker = DiagonalGaussian(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1)))
    monkeypatch.setattr(large_maps, "encode", lambda *a, **options: marker)
    of_run = dataclasses.replace(load_once(run / "run"), stream=stream)
    assert (of_run.encode(np.zeros((1, 32, 32, 1))) is marker) == by_rows


def test_nothing_is_overwritten_unasked_and_an_input_never(run, call):
    out, _ = call("reconstruct", run / "a.png")
    (out / "a.png").write_bytes(b"precious")
    _, error = call("reconstruct", run / "b.png", run / "a.png", status=1)
    assert "--overwrite" in error
    assert (out / "a.png").read_bytes() == b"precious"
    assert not (out / "b.png").exists()
    call("reconstruct", run / "a.png", "--overwrite")
    assert gray(out / "a.png").shape == (32, 32)
    (out / "latents.npz").mkdir()
    _, error = call("encode", run / "a.png", "--overwrite", status=1)
    assert "latents.npz first; --overwrite replaces files" in error
    before = (run / "a.png").read_bytes()
    _, error = call("reconstruct", run / "a.png", "--overwrite", out=run, status=1)
    assert "one of the maps given" in error
    assert (run / "a.png").read_bytes() == before


@pytest.fixture(scope="module")
def wrong(run):
    """The folder of the run with files in it that apply refuses."""
    (run / "torn.png").write_bytes((run / "a.png").read_bytes()[:200])
    z, whole = np.zeros((1, 8, 8, 3), np.float32), np.int32([32, 32])
    for name, array in (
        ("five", np.zeros((32, 32, 5), np.float32)),
        ("empty", np.zeros((0, 5), np.float32)),
        ("nan_db", np.float32([[-100, np.nan], [np.inf, -90]])),
    ):
        np.save(run / f"{name}.npy", array)
    gain = dict(path_gain=np.full((2, 32, 32), 1e-9), cell_size=[1.0])
    silent = gain | dict(path_gain=np.zeros((0, 32, 32)))
    for name, arrays in (
        ("good", dict(mean=np.zeros((1, 16, 16, 3), np.float32))),
        ("other", dict(mean=np.zeros((1, 16, 16, 4), np.float32))),
        ("smaller", dict(mean=z, stored=whole, seen=whole)),
        ("misnamed", dict(mean=z, names=["a", "b"])),
        ("outside", dict(mean=z, names=["../up"])),
        ("twins", dict(mean=np.concatenate([z, z]), names=["a", "a"])),
        ("nul", dict(mean=z, names=["a\0b"])),
        ("vast", dict(mean=z, stored=np.int32([100000, 100000]))),
        ("huge", dict(mean=np.full(z.shape, np.float32(3e38)), names=["a"])),
        ("none", dict(mean=z[:0])),
        ("pickled", dict(mean=np.array([{}]))),
        ("scene2", dict(tx_cell_indices=np.zeros((2, 2), int)) | gain),
        ("silent", dict(tx_cell_indices=np.zeros((0, 2), int)) | silent),
    ):
        np.savez(run / f"{name}.npz", **arrays)
    header = {"descr": "|u1", "fortran_order": False, "shape": (13_000, 13_000)}
    with (run / "wide.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 13_000**2)  # of holes
    (run / "again").mkdir()
    for name in ("again/a.png", "c.png", "c_error.png"):
        shutil.copy(run / "a.png", run / name)
    return run


@pytest.mark.parametrize(
    "words, verb, files",
    [
        ("absent.png does not exist", "reconstruct", "absent.png"),
        ("torn.png is truncated", "encode", "a.png torn.png"),
        ("torn.png is truncated", "reconstruct", "a.png torn.png"),
        ("--unit db", "reconstruct", "in_db.npy"),
        ("five.npy has 5 channels", "encode", "five.npy"),
        ("a map has pixels", "encode", "empty.npy"),
        ("nan_db.npy holds 2 non-finite", "encode", "nan_db.npy --unit=db"),
        ("values (100.00%) above -47 dB", "encode", "in_f.npy --unit=db"),
        ("wide.npy is 13000x13000, and maps of at most", "reconstruct", "wide.npy"),
        ("shape (0, 32, 32), so the scene has no tr", "encode", "silent.npz"),
        ("no map file", "reconstruct", "run/config.json"),
        ("4 channels, and those of", "decode", "good.npz other.npz"),
        ("of no map of 32x32, which has 16x16", "decode", "smaller.npz"),
        ("2 names for 1 latents", "decode", "misnamed.npz"),
        ("'../up'; a name has no folder", "decode", "outside.npz"),
        ("'a\\x00b'; a name has no folder and no NUL", "decode", "nul.npz"),
        ("expected mean or z", "decode", "none.npz"),
        ("pickled.npz is damaged", "decode", "pickled.npz"),
        ("stored is 100000x100000, and maps of at most", "decode", "vast.npz"),
        ("latents of up to 3e+38, and no map's are beyond", "decode", "huge.npz"),
        ("2 maps named 'a', which would be one", "decode", "twins.npz"),
        ("both hold a map named a", "encode", "a.png again/a.png"),
        ("several results would be", "reconstruct", "a.png again/a.png"),
        ("c_error.png; rename one", "reconstruct", "c.png c_error.png"),
        ("one map to one other", "interpolate", "a.png scene2.npz"),
        ("maps of one size", "interpolate", "a.png in_f.npy"),
    ],
)
def test_errors_name_the_thing_and_the_remedy_and_leave_nothing_half_done(
    wrong, call, words, verb, files
):
    given = [name if name.startswith("--") else wrong / name for name in files.split()]
    out, error = call(verb, *given, status=1)
    assert words in error and "internal error" not in error
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    "words, maps, options",
    [
        (r"shape \(32, 32, 1\), expected \[b, h, w, c\]", np.zeros((32, 32, 1)), {}),
        ("the map has 2 channels, and the model", np.zeros((1, 8, 8, 2)), {}),
        (r'span \[-90, 0\].*unit="db"', np.array([[[[-90.0], [0]]]]), {}),
        ("dtype int64 has no known scale", np.zeros((1, 8, 8, 1), int), {}),
        ("unit='dbm' is not", np.zeros((1, 8, 8, 1)), {"unit": "dbm"}),
        ("condition=int: .* has no", np.zeros((1, 8, 8, 1)), {"condition": 1}),
    ],
)
def test_the_codec_refuses_what_it_cannot_encode(run, words, maps, options):
    of_run = load_once(run / "run")
    with pytest.raises(ValueError, match=words):
        of_run.encode(maps, **options)
    if options:
        with pytest.raises(ValueError, match=words):
            of_run.decode(np.zeros((1, 4, 4, 3)), **options)


def test_many_results_sort_by_name_and_few_are_in_the_picture(run, call, monkeypatch):
    shown = []
    samples = lambda maps, title, db: shown.append(len(maps)) or Figure()  # noqa: E731
    monkeypatch.setattr(apply_commands.plots, "samples", samples)
    out, _ = call("interpolate", run / "a.png", run / "b.png", "--steps=101")
    found = sorted(out.glob("*.npy"))
    assert [found[i].stem[-3:] for i in (0, 99, 100)] == ["000", "099", "100"]
    assert shown == [apply_commands.SHOWN]


@pytest.mark.parametrize(
    "image_size, stored, resize, network",
    [
        (320, (256, 256), "auto", (320, 320)),
        (320, (2048, 2048), "auto", (2048, 2048)),
        (320, (256, 300), "auto", (256, 300)),
        (320, (2048, 2048), "training", (320, 320)),
        (320, (256, 256), "stored", (256, 256)),
    ],
)
def test_a_map_passes_at_the_trainings_size_unless_far_from_it(
    run, image_size, stored, resize, network
):
    resizing = dataclasses.replace(load_once(run / "run"), image_size=image_size)
    assert resizing.sizes(stored, resize).network == network


@pytest.mark.parametrize("verb", ["encode", "interpolate"])
def test_a_map_that_would_be_squashed_is_named_before_the_work(run, call, verb):
    np.save(run / "oblong.npy", np.zeros((16, 32), np.float32))
    files = [run / name for name in ("a.png", "oblong.npy")]
    if verb == "interpolate":
        files[0] = files[1]
    out, error = call(verb, *files, "--size=training", status=1, image_size=16)
    assert "oblong.npy: maps of 16x32 are not square, and data.image_size=16" in error
    assert "--size stored" in error and not list(out.glob("**/*.np*"))


def test_a_map_that_is_resized_comes_back_at_its_size(run, monkeypatch):
    # A network that changes nothing; the enlargement has an exact inverse.
    same = lambda model, method, params, x: {  # noqa: E731
        "encode": lambda: DiagonalGaussian(x, x),
        "decode": lambda: x,
    }[method]()
    monkeypatch.setattr(codec, "_apply", same)
    of_run = load_once(run / "run")
    model = of_run.model.clone(ch_mult=(1,), embed_dim=1)
    of_run = dataclasses.replace(of_run, model=model, image_size=40)
    f = np.random.default_rng(0).random((1, 32, 32, 1)).astype(np.float32)
    z = of_run.encode(f).mean
    assert z.shape == (1, 40, 40, 1)
    np.testing.assert_allclose(of_run.decode(z, size=(32, 32)), f, atol=1e-5)
    # Latents of maps as stored say so by their size; without one, none is resized.
    z = of_run.encode(f, resize="stored").mean
    assert z.shape == (1, 32, 32, 1)
    for size in ((32, 32), None):
        np.testing.assert_allclose(of_run.decode(z, size=size), f, atol=1e-6)


def test_gains_pass_in_the_range_of_the_run_and_what_is_clipped_is_said(
    run, call, autoencode, tmp_path
):
    wide = radiomap.DbRange(-200.0, 250.0)
    gain_db = np.full((32, 32), -75.0, np.float32)  # f = 0.5
    gain_db[0, :3] = (60, -np.inf, -250)
    np.save(run / "loud.npy", gain_db)
    # A dump of the path gain alone; its rows go upwards.
    np.savez(run / "loud.npz", path_gain=10 ** (gain_db[None, ::-1] / 10))
    for name, unit in (("loud.npy", "db"), ("loud.npz", "f")):
        held = mapfiles.read(run / name, unit=unit, db=wide)
        np.testing.assert_allclose(held.f[0, 0, :4, 0], [1, 0, 0, 0.5], atol=1e-6)
        flags = (f"--unit={unit}", "--overwrite")
        _, printed = call("reconstruct", run / name, *flags, db=wide)
        clipped = "above 50 dB and 1 values (0.10%) below -200 dB, clipped"
        assert printed.count(f"{name}: 1 values (0.10%) {clipped}") == 1
        found = np.load(tmp_path / "out" / name)
        if name.endswith("npy"):
            expected = 250 * autoencode(held.f[0, ..., 0])[1] - 200
            np.testing.assert_allclose(found, expected, atol=5e-3)
        else:
            assert found.files == ["path_gain"]


@pytest.mark.parametrize(
    "source, crop, image_size, found",
    [
        ("synthetic", 0, 0, ("data.synthetic.size", 32)),
        ("folder", 0, 0, ("autoencoder.resolution", (64, 48))),
        ("folder", 0, 48, ("data.image_size", 48)),
        ("synthetic", 16, 48, ("data.crop", 16)),
    ],
)
def test_the_field_that_says_the_trainings_size_is_found(
    tmp_path, source, crop, image_size, found
):
    config = tiny.config(tmp_path)
    config.autoencoder.resolution = (64, 48)
    config.data.update(source=source, crop=crop, image_size=image_size)
    assert codec.training_side(config) == found


def test_a_runs_config_says_its_db_and_is_refused_where_it_does_not_fit(trained_copy):
    path = trained_copy / "config.json"
    config = json.loads(path.read_text())
    for fields, db in (
        ({}, radiomap.NO_DB),
        (dict(db_floor=-250, db_span=250), radiomap.DbRange(-250, 250)),
    ):
        config["data"] |= {"source": "folder"} | fields
        path.write_text(json.dumps(config))
        assert codec.load(trained_copy).db == db
    config["autoencoder"]["ch"] = "a"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not fit this version:\n +autoencoder"):
        codec.load(trained_copy)
    with pytest.raises(ValueError, match="weights='best' is not 'ema' or 'live'"):
        codec.load(trained_copy, "best")


def test_maps_without_a_unit_are_measured_in_f_and_no_db_is_made_up(
    run, call, autoencode
):
    _, printed = call("reconstruct", run / "a.png", db=radiomap.NO_DB)
    f = gray(run / "a.png") / 255
    rmse = np.sqrt(np.mean((autoencode(f)[1] - f) ** 2))
    assert f"a: RMSE {rmse:.4f} in f" in printed and "dB" not in printed
    np.savez(run / "no_unit.npz", path_gain=np.full((1, 32, 32), 1e-9))
    for files in ([run / "in_db.npy", "--unit=db"], [run / "no_unit.npz"]):
        _, error = call("reconstruct", *files, status=1, db=radiomap.NO_DB)
        assert "set data.db_floor and data.db_span in its config.json" in error


def test_maps_that_decode_to_no_numbers_are_not_written(tmp_path):
    maps = np.full((2, 4, 4, 1), 0.5)
    apply_commands.check_finite(["a", "b"], maps)
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"b: decoded to .* not finite, .* encode"):
        apply_commands.check_finite(["a", "b"], maps)
