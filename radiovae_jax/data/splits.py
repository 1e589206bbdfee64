"""Which map belongs to which split, so that no city is in two of them.

RadioMapSeer's splits are ranges of a fixed order of its maps. In a plain folder the
subfolders are the splits where there are any; otherwise the files are dealt out.
"""

import difflib
import functools
import itertools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SPLIT_BY = ("group", "file")  # of a plain folder
SPLITS = ("train", "val", "test", "all")

# First and last position (inclusive) of each split in RadioMapSeer's order of maps.
SCHEMES = {
    "radiounet": {"train": (0, 500), "val": (501, 600), "test": (601, 699)},
    "released": {"train": (0, 600), "val": (600, 650), "test": (600, 699)},
}

# Subfolders that are splits, in any case.
FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
MIN_GROUPS = 3  # that files can be dealt by: one for each split
MIN_WORDS = 10  # a city each; fewer are classes, or kinds of maps
MAX_SHARE = 0.75  # of the files in one group; what more have in common says nothing
COPY = re.compile(r"^copy of |(?:[\s_-]+(?:copy|kopie)|\s*\(\d+\)|~\d+)+$")
SIMULATION = re.compile(r"irt\d")
TRANSMITTER = re.compile(r"tx\D?\d+")

SEED, SHARE = 42, 0.1  # of groups or files, for val, and again for test

Files = dict[str, list[pathlib.Path]]


@functools.cache
def order() -> tuple[int, ...]:
    """Returns RadioMapSeer's map at each of 700 positions; map 0 is at none.

    Source: np.random.seed(42), a shuffle of arange(700), plus 1; RadioUNet's
    lib/loaders.py, followed by RadioDiff. Kept as data: it is no longer at the mercy
    of NumPy's legacy generator.
    """
    path = pathlib.Path(__file__).with_name("radiomapseer_order.json")
    return tuple(json.loads(path.read_text()))


@functools.cache
def split_maps(split: str, scheme: str) -> frozenset[int]:
    """Returns the maps of "train", "val" or "test" in a scheme of SCHEMES."""
    first, last = SCHEMES[scheme][split]
    return frozenset(order()[first : last + 1])


def check_choice(what: str, given: str, choices: Sequence[str]) -> None:
    """Raises a ValueError with all names, the closest first, where one is unknown."""
    if given in choices:
        return
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(given).lower(), lower, n=1, cutoff=0.5)
    hint = f"did you mean {lower[close[0]]!r}? " if close else ""
    raise ValueError(f"unknown {what} {given!r}: {hint}There are {', '.join(choices)}")


def check_fields(fields: Sequence[str], choices: Sequence[str]) -> None:
    """Raises a ValueError unless there are fields, and all are among the choices."""
    if isinstance(fields, str) or not fields:
        raise ValueError(
            f"fields={fields!r}; expected a list of one or more of {', '.join(choices)}"
        )
    for field in fields:
        check_choice("field", field, choices)


def check_gray_alone(fields: Sequence[str], because: str) -> None:
    """Raises a ValueError where more than the map is wanted of a data set."""
    if tuple(fields) != ("gray",):
        raise ValueError(
            f"{because}, and fields={list(fields)}; lay the data out as RadioMapSeer "
            "does, or switch off what needs the rest (pixel_weights, disc_conditional)"
        )


class Part(NamedTuple):
    """The files of one split, sorted.

    Attributes:
      names: of the files: their paths in the split's folder, without suffixes.
      where: the root, and what made them a split, for the summary of a data set.
    """

    files: list[pathlib.Path]
    names: list[str]
    where: str


def split_files(
    root: pathlib.Path,
    suffixes: tuple[str, ...],
    *,
    split: str,
    split_by: str = "group",
) -> Part:
    """Returns the files of a split of a plain folder.

    Subfolders train/, val/ and test/ (Train/, valid/, ...) are the splits where any of
    them exists. Otherwise files are dealt at random, each group of `groups` or each
    file as a whole: a tenth, and at least one, to val and to test.

    Args:
      split: "train", "val", "test", or "all" for every file found.
      split_by: "group", those of one map (7_0, 7_1) together; or "file".
    """
    check_choice("split", split, SPLITS)
    check_choice("split_by", split_by, SPLIT_BY)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: set data.root to that of the maps")
    folders = _split_folders(root, suffixes)
    if folders:
        files = {name: _files(path, suffixes) for name, path in folders.items()}
        shown = ", ".join(f"{path.name}/" for path in folders.values())
        how = f"split by its folders {shown}{_group_in_two(files)}"
        loose = _files(root, suffixes, below=False)
        files["all"] = sorted(itertools.chain(loose, *files.values()))
    else:
        found = _files(root, suffixes)
        names = [_name(path, root) for path in found]
        together = groups(names) if split_by == "group" else _each(names)
        files = _deal(found, together)
        how = "" if split == "all" else _dealt_by(names, together, files)
        files["all"] = found
    if not files.get(split):
        counts = ", ".join(f"{len(part)} in {name}" for name, part in files.items())
        raise ValueError(
            f"split {split!r} of {root} is empty: found {counts} ({', '.join(suffixes)}"
            f" files); put some in {root / split}, or ask for another split"
        )
    chosen, bases = files[split], {*folders.values()}
    inner = {path.parent for path in chosen} - bases - {root}
    within = f"from {len(inner)} of its folders" if inner else ""
    return Part(
        files=chosen,
        names=[_name(path, root, bases) for path in chosen],
        where=", ".join(filter(None, (str(root), within, how))),
    )


