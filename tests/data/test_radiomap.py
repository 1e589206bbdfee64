import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from radiovae_jax.data import radiomap

# f, gain in dB (RadioMapSeer's 0 and 255 span 100 dB), the model's range.
SCALES = [
    (0.0, -147.0, -1.0),
    (0.2, -127.0, -0.6),
    (0.5, -97.0, 0.0),
    (1.0, -47.0, 1.0),
]


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_the_scales_are_those_that_the_data_set_states(xp):
    f, gain_db, x = xp.asarray(SCALES, xp.float32).T
    gray = radiomap.gray_to_f(xp.array([0, 51, 255], xp.uint8))
    assert gray.dtype == np.float32 and radiomap.gray_to_f(f) is f
    # By hand, t = 0.2: (0.6 - 0.2) / 0.8 = 0.5.
    five = xp.array([0.0, 0.1, 0.2, 0.6, 1.0], xp.float32)
    for found, expected in (
        (gray, [0.0, 0.2, 1.0]),
        (radiomap.f_to_db(f), gain_db),
        (radiomap.db_to_f(gain_db), f),
        (radiomap.f_to_model(f), x),
        (radiomap.model_to_f(x), f),
        (radiomap.threshold(five, 0.2), [0, 0, 0, 0.5, 1]),
        (radiomap.threshold(five, 0.0), five),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_numbers_without_a_known_scale_are_refused():
    with pytest.raises(ValueError, match=r"int32 has no known scale; expected uint8"):
        radiomap.gray_to_f(np.array([1], np.int32))
    for t in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"outside \[0, 1\); RadioUNet's is 0.2"):
            radiomap.threshold(np.zeros(1, np.float32), t)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_an_npy_is_gray_or_f_with_any_number_of_channels(tmp_path, shape, dtype):
    np.save(tmp_path / "a.npy", np.ones(shape, dtype))
    image = radiomap.read_map(tmp_path / "a.npy")
    assert image.shape == (*shape, 1)[:3]
    assert image.dtype == (np.uint8 if dtype == np.uint8 else np.float32)


