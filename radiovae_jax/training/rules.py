"""What a field of the config is, and the rules that values have to keep.

Nothing here or in fields.py takes time to import: a misspelt field is named at once.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

FIXED, EXTEND, FREE = "no", "with train.extend", "yes"  # may a resumed run change it?
INFINITY = float("inf")


class Rule(NamedTuple):
    """Whether a value is allowed, and what is, in words."""

    allows: Callable[[Any], bool]
    words: str


class Field(NamedTuple):
    default: Any
    rule: Rule
    meaning: str
    resume: str = FIXED
    older: Any = ()  # what version 0.1 did, whose config.json lacks it; () where it had


def later(default: Any, rule: Rule, meaning: str, resume: str = FIXED) -> Field:
    """A field that came after version 0.1; its default does what 0.1 did."""
    return Field(default, rule, meaning, resume, older=default)


def section(prefix: str, **fields: Field) -> dict[str, Field]:
    """Returns {"section.field": field}."""
    return {f"{prefix}.{name}": field for name, field in fields.items()}


def whole(low: int, high: int = 2**31 - 1) -> Rule:
    """A whole number within both ends; steps and sizes are of 32 bits on devices."""

    def allows(value: Any) -> bool:
        number = isinstance(value, int) and not isinstance(value, bool)
        return number and low <= value <= high

    return Rule(allows, f"a whole number from {low} to {high}")


def real(low: int | float, high: int | float = INFINITY) -> Rule:
    """A number within both ends."""

    def allows(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and low <= value <= high and abs(value) != INFINITY

    lower = "" if low == -INFINITY else f" from {low:g}"
    upper = "" if high == INFINITY else f" to {high:g}"
    return Rule(allows, f"a number{lower}{upper}")


def one_of(*choices: str) -> Rule:
    return Rule(lambda v: v in choices, "one of " + ", ".join(map(repr, choices)))


def pick(choices: str) -> tuple[str, Rule]:
    """Returns (default, rule) of choices in one text; the first is the default."""
    return choices.split()[0], one_of(*choices.split())


def sequence(rule: Rule, *, shortest: int, longest: int = sys.maxsize) -> Rule:
    def allows(values: Any) -> bool:
        if not isinstance(values, list | tuple):
            return False
        return shortest <= len(values) <= longest and all(map(rule.allows, values))

    return Rule(allows, f"a tuple of {rule.words}")


ANY_NUMBER = real(-INFINITY)
TEXT = Rule(lambda v: isinstance(v, str), "a text")
YES_NO = Rule(lambda v: isinstance(v, bool), "True or False")
NUMBER_OR_NONE = Rule(
    lambda v: v is None or ANY_NUMBER.allows(v), "a number, or None for the source's"
)
SIDE = whole(1)
PAIR = sequence(SIDE, shortest=2, longest=2)
SIZE = Rule(lambda v: SIDE.allows(v) or PAIR.allows(v), "a size or a (height, width)")
