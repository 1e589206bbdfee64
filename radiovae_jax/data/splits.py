"""Which map belongs to which split, so that no city is in two of them."""

import difflib
import functools
import json
import pathlib
from collections.abc import Sequence

SPLIT_BY = ("group", "file")  # of a plain folder, see folder_splits
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
