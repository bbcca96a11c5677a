"""Three forms of the relation of quality to complexity, compared by leave-one-out error.

    power        quality = a x^b
    error        1 - quality = a x^-b, for a quality below 1
    saturating   quality = a - b x^-c, with the ceiling a

Each is a line in transformed coordinates: `link`(quality) against a basis of the complexity x. Of
the saturating form, c is chosen among 64 values from 0.05 to 2, each with its best a and b
(variable projection, Golub and Pereyra, 1973). Its 95% profile interval consists of the values of c
at which the squared residuals are not significantly above their minimum (F test). If it extends to
a bound of c, the profile is flat: ceiling and exponent are not identified, and the form is not used
to predict.

M is the number of models, C the number of exponents.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ossa.evaluate.statistics import LEVEL, Interval
from ossa.study.scaling import (
    InsufficientData,
    LeaveOneOut,
    Points,
    clustered_errors,
    leave_one_out_lines,
)

Form: TypeAlias = Literal["power", "error", "saturating"]
FORMS: Final[Mapping[Form, str]] = {
    "power": "quality = a x^b",
    "error": "1 - quality = a x^-b",
    "saturating": "quality = a - b x^-c",
}
"""Formula of each form."""
_EXPONENTS = np.geomspace(0.05, 2.0, 64)
"""Candidates for c of the saturating form: the smallest gives a line in ln x, the largest a step.
"""
_FEWEST_FOR_THREE = 5
"""Number of models for a form with three parameters."""


def _link(form: Form, quality: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the response of the line, which rises with quality."""
    match form:
        case "power":
            return np.log(quality)
        case "error":
            return -np.log1p(-quality)
        case "saturating":
            return quality


