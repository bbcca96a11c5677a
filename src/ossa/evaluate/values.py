"""One metric of the runs of a model, and how far it spreads over images and over seeds.

How the spreads become intervals stands in `ossa.evaluate.statistics`; here is nothing that a run
needs long to import.

Dimensions: R runs of a model, B resamples, G groups, W weightings (1 + B + G).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.evaluate.resampling import num_groups


class Spread(NamedTuple):
    """A variance, and how well it is known."""

    variance: float
    freedom: float
    """Degrees of freedom."""


@dataclass(frozen=True)
class Values:
    """One metric of the runs of a model."""

    plain: NDArray[np.float64]
    """(R,) every image once."""
    resampled: NDArray[np.float64]
    """(R, B), without the resamples in which there is no truth."""
    left_out: NDArray[np.float64]
    """(R, G)."""
    num_images: int

    @classmethod
    def of(cls, values: NDArray[np.float64], *, num_images: int) -> "Values":
        """Returns them from those (R, W) by the weightings of `image_weightings`."""
        drawn_end = values.shape[1] - num_groups(num_images)
        plain, resampled, left_out = np.split(values, [1, drawn_end], axis=1)
        return cls(plain[:, 0], _defined(resampled), _defined(left_out), num_images)

    def less(self, other: "Values") -> "Values":
        """Returns the difference of two models as that of one run: of the means of their runs."""

        def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return values.mean(axis=0, keepdims=True)

        return Values(
            mean(self.plain) - mean(other.plain),
            mean(self.resampled) - mean(other.resampled),
            mean(self.left_out) - mean(other.left_out),
            self.num_images,
        )

    def over_images(self) -> Spread:
        """Returns the spread of the mean of the runs, if these are scored on other images."""
        variance = float(self.resampled.mean(axis=0).var(ddof=1))
        influences = self.left_out.mean(axis=0)
        deviations = influences - influences.mean()
        second, fourth = (deviations**2).mean(), (deviations**4).mean()
        doubt = fourth - second**2  # kurtosis less 1, times the square of the variance
        freedom = float(2 * len(deviations) * second**2 / doubt) if doubt > 0 else np.inf
        return Spread(variance, min(freedom, self.num_images - 1.0))

    def over_seeds(self) -> Spread:
        """Returns the spread of the mean of the runs, on the same images."""
        runs = len(self.plain)
        return Spread(float(self.plain.var(ddof=1)) / runs, runs - 1.0)

    def in_both(self) -> float:
        """Returns the variance of the mean of the runs that is in both spreads.

        It is that of what an image is to one run and not to the others.
        """
        runs = len(self.plain)
        own = self.resampled - self.resampled.mean(axis=0)
        return float(own.var(axis=1, ddof=1).sum()) / (runs - 1) / runs


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the columns that are defined, which are the same for all runs of all models."""
    return values[:, np.isfinite(values[0])]
