"""The quality to expect of a model that was not trained, and whether such predictions hold.

The prediction is the law at the complexity of the model. Its interval is jackknife+ (Barber,
Candès, Ramdas and Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics 49,
2021) of the logarithms: with the lines f_-i fitted without each of the n models, and the absolute
residuals R_i of those models from them,

    from the k-th smallest of f_-i(x) - R_i to the k-th largest of f_-i(x) + R_i, k = floor(a(n+1)),

with a = 0.2. It takes no shape of the scatter for granted: of models that are exchangeable it holds
60 % at the very least (their theorem 1), and about 80 % wherever no single model turns the line.

The test: models are left out, predicted from the others alone, and measured. A model that is left
out alone still has its kin among the others; the models of a **family** left out together do not,
which is how it is with a family that nobody trained.

A power law has no ceiling: far out, an interval may pass an AP of 1.

Dimensions: M models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
"""One prediction in so many may lie outside its interval, of 80 %."""
FEWEST_OTHERS = 5
"""Models from which one that is left out is predicted: of four a line leaves two degrees of freedom
to the scatter, and jackknife+ at 80 % is finite from four on."""


@dataclass(frozen=True)
class Prediction:
    """The quality to expect at a complexity."""

    complexity: float
    expected: float
    """By the law: the median."""
    low: float
    high: float
    """Of the interval of 80 %."""
    num_models: int
    """It was made from."""
    inside: bool
    """Whether the complexity is among those of the models; outside, the law is extrapolated."""


@dataclass(frozen=True)
class HeldOut:
    """A model that was left out, predicted and measured."""

    model: str
    family: str
    prediction: Prediction
    measured: float

    @property
    def error(self) -> float:
        """Measured less predicted, in the unit of the quality."""
        return self.measured - self.prediction.expected

    @property
    def log_error(self) -> float:
        """ln measured - ln predicted."""
        return float(np.log(self.measured / self.prediction.expected))

    @property
    def covered(self) -> bool:
        """Whether the measured quality lies in the interval."""
        return self.prediction.low <= self.measured <= self.prediction.high


@dataclass(frozen=True)
class PredictionTest:
    """How predictions of models that were left out compare with what was measured."""

    left_out: Literal["model", "family"]
    """What was left out at a time."""
    held_out: tuple[HeldOut, ...]
    """In the order of the points; one at least."""
    untested: Mapping[str, str]
    """Models or families without which no line can be fitted, and why."""

    @property
    def mean_absolute_error(self) -> float:
        """In the unit of the quality."""
        return float(np.mean([abs(model.error) for model in self.held_out]))

    @property
    def mean_absolute_log_error(self) -> float:
        return float(np.mean([abs(model.log_error) for model in self.held_out]))

    @property
    def num_covered(self) -> int:
        return sum(model.covered for model in self.held_out)

    @property
    def coverage(self) -> str:
        """Such as '8 of 10'."""
        return f"{self.num_covered} of {len(self.held_out)}"

    @property
    def coverage_interval(self) -> Interval:
        """Of 95 %, for the share that is covered, by Clopper and Pearson (Biometrika 26, 1934).

        As if the models were independent. Kin are not, so with families left out it is too narrow.
        """
        test = stats.binomtest(self.num_covered, len(self.held_out))
        low, high = test.proportion_ci(confidence_level=LEVEL, method="exact")
        return Interval(float(low), float(high))


def predict(points: Points, complexity: float) -> Prediction | InsufficientData:
    """Returns the quality to expect of a model of this complexity, or why there is none."""
    reason = points.why_no_line()
    return InsufficientData(reason) if reason is not None else _jackknife_plus(points, complexity)


def check_predictions(
    points: Points, *, left_out: Literal["model", "family"]
) -> PredictionTest | InsufficientData:
    """Returns the test in which every model is left out once, alone or with its whole family.

    What is left out has no part in the prediction, nor in its interval. Where fewer than five
    models remain, it stays untested.
    """
    reason = points.why_no_line()
    if reason is not None:
        return InsufficientData(reason)
    names = points.models if left_out == "model" else points.families
    held_out: list[HeldOut] = []
    untested: dict[str, str] = {}
    for position, name in enumerate(names):
        others = points.where([other != name for other in names])
        reason = others.why_no_line(fewest=FEWEST_OTHERS)
        if reason is not None:
            untested[name] = f"without {name}: {reason}"
            continue
        prediction = _jackknife_plus(others, float(points.complexity[position]))
        held_out.append(
            HeldOut(
                model=points.models[position],
                family=points.families[position],
                prediction=prediction,
                measured=float(points.quality[position]),
            )
        )
    if not held_out:
        return InsufficientData("; ".join(untested.values()))
    return PredictionTest(left_out, tuple(held_out), untested)


def _jackknife_plus(points: Points, complexity: float) -> Prediction:
    """Returns the prediction from four models at least, of three complexities at least."""
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
class Expectation:
    """What to expect at one complexity, and how well such predictions held."""

    quality: str
    complexity: str
    prediction: Prediction
    tests: dict[Literal["model", "family"], PredictionTest | InsufficientData]
    """By what was left out at a time."""

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
        for left_out, test in self.tests.items():
            known = isinstance(test, PredictionTest)
            row[f"error_without_{left_out}"] = test.mean_absolute_error if known else None
            row[f"coverage_without_{left_out}"] = test.coverage if known else None
        return row


def expect(
    results: StudyResults, at: float, *, quality: str = "ap", complexity: str = "params"
) -> Expectation:
    """Returns the quality to expect at a complexity, with an interval of 80 %.

    Args:
        results: of the study.
        at: the complexity, in the unit of `COMPLEXITIES`.
        quality: of `QUALITIES`.
        complexity: of `COMPLEXITIES`.

    Raises:
        ConfigError: an unknown quality or complexity, or one that is not positive.
        DataError: the study has no law of these: under eight models, or nothing was measured.
    """
    _check_known("quality", quality, QUALITIES)
    _check_known("complexity", complexity, COMPLEXITIES)
    if not 0 < at < float("inf"):
        raise ConfigError(f"expected {COMPLEXITIES[complexity]} above 0, found {at:g}")
    models = results.models()
    lacking = [key for key in (quality, complexity) if key not in models]
    if lacking:
        raise DataError(f"the study {results.study.name} has no {lacking[0]} of any model")
    points = Points.of(
        models["model"].tolist(),
        families=models["family"].tolist(),
        complexity=models[complexity].to_numpy(float),
        quality=models[quality].to_numpy(float),
    )
    prediction = predict(points, at)
    if isinstance(prediction, InsufficientData):
        raise DataError(
            f"the study {results.study.name} predicts nothing from {COMPLEXITIES[complexity]}: "
            f"{prediction.reason}"
        )
    return Expectation(
        quality,
        complexity,
        prediction,
        {
            "model": check_predictions(points, left_out="model"),
            "family": check_predictions(points, left_out="family"),
        },
    )


def _check_known(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ConfigError(f"expected a {what} of {', '.join(known)}, found {name!r}")


def cost_in_study(folder: StudyFolder, model: str, *, num_classes: int) -> Cost:
    """Returns what a detector of the study would cost with another backbone.

    Args:
        folder: of the study, whose neck and image size it gets.
        model: a backbone, or a preset.
        num_classes: K.

    Raises:
        ConfigError, UnsupportedBackbone: no such model, or none that can be a backbone here.
    """
    study = folder.study.model_copy(
        update={"models": (model,), "initial_weights": "none", "families": {}}
    )
    config = make_plan(study, data=folder.path, folder=folder.path).runs[0].config
    imgsz = config.train.imgsz
    detector = build_detector(config.model, num_classes=num_classes, imgsz=imgsz)
    return count_cost(detector, imgsz).total
