"""Power-law fits of quality against complexity, with one point per model.

A point is the mean over the seeds of a model: seeds are not points, or three runs of eight models
would pass for 24 models. Models of one family are not independent either: they share what makes the
family better or worse. With two families or more, standard errors are therefore clustered by family
(`clustered_errors`). M is the number of models.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ossa.errors import DataError
from ossa.evaluate.statistics import LEVEL, Interval

FEWEST_MODELS = 8
"""Smallest number of models for a fit."""
_FEWEST_COMPLEXITIES = 3
"""Number of distinct values; with two, the slope may be undefined if one model is left out."""
_SAME = 1e-6
"""Complexities whose logarithms differ by less are counted as one."""
_TAKEN_UP = 1e-8
"""Eigenvalue of a block of I - H below which it is rounding."""


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


class Errors(NamedTuple):
    """Standard errors of K estimates, and the degrees of freedom of Student's t for each."""

    standard: NDArray[np.float64]
    """(K,)."""
    dof: NDArray[np.float64]
    """(K,)."""

    def half_widths(self) -> NDArray[np.float64]:
        """Returns (K,) half the widths of the 95% confidence intervals."""
        return special.stdtrit(self.dof, (1 + LEVEL) / 2) * self.standard


def clustered_errors(
    design: NDArray[np.float64],
    residuals: NDArray[np.float64],
    clusters: Sequence[str],
    *,
    contrasts: NDArray[np.float64],
) -> Errors:
    """Returns standard errors of a least-squares fit whose residuals are correlated in clusters.

    The variance is CR2: the residuals of each cluster are multiplied by the inverse square root of
    its block of I - H, which makes the variance unbiased where the errors are in fact independent.
    With few clusters it varies so much that the degrees of freedom have to be estimated, by
    Satterthwaite's method for independent errors (Bell and McCaffrey, "Bias reduction in standard
    errors for linear regression with multi-stage samples", Survey Methodology 28, 2002).

    Args:
        design: (M, P).
        residuals: (M,) of the fit.
        clusters: (M,) names, of at least two clusters.
        contrasts: (K, P), the linear combinations of the coefficients that are estimated.
    """
    bread = np.linalg.inv(design.T @ design)
    annihilator = np.eye(len(design)) - design @ bread @ design.T  # I - H
    names = np.array([*clusters])
    scores, spreads = [], []
    for name in dict.fromkeys(clusters):
        rows = np.flatnonzero(names == name)
        values, vectors = np.linalg.eigh(annihilator[np.ix_(rows, rows)])
        # A direction that the fit takes up completely has no residual to be adjusted.
        scale = np.where(values > _TAKEN_UP, np.maximum(values, _TAKEN_UP) ** -0.5, 0.0)
        weights = (vectors * scale) @ vectors.T @ design[rows] @ bread @ contrasts.T  # (rows, K)
        scores.append(residuals[rows] @ weights)
        spreads.append(annihilator[:, rows] @ weights)
    variance = np.square(scores).sum(axis=0)
    spread = np.stack(spreads)  # (G, M, K)
    products = np.einsum("gmk,hmk->kgh", spread, spread)
    trace = np.trace(products, axis1=1, axis2=2)
    return Errors(np.sqrt(variance), trace**2 / np.square(products).sum(axis=(1, 2)))