def _bases(form: Form, relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (C, ...) what the line is drawn against, at complexities relative to their mean."""
    if form == "saturating":
        return -(relative ** -_EXPONENTS.reshape(-1, *[1] * relative.ndim))
    return np.log(relative)[None]


@dataclass(frozen=True)
class Law:
    """A form fitted to the points of M models, and to those without each model."""

    form: Form
    points: Points
    line: NDArray[np.float64]
    """(2,) intercept and slope in transformed coordinates."""
    lines_without: NDArray[np.float64]
    """(M, 2) the same without each model."""
    residuals: NDArray[np.float64]
    """(M,) the transformed quality of each model minus the line without it."""
    best: int
    """Index of the chosen exponent; 0 for a form without one."""
    best_without: NDArray[np.int64]
    """(M,) the same without each model."""
    exponent_interval: Interval | None
    """95% profile interval of c; None for a form without one, or if it is not identified."""

    @property
    def identified(self) -> bool:
        """Whether the data determine all parameters."""
        return self.form != "saturating" or self.exponent_interval is not None

    @property
    def exponent(self) -> float | None:
        """c of the saturating form."""
        return float(_EXPONENTS[self.best]) if self.form == "saturating" else None

    @property
    def ceiling(self) -> float | None:
        """The quality that the saturating form approaches."""
        return float(self.line[0]) if self.form == "saturating" else None

    @property
    def predicted_without(self) -> NDArray[np.float64]:
        """(M,) the quality of each model, predicted without it."""
        return self.quality(_link(self.form, self.points.quality) - self.residuals)

    @property
    def errors(self) -> NDArray[np.float64]:
        """(M,) absolute leave-one-out errors, in the unit of the quality."""
        return np.abs(self.points.quality - self.predicted_without)

    def expected(self, complexity: ArrayLike) -> NDArray[np.float64]:
        """Returns the fitted quality (Q,) at complexities (Q,)."""
        basis = self._bases(np.asarray(complexity, np.float64))[self.best]
        return self.quality(self.line[0] + self.line[1] * basis)

    def link_residuals(self, others: Points) -> NDArray[np.float64]:
        """Returns (N,) the transformed quality of N other models minus the line."""
        basis = self._bases(others.complexity)[self.best]
        return _link(self.form, others.quality) - self.line[0] - self.line[1] * basis

    def link_at(self, complexity: float) -> float:
        """Returns the line at a complexity, in transformed coordinates."""
        basis = self._bases(np.array([complexity]))[self.best, 0]
        return float(self.line[0] + self.line[1] * basis)

    def folds(self, complexity: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns (M,) the lines without each model at one complexity, and absolute residuals."""
        basis = self._bases(np.array([complexity]))[self.best_without, 0]
        at = self.lines_without[:, 0] + self.lines_without[:, 1] * basis
        return at, np.abs(self.residuals)

    def quality(self, transformed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the quality of transformed values, as `clip` does."""
        match self.form:
            case "power":
                return self.clip(np.exp(transformed))
            case "error":
                return self.clip(-np.expm1(-transformed))
            case "saturating":
                return self.clip(transformed)

    def clip(self, quality: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns a quality of at least 0, and of at most 1 if that is true of the points."""
        return np.clip(quality, 0.0, 1.0 if self.points.quality.max() <= 1 else None)

    def _bases(self, complexity: NDArray[np.float64]) -> NDArray[np.float64]:
        return _bases(self.form, complexity / _unit(self.points))


def _unit(points: Points) -> float:
    """Returns the geometric mean of the complexities, so that their powers stay near 1."""
    return float(np.exp(np.log(points.complexity).mean()))


def applicable_forms(points: Points, forms: Collection[Form] = tuple(FORMS)) -> list[Form]:
    """Returns the forms that can be fitted to the points."""
    excluded = set()
    if points.quality.max() >= 1:
        excluded.add("error")
    if len(points) < _FEWEST_FOR_THREE:
        excluded.add("saturating")
    return [form for form in forms if form not in excluded]


def fit_law(points: Points, form: Form) -> Law:
    """Returns a form fitted to points of at least three different complexities.

    Examples:
        >>> cost = [1, 2, 4, 8, 16, 32, 64, 128]
        >>> quality = [1 - 0.9 * c**-0.25 for c in cost]
        >>> points = Points.of("abcdefgh", families="x" * 8, complexity=cost, quality=quality)
        >>> fit_law(points, "error").expected([256]).round(3)
        array([0.775])
    """
    bases = _bases(form, points.complexity / _unit(points))
    lines = leave_one_out_lines(bases, _link(form, points.quality))
    best, best_without = int(lines.squares.argmin()), lines.squares_without.argmin(axis=0)
    each = np.arange(len(points))
    return Law(
        form=form,
        points=points,
        line=lines.line[best],
        lines_without=lines.coefficients[best_without, each],
        residuals=lines.residuals[best_without, each],
        best=best,
        best_without=best_without,
        exponent_interval=_profile_interval(lines) if form == "saturating" else None,
    )


def _profile_interval(lines: LeaveOneOut) -> Interval | None:
    """Returns the 95% profile interval of the exponent, None if it extends to a bound."""
    dof = lines.residuals.shape[1] - 3
    limit = lines.squares.min() * (1 + special.fdtri(1, dof, LEVEL) / dof)
    within = np.flatnonzero(lines.squares <= limit)
    if within[0] == 0 or within[-1] == len(_EXPONENTS) - 1:
        return None
    return Interval(float(_EXPONENTS[within[0]]), float(_EXPONENTS[within[-1]]))


def choose_law(points: Points, forms: Collection[Form] = tuple(FORMS)) -> Law:
    """Returns the identified form with the smallest mean leave-one-out error.

    Args:
        points: at least three different complexities.
        forms: candidates; `power` is always applicable.
    """
    laws = [fit_law(points, form) for form in applicable_forms(points, forms)]
    return min((law for law in laws if law.identified), key=lambda law: law.errors.mean())


@dataclass(frozen=True)
class FormDifference:
    """How much larger the mean leave-one-out error of a form is than the error of the best one."""

    form: Form
    difference: float
    """In the unit of the quality."""
    interval: Interval
    """95% confidence interval, clustered by family."""

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval.low > 0


@dataclass(frozen=True)
class LawComparison:
    """The forms that fit a study, by leave-one-out error."""

    laws: Mapping[Form, Law]
    """Identified forms first, each part ordered by its error; the first one predicts."""
    differences: tuple[FormDifference, ...]
    """Of the other identified forms from the best one."""

    @property
    def best(self) -> Law:
        """The identified form with the smallest error."""
        return next(iter(self.laws.values()))

    def flat(self) -> list[dict[str, Any]]:
        """Returns one row of plain values per form."""
        differences = {row.form: row for row in self.differences}
        rows = []
        for form, law in self.laws.items():
            row = differences.get(form)
            rows.append(
                {
                    "form": form,
                    "formula": FORMS[form],
                    "models": len(law.points),
                    "error": float(law.errors.mean()),
                    "identified": law.identified,
                    "exponent": law.exponent if law.identified else None,
                    "ceiling": law.ceiling if law.identified else None,
                    "difference": row.difference if row else None,
                    "low": row.interval.low if row else None,
                    "high": row.interval.high if row else None,
                }
            )
        return rows

    def sentence(self) -> str:
        """Returns which form predicts best, as one sentence."""
        text = (
            f"{FORMS[self.best.form]} predicts best, with a mean leave-one-out error of "
            f"{self.best.errors.mean():.3f}"
        )
        for row in self.differences:
            low, high = row.interval
            text += (
                f"; {FORMS[row.form]} errs by {row.difference:.3f} more "
                f"(95% CI {low:+.3f} to {high:+.3f})"
            )
        unknown = [FORMS[form] for form, law in self.laws.items() if not law.identified]
        return text + "".join(f"; {formula} is not identified" for formula in unknown) + "."


def compare_laws(points: Points) -> LawComparison | InsufficientData:
    """Returns the comparison of all forms that apply to the points, or why there is none.

    The intervals are about mean differences of the errors of the same models. Two leave-one-out
    fits share most of their models, and the best form is chosen from the same errors; both are
    neglected, which makes the intervals a little too narrow.
    """
    if lacking := points.insufficient():
        return lacking
    laws = [fit_law(points, form) for form in applicable_forms(points)]
    laws.sort(key=lambda law: (not law.identified, law.errors.mean()))
    best = laws[0]
    differences = tuple(
        FormDifference(law.form, *_mean_with_interval(law.errors - best.errors, points.families))
        for law in laws[1:]
        if law.identified
    )
    return LawComparison({law.form: law for law in laws}, differences)


def _mean_with_interval(
    values: NDArray[np.float64], families: tuple[str, ...]
) -> tuple[float, Interval]:
    """Returns the mean (M,) with its 95% confidence interval, clustered by family."""
    mean = float(values.mean())
    # Within a single family, every model is a cluster: this is Student's interval.
    clusters = families if len(set(families)) > 1 else [str(n) for n in range(len(values))]
    ones = np.ones((len(values), 1))
    errors = clustered_errors(ones, values - mean, clusters, contrasts=np.ones((1, 1)))
    half = float(errors.half_widths()[0])
    return mean, Interval(mean - half, mean + half)
