"""RunningMoments: mean and covariance of rows that come in parts, in one pass."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

NONE = np.zeros(())  # broadcasts against the moments of any rows


class RunningMoments(NamedTuple):
    """The moments of the rows so far, in float64 on the host.

    The same parts in the same order give the same bits. `scatter` is the sum of
    (row - mean)^2 of every column, or of all pairs of columns.
    """

    count: int = 0
    mean: Float[np.ndarray, "*d"] = NONE
    scatter: Float[np.ndarray, "*pairs"] = NONE

    @classmethod
    def of(cls, rows: Num[np.ndarray, "n d"], *, pairs: bool) -> "RunningMoments":
        """Returns the moments of n rows at once, n at least 1."""
        rows = np.asarray(rows, np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        scatter = centred.T @ centred if pairs else np.square(centred).sum(axis=0)
        return cls(len(rows), mean, scatter)

    def merge(self, other: "RunningMoments") -> "RunningMoments":
        """Returns the moments of the rows of both; the other has at least one.

        Source: Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise
        Algorithm for Computing Sample Variances", eq. 2.1; E[x^2] - E[x]^2 would
        cancel. The same for pairs of columns.
        """
        count = self.count + other.count
        apart = other.mean - self.mean
        pairs = other.scatter.ndim == 2
        product = np.outer(apart, apart) if pairs else np.square(apart)
        between = product * (self.count * other.count / count)
        mean = self.mean + apart * (other.count / count)
        return type(self)(count, mean, self.scatter + other.scatter + between)

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
