"""All diagnostics of a detector on one split: curves, confusions, error types, bins, calibration.

**Error types** are those of TIDE (Bolya et al. 2020, "TIDE: A general toolbox for identifying
object detection errors"), as hotcoco computes them. A false detection by COCO's matching at IoU 0.5
is of the first type that fits:

- *localisation*: it overlaps ground truth of its class, matched or not, by IoU 0.1 to 0.5;
- *classification*: it overlaps ground truth of another class by 0.5 or more;
- *duplicate*: it overlaps ground truth of its class by 0.5 or more that a better detection matched;
- *background*: it overlaps no ground truth by more than 0.1;
- *both*: the rest, of the wrong place and the wrong class.

And ground truth that was not matched is *missed*, unless a detection of the first two types was
about it. The cost of a type is how much AP50 would gain if that type alone were repaired: boxes
moved and classes changed to those of the ground truth (or taken away where that has its detection
already), duplicates, background and both taken away, missed objects not counted. Costs are 0 or
more and do not add up to what is lacking. Detections on a crowd or difficult box of their class do
not count, as in COCO; on one of another class they are background.

**Calibration**: are 70% of the detections with a score of 0.7 true, at IoU 0.5? The expected
calibration error (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian
binning") is the mean over detections of |precision - mean score| of their bin of scores. Nearly all
detections of an evaluation have scores near 0, and nearly all of these are false, as they should
be: they make the error small. So compare errors only from the same confidence.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate.coco import tide_errors
from ossa.evaluate.confusion import ConfusionMatrix, confusion_matrix
from ossa.evaluate.matching import AT_50, Matches, match
from ossa.evaluate.metrics import Metrics, OperatingPoint, evaluate_detections, operating_point
from ossa.evaluate.object_bins import (
    BinScores,
    by_coverage,
    by_crowding,
    by_size,
    surroundings_of_detections,
    surroundings_of_gt,
)
from ossa.types import Detections

_TIDE_NAMES = {
    "localisation": "Loc",
    "classification": "Cls",
    "duplicate": "Dupe",
    "background": "Bkg",
    "both": "Both",
    "missed": "Miss",
}
_CURVE_STEPS = 101


@dataclass(frozen=True)
class ErrorKind:
    """One type of error, by the head of this file."""

    kind: str
    count: int
    """Of all classes, those without ground truth too."""
    cost: float
    """AP at `Errors.iou` that its repair would gain, 0..1."""


@dataclass(frozen=True)
class Errors:
    """All types of errors of a detector."""

    iou: float
    ap: float | None
    """At that IoU, mean over the classes with ground truth; None without any."""
    kinds: tuple[ErrorKind, ...]
    false_cost: float
    """What AP would gain without any false detection."""
    missed_cost: float
    """What AP would gain without any missed ground truth, whatever the reason."""

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON: iou, ap, kinds, false_cost, missed_cost."""
        return asdict(self)


def errors_by_kind(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    iou: float = 0.5,
    background_iou: float = 0.1,
) -> Errors:
    """Returns number and cost of every type of error.

    Args:
        index: the ground truth.
        detections: by image id; an absent image has none.
        iou: from which a detection can match ground truth.
        background_iou: up to which it has nothing to do with it; below `iou`.

    Raises:
        ConfigError: not 0 < `background_iou` < `iou` <= 1.
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    if not 0 < background_iou < iou <= 1:
        raise ConfigError(
            "expected IoUs with 0 < background_iou < iou <= 1 for the kinds of errors, found "
            f"{background_iou} and {iou}"
        )
    found = tide_errors(index, detections, iou=iou, background_iou=background_iou)
    costs, counts = found["delta_ap"], found["counts"]
    has_gt = bool((~(index.crowd | index.difficult)).any())
    return Errors(
        iou=iou,
        ap=found["ap_base"] if has_gt else None,
        kinds=tuple(
            ErrorKind(kind, counts[short], costs[short]) for kind, short in _TIDE_NAMES.items()
        ),
        false_cost=costs["FP"],
        missed_cost=costs["FN"],
    )


@dataclass(frozen=True)
class CalibrationBin:
    """The detections with scores from `lower` to below `upper` (the last bin includes 1)."""

    lower: float
    upper: float
    count: int
    mean_score: float | None
    """None in an empty bin."""
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """Precision by score, and how far apart both are."""

    confidence: float
    """Lowest score of the detections that count."""
    error: float | None
    """The expected calibration error, 0..1; None without detections."""
    bins: tuple[CalibrationBin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON: confidence, error, bins."""
        return asdict(self)


