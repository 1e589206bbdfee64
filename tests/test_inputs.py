"""Input files: what is no file, no such file, or damaged is one line and no memory."""

import io
import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest

from radiovae_jax import inputs


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def promising(shape: tuple[int, ...]) -> bytes:
    """An NPY whose header promises more than it holds."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(64)


def zipped(name: str, content: bytes, *, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


ARRAY = npy(np.arange(64, dtype=np.float32))


def changed(flags: bytes, method: bytes) -> bytes:
    """A zip whose two headers have other flags and another method of compression."""
    whole = zipped("a.npy", ARRAY)
    for start in (b"PK\x03\x04\x14\x00", b"PK\x01\x02\x14\x03\x14\x00"):
        whole = patched(whole, start + bytes(4), start + flags + method)
    return whole


FLIPPED = patched(zipped("a.npy", ARRAY), struct.pack("<f", 7), struct.pack("<f", 8))
REFUSED = {
    "lfs.npy": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
    "page.npz": (b"\n<!DOCTYPE html><html>", "web page"),
    "empty.npy": (b"", "is empty"),
    "huge.npy": (promising((2**20, 2**20)), "promises 4.1e+03 GiB"),
    "short.npy": (promising((64, 64)), "promises 16384 bytes"),
    "objects.npy": (npy(np.array([{}], object)), "Python objects"),
    "long.npy": (npy(np.ones(4, np.longdouble)), "long double"),
    "text.npy": (b"1 2 3", "no NPY file"),
    "flipped.npz": (FLIPPED, "Bad CRC-32"),
    "encrypted.npz": (changed(b"\1\0", b"\0\0"), "encrypted"),
    "method.npz": (
        changed(b"\0\0", b"\x63\0"),
        "compression method is not supported",
    ),
    "huge.npz": (zipped("a.npy", promising((2**20, 2**20))), "GiB"),
    "cut.npz": (zipped("a.npy", ARRAY)[:200], "no npz archive"),
    "list.json": (b"[1]", "expected a JSON object"),
    "deep.json": (b"[" * 100_000, "too deeply"),
    "bytes.json": (b"\xff\xfe{}", "no JSON"),
}
READERS = {".npy": inputs.read_npy, ".npz": inputs.read_npz, ".json": inputs.read_json}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line_that_names_it(name, tmp_path):
    path = tmp_path / name
    content, words = REFUSED[name]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name) as raised:
        READERS[path.suffix](path, remedy="copy it again")
    message = str(raised.value)
    assert words in message and "\n" not in message


@pytest.mark.parametrize("read", READERS.values())
def test_pipes_devices_folders_and_absent_files_do_not_hang(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", pathlib.Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="expected a file; copy it"):
            read(path, remedy="copy it again")
    with pytest.raises(FileNotFoundError, match="nothing does not exist; copy it"):
        read(tmp_path / "nothing", remedy="copy it again")


def test_what_is_whole_is_read(tmp_path):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", one=array, two=np.array(["x", "y"]))
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": [1]}')
    np.testing.assert_array_equal(inputs.read_npy(tmp_path / "a.npy", remedy=""), array)
    both = inputs.read_npz(tmp_path / "a.npz", remedy="")
    np.testing.assert_array_equal(both["one"], array)
    assert both["two"].tolist() == ["x", "y"]
    assert list(inputs.read_npz(tmp_path / "a.npz", ["two", "no"], remedy="")) == [
        "two"
    ]
    assert inputs.read_json(tmp_path / "a.json", remedy="") == {"a": [1]}


def test_a_path_is_of_this_machine(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert inputs.local("~/maps", "data.root") == pathlib.Path("/home/me/maps")
    assert inputs.local("a/b", "data.root") == pathlib.Path("a/b")
    for path in ("gs://bucket/maps", "s3://x", "https://x/y.pt"):
        with pytest.raises(ValueError, match=f"data.root={path}: .*this machine"):
            inputs.local(path, "data.root")
    with pytest.raises(ValueError, match=r"workdir=gs:/bucket/run: .*this machine"):
        inputs.local(pathlib.Path("gs://bucket/run"), "workdir")
    with pytest.raises(ValueError, match="--workdir=~nobody-here"):
        inputs.local("~nobody-here/x", "--workdir")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("0_0", "0_0"),
        ("größe $x_1$", "größe $x_1$"),
        (os.fsdecode(b"gr\xf6\xdfe_0"), r"gr\xf6\xdfe_0"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines\u202e", r"two\nlines\u202e"),
        ("x" * 255, "x" * 39 + "…" + "x" * 39),
    ],
)
def test_a_name_is_made_printable(name, shown):
    assert inputs.printable(name) == shown
    shown.encode("utf-8")
