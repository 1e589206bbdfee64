"""Mean and spread of rows that come in parts: one pass, float64, on the host."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num


class Moments(NamedTuple):
    """What is kept of the rows so far; the same parts in order give the same bits.

    `scatter` is the sum of (row - mean)^2 of every column, or of all pairs of columns.
    """

    count: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "*pairs d"]

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased one (count - 1), of all pairs; NaN of a single row."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.scatter / np.float64(self.count - 1)

    @property
    def variance(self) -> Float[np.ndarray, "d"]:
        """Of these very rows (count), so that standardised they have 1."""
        pairs = self.scatter.ndim == 2
        return (np.diagonal(self.scatter) if pairs else self.scatter) / self.count


def of(rows: Num[np.ndarray, "n d"], *, pairs: bool) -> Moments:
    """Returns the moments of n rows at once, n at least 1."""
    rows = np.asarray(rows, np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    scatter = centred.T @ centred if pairs else np.square(centred).sum(axis=0)
    return Moments(len(rows), mean, scatter)


def merge(one: Moments, other: Moments) -> Moments:
    """Returns the moments of the rows of both.

    Source: Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances", eq. 2.1; the same for pairs of columns.
    """
    count = one.count + other.count
    apart = other.mean - one.mean
    product = np.outer(apart, apart) if one.scatter.ndim == 2 else np.square(apart)
    between = product * (one.count * other.count / count)
    mean = one.mean + apart * (other.count / count)
    return Moments(count, mean, one.scatter + other.scatter + between)
