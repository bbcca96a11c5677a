"""Predicted quality of models that were not trained, and validation of such predictions.

The prediction is made with the form of `ossa.study.laws` that has the smallest leave-one-out error.
Its 80% interval is by CV+ (Barber, Candès, Ramdas and Tibshirani, "Predictive inference with the
jackknife+", Annals of Statistics 49, 2021): each of the n models is predicted without its fold,
with absolute residual R_i, and f_-i(x) is the same fit at x. In coordinates in which the
form is a line, the interval extends

    from the k-th smallest of f_-i(x) - R_i to the k-th largest of f_-i(x) + R_i, k = floor(a(n+1)),

with a = 0.2. For a model of a known family, a fold is one model (jackknife+). Models of one family
are not independent: for a new family, the folds are the families, and at least four are needed.

Outside the range of the models, residuals from within it are too small. There, the costliest third
of the models (below the range, the cheapest third) is predicted from the rest, for a new family
without the model's own family, with a form chosen from these models alone. With m such absolute
errors, the interval is widened to the ceil(0.8 (m + 1))-th smallest on both sides of the
prediction. With fewer than four, or more than a factor of 2 outside the range, there is none.

For the validation, models are left out alone or with their whole **family**, predicted from the
others alone, and compared with their measured quality.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ossa.errors import ConfigError, DataError
from ossa.evaluate.statistics import LEVEL, Interval
from ossa.study.laws import FORMS, Form, Law, choose_law, fit_law
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults
from ossa.study.scaling import InsufficientData, Points

_OUTSIDE = 5
"""One in so many predictions may lie outside the 80% interval."""
FEWEST_OTHERS = 5
"""Smallest number of remaining models from which a left-out model is predicted. The jackknife+
interval at 80% is finite from four models on, but a line leaves them two degrees of freedom."""
FEWEST_FAMILIES = 4
"""Smallest number of families for the interval of a new family."""
_FEWEST_RESIDUALS = 4
"""Smallest number of residuals that bound 80% of the predictions outside the range."""
_FARTHEST = 2.0
"""Largest factor outside the range of the models at which there is an interval."""

Group: TypeAlias = Literal["model", "family"]
"""The unit that is left out at a time."""
GROUPS: tuple[Group, ...] = ("model", "family")


@dataclass(frozen=True)
class Prediction:
    """The predicted quality at a complexity."""

    complexity: float
    expected: float
    """The fit at the complexity."""
    interval: Interval | InsufficientData
    """80% prediction interval, or why there is none."""
    form: Form
    """The form of the law that was fitted."""
    num_models: int
    """Number of models that were fitted."""
    inside: bool
    """Whether the complexity is within the range of the models; otherwise the fit extrapolates."""
    new_family: bool
    """Whether no fitted model is of the family of the predicted one."""

    def flat(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        low, high, reason = None, None, None
        if isinstance(self.interval, InsufficientData):
            reason = self.interval.reason
        else:
            low, high = self.interval
        return {
            "expected": self.expected,
            "low": low,
            "high": high,
            "no_interval": reason,
            "form": self.form,
            "models": self.num_models,
            "inside": self.inside,
            "new_family": self.new_family,
        }


@dataclass(frozen=True)
class LeftOutPrediction:
    """The prediction and the measured quality of a model that was left out."""

    model: str
    family: str
    prediction: Prediction
    measured: float

    @property
    def error(self) -> float:
        """Measured minus predicted, in the unit of the quality."""
        return self.measured - self.prediction.expected

    @property
    def log_error(self) -> float:
        """ln measured - ln predicted."""
        with np.errstate(divide="ignore"):  # a form may predict 0
            return float(np.log(self.measured) - np.log(self.prediction.expected))

    @property
    def covered(self) -> bool | None:
        """Whether the prediction interval contains the measured quality; None without one."""
        interval = self.prediction.interval
        if isinstance(interval, InsufficientData):
            return None
        return interval.low <= self.measured <= interval.high


@dataclass(frozen=True)
class Validation:
    """Predictions of left-out models compared with their measured quality."""

    predictions: tuple[LeftOutPrediction, ...]
    """At least one, in the order of the points."""
    untested: Mapping[str, str]
    """Models or families without which no line can be fitted, with the reasons."""

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |measured - predicted|, in the unit of the quality."""
        return float(np.mean([abs(row.error) for row in self.predictions]))

    @property
    def mean_absolute_log_error(self) -> float:
        """Mean of |ln measured - ln predicted|."""
        return float(np.mean([abs(row.log_error) for row in self.predictions]))

    @property
    def num_covered(self) -> int:
        """Number of intervals that contain the measured quality."""
        return sum(row.covered is True for row in self.predictions)

    @property
    def num_intervals(self) -> int:
        """Number of predictions that have an interval."""
        return sum(row.covered is not None for row in self.predictions)

    @property
    def coverage(self) -> str:
        """The number of covered predictions as text, such as '8 of 10'."""
        return f"{self.num_covered} of {self.num_intervals}"

    @property
    def coverage_interval(self) -> Interval:
        """95% confidence interval of the coverage (Clopper and Pearson, 1934).

        The interval assumes independent models. Members of a family are not independent, so it is
        too narrow when families are left out. It is 0 to 1 if no prediction has an interval.
        """
        if not self.num_intervals:
            return Interval(0.0, 1.0)
        test = stats.binomtest(self.num_covered, self.num_intervals)
        low, high = test.proportion_ci(confidence_level=LEVEL, method="exact")
        return Interval(float(low), float(high))


