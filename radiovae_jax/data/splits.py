"""Which map belongs to which split, so that no city is in two of them."""

import difflib
import functools
import itertools
import json
import pathlib
from collections.abc import Sequence

import numpy as np

SPLIT_BY = ("group", "file")  # of a plain folder, see split_files
SPLITS = ("train", "val", "test", "all")

# First and last position (inclusive) of each split in RadioMapSeer's order of maps.
SCHEMES = {
    "radiounet": {"train": (0, 500), "val": (501, 600), "test": (601, 699)},
    "released": {"train": (0, 600), "val": (600, 650), "test": (600, 699)},
}


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


def split_files(
    root: pathlib.Path,
    suffixes: tuple[str, ...],
    *,
    split: str,
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> list[pathlib.Path]:
    """Returns the files of a split of a plain folder, sorted by name.

    Subfolders train/, val/ and test/ are the splits where any of them exists. Without
    them the sorted files are dealt out at random, at least one to every split whose
    fraction is not 0.

    Raises:
      FileNotFoundError: root is missing.
      ValueError: an unknown split, an empty one, or impossible fractions.
    """
    check_choice("split", split, SPLITS)
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} must be 0 "
            "or more and leave something to train on"
        )
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: set data.root to that of the maps")
    loose = _files(root, suffixes)
    parts = {name: root / name for name in SPLITS[:-1] if (root / name).is_dir()}
    if parts:
        files = {name: _files(folder, suffixes) for name, folder in parts.items()}
        files["all"] = sorted(itertools.chain(loose, *files.values()))
    else:
        files = _deal(loose, seed, val_fraction, test_fraction)
        files["all"] = loose
    if not files.get(split):
        counts = ", ".join(f"{len(part)} in {name}" for name, part in files.items())
        raise ValueError(
            f"split {split!r} of {root} is empty: found {counts} ({', '.join(suffixes)}"
            f" files); put some in {root / split}, ask for another split, or change "
            "val_fraction and test_fraction"
        )
    return files[split]


def _files(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    # Hidden files are what editors and interrupted copies leave behind.
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _deal(
    files: list[pathlib.Path], seed: int, val_fraction: float, test_fraction: float
) -> dict[str, list[pathlib.Path]]:
    # RandomState, since NumPy promises never to change its stream.
    shuffled = np.random.RandomState(seed).permutation(len(files))

    def share(fraction: float) -> int:
        return max(1, round(fraction * len(files))) if fraction else 0

    val = share(val_fraction)
    test = val + share(test_fraction)
    parts = {
        "train": shuffled[test:],
        "val": shuffled[:val],
        "test": shuffled[val:test],
    }
    return {name: [files[i] for i in sorted(part)] for name, part in parts.items()}


def check_choice(what: str, given: str, choices: Sequence[str]) -> None:
    """Checks that a name is one of those there are.

    Raises:
      ValueError: it is not; lists them, and the closest one first.
    """
    if given in choices:
        return
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(given).lower(), lower, n=1, cutoff=0.5)
    hint = f"did you mean {lower[close[0]]!r}? " if close else ""
    raise ValueError(f"unknown {what} {given!r}: {hint}There are {', '.join(choices)}")


def check_fields(fields: Sequence[str], choices: Sequence[str]) -> None:
    """Checks that there is at least one field and that all are among the choices.

    Raises:
      ValueError: there is not, or one is not.
    """
    if isinstance(fields, str) or not fields:
        raise ValueError(
            f"fields={fields!r}; expected a list of one or more of {', '.join(choices)}"
        )
    for field in fields:
        check_choice("field", field, choices)