def _split_folders(
    root: pathlib.Path, suffixes: tuple[str, ...]
) -> dict[str, pathlib.Path]:
    """Returns the folders that are splits, in the order of the splits."""
    found = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        name = _split_of(path.name)
        # One of another name than ours, without maps, is no split.
        if not name or (path.name != name and not _files(path, suffixes)):
            continue
        if name in found:
            raise ValueError(
                f"{root} has two folders for the split {name!r}, {found[name].name}/ "
                f"and {path.name}/; keep one, or move the other away"
            )
        found[name] = path
    return {name: found[name] for name in FOLDERS if name in found}


def _split_of(folder: str) -> str:
    """Returns the split that a folder's name says, or ""."""
    named = (name for name, words in FOLDERS.items() if folder.lower() in words)
    return next(named, "")


def _files(
    folder: pathlib.Path, suffixes: tuple[str, ...], *, below: bool = True
) -> list[pathlib.Path]:
    """Returns the maps in a folder; where there are none, those in folders below it.

    What is hidden is left out: editors and interrupted copies leave it behind. So are
    the folders of runs, and of cities in RadioMapSeer's layout.
    """
    found = []
    for here, inside, names in os.walk(folder, onerror=_raise):
        top = here == str(folder)
        ours = {"config.json", "checkpoints"} <= {*inside, *names}
        ours |= {"gain", "png"} <= {*inside}
        if top or not ours:
            found += [
                pathlib.Path(here, name)
                for name in names
                if pathlib.Path(name).suffix.lower() in suffixes and name[0] != "."
            ]
        if ours or (top and (found or not below)):
            inside.clear()
        inside[:] = [name for name in inside if name[0] != "."]
        if not top and len({_split_of(name) for name in inside} - {""}) > 1:
            raise ValueError(f"the splits are folders of {here}: set data.root to it")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _name(path: pathlib.Path, root: pathlib.Path, bases=frozenset()) -> str:
    """Returns a file's path in its split's folder, or in the root."""
    base = next(iter(bases.intersection(path.parents)), root)
    return path.relative_to(base).with_suffix("").as_posix()


def groups(names: Sequence[str]) -> list[list[int]]:
    """Returns which names are of one map, by the numbers in them.

    The last number is the transmitter's (or the one behind "tx"), those before it are
    the map's, whatever words stand around: 7_3, 007.04, map7_tx3, 7/3 and IRT2_7_3
    belong together, and copies ("7_3 (1)", "7_3 - Copy") to what they are of. A name
    with one number, img_001, is its own, unless at least ten words stand before
    numbers (cities, not classes). Where fewer than three groups come out, or one holds
    most of the names, each name is its own.
    """
    for key, least in ((_map_of, MIN_GROUPS), (_word_of, MIN_WORDS)):
        together: dict[object, list[int]] = {}
        for i, name in enumerate(names):
            together.setdefault(key(COPY.sub("", name.casefold())), []).append(i)
        largest = max(map(len, together.values()), default=0)
        if least <= len(together) < len(names) and largest <= MAX_SHARE * len(names):
            return list(together.values())
    return _each(names)


def _each(names: Sequence[str]) -> list[list[int]]:
    return [[i] for i in range(len(names))]


def _map_of(name: str) -> object:
    plain = SIMULATION.sub("", name)
    bare = TRANSMITTER.sub(" ", plain)
    numbers = [int(number) for number in re.findall(r"\d+", bare)]
    if bare == plain and len(numbers) > 1:
        numbers.pop()
    elif bare == plain:  # 007 is 7
        return re.sub(r"\d+", lambda number: str(int(number[0])), name)
    return tuple(numbers) or name


def _word_of(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _deal(files: list[pathlib.Path], dealt: list[list[int]]) -> Files:
    # RandomState, since NumPy promises never to change its stream.
    shuffled = np.random.RandomState(SEED).permutation(len(dealt))
    count = max(1, round(SHARE * len(dealt)))
    val, test, train = np.split(shuffled, [count, 2 * count])
    return {
        name: sorted(files[i] for group in part for i in dealt[group])
        for name, part in (("train", train), ("val", val), ("test", test))
    }


def _dealt_by(names: list[str], dealt: list[list[int]], files: Files) -> str:
    """Returns how the files were dealt, for the summary."""
    first, *more = max(dealt, key=len, default=[0])
    if not more:
        return "dealt by file"
    alike = f"{names[first]} and {names[more[0]]}"
    # Of few groups the shares are far from a tenth.
    shares = ", ".join(f"{len(part)} in {name}" for name, part in files.items())
    return f"dealt by group: {len(dealt)} groups, {alike} in one; {shares}"


def _group_in_two(files: Files) -> str:
    """Returns a remark for the summary where maps of one group are in two splits."""
    found = [(name, path.stem) for name, part in files.items() for path in part]
    for first, *more in groups([stem for _, stem in found]):
        for i in more:
            # The same name alone says little: numbers begin at 0 in every folder.
            if all(a != b for a, b in zip(found[first], found[i], strict=True)):
                (a, x), (b, y) = found[first], found[i]
                return f" (names of one group are in two: {x} in {a}, {y} in {b})"
    return ""
