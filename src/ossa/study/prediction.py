"""Predicted quality of models that were not trained, and validation of such predictions.

The prediction is the power-law fit at the complexity of the model. Its interval is the jackknife+
interval (Barber, Candès, Ramdas and Tibshirani, "Predictive inference with the jackknife+", Annals
of Statistics 49, 2021) of the logarithms: with the lines f_-i fitted without each of the n models,
and the absolute residuals R_i of those models from them,

    from the k-th smallest of f_-i(x) - R_i to the k-th largest of f_-i(x) + R_i, k = floor(a(n+1)),

with a = 0.2. It makes no assumption on the distribution of the residuals: for exchangeable models
its coverage is at least 60% (their theorem 1), and about 80% if no single model dominates the fit.

For the validation, models are left out, predicted from the others alone, and compared with their
measured quality. With one model left out at a time, other members of its family remain; with a
whole **family** left out at a time, none do, as for a family that was never trained.

A power law has no upper bound: far from the trained models, an interval may exceed an AP of 1.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import stats

from ossa.errors import ConfigError, DataError
from ossa.evaluate.statistics import LEVEL, Interval
from ossa.models.complexity import Cost, count_cost
from ossa.models.detector import build_detector
from ossa.study.folder import StudyFolder
from ossa.study.plan import make_plan
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults
from ossa.study.scaling import InsufficientData, Points, leave_one_out

_OUTSIDE = 5
"""One in so many predictions may lie outside the 80% interval."""
FEWEST_OTHERS = 5
"""Smallest number of remaining models from which a left-out model is predicted. The jackknife+
interval at 80% is finite from four models on, but a line leaves them two degrees of freedom."""

Group: TypeAlias = Literal["model", "family"]
"""The unit that is left out at a time."""
GROUPS: tuple[Group, ...] = ("model", "family")


@dataclass(frozen=True)
class Prediction:
    """The predicted quality at a complexity."""

    complexity: float
    expected: float
    """The median by the power-law fit."""
    low: float
    high: float
    """Bounds of the 80% prediction interval."""
    num_models: int
    """Number of models that were fitted."""
    inside: bool
    """Whether the complexity is within the range of the models; otherwise the fit extrapolates."""


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
        return float(np.log(self.measured / self.prediction.expected))

    @property
    def covered(self) -> bool:
        """Whether the prediction interval contains the measured quality."""
        return self.prediction.low <= self.measured <= self.prediction.high


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
        return sum(row.covered for row in self.predictions)

    @property
    def coverage(self) -> str:
        """The number of covered predictions as text, such as '8 of 10'."""
        return f"{self.num_covered} of {len(self.predictions)}"

    @property
    def coverage_interval(self) -> Interval:
        """95% confidence interval of the coverage (Clopper and Pearson, 1934).

        The interval assumes independent models. Members of a family are not independent, so it is
        too narrow when families are left out.
        """
        test = stats.binomtest(self.num_covered, len(self.predictions))
        low, high = test.proportion_ci(confidence_level=LEVEL, method="exact")
        return Interval(float(low), float(high))


def predict(points: Points, complexity: float) -> Prediction | InsufficientData:
    """Returns the predicted quality of a model of this complexity, or why there is none.

    Examples:
        >>> cost = [1, 2, 4, 8, 16, 32, 64, 128]
        >>> quality = [0.1 * c**0.25 for c in cost]
        >>> points = Points.of("abcdefgh", families="x" * 8, complexity=cost, quality=quality)
        >>> round(predict(points, 256).expected, 3)
        0.4
    """
    return points.insufficient() or _jackknife_plus(points, complexity)


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
        prediction = _jackknife_plus(others, float(points.complexity[position]))
        model, family = points.models[position], points.families[position]
        measured = float(points.quality[position])
        predictions.append(LeftOutPrediction(model, family, prediction, measured))
    if not predictions:
        return InsufficientData("; ".join(untested.values()))
    return Validation(tuple(predictions), untested)


def validate(points: Points) -> dict[str, Validation | InsufficientData]:
    """Returns the validation for each unit that is left out, model and family."""
    return {group: validate_predictions(points, leave_out=group) for group in GROUPS}


def _jackknife_plus(points: Points, complexity: float) -> Prediction:
    """Returns the prediction from at least four models with at least three complexities."""
    lines = leave_one_out(points)
    expected, residuals = lines.at(complexity), np.abs(lines.residuals)
    rank = (len(points) + 1) // _OUTSIDE
    low, high = np.sort(expected - residuals)[rank - 1], np.sort(expected + residuals)[-rank]
    return Prediction(
        complexity=complexity,
        expected=float(np.exp(lines.line @ [1.0, np.log(complexity)])),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        num_models=len(points),
        inside=bool(points.complexity.min() <= complexity <= points.complexity.max()),
    )


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
            "expected": self.prediction.expected,
            "low": self.prediction.low,
            "high": self.prediction.high,
            "models": self.prediction.num_models,
            "inside": self.prediction.inside,
        }
        for group, validation in self.validations.items():
            known = isinstance(validation, Validation)
            row[f"error_without_{group}"] = validation.mean_absolute_error if known else None
            row[f"coverage_without_{group}"] = validation.coverage if known else None
        return row


def predict_quality(
    results: StudyResults, at: float, *, quality: str = "ap", complexity: str = "params"
) -> StudyPrediction:
    """Returns the predicted quality at a complexity, with an 80% prediction interval.

    Args:
        results: the results of the study.
        at: the complexity, in the unit of `COMPLEXITIES`.
        quality: a key of `QUALITIES`.
        complexity: a key of `COMPLEXITIES`.

    Raises:
        ConfigError: an unknown quality or complexity, or one that is not positive.
        DataError: no fit is possible: fewer than eight models, or nothing was measured.
    """
    _check_known("quality", quality, QUALITIES)
    _check_known("complexity", complexity, COMPLEXITIES)
    if not 0 < at < float("inf"):
        raise ConfigError(expected=f"{COMPLEXITIES[complexity]} above 0", found=f"{at:g}")
    points = results.points(quality, complexity)
    prediction = predict(points, at)
    if isinstance(prediction, InsufficientData):
        raise DataError(
            f"the study {results.study.name} allows no prediction from {COMPLEXITIES[complexity]}: "
            f"{prediction.reason}"
        )
    return StudyPrediction(quality, complexity, prediction, validate(points))


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigError(expected=f"a {what} of {', '.join(known)}", found=repr(name))


def cost_in_study(folder: StudyFolder, model: str, *, num_classes: int) -> Cost:
    """Returns the cost of a detector of the study with another backbone.

    Args:
        folder: the study, which sets the neck and the image size.
        model: a backbone, or a preset.
        num_classes: number of classes.

    Raises:
        ConfigError, UnsupportedBackbone: the model is unknown or cannot be a backbone.
    """
    study = folder.study.model_copy(
        update={"models": (model,), "initial_weights": "none", "families": {}}
    )
    version = folder.plan.conditions_version
    plan = make_plan(study, data=folder.path, folder=folder.path, conditions_version=version)
    config = plan.runs[0].config
    imgsz = config.train.imgsz
    detector = build_detector(config.model, num_classes=num_classes, imgsz=imgsz)
    return count_cost(detector, imgsz).total