class Band(NamedTuple):
    """A fit at Q complexities, (Q,) each, with its pointwise 95% confidence band."""

    low: NDArray[np.float64]
    expected: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """quality = exp(intercept) * complexity ** slope, fitted by least squares of the logarithms.

    Intervals are clustered by family. Within a single family, they assume independent residuals of
    equal variance.
    """

    points: Points
    slope: float
    intercept: float
    """Natural logarithm of the quality at a complexity of 1, in the unit of the points."""
    r_squared: float
    """R² of the logarithms; NaN if all models have the same quality."""

    @cached_property
    def slope_errors(self) -> Errors:
        """The standard error of the slope and its degrees of freedom, (1,) each."""
        return self._errors(np.array([[0.0, 1.0]]))

    @property
    def slope_interval(self) -> Interval:
        """95% confidence interval of the slope."""
        half = float(self.slope_errors.half_widths()[0])
        return Interval(self.slope - half, self.slope + half)

    @property
    def num_families(self) -> int:
        """Number of families among the points."""
        return len(set(self.points.families))

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
        half = self._errors(self._design(at)).half_widths()
        middle, factor = self.expected(at), np.exp(half)
        return Band(middle / factor, middle, middle * factor)

    def _errors(self, contrasts: NDArray[np.float64]) -> Errors:
        design, residuals = self._design(self.points.complexity), np.log(self.ratios())
        if self.num_families > 1:
            return clustered_errors(design, residuals, self.points.families, contrasts=contrasts)
        dof = len(design) - 2
        covariance = np.linalg.inv(design.T @ design) * (residuals @ residuals) / dof
        variance = np.einsum("ki,ij,kj->k", contrasts, covariance, contrasts)
        return Errors(np.sqrt(variance), np.full(len(contrasts), float(dof)))

    def _design(self, complexity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns (Q, 2) 1 and the logarithm of the complexity, about its mean over the points."""
        centre = np.log(self.points.complexity).mean()
        return np.column_stack((np.ones(len(complexity)), np.log(complexity) - centre))


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
    fit, log_quality = leave_one_out(points), np.log(points.quality)
    intercept, slope = fit.line.tolist()
    total = np.square(log_quality - log_quality.mean()).sum()
    r_squared = 1 - float(fit.squares / total) if np.ptp(log_quality) else float("nan")
    return PowerLaw(points, slope, intercept, r_squared)


def fit_families(points: Points) -> dict[str, PowerLaw | InsufficientData]:
    """Returns a separate fit for each family, by name, in the order of the points."""
    names = (*points.families, *(model.family for model in points.left_out))
    return {name: fit_power_law(points.family(name)) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class LeaveOneOut:
    """Lines fitted to M points, and M lines for each of them that leave out one point.

    The leading dimensions are those of the basis; there are none for a single line.
    """

    line: NDArray[np.float64]
    """(..., 2) intercept and slope of the line through all points."""
    coefficients: NDArray[np.float64]
    """(..., M, 2) intercept and slope of the lines without each point."""
    residuals: NDArray[np.float64]
    """(..., M) the response of each point minus the line without it."""
    squares: NDArray[np.float64]
    """(...) sum of the squared residuals of the line through all points."""
    squares_without: NDArray[np.float64]
    """(..., M) the same for the lines without each point."""


def leave_one_out_lines(basis: NDArray[np.float64], response: NDArray[np.float64]) -> LeaveOneOut:
    """Returns the line through all points and those without each point, from a single fit.

    A point with leverage h and residual e is e / (1 - h) off the line without it, and its removal
    lowers the coefficients by (X'X)^-1 x e / (1 - h) (DFBETA of Belsley, Kuh and Welsch,
    "Regression Diagnostics", 1980).

    Args:
        basis: (..., M) the explanatory variable; without any point, two values remain different.
        response: (M,).
    """
    count = len(response)
    centre = basis.mean(axis=-1, keepdims=True)
    offsets, mean = basis - centre, response.mean()
    spread = np.square(offsets).sum(axis=-1, keepdims=True)
    slope = (offsets * response).sum(axis=-1, keepdims=True) / spread
    residuals = response - mean - slope * offsets
    leverage = 1 / count + offsets**2 / spread
    without = residuals / np.maximum(1 - leverage, _TAKEN_UP)
    slopes = slope - offsets * without / spread
    intercepts = mean - slope * centre - (1 / count - centre * offsets / spread) * without
    squares = np.square(residuals).sum(axis=-1)
    return LeaveOneOut(
        line=np.concatenate((mean - slope * centre, slope), axis=-1),
        coefficients=np.stack((intercepts, slopes), axis=-1),
        residuals=without,
        squares=squares,
        squares_without=squares[..., None] - residuals * without,
    )


def leave_one_out(points: Points) -> LeaveOneOut:
    """Returns the power law through all points and those without each point, in logarithms.

    Args:
        points: at least three different complexities, so that every line is defined.
    """
    return leave_one_out_lines(np.log(points.complexity), np.log(points.quality))
