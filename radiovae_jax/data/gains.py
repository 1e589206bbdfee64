"""Path gains in dB to f in [0, 1]: what is clipped is counted, or refused.

-inf dB, the logarithm of no gain at all, is "no path": f = 0, and is not counted.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from radiovae_jax.data import radiomap
from radiovae_jax.data.radiomap import DbRange

# Of f: rounding alone takes the ends of the range a little beyond.
TOLERANCE = 1e-6


class Clipped(NamedTuple):
    """What lies outside the range of f and became 0 or 1."""

    above: int = 0
    below: int = 0  # and finite
    lost: int = 0  # of both, without a value that stands for "no path"
    size: int = 0  # of the maps
    lowest: float = math.inf  # gain in dB, without that value
    highest: float = -math.inf

    def words(self, db: DbRange) -> str:
        """Returns how much was clipped, as text; "" if nothing was."""
        sides = (
            ("above", self.above, db.floor + db.span),
            ("below", self.below, db.floor),
        )
        clipped = [
            f"{count} values ({count / self.size:.2%}) {side} {end:g} dB"
            for side, count, end in sides
            if count
        ]
        return " and ".join(clipped) + ", clipped" if clipped else ""


def to_f(
    gain_db: Float[np.ndarray, "n h w c"], db: DbRange
) -> tuple[Float32[np.ndarray, "n h w c"], list[Clipped]]:
    """Returns f = clip((dB - floor) / span, 0, 1), and what was clipped of each map.

    Args:
      gain_db: finite, or -inf where there is no path.
    """
    if not db.span:
        raise ValueError(
            "these maps have no unit, so gains in dB cannot be read: set data.db_floor "
            "(dB of f = 0) and data.db_span (dB from there to f = 1) for the training, "
            "or give maps of f"
        )
    f = radiomap.db_to_f(gain_db, db)
    clipped = [_count(*pair) for pair in zip(f, gain_db, strict=True)]
    return f.clip(0, 1).astype(np.float32), clipped


def _count(
    f: Float[np.ndarray, "h w c"], gain_db: Float[np.ndarray, "h w c"]
) -> Clipped:
    finite = np.isfinite(gain_db)
    path, lost = gain_db[finite], np.count_nonzero(f > 1 + TOLERANCE)
    above, below = lost, np.count_nonzero(f[finite] < -TOLERANCE)
    # One value that repeats below all others is how "no path" is written: -200.
    lowest = path == path.min(initial=np.inf)
    if below and lowest.sum() > 1:
        lost, path = lost - lowest.sum(), path[~lowest]
    ends = (float(path.min()), float(path.max())) if path.size else ()
    return Clipped(above, below, lost + below, f.size, *ends)


def pooled(parts: Iterable[Clipped]) -> Clipped:
    """Returns the counts of several maps together."""
    parts = list(parts) or [Clipped()]
    *counts, lows, highs = zip(*parts, strict=True)
    return Clipped(*map(sum, counts), min(lows), max(highs))


def check(clipped: Mapping[str, Clipped], db: DbRange) -> None:
    """Raises a ValueError if a map, by its name, is mostly outside the range of f."""
    outside = [name for name, one in clipped.items() if one.lost > one.size / 2]
    if not outside:
        return
    one, ends = clipped[outside[0]], pooled(clipped.values())
    more = f" (and {len(outside) - 1} maps more)" if outside[1:] else ""
    high = 10 * math.ceil(ends.highest / 10)
    span = max(high - 10 * math.floor(ends.lowest / 10), 10)
    remedy = (
        f"set data.db_floor={high - span} and data.db_span={span} for the training"
        if ends.lowest < 0
        else "path loss has the other sign, and an NPY of f is read with --unit f"
    )
    raise ValueError(
        f"{outside[0]}{more} is mostly outside {db.floor:g} to {db.floor + db.span:g} "
        f"dB, the range of f: {one.words(db)}; gains go from {ends.lowest:.1f} to "
        f"{ends.highest:.1f} dB: {remedy}"
    )