def calibration(matches: Matches, *, bins: int = 10, confidence: float = 0.0) -> Calibration:
    """Returns how well scores predict the precision; crowd and difficult boxes do not count.

    Args:
        matches: what every detection matches.
        bins: number of bins of equal width.
        confidence: lowest score of the detections that count.

    Raises:
        ConfigError: fewer than one bin.
    """
    # hotcoco's own error is equal but at the edges of bins, where it puts a float32 of 0.7 below.
    if bins < 1:
        raise ConfigError(f"expected at least one bin of scores, found {bins}")
    scores = matches.scores.astype(np.float32)
    counts = ~matches.ignored[:, AT_50] & (scores >= np.float32(confidence))
    edges = np.arange(bins + 1) / bins
    scores, hits = scores[counts].astype(np.float64), matches.hits[counts, AT_50]
    place = np.searchsorted(edges[1:-1].astype(np.float32), scores.astype(np.float32), "right")
    totals, score_sums, true = (
        np.bincount(place, weights=weights, minlength=bins) for weights in (None, scores, hits)
    )
    gaps = np.abs(true - score_sums)  # of each bin, times its number
    return Calibration(
        confidence,
        float(gaps.sum() / len(scores)) if len(scores) else None,
        tuple(
            CalibrationBin(
                lower=float(edges[number]),
                upper=float(edges[number + 1]),
                count=int(total),
                mean_score=float(score_sums[number] / total) if total else None,
                precision=float(true[number] / total) if total else None,
            )
            for number, total in enumerate(totals)
        ),
    )


@dataclass(frozen=True)
class Analysis:
    """All diagnostics of a detector on one split."""

    index: DatasetIndex
    detections: Mapping[int, Detections]
    matches: Matches
    metrics: Metrics
    confidence: float
    """From which detections count in the confusion matrix and are drawn on images."""
    curve: tuple[OperatingPoint, ...]
    """Precision, recall and F1 at the confidences 0.00, 0.01, ..., 1.00."""
    confusion: ConfusionMatrix
    bins: tuple[BinScores, ...]
    """By size, by crowding, by coverage."""
    errors: Errors
    calibration: Calibration

    def worst_images(self, most: int) -> dict[str, list[tuple[int, int]]]:
        """Returns 'missed' and 'false': position and number of the images with most of them.

        Counted at the confidence and at IoU 0.5; images without any are left out, and of equal
        numbers the first image comes first.
        """
        matches = self.matches
        shown = matches.scores.astype(np.float32) >= np.float32(self.confidence)
        hits = shown & matches.hits[:, AT_50]
        found = np.zeros(len(matches.gt_scored), bool)
        found[matches.matched_gt[hits, AT_50]] = True
        false = shown & ~hits & ~matches.ignored[:, AT_50]
        return {
            "missed": _most_frequent(matches.gt_image_positions[matches.gt_scored & ~found], most),
            "false": _most_frequent(matches.images[false], most),
        }


def _most_frequent(images: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    positions, counts = np.unique(images, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return list(zip(positions[order].tolist(), counts[order].tolist(), strict=True))


def analyse(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    imgsz: int,
    confidence: float | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Analysis:
    """Returns all diagnostics of detections.

    Args:
        index: the ground truth.
        detections: by image id; an absent image has none.
        imgsz: side of the square network input in pixels, at which objects are small or large.
        confidence: of confusions and images; that of the best mean F1 if not given.
        resamples: of the images, for the 95% intervals of the bins; 0 for none.
        seed: of the resamples.

    Raises:
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    matches = match(index, detections)
    metrics = evaluate_detections(index, detections, matches=matches)
    if confidence is None:
        confidence = metrics.best_confidence or 0.0
    weights = None
    if resamples:
        shares = np.full(len(index), 1 / len(index))
        weights = np.random.default_rng(seed).multinomial(len(index), shares, size=resamples)
    gt, found = surroundings_of_gt(index), surroundings_of_detections(index, matches)
    return Analysis(
        index=index,
        detections=detections,
        matches=matches,
        metrics=metrics,
        confidence=confidence,
        curve=tuple(operating_point(matches, c) for c in np.linspace(0, 1, _CURVE_STEPS).tolist()),
        confusion=confusion_matrix(index, detections, confidence=confidence),
        bins=(
            by_size(index, matches, imgsz=imgsz, weights=weights),
            by_crowding(matches, gt, found, weights=weights),
            by_coverage(matches, gt, found, weights=weights),
        ),
        errors=errors_by_kind(index, detections),
        calibration=calibration(matches, confidence=min(confidence, 0.05)),
    )
