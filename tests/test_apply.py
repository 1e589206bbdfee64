"""`apply`: files in, files out, by hand and by the functions underneath."""

import functools
import json
import os
import pathlib
import shutil

import command
import jax
import numpy as np
import pytest
import tiny
from matplotlib.figure import Figure
from PIL import Image

import radiovae_jax
from radiovae_jax import DiagonalGaussian, apply, verbs
from radiovae_jax.data import mapfiles, radiomap, sionna
from radiovae_jax.training import train
from radiovae_jax.vae import codec

pytestmark = pytest.mark.usefixtures("quick_compile")

# Every command loads and compiles; here the first one does.
load_once = functools.cache(codec.load)
HEIGHT, WIDTH = 30, 27  # the columns are no multiple of 2, the down-sampling


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with run/ (32x32, two levels), a.png, b.png, and one map in dB."""
    folder = tmp_path_factory.mktemp("apply")
    train.run(tiny.config(folder / "city", steps=3), folder / "run")
    maps = sorted((folder / "city" / "gain" / "DPM").glob("*.png"))
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
    """Calls a verb; returns the folder of its results and what it said."""

    monkeypatch.setattr(codec, "load", load_once)

    def of(verb, *arguments, out=tmp_path / "out", status=0):
        flags = [f"--workdir={run / 'run'}", f"--out={out}"]
        assert apply.main([verb, *map(str, arguments), *flags]) == status
        said = capsys.readouterr()
        return out, said.err if status else said.out

    return of


def gray(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float32)


def test_a_png_comes_back_as_the_model_makes_it(run, call, autoencode):
    out, said = call("reconstruct", run / "a.png")
    f = gray(run / "a.png") / 255
    _, recon = autoencode(f)
    np.testing.assert_allclose(gray(out / "a.png"), 255 * recon, atol=0.51)
    rmse_db = 100 * np.sqrt(np.mean((recon - f) ** 2))
    assert f"a: RMSE {rmse_db:.2f} dB" in said
    assert (out / "a_error.png").read_bytes().startswith(b"\x89PNG")


def test_db_stay_db_and_odd_sides_are_mirrored_and_cut(run, call, autoencode):
    out, said = call("reconstruct", run / "in_db.npy", "--unit=db")
    assert "0 rows and 1 columns mirrored" in said
    assert "maps of 30x27: the training's size is 32x32 (data.synthetic.size)" in said
    f = np.load(run / "in_f.npy")
    _, recon = autoencode(np.pad(f, ((0, 0), (0, 1)), "reflect"))
    found_db = np.load(out / "in_db.npy")
    assert found_db.dtype == np.float32
    # float32 at 147 dB; a PNG would be off by up to 0.2 dB.
    np.testing.assert_allclose(found_db, 100 * recon[:, :WIDTH] - 147, atol=1e-3)


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
    two, said = call("sample", "--count=2", "--seed=5", "--side=31")
    assert "N(0, 1)" in said
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
    "tiles, one_pass, one_attention, by_bands",
    [
        ("auto", 32 * 32, 16 * 16, False),
        ("auto", 32 * 32 - 1, 16 * 16, True),
        ("auto", 32 * 32, 16 * 16 - 1, True),
        ("always", 32 * 32, 16 * 16, True),
        ("never", 0, 0, False),
    ],
)
def test_large_maps_go_band_by_band(
    run, monkeypatch, tiles, one_pass, one_attention, by_bands
):
    monkeypatch.setattr(codec, "ONE_PASS", one_pass)
    monkeypatch.setattr(codec, "ONE_ATTENTION", one_attention)
    marker = DiagonalGaussian(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1)))
    monkeypatch.setattr(codec.tiling, "encode", lambda *a, **options: marker)
    found = codec.load(run / "run", tiles=tiles).encode(np.zeros((1, 32, 32, 1)))
    assert (found is marker) == by_bands


def test_nothing_is_overwritten_unasked_and_an_input_never(run, call):
    out, _ = call("reconstruct", run / "a.png")
    (out / "a.png").write_bytes(b"precious")
    _, error = call("reconstruct", run / "b.png", run / "a.png", status=1)
    assert "--overwrite" in error
    assert (out / "a.png").read_bytes() == b"precious"
    assert not (out / "b.png").exists()
    call("reconstruct", run / "a.png", "--overwrite")
    assert gray(out / "a.png").shape == (32, 32)
    before = (run / "a.png").read_bytes()
    _, error = call("reconstruct", run / "a.png", "--overwrite", out=run, status=1)
    assert "one of the maps given" in error
    assert (run / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    "words, verb, files",
    [
        ("absent.png does not exist", "reconstruct", ["absent.png"]),
        ("torn.png is truncated", "encode", ["torn.png"]),
        ("--unit db", "reconstruct", ["in_db.npy"]),
        ("five.npy has 5 channels", "encode", ["five.npy"]),
        ("a map has pixels", "encode", ["empty.npy"]),
        ("holds 1 non-finite", "encode", ["nan.npy"]),
        ("4 channels, and those of", "decode", ["other.npz"]),
        ("of no map of 32x32, which has 16x16", "decode", ["smaller.npz"]),
        ("2 names for 1 latents", "decode", ["misnamed.npz"]),
        ("'../up'; a name has no folder", "decode", ["outside.npz"]),
        ("expected mean or z", "decode", ["none.npz"]),
        ("nothing.npz is empty", "decode", ["nothing.npz"]),
        ("Bad CRC-32 for file 'mean.npy'", "decode", ["flipped.npz"]),
        ("pipe.npz is a pipe, socket or device", "decode", ["pipe.npz"]),
        ("wide.npy is 13000x13000, and maps of at most", "reconstruct", ["wide.npy"]),
        ("pickled.npz is damaged", "decode", ["pickled.npz"]),
        ("expected mean or z", "decode", ["strange.npz"]),
        ("one map to one other", "interpolate", ["a.png", "scene2.npz"]),
        ("maps of one size", "interpolate", ["a.png", "in_f.npy"]),
        ("several results would be", "reconstruct", ["a.png", "again/a.png"]),
        ("no map file", "reconstruct", ["run/config.json"]),
        ("both hold a map named a", "encode", ["a.png", "again/a.png"]),
        ("2 maps named 'a', which would be one", "decode", ["twins.npz"]),
        ("stored is 100000x100000, and maps of at most", "decode", ["vast.npz"]),
        ("'a\\x00b'; a name has no folder and no NUL", "decode", ["nul.npz"]),
        ("shape (0, 32, 32), so the scene has no tr", "encode", ["silent.npz"]),
        (
            "is mostly outside -147 to -47 dB, the range of f: 810 values (100.00%) ab",
            "encode",
            ["in_f.npy", "--unit=db"],
        ),
        ("nan_db.npy holds 2 non-finite", "encode", ["nan_db.npy", "--unit=db"]),
    ],
)
def test_errors_name_the_thing_and_the_remedy(run, call, words, verb, files):
    (run / "torn.png").write_bytes((run / "a.png").read_bytes()[:200])
    np.savez(run / "other.npz", mean=np.zeros((1, 8, 8, 4), np.float32))
    np.save(run / "five.npy", np.zeros((32, 32, 5), np.float32))
    np.save(run / "empty.npy", np.zeros((0, 5), np.float32))
    np.save(run / "nan.npy", np.float32([[0, np.nan]]))
    z, whole = np.zeros((1, 8, 8, 3), np.float32), np.int32([32, 32])
    np.savez(run / "smaller.npz", mean=z, stored=whole, seen=whole)
    np.savez(run / "misnamed.npz", mean=z, names=["a", "b"])
    np.savez(run / "outside.npz", mean=z, names=["../up"])
    twins = np.concatenate([z, z])
    np.savez(run / "twins.npz", mean=twins, names=["a", "a"])
    np.savez(run / "nul.npz", mean=z, names=["a\0b"])
    np.savez(run / "vast.npz", mean=z, stored=np.int32([100000, 100000]))
    np.save(run / "nan_db.npy", np.float32([[-100, np.nan], [np.inf, -90]]))
    np.savez(run / "none.npz", mean=z[:0])
    np.savez(run / "pickled.npz", mean=np.array([{}]))
    (run / "nothing.npz").touch()
    np.savez(run / "flipped.npz", mean=np.full(z.shape, np.float32(1.5)))
    content = (run / "flipped.npz").read_bytes()
    (run / "flipped.npz").write_bytes(content.replace(b"\0\0\xc0?", b"\0\0\xc1?", 1))
    if not (run / "pipe.npz").exists():
        os.mkfifo(run / "pipe.npz")
    header = {"descr": "|u1", "fortran_order": False, "shape": (13_000, 13_000)}
    with (run / "wide.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 13_000**2)  # of holes
    np.savez(run / "strange.npz", weights=np.zeros(3))
    gain = dict(path_gain=np.full((2, 32, 32), 1e-9), cell_size=[1.0])
    np.savez(run / "scene2.npz", tx_cell_indices=np.zeros((2, 2), int), **gain)
    silent = np.zeros((0, 2), int)
    gain["path_gain"] = gain["path_gain"][:0]
    np.savez(run / "silent.npz", tx_cell_indices=silent, **gain)
    (run / "again").mkdir(exist_ok=True)
    shutil.copy(run / "a.png", run / "again")
    given = [name if name.startswith("--") else run / name for name in files]
    _, error = call(verb, *given, status=1)
    assert words in error and "internal error" not in error


def test_gains_far_below_the_range_are_no_signal(run, tmp_path):
    gain_db = np.float32([[-300, -200, -200], [-147, -97, -47]])
    np.save(tmp_path / "a.npy", gain_db)
    held = mapfiles.read(tmp_path / "a.npy", unit="db")
    np.testing.assert_allclose(held.f[0, ..., 0], [[0, 0, 0], [0, 0.5, 1]], atol=1e-6)
    assert held.clipped[:2] == (0, 3)


def test_a_folder_in_the_place_of_a_result_is_named_before_the_work(run, call):
    out, _ = call("encode", run / "a.png")
    (out / "latents.npz").unlink()
    (out / "latents.npz").mkdir()
    _, error = call("encode", run / "a.png", "--overwrite", status=1)
    assert "latents.npz is a folder" in error and "another --out" in error
    assert [path.name for path in out.iterdir()] == ["latents.npz"]


def test_a_run_whose_config_does_not_fit_is_refused(run, tmp_path):
    shutil.copytree(run / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["autoencoder"]["ch"] = "a"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not fit this version:\n +autoencoder"):
        codec.load(tmp_path / "run")


def test_many_results_sort_by_name_and_few_are_in_the_picture(run, call, monkeypatch):
    shown = []
    strip = lambda maps, titles, title, db: shown.append(titles) or Figure()  # noqa: E731
    monkeypatch.setattr(verbs, "strip", strip)
    out, _ = call("interpolate", run / "a.png", run / "b.png", "--steps=101")
    found = sorted(out.glob("*.npy"))
    assert [found[i].stem for i in (0, 99, 100)] == [
        f"a_to_b_{i}" for i in ("000", "099", "100")
    ]
    # By hand: 10 of 0 to 100, evenly.
    assert shown == ["0% 11% 22% 33% 44% 56% 67% 78% 89% 100%".split()]


def test_one_bad_file_among_good_ones_leaves_nothing_half_done(run, call):
    (run / "torn2.png").write_bytes((run / "a.png").read_bytes()[:200])
    z = np.zeros((1, 16, 16, 3), np.float32)
    np.savez(run / "good.npz", mean=z)
    np.savez(run / "bad.npz", mean=z[..., :2])
    for verb, names in (
        ("reconstruct", ("a.png", "torn2.png")),
        ("decode", ("good.npz", "bad.npz")),
    ):
        out, error = call(verb, *(run / name for name in names), status=1)
        assert names[1] in error or "another model's" in error
        assert not out.exists() or not list(out.iterdir())


def test_a_picture_of_one_map_never_replaces_another_map(run, call):
    for name in ("c.png", "c_error.png"):
        shutil.copy(run / "a.png", run / name)
    out, error = call("reconstruct", run / "c.png", run / "c_error.png", status=1)
    assert "several results would be" in error and "c_error.png" in error
    assert not out.exists()


def test_the_command_ends_with_status_1_and_no_traceback(tmp_path):
    done = command.module("apply", "encode", "x.png", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "is not the folder of a run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "image_size, stored, size, seen",
    [
        (0, (256, 256), "auto", (256, 256)),
        (320, (256, 256), "auto", (320, 320)),
        (128, (256, 256), "auto", (128, 128)),
        (320, (2048, 2048), "auto", (2048, 2048)),
        (320, (256, 300), "auto", (256, 300)),
        (320, (2048, 2048), "training", (320, 320)),
        (320, (256, 256), "stored", (256, 256)),
    ],
)
def test_a_map_passes_at_the_trainings_size_unless_far_from_it(
    image_size, stored, size, seen
):
    nothing = dict.fromkeys(codec.Coder._fields)
    half = codec.Coder(**(nothing | {"image_size": image_size}))
    assert codec.frame(half, stored, size).seen == seen


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "interpolate"])
def test_a_map_that_would_be_squashed_is_named_before_the_work(
    run, call, monkeypatch, verb
):
    half = load_once(run / "run")._replace(image_size=16)
    monkeypatch.setattr(codec, "load", lambda *a, **options: half)
    np.save(run / "wide_f.npy", np.zeros((16, 32), np.float32))
    files = [run / name for name in ("a.png", "wide_f.npy")]
    if verb == "interpolate":
        files[0] = files[1]
    out, error = call(verb, *files, "--size=training", status=1)
    assert "wide_f.npy: maps of 16x32 are not square, and data.image_size=16" in error
    assert "--size stored" in error and not list(out.glob("**/*.np*"))


def test_gains_pass_in_the_range_of_the_run_and_what_is_clipped_is_said(
    run, call, monkeypatch, tmp_path
):
    wide = load_once(run / "run")._replace(db=radiomap.DbRange(-200.0, 250.0))
    monkeypatch.setattr(codec, "load", lambda *a, **options: wide)
    gain_db = np.full((32, 32), -75.0, np.float32)  # f = 0.5
    gain_db[0, :3] = (60, -np.inf, -250)
    np.save(run / "loud.npy", gain_db)
    # A dump of the path gain alone; its rows go upwards.
    np.savez(run / "loud.npz", path_gain=10 ** (gain_db[None, ::-1] / 10))
    for name, unit in (("loud.npy", "db"), ("loud.npz", "f")):
        held = mapfiles.read(run / name, unit=unit, db=wide.db)
        np.testing.assert_allclose(held.f[0, 0, :4, 0], [1, 0, 0, 0.5], atol=1e-6)
        _, said = call("reconstruct", run / name, f"--unit={unit}", "--overwrite")
        clipped = "above 50 dB and 1 values (0.10%) below -200 dB, clipped"
        assert said.count(f"{name}: 1 values (0.10%) {clipped}") == 1
        found = np.load(tmp_path / "out" / name)
        if name.endswith("npy"):
            assert -200 <= found.min() < found.max() <= 50
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


def test_maps_of_five_channels_are_interpolated_in_colours_or_channel_by_channel():
    maps = np.random.default_rng(0).random((3, 8, 8, 5))
    titles = ["0%", "50%", "100%"]
    figure = verbs.strip(maps, titles, "a_to_b", db=radiomap.NO_DB)
    assert figure.get_suptitle() == "a_to_b, 5 channels, mixed"
    assert [axis.images[0].get_array().shape for axis in figure.axes] == [(8, 8, 3)] * 3
    figure = verbs.strip(maps, titles, "a_to_b")
    np.testing.assert_allclose(
        figure.axes[4].images[0].get_array(), 100 * maps[1, ..., 1] - 147
    )
    assert [axis.get_ylabel() for axis in figure.axes[3:7]] == [
        "channel 1",
        "",
        "",
        "channel 2",
    ]


@pytest.fixture(scope="module")
def told(run, tmp_path_factory):
    """Folders of the run as one of plain images: its unit unknown, and given."""
    folder, folders = tmp_path_factory.mktemp("told"), {}
    for name, fields in (("unknown", {}), ("given", dict(db_floor=-250, db_span=250))):
        shutil.copytree(run / "run", folder / name)
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        config["data"] |= {"source": "folder"} | fields
        path.write_text(json.dumps(config))
        folders[name] = folder / name
    return folders


def of_run(workdir, verb, *arguments, status=0, capsys, out):
    flags = [f"--workdir={workdir}", f"--out={out}", "--overwrite"]
    assert apply.main([verb, *map(str, arguments), *flags]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_maps_without_a_unit_are_measured_in_f_and_no_db_is_made_up(
    run, told, autoencode, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(codec, "load", load_once)
    call = functools.partial(
        of_run, told["unknown"], capsys=capsys, out=tmp_path / "out"
    )
    said = call("reconstruct", run / "a.png")
    f = gray(run / "a.png") / 255
    rmse = np.sqrt(np.mean((autoencode(f)[1] - f) ** 2))
    assert f"a: RMSE {rmse:.4f} in f" in said and "dB" not in said
    np.savez(tmp_path / "scene.npz", path_gain=np.full((1, 32, 32), 1e-9))
    for files in ([run / "in_db.npy", "--unit=db"], [tmp_path / "scene.npz"]):
        error = call("reconstruct", *files, status=1)
        assert "set data.db_floor and data.db_span in its config.json" in error


def test_the_dB_of_a_run_are_read_and_written(
    run, told, autoencode, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(codec, "load", load_once)
    f = np.load(run / "in_f.npy")[:, :26]
    np.save(tmp_path / "b.npy", 250 * f - 250)
    out = tmp_path / "out"
    given = [tmp_path / "b.npy", "--unit=db"]
    said = of_run(told["given"], "reconstruct", *given, capsys=capsys, out=out)
    recon = autoencode(f)[1]
    rmse_db = 250 * np.sqrt(np.mean((recon - f) ** 2))
    assert f"b: RMSE {rmse_db:.2f} dB" in said
    np.testing.assert_allclose(np.load(out / "b.npy"), 250 * recon - 250, atol=5e-3)


def test_latents_that_decode_to_no_numbers_are_refused(run, call, tmp_path):
    z = np.float32([[1e38, -1e38], [3e38, 1e38]])
    huge = np.broadcast_to(z.repeat(8, 0).repeat(8, 1)[..., None], (1, 16, 16, 3))
    np.savez(tmp_path / "huge.npz", mean=huge, names=["a"])
    out, error = call("decode", tmp_path / "huge.npz", status=1)
    assert "huge.npz holds latents of up to 3e+38, and no map's are beyond" in error
    assert not list(out.glob("*.npy"))


def test_a_map_that_is_resized_comes_back_at_its_size():
    # A network that changes nothing; the enlargement has an exact inverse.
    nothing = dict.fromkeys(codec.Coder._fields)
    functions = dict(encode=lambda x: DiagonalGaussian(x, x), decode=lambda z: z)
    numbers = dict(factor=1, channels=1, latent_channels=1, image_size=40)
    same = codec.Coder(**(nothing | functions | numbers))
    f = np.random.default_rng(0).random((32, 32, 1)).astype(np.float32)
    frame = codec.frame(same, (32, 32), "auto")
    z = codec.encode(same, f, frame).mean
    assert z.shape == (1, 40, 40, 1)
    np.testing.assert_allclose(codec.decode(same, z[0], frame), f, atol=1e-5)