def test_a_png_is_written_whole_and_read_as_stored(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    radiomap.write_png(tmp_path / "a.png", gray)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), gray[..., 0])
    found = radiomap.read_map(tmp_path / "a.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, gray)
    (tmp_path / "c.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"c.png is a folder.* move it away"):
        radiomap.write_png(tmp_path / "c.png", gray)
    with pytest.raises(ValueError, match=r"b.png: expected \[h, w\] or \[h, w, 1\]"):
        radiomap.write_png(tmp_path / "b.png", np.zeros((3, 4, 3), np.uint8))
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "c.png"}


@pytest.mark.parametrize(
    "mode, remedy",
    [
        ("RGB", "export the gray values"),
        ("P", "Colours of a colour map are not gains"),
        ("I;16", "Divide by 257"),
        ("LA", r"convert\('L'\)"),
        ("1", r"convert\('L'\)"),
    ],
)
def test_a_png_that_is_not_8_bit_gray_is_named_with_the_remedy(tmp_path, mode, remedy):
    Image.new(mode, (4, 4)).save(tmp_path / "11_1.png")
    message = rf"11_1.png is a PNG of mode {mode},.*{remedy}"
    with pytest.raises(ValueError, match=message):
        radiomap.read_map(tmp_path / "11_1.png")


def random(*shape):
    return np.random.default_rng(0).random(shape)


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    "name, keep, message",
    [
        ("a.png", 0, "is empty; copy it again"),
        ("a.png", 60, "is truncated.* copy it again"),
        ("a.png", 1000, "is truncated.* copy it again"),
        ("a.npy", 200, "is damaged.* copy it again"),
        ("a.jpeg", 2000, ": a map is a .png or an .npy file"),
    ],
)
def test_a_file_that_is_no_whole_map_is_named(tmp_path, name, keep, message):
    path, noise = tmp_path / name, (255 * random(32, 32)).astype(np.uint8)
    np.save(path, noise) if name == "a.npy" else Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{name} ?{message}"):
        radiomap.read_map(path)
    if name == "a.jpeg":  # whatever its name says
        with pytest.raises(ValueError, match=r"a.png is truncated or not the PNG file"):
            radiomap.read_map(path.rename(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.array([[np.nan, np.inf]]), r"a.npy spans nothing and holds 2 non-finite"),
        (
            np.array([[0.5, np.nan]]),
            r"0.5 and holds 1 non-finite .* 0 where there is no",
        ),
        (np.array([[-90.0, -np.inf]]), r"spans -90 to -90 and .*floor\) / span"),
        (np.array([[-90.0, 0.5]]), r"a.npy spans -90 to 0.5.*db_to_f.*--unit db"),
        (
            np.array([[0.0, 1.5]]),
            r"spans 0 to 1.5 and holds 0 .*expected f in \[0, 1\]",
        ),
        (np.ones(4, np.longdouble), r"a.npy is damaged.*long double"),
        (np.array([[0, 255]], np.int64), r"a.npy holds int64, expected uint8"),
        (np.array([[True]]), r"a.npy holds bool, expected uint8"),
        (np.zeros((2, 2, 2, 2)), r"a.npy has shape \(2, 2, 2, 2\).*one map a file"),
        (np.array([None]), r"a.npy is damaged.*Python objects"),
    ],
)
def test_an_npy_that_is_no_map_is_named_with_what_is_wrong(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        radiomap.read_map(tmp_path / "a.npy")


def test_a_wrong_size_names_both_files_and_both_sizes():
    radiomap.check_shape((4, 4, 1), (4, 4, 1), "a.png", "b.png")
    with pytest.raises(ValueError, match=r"a.png is 3x4x1, expected 4x4x1 like b.png"):
        radiomap.check_shape((3, 4, 1), (4, 4, 1), "a.png", "b.png")


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("name", [b"IHDR", b"tEXt", b"IDAT"])
def test_a_png_whose_checksum_is_wrong_in_any_chunk_is_refused(tmp_path, name):
    path = tmp_path / "a.png"
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "of the city")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, pnginfo=note)
    content = bytearray(path.read_bytes())
    start = content.index(name)
    (length,) = struct.unpack(">I", content[start - 4 : start])
    content[start + 4 + length] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.png is trunc.*checksum.*{name}"):
        radiomap.read_map(path)


def test_the_size_of_a_map_is_checked_before_it_is_read(tmp_path, recwarn):
    path = tmp_path / "a.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"a.png is 60000x60000, and maps of at most"):
        radiomap.read_map(path)
    path, side = tmp_path / "a.npy", 13_000
    header = {"descr": "<f8", "fortran_order": False, "shape": (side, side)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 8 * side**2)  # of holes
    with pytest.raises(ValueError, match=r"a.npy is 13000x13000, and maps of at most"):
        radiomap.read_map(path)
    assert not recwarn.list


@pytest.mark.parametrize("shape", [(16, 16, 3), (4, 16, 2), (32, 32, 12)])
def test_channels_at_the_front_are_named_with_the_remedy(tmp_path, shape):
    path = save(tmp_path / "a.npy", np.moveaxis(random(*shape), -1, 0))
    with pytest.raises(ValueError, match=r"a.npy has shape .*first.*np.moveaxis"):
        radiomap.read_map(path)
    save(path, np.moveaxis(np.load(path), 0, -1))  # to the letter
    np.testing.assert_allclose(radiomap.read_map(path), random(*shape), rtol=1e-6)


def test_one_channel_at_the_front_is_taken(tmp_path):
    f = random(6, 8, 1)
    path = save(tmp_path / "a.npy", np.moveaxis(f, -1, 0))
    np.testing.assert_allclose(radiomap.read_map(path), f, rtol=1e-6)
