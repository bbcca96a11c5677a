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
"""Smallest number of models for a fit."""
_FEWEST_COMPLEXITIES = 3
"""Number of distinct values; with two, the slope may be undefined if one model is left out."""
_SAME = 1e-6
"""Complexities whose logarithms differ by less are counted as one."""


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
    """One clause with what was expected and what was found."""


@dataclass(frozen=True)
class Points:
    """One quality and one complexity of M models, all positive, so that they have logarithms."""

    models: tuple[str, ...]
    families: tuple[str, ...]
    complexity: NDArray[np.float64]
    """(M,) in its original unit."""
    quality: NDArray[np.float64]
    """(M,) means over seeds, in the original unit."""
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
        """Returns the points of the models that have both numbers; `left_out` lists the others.

        Args:
            models: (N,) names.
            families: (N,) families of the models.
            complexity: (N,) None or NaN if it was not measured.
            quality: (N,) mean over the seeds of each model.

        Raises:
            DataError: a model is listed twice.

        Examples:
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
        """Returns the points where `kept`, (M,) bool, is true; `left_out` is empty."""
        mask = np.asarray(kept, bool)
        models, families = (tuple(compress(n, mask)) for n in (self.models, self.families))
        return Points(models, families, self.complexity[mask], self.quality[mask])

    def family(self, name: str) -> "Points":
        """Returns the points of one family; `left_out` has only its models."""
        members = self.where([family == name for family in self.families])
        left_out = tuple(model for model in self.left_out if model.family == name)
        return replace(members, left_out=left_out)

    def insufficient(self, *, fewest: int = FEWEST_MODELS) -> InsufficientData | None:
        """Returns why no line can be fitted to the points, or None if one can be."""
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
    """Returns the largest loss divided by the last one, at least 1: a measure of training quality.

    The result is NaN without epochs, for a loss that is not finite, and for a last loss of 0.

    Args:
        losses: the mean weighted total training loss of every epoch.
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
    """R² of the logarithms; NaN if all models have the same quality."""
    slope_error_hc3: float
    """Heteroscedasticity-consistent (HC3) standard error of the slope."""
    covariance: NDArray[np.float64]
    """(2, 2) covariance of intercept and slope, assuming homoscedastic residuals."""

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
        """Returns the fitted quality (Q,), the median, at complexities (Q,)."""
        return np.exp(self.intercept + self.slope * np.log(complexity))

    def ratios(self) -> NDArray[np.float64]:
        """Returns (M,) measured over expected quality: 1.1 for a model 10% above the fit."""
        return self.points.quality / self.expected(self.points.complexity)

    def band(self, complexity: ArrayLike) -> Band:
        """Returns the fit at complexities (Q,) with its confidence band.

        The band covers the mean trend. A single model scatters around it; see
        `ossa.study.prediction` for prediction intervals.
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

    Examples:
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
    """Returns a separate fit for each family, by name, in the order of the points."""
    names = (*points.families, *(model.family for model in points.left_out))
    return {name: fit_power_law(points.family(name)) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class LeaveOneOut:
    """A line fitted to the logarithms of M models, and M lines that leave out one model each."""

    line: NDArray[np.floating]
    """(2,) intercept and slope of the line fitted to all models."""
    coefficients: NDArray[np.float64]
    """(M, 2) intercept and slope of the lines without each model."""
    residuals: NDArray[np.float64]
    """(M,) ln quality of each model minus that of the line without it."""

    def at(self, complexity: float) -> NDArray[np.float64]:
        """Returns ln quality (M,) at one complexity on the lines without each model."""
        return self.coefficients @ np.array([1.0, np.log(complexity)])


def leave_one_out(points: Points) -> LeaveOneOut:
    """Returns the line through all points and those without each point, from a single fit.

    A point with leverage h and residual e is e / (1 - h) off the line without it, and its removal
    lowers the coefficients by (X'X)^-1 x e / (1 - h) (DFBETA of Belsley, Kuh and Welsch,
    "Regression Diagnostics", 1980).

    Args:
        points: at least three different complexities, so that every line is defined.
    """
    log_quality = np.log(points.quality)
    design = np.column_stack((np.ones(len(points)), np.log(points.complexity)))
    inverse = np.linalg.pinv(design)  # (X'X)^-1 X', (2, M)
    line = inverse @ log_quality
    leverage = np.einsum("mi,im->m", design, inverse)
    residuals = (log_quality - design @ line) / (1 - leverage)
    return LeaveOneOut(line, line - (inverse * residuals).T, residuals)
