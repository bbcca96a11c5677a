"""The quality to expect of a model that a study has not trained."""

from dataclasses import dataclass
from typing import Any, Literal

from ossa.errors import ConfigError, DataError
from ossa.models.build import build_detector
from ossa.models.count import PartCost, count_cost
from ossa.study.folder import StudyFolder
from ossa.study.plan import make_plan
from ossa.study.points import NoLaw, Points
from ossa.study.prediction import Prediction, PredictionTest, check_predictions, predict
from ossa.study.results import COMPLEXITIES, QUALITIES, StudyResults


@dataclass(frozen=True)
class Expectation:
    """What to expect at one complexity, and how well such predictions held."""

    quality: str
    complexity: str
    prediction: Prediction
    tests: dict[Literal["model", "family"], PredictionTest | NoLaw]
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
    if isinstance(prediction, NoLaw):
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


def cost_in_study(folder: StudyFolder, model: str, *, num_classes: int) -> PartCost:
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
