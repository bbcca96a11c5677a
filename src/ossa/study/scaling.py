"""Power-law fits of quality against complexity, with one point per model.

A point is the mean over the seeds of a model: seeds are not points, or three runs of eight models
would pass for 24 models. M is the number of models.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import NamedTuple

import numpy as np
import statsmodels.api as sm
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ossa.errors import DataError
from ossa.evaluate.statistics import LEVEL, Interval

FEWEST_MODELS = 8
"""For a fit, and for whatever rests on one."""
_FEWEST_COMPLEXITIES = 3
"""Different ones: with two, a line may hang on a single model, and without it there is none."""
_SAME = 1e-6
"""Complexities within one in a million are the same."""


@dataclass(frozen=True)
class LeftOut:
    """A model that is not among the points, and why."""

    model: str
    family: str
    reason: str


@dataclass(frozen=True)
class InsufficientData:
    """Returned in place of a fit, a ranking or a prediction that the data do not allow."""

    reason: str
    """One clause: what is needed, what was found."""


@dataclass(frozen=True)
class Points:
    """One quality and one complexity of M models, all positive, so that they have logarithms."""

    models: tuple[str, ...]
    families: tuple[str, ...]
    complexity: NDArray[np.float64]
    """(M,) in the unit it came in."""
    quality: NDArray[np.float64]
    """(M,) means over seeds, in the unit they came in."""
    left_out: tuple[LeftOut, ...] = ()
    """Models whose numbers are missing, 0 or not finite."""

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        *,
        families: Sequence[str],
        complexity: ArrayLike | Sequence[float | None],
        quality: ArrayLike | Sequence[float | None],
    ) -> "Points":
        """Returns the points of the models that have both numbers; `left_out` names the others.

        Args:
            models: (N,) names.
            families: (N,) of the models.
            complexity: (N,) None or NaN where it was not measured.
            quality: (N,) mean over the seeds of each.

        Raises:
            DataError: a model is listed twice.

        Example:
            >>> points = Points.of("ab", families="xx", complexity=[1e6, 2e6], quality=[0.3, None])
            >>> points.models, points.left_out[0].reason
            (('a',), 'expected a positive quality, found nan')
        """
        twice = [f"{count} of {model}" for model, count in Counter(models).items() if count > 1]
        if twice:
            expected = "one point per model, the mean of its seeds"
            raise DataError(expected=expected, found=", ".join(twice))
        costs, values = np.asarray(complexity, np.float64), np.asarray(quality, np.float64)
        left_out: list[LeftOut] = []
        for model, family, cost, value in zip(models, families, costs, values, strict=True):
            wrong = [
                f"expected a positive {name}, found {number:g}"
                for name, number in (("complexity", cost), ("quality", value))
                if not 0 < number < np.inf
            ]
            if wrong:
                left_out.append(LeftOut(model, family, ", and ".join(wrong)))
        unusable = {model.model for model in left_out}
        everyone = cls(tuple(models), tuple(families), costs, values)
        usable = everyone.where([model not in unusable for model in models])
        return replace(usable, left_out=tuple(left_out))

    def __len__(self) -> int:
        return len(self.models)

    def where(self, kept: ArrayLike) -> "Points":
        """Returns the points where `kept`, (M,) bool, is true, without anything left out."""
        mask = np.asarray(kept, bool)
        models, families = (tuple(compress(n, mask)) for n in (self.models, self.families))
        return Points(models, families, self.complexity[mask], self.quality[mask])

    def family(self, name: str) -> "Points":
        """Returns the points of one family, with what was left out of it."""
        own = self.where([family == name for family in self.families])
        left_out = tuple(model for model in self.left_out if model.family == name)
        return replace(own, left_out=left_out)

    def insufficient(self, *, fewest: int = FEWEST_MODELS) -> InsufficientData | None:
        """Returns why no line can be fitted to the points, None where one can."""
        if len(self) < fewest:
            without = "; ".join(f"{model.model}: {model.reason}" for model in self.left_out)
            return InsufficientData(
                f"expected {fewest} models at least, found {len(self)}"
                + (f" (left out: {without})" if without else "")
            )
        different = 1 + int((np.diff(np.sort(np.log(self.complexity))) > _SAME).sum())
        if different < _FEWEST_COMPLEXITIES:
            return InsufficientData(
                f"expected {_FEWEST_COMPLEXITIES} different complexities at least, found "
                f"{different} among {len(self)} models"
            )
        return None


def inverse_normalised_loss(losses: Sequence[float]) -> float:
    """Returns the largest loss over the last one, 1 and up: a quality of a training.

    NaN without epochs, for a loss that is not finite, and for a last loss of 0.

    Args:
        losses: mean weighted total training loss of every epoch.
    """
    series = np.asarray(losses, np.float64)
    if not series.size or not np.isfinite(series).all() or series[-1] <= 0:
        return float("nan")
    return float(series.max() / series[-1])


class Band(NamedTuple):
    """A fit at Q complexities, (Q,) each, with its pointwise 95% confidence band."""

    low: NDArray[np.float64]
    expected: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """quality = exp(intercept) * complexity ** slope, fitted by least squares of the logarithms."""

    points: Points
    slope: float
    intercept: float
    """Natural logarithm of the quality at a complexity of 1, in the unit of the points."""
    r_squared: float
    """Of the logarithms; NaN where all models are equally good."""
    slope_error_hc3: float
    """Standard error that does not take the scatter to be the same everywhere."""
    covariance: NDArray[np.float64]
    """(2, 2) of intercept and slope, if the scatter is the same everywhere."""

    @property
    def slope_error(self) -> float:
        """Standard error of the slope, with M - 2 degrees of freedom."""
        return float(self.covariance[1, 1] ** 0.5)

    @property
    def slope_interval(self) -> Interval:
        """95% confidence interval of the slope."""
        half = self._t() * self.slope_error
        return Interval(self.slope - half, self.slope + half)

    def expected(self, complexity: ArrayLike) -> NDArray[np.float64]:
        """Returns the quality (Q,) at complexities (Q,): the median, since it is fitted in logs."""
        return np.exp(self.intercept + self.slope * np.log(complexity))

    def ratios(self) -> NDArray[np.float64]:
        """Returns (M,) measured over expected quality: 1.1 for a model 10% above the fit."""
        return self.points.quality / self.expected(self.points.complexity)

    def band(self, complexity: ArrayLike) -> Band:
        """Returns the fit at complexities (Q,) with its confidence band.

        The band is about the middle of all such models, not about one more of them, which scatters
        around it (`ossa.study.prediction`).
        """
        at = np.asarray(complexity, np.float64)
        design = np.column_stack((np.ones(len(at)), np.log(at)))
        error = np.sqrt(np.einsum("qi,ij,qj->q", design, self.covariance, design))
        middle, factor = self.expected(at), np.exp(self._t() * error)
        return Band(middle / factor, middle, middle * factor)

    def _t(self) -> float:
        return float(stats.t.ppf((1 + LEVEL) / 2, len(self.points) - 2))


def fit_power_law(points: Points) -> PowerLaw | InsufficientData:
    """Returns the power-law fit of the points, or why there are too few of them.

    Example:
        >>> cost = [1, 2, 4, 8, 16, 32, 64, 128]
        >>> quality = [0.1 * c**0.25 for c in cost]
        >>> points = Points.of("abcdefgh", families="x" * 8, complexity=cost, quality=quality)
        >>> round(fit_power_law(points).slope, 3)
        0.25
    """
    if lacking := points.insufficient():
        return lacking
    log_quality = np.log(points.quality)
    fit = sm.OLS(log_quality, sm.add_constant(np.log(points.complexity))).fit()
    intercept, slope = fit.params.tolist()
    return PowerLaw(
        points=points,
        slope=slope,
        intercept=intercept,
        r_squared=float(fit.rsquared) if np.ptp(log_quality) else float("nan"),
        slope_error_hc3=float(fit.HC3_se[1]),
        covariance=fit.cov_params(),
    )


def fit_families(points: Points) -> dict[str, PowerLaw | InsufficientData]:
    """Returns the fit of every family alone, by name in the order of the points."""
    names = (*points.families, *(model.family for model in points.left_out))
    return {name: fit_power_law(points.family(name)) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class LeaveOneOut:
    """The line through the logarithms of M models, and M more, each fitted without one of them."""

    line: NDArray[np.floating]
    """(2,) intercept and slope of the line through all."""
    coefficients: NDArray[np.float64]
    """(M, 2) of the others."""
    residuals: NDArray[np.float64]
    """(M,) ln quality of each model, less that of the line without it."""

    def at(self, complexity: float) -> NDArray[np.float64]:
        """Returns ln quality (M,) of the lines without each model at one complexity."""
        return self.coefficients @ np.array([1.0, np.log(complexity)])


def leave_one_out(points: Points) -> LeaveOneOut:
    """Returns the lines with and without each of the points, from a single fit.

    A point with leverage h and residual e is e / (1 - h) off the line without it, and its removal
    lowers the coefficients by (X'X)^-1 x e / (1 - h) (DFBETA of Belsley, Kuh and Welsch,
    "Regression Diagnostics", 1980).

    Args:
        points: with three different complexities at least, or a line without one is undefined.
    """
    log_quality = np.log(points.quality)
    design = np.column_stack((np.ones(len(points)), np.log(points.complexity)))
    inverse = np.linalg.pinv(design)  # (X'X)^-1 X', (2, M)
    line = inverse @ log_quality
    leverage = np.einsum("mi,im->m", design, inverse)
    residuals = (log_quality - design @ line) / (1 - leverage)
    return LeaveOneOut(line, line - (inverse * residuals).T, residuals)