def predict(
    points: Points,
    complexity: float,
    *,
    family: str | None = None,
    forms: Collection[Form] = tuple(FORMS),
) -> Prediction | InsufficientData:
    """Returns the predicted quality of a model of this complexity, or why there is none.

    Args:
        points: the measured models.
        complexity: of the model, in the unit of the points.
        family: of the model; without one, or if no point is of it, a new family is predicted.
        forms: candidates for the form of the law.

    Examples:
        >>> cost = [1, 2, 4, 8, 16, 32, 64, 128]
        >>> quality = [0.1 * c**0.25 for c in cost]
        >>> points = Points.of("abcdefgh", families="x" * 8, complexity=cost, quality=quality)
        >>> round(predict(points, 256, family="x").expected, 3)
        0.4
    """
    return points.insufficient() or _predict(points, complexity, family=family, forms=forms)


def validate_predictions(points: Points, *, leave_out: Group) -> Validation | InsufficientData:
    """Returns a prediction for every model, left out alone or with its whole family.

    Models that are left out affect neither the prediction nor its interval. If fewer than five
    models remain, the model or family is not tested.
    """
    if lacking := points.insufficient():
        return lacking
    names = points.models if leave_out == "model" else points.families
    predictions: list[LeftOutPrediction] = []
    untested: dict[str, str] = {}
    for position, name in enumerate(names):
        others = points.where([other != name for other in names])
        if lacking := others.insufficient(fewest=FEWEST_OTHERS):
            untested[name] = f"without {name}: {lacking.reason}"
            continue
        model, family = points.models[position], points.families[position]
        prediction = _predict(others, float(points.complexity[position]), family=family)
        measured = float(points.quality[position])
        predictions.append(LeftOutPrediction(model, family, prediction, measured))
    if not predictions:
        return InsufficientData("; ".join(untested.values()))
    return Validation(tuple(predictions), untested)


def validate(points: Points) -> dict[str, Validation | InsufficientData]:
    """Returns the validation for each unit that is left out, model and family."""
    return {group: validate_predictions(points, leave_out=group) for group in GROUPS}


def _predict(
    points: Points,
    complexity: float,
    *,
    family: str | None,
    forms: Collection[Form] = tuple(FORMS),
) -> Prediction:
    """Returns the prediction from at least four models with at least three complexities."""
    law, new_family = choose_law(points, forms), family not in points.families
    interval = _interval(law, complexity, new_family=new_family, forms=forms)
    return Prediction(
        complexity=complexity,
        expected=float(law.expected([complexity])[0]),
        interval=interval,
        form=law.form,
        num_models=len(points),
        inside=bool(points.complexity.min() <= complexity <= points.complexity.max()),
        new_family=new_family,
    )


def _interval(
    law: Law, complexity: float, *, new_family: bool, forms: Collection[Form]
) -> Interval | InsufficientData:
    points = law.points
    if new_family and (found := len(set(points.families))) < FEWEST_FAMILIES:
        return InsufficientData(
            f"expected {FEWEST_FAMILIES} families at least for a model of a new family, "
            f"found {found}"
        )
    by_family = new_family and len(set(points.families)) < len(points)
    folds = _family_folds(law, complexity) if by_family else law.folds(complexity)
    if isinstance(folds, InsufficientData):
        return folds
    expected, residuals = folds
    rank = (len(points) + 1) // _OUTSIDE
    low, high = np.sort(expected - residuals)[rank - 1], np.sort(expected + residuals)[-rank]
    within = Interval(*law.quality(np.array([low, high])).tolist())
    smallest, largest = float(points.complexity.min()), float(points.complexity.max())
    if smallest <= complexity <= largest:
        return within
    if not smallest / _FARTHEST <= complexity <= largest * _FARTHEST:
        return InsufficientData(
            f"expected a complexity within a factor of {_FARTHEST:g} of the range of the models, "
            f"{smallest:g} to {largest:g}, found {complexity:g}"
        )
    errors = extrapolation_errors(
        points, upwards=complexity > largest, new_family=new_family, forms=forms
    )
    if len(errors) < _FEWEST_RESIDUALS:
        return InsufficientData(
            f"expected {_FEWEST_RESIDUALS} tests of extrapolation at least, found {len(errors)} "
            f"with {len(points)} models"
        )
    error = np.sort(errors)[math.ceil((len(errors) + 1) * (1 - 1 / _OUTSIDE)) - 1]
    middle = float(law.expected([complexity])[0])
    low, high = law.clip(np.array([middle - error, middle + error])).tolist()
    return Interval(min(within.low, low), max(within.high, high))


