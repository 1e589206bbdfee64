"""Input files, checked before they are read: paths, JSON, NPY, npz, names to show.

What a user gives may be no file, another kind of file, damaged, or a promise of more
memory than there is. Each is one ValueError or OSError (FileNotFoundError) that names
the file. `remedy`, the end of such a message, says what to do.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Path = str | os.PathLike[str]
Shape = tuple[int, ...]

MOST_JSON = 2**26  # bytes
MOST_ARRAY = 2**33  # bytes of one array
NAME_LETTERS = 80  # of a name that is shown
# What stands for other bytes than a picture's or an array's, at the start of a file.
LFS = b"version https://git-lfs"
HTML = (b"<!doctype", b"<html", b"<?xml", b"<head")
# What NumPy and zipfile raise for bytes that they cannot read.
DAMAGED = (ValueError, EOFError, SyntaxError, RuntimeError, OverflowError)
DAMAGED += (zipfile.BadZipFile, zlib.error)


def local(path: Path, what: str) -> pathlib.Path:
    """Returns a path of this machine; ~ is the home folder.

    Args:
      what: the flag or field that names it.

    Raises a ValueError for the address of another machine's file, gs:// say.
    """
    # pathlib makes gs:/ of gs://; a single letter would be a drive.
    collapsed = isinstance(path, pathlib.PurePath) and re.match(
        r"\w[\w+.-]+:/", str(path)
    )
    if "://" in os.fspath(path) or collapsed:
        raise ValueError(
            f"{what}={os.fspath(path)}: files are read and written on this machine's "
            "file systems alone; copy them here, or mount the bucket as a folder"
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"{what}={os.fspath(path)}: {error}") from error


def check_file(path: pathlib.Path, *, remedy: str) -> None:
    """Raises an error unless a path is a regular file with what its name promises."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; {remedy}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise ValueError(f"{path} is {kind}, expected a file; {remedy}")
    if not status.st_size:
        raise ValueError(f"{path} is empty; {remedy}")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(LFS):
        raise ValueError(
            f"{path} is a Git LFS pointer and holds no data: run `git lfs pull` where "
            "it was cloned, or download the file itself"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML):
        raise ValueError(
            f"{path} is a web page saved under that name: a download that needed a "
            f"login, or ended in an error page; {remedy}"
        )


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Reads a JSON object; a byte order mark is skipped."""
    path = pathlib.Path(path)
    check_file(path, remedy=remedy)
    size = path.stat().st_size
    if size > MOST_JSON:
        raise ValueError(f"{path} has {size} bytes, too many for a JSON; {remedy}")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path} is damaged: no JSON ({error}); {remedy}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; {remedy}") from None
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ValueError(f"{path} holds a {found}, expected a JSON object; {remedy}")
    return content


@contextlib.contextmanager
def _readable(path: pathlib.Path, what: str, remedy: str) -> Iterator[None]:
    """Checks a file, and makes one line of what its reader says of damaged bytes."""
    check_file(path, remedy=remedy)
    try:
        yield
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.removeprefix(f"{path} ")
        raise ValueError(
            f"{path} is damaged, or no {what} that can be read ({reason}); {remedy}"
        ) from error


def _npy_shape(file: io.BufferedIOBase, size: int, what: str) -> Shape:
    """Returns the shape in the header of an NPY of `size` bytes of portable numbers."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{what} is an NPY of version {version}, expected 1.0 or 2.0")
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, dtype = read(file)
    if dtype.hasobject or dtype.fields:
        raise ValueError(f"{what} holds Python objects or records, expected numbers")
    if dtype.char in "gG":
        raise ValueError(
            f"{what} holds {dtype} (long double), which differs between machines; save "
            "it as float32 or float64"
        )
    promised = math.prod(shape) * dtype.itemsize
    if promised > MOST_ARRAY:
        raise ValueError(f"{what} promises {promised / 2**30:.3g} GiB in one array")
    if file.tell() + promised != size:
        raise ValueError(
            f"{what} is truncated, or its header is damaged: it promises {promised} "
            f"bytes of numbers and holds {size - file.tell()}"
        )
    return shape


def npy_shape(path: pathlib.Path, *, remedy: str) -> Shape:
    """Returns the shape that an NPY's header promises; its numbers are not read."""
    with _readable(path, "NPY file", remedy), path.open("rb") as file:
        return _npy_shape(file, path.stat().st_size, str(path))


def read_npy(path: pathlib.Path, *, remedy: str) -> np.ndarray:
    """Reads an array of numbers; its size is checked before memory is taken."""
    npy_shape(path, remedy=remedy)
    return np.load(path, allow_pickle=False)


def npz_shapes(
    path: pathlib.Path, names: Sequence[str] = (), *, remedy: str
) -> dict[str, Shape]:
    """Returns the shapes that the headers in an npz promise, by the arrays' names.

    Args:
      names: of the arrays to look at, as far as they are there; none: all.
    """
    shapes = {}
    with _readable(path, "npz archive", remedy), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if not names or name in names:
                with archive.open(member) as file:
                    shapes[name] = _npy_shape(file, member.file_size, name)
    return shapes


def read_npz(
    path: pathlib.Path, names: Sequence[str] = (), *, remedy: str
) -> dict[str, np.ndarray]:
    """Reads arrays as `npz_shapes`; sizes are checked before, checksums on the way."""
    found = npz_shapes(path, names, remedy=remedy)
    with (
        _readable(path, "npz archive", remedy),
        np.load(path, allow_pickle=False) as archive,
    ):
        return {name: archive[name] for name in found}  # zipfile checks their CRCs


def check_zip(path: pathlib.Path, *, what: str, remedy: str) -> None:
    """Checks a zip's members: their method, and their bytes against their checksums."""
    with _readable(path, what, remedy), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise ValueError(f"{member.filename} is encrypted")
            if member.file_size > MOST_ARRAY:
                gib = member.file_size / 2**30
                raise ValueError(f"{member.filename} promises {gib:.3g} GiB")
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} does not match its checksum")


def printable(name: object, *, letters: int = NAME_LETTERS) -> str:
    """Returns a name as figures, tables, CSV, pages and terminals can show it.

    Bytes that are no UTF-8 and control characters (line ends, ANSI escapes, marks that
    turn the direction of writing) become escapes; a long name loses its middle.
    """
    # The surrogates of os.fsdecode are bytes that are no UTF-8.
    raw = str(name).encode("utf-8", "surrogateescape")
    text = "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter)[0] == "C"
        else letter
        for letter in raw.decode("utf-8", "backslashreplace")
    )
    if len(text) <= letters:
        return text
    half = (letters - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
