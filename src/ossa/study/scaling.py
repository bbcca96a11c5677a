"""What laws, frontiers and predictions are about: models, each with a quality and a complexity.

A model is one point, at the mean of its seeds: seeds are not points, or three runs of eight models
would pass for 24 models.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import statsmodels.api as sm
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ossa.errors import DataError
from ossa.evaluate.statistics import LEVEL, Interval

FEWEST_MODELS = 8
"""For a law, and whatever rests on one."""
_FEWEST_COMPLEXITIES = 3
"""Different ones: with two, a line may hang on a single model, and without it there is none."""
_SAME = 1e-6
"""Complexities within one in a million are the same."""


@dataclass(frozen=True)
class LeftOut:
    """A model that is no point, and why."""

    model: str
    family: str
    reason: str


@dataclass(frozen=True)
class InsufficientData:
    """What stands in the place of a law, a ranking or a prediction that cannot be had."""

    reason: str
    """One sentence: what is needed, what was found."""


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
        """Returns the points of the models that have both numbers; the others are named.

        Args:
            models: (N,) names.
            families: (N,) of the models.
            complexity: (N,) None or NaN where it was not measured.
            quality: (N,) mean over the seeds of each.

        Raises:
            DataError: a model that is there twice.
        """
        twice = [f"{count} of {model}" for model, count in Counter(models).items() if count > 1]
        if twice:
            raise DataError(
                f"expected one point a model, the mean of its seeds, found {', '.join(twice)}"
            )
        costs, values = np.asarray(complexity, np.float64), np.asarray(quality, np.float64)
        usable: list[bool] = []
        left_out: list[LeftOut] = []
        for model, family, cost, value in zip(models, families, costs, values, strict=True):
            wrong = [
                f"expected a positive {name}, found {number:g}"
                for name, number in (("complexity", cost), ("quality", value))
                if not 0 < number < np.inf
            ]
            usable.append(not wrong)
            if wrong:
                left_out.append(LeftOut(model, family, ", and ".join(wrong)))
        everyone = cls(tuple(models), tuple(families), costs, values)
        return replace(everyone.where(usable), left_out=tuple(left_out))

    def __len__(self) -> int:
        return len(self.models)

    def where(self, kept: ArrayLike) -> "Points":
        """Returns some of them, as if there were no others.

        Args:
            kept: (M,) bool.
        """
        mask = np.asarray(kept, bool)
        return Points(
            models=_where(self.models, mask),
            families=_where(self.families, mask),
            complexity=self.complexity[mask],
            quality=self.quality[mask],
        )

    def family(self, name: str) -> "Points":
        """Returns those of one family, with what was left out of it."""
        own = self.where([family == name for family in self.families])
        left_out = tuple(model for model in self.left_out if model.family == name)
        return replace(own, left_out=left_out)

    def why_no_line(self, *, fewest: int = FEWEST_MODELS) -> str | None:
        """Returns why no line is drawn through them, in a sentence; None where one can be."""
        if len(self) < fewest:
            without = "; ".join(f"{model.model}: {model.reason}" for model in self.left_out)
            return f"expected {fewest} models at least, found {len(self)}" + (
                f" (left out: {without})" if without else ""
            )
        different = 1 + int((np.diff(np.sort(np.log(self.complexity))) > _SAME).sum())
        if different < _FEWEST_COMPLEXITIES:
            return (
                f"expected {_FEWEST_COMPLEXITIES} different complexities at least, found "
                f"{different} among {len(self)} models"
            )
        return None


def _where(names: Iterable[str], kept: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, keep in zip(names, kept, strict=True) if keep)


def inverse_normalised_loss(losses: Sequence[float]) -> float:
    """Returns the largest loss over the last, 1 / (last loss / largest loss): 1 and up.

    NaN of no epochs, of a loss that is not finite, or of a last one of 0: such a run has no such
    quality.

    Args:
        losses: the mean weighted total training loss of every epoch.
    """
    series = np.asarray(losses, np.float64)
    if not series.size or not np.isfinite(series).all() or series[-1] <= 0:
        return float("nan")
    return float(series.max() / series[-1])


@dataclass(frozen=True)
class Residual:
    """How far a model lies above the law."""

    model: str
    family: str
    measured: float
    expected: float
    """The quality that the law gives to its complexity."""

    @property
    def log(self) -> float:
        """ln measured - ln expected, above 0 where the model is better than the law."""
        return float(np.log(self.measured / self.expected))

    @property
    def factor(self) -> float:
        """1.1 where quality is 10 % above the law."""
        return self.measured / self.expected

    @property
    def percent(self) -> float:
        """10.0 where quality is 10 % above the law."""
        return 100 * (self.factor - 1)


@dataclass(frozen=True)
class Band:
    """Where the middle of the models lies at Q complexities, with 95 % confidence at each."""

    complexity: NDArray[np.float64]
    low: NDArray[np.float64]
    expected: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """quality = exp(intercept) x complexity ** slope."""

    points: Points
    slope: float
    intercept: float
    """The natural logarithm of the quality at a complexity of 1, in the unit of the points."""
    r_squared: float
    """Of the logarithms; NaN where all models are equally good."""
    slope_error_hc3: float
    covariance: NDArray[np.float64]
    """(2, 2) of intercept and slope, if the scatter is the same everywhere."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom: models less the two coefficients."""
        return len(self.points) - 2

    @property
    def slope_error(self) -> float:
        return float(self.covariance[1, 1] ** 0.5)

    @property
    def slope_interval(self) -> Interval:
        """Of 95 %."""
        return self._interval(self.slope, self.slope_error)

    @property
    def intercept_interval(self) -> Interval:
        """Of 95 %."""
        return self._interval(self.intercept, float(self.covariance[0, 0] ** 0.5))

    def expected(self, complexity: ArrayLike) -> NDArray[np.float64]:
        """Returns the quality (Q,) at complexities (Q,): the median, since it is fitted in logs."""
        return np.exp(self.intercept + self.slope * np.log(complexity))

    def band(self, complexity: ArrayLike) -> Band:
        """Returns the law at complexities (Q,) with its band of confidence.

        It is about the middle of all models such as these, not about one more of them, which
        scatters around it (`ossa.study.prediction`).
        """
        at = np.asarray(complexity, np.float64)
        design = np.column_stack((np.ones(len(at)), np.log(at)))
        error = np.sqrt(np.einsum("qi,ij,qj->q", design, self.covariance, design))
        middle, factor = self.expected(at), np.exp(self._t() * error)
        return Band(at, middle / factor, middle, middle * factor)

    def residuals(self) -> tuple[Residual, ...]:
        """Returns that of every model, in their order."""
        points = self.points
        expected = self.expected(points.complexity).tolist()
        rows = zip(points.models, points.families, points.quality.tolist(), expected, strict=True)
        return tuple(Residual(*row) for row in rows)

    def _interval(self, value: float, error: float) -> Interval:
        return Interval(value - self._t() * error, value + self._t() * error)

    def _t(self) -> float:
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))