def _family_folds(
    law: Law, complexity: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | InsufficientData:
    """Returns (M,) fits at a complexity and absolute residuals without each model's family."""
    points, families = law.points, np.asarray(law.points.families)
    expected, residuals = np.empty(len(points)), np.empty(len(points))
    for family in dict.fromkeys(points.families):
        members = families == family
        others = points.where(~members)
        if lacking := others.insufficient(fewest=FEWEST_OTHERS):
            return InsufficientData(f"without the family {family}: {lacking.reason}")
        fold = fit_law(others, law.form)
        expected[members] = fold.link_at(complexity)
        residuals[members] = np.abs(fold.link_residuals(points.where(members)))
    return expected, residuals


def extrapolation_errors(
    points: Points,
    *,
    upwards: bool = True,
    new_family: bool = False,
    forms: Collection[Form] = tuple(FORMS),
) -> NDArray[np.float64]:
    """Returns the absolute errors of predictions outside the range, in the unit of the quality.

    Args:
        points: M models, of which the costliest M // 3 are predicted from the rest.
        upwards: whether to predict the costliest models, or the cheapest.
        new_family: leave out the rest of a model's family, too.
        forms: candidates for the form of the law, chosen from the rest alone.
    """
    order = np.argsort(points.complexity if upwards else -points.complexity, kind="stable")
    in_rest = np.zeros(len(points), bool)
    in_rest[order[: len(points) - len(points) // 3]] = True
    rest, beyond = points.where(in_rest), points.where(~in_rest)
    errors = [np.empty(0)]
    for family in dict.fromkeys(beyond.families):
        others = rest.where([not new_family or name != family for name in rest.families])
        if others.insufficient(fewest=FEWEST_OTHERS) is None:
            members = beyond.family(family)
            predicted = choose_law(others, forms).expected(members.complexity)
            errors.append(np.abs(members.quality - predicted))
    return np.concatenate(errors)


@dataclass(frozen=True)
class StudyPrediction:
    """The predicted quality at one complexity, with the validation of such predictions."""

    quality: str
    complexity: str
    prediction: Prediction
    validations: Mapping[str, Validation | InsufficientData]
    """By the unit that was left out, 'model' or 'family'."""

    def flat(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        row: dict[str, Any] = {
            "quality": self.quality,
            "complexity": self.complexity,
            "at": self.prediction.complexity,
            **self.prediction.flat(),
        }
        for group, validation in self.validations.items():
            known = isinstance(validation, Validation)
            row[f"error_without_{group}"] = validation.mean_absolute_error if known else None
            row[f"coverage_without_{group}"] = validation.coverage if known else None
        return row


def predict_quality(
    results: StudyResults,
    at: float,
    *,
    quality: str = "ap",
    complexity: str = "params",
    family: str | None = None,
) -> StudyPrediction:
    """Returns the predicted quality at a complexity, with an 80% prediction interval.

    Args:
        results: the results of the study.
        at: the complexity, in the unit of `COMPLEXITIES`.
        family: family of the predicted model; by default it is a new one.
        quality: a key of `QUALITIES`.
        complexity: a key of `COMPLEXITIES`.

    Raises:
        ConfigError: an unknown quality or complexity, or one that is not positive.
        DataError: no fit is possible: fewer than eight models, or nothing was measured.
    """
    for axis, name, known in (
        ("quality", quality, QUALITIES),
        ("complexity", complexity, COMPLEXITIES),
    ):
        if name not in known:
            raise ConfigError(expected=f"a {axis} of {', '.join(known)}", found=repr(name))
    if not 0 < at < float("inf"):
        raise ConfigError(expected=f"{COMPLEXITIES[complexity]} above 0", found=f"{at:g}")
    points = results.points(quality, complexity)
    prediction = predict(points, at, family=family)
    if isinstance(prediction, InsufficientData):
        raise DataError(
            f"the study {results.study.name} allows no prediction from {COMPLEXITIES[complexity]}: "
            f"{prediction.reason}"
        )
    return StudyPrediction(quality, complexity, prediction, validate(points))