def fit_law(points: Points) -> Law | InsufficientData:
    """Returns the law of the points, or why there is none: too few models or complexities."""
    reason = points.why_no_line()
    if reason is not None:
        return InsufficientData(reason)
    log_quality = np.log(points.quality)
    fit = sm.OLS(log_quality, sm.add_constant(np.log(points.complexity))).fit()
    intercept, slope = fit.params.tolist()
    return Law(
        points=points,
        slope=slope,
        intercept=intercept,
        r_squared=float(fit.rsquared) if np.ptp(log_quality) else float("nan"),
        slope_error_hc3=float(fit.HC3_se[1]),
        covariance=fit.cov_params(),
    )


def fit_family_laws(points: Points) -> dict[str, Law | InsufficientData]:
    """Returns the law of every family alone, by name in the order of the points."""
    names = (*points.families, *(model.family for model in points.left_out))
    return {name: fit_law(points.family(name)) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class LeaveOneOut:
    """The line through the logarithms of M models, and M more, each fitted without one of them."""

    line: NDArray[np.floating]
    """(2,) intercept and slope of the line through all."""
    coefficients: NDArray[np.float64]
    """(M, 2) of the others."""
    residuals: NDArray[np.float64]
    """(M,) ln quality of each model, less what the line without it gives."""

    def at(self, complexity: float) -> NDArray[np.float64]:
        """Returns ln quality (M,) that the lines without each give to one complexity."""
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
