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
from dataclasses import dataclass

import numpy as np

from ossa.data.annotations import DatasetIndex
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
    """AP50 that its repair would gain, 0..1."""


def errors_by_kind(
    index: DatasetIndex, detections: Mapping[int, Detections]
) -> tuple[ErrorKind, ...]:
    """Returns number and cost of every type of error.

    Raises:
        DataError: as `ossa.evaluate.matching.detection_columns`.
    """
    found = tide_errors(index, detections)
    return tuple(
        ErrorKind(kind, found["counts"][short], found["delta_ap"][short])
        for kind, short in _TIDE_NAMES.items()
    )


@dataclass(frozen=True)
class CalibrationBin:
    """The detections with scores from `lower` to below `upper` (the last bin includes 1)."""

    lower: float
    upper: float
    count: int
    mean_score: float | None = None
    """None in an empty bin."""
    precision: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Precision by score, and how far apart both are."""

    confidence: float
    """Lowest score of the detections that count."""
    error: float | None
    """The expected calibration error, 0..1; None without detections."""
    bins: tuple[CalibrationBin, ...]


def calibration(matches: Matches, *, bins: int = 10, confidence: float = 0.0) -> Calibration:
    """Returns how well scores from `confidence` on predict the precision, in bins of equal width.

    Detections of crowd and difficult boxes do not count.
    """
    # hotcoco's own error is equal but at the edges of bins, where it puts a float32 of 0.7 below.
    edges = np.arange(bins + 1) / bins
    scores = matches.scores.astype(np.float32)
    counts = ~matches.ignored[:, AT_50] & (scores >= np.float32(confidence))
    scores, hits = scores[counts], matches.hits[counts, AT_50]
    place = np.searchsorted(edges[1:-1].astype(np.float32), scores, "right")
    totals, score_sums, true = (
        np.bincount(place, weights=weights, minlength=bins)
        for weights in (None, scores.astype(np.float64), hits)
    )
    gaps = np.abs(true - score_sums)  # of each bin, times its number
    with np.errstate(invalid="ignore"):
        means, precisions = score_sums / totals, true / totals
    rows = zip(edges[:-1], edges[1:], totals, means, precisions, strict=True)
    return Calibration(
        confidence,
        float(gaps.sum() / len(scores)) if len(scores) else None,
        tuple(
            CalibrationBin(float(lower), float(upper), int(count))
            if not count
            else CalibrationBin(float(lower), float(upper), int(count), float(mean), float(share))
            for lower, upper, count, mean, share in rows
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
    errors: tuple[ErrorKind, ...]
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
        images = {
            "missed": matches.gt_image_positions[matches.gt_scored & ~found],
            "false": matches.images[false],
        }
        worst = {}
        for kind, of_kind in images.items():
            positions, counts = np.unique(of_kind, return_counts=True)
            order = np.argsort(-counts, kind="stable")[:most]
            worst[kind] = list(zip(positions[order].tolist(), counts[order].tolist(), strict=True))
        return worst


def analyse(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    imgsz: int,
    confidence: float | None = None,
    resamples: int = 200,
) -> Analysis:
    """Returns all diagnostics of detections.

    Args:
        index: a split with its ground truth.
        detections: by image id; images without any may be left out.
        imgsz: side of the square network input in pixels, at which objects are small or large.
        confidence: of confusions and images; that of the best mean F1 if not given.
        resamples: of the images, for the 95% intervals of the bins; 0 for none.
    """
    matches = match(index, detections)
    metrics = evaluate_detections(index, detections, matches=matches)
    if confidence is None:
        confidence = metrics.best_confidence or 0.0
    weights = None
    if resamples:
        shares = np.full(index.num_units, 1 / index.num_units)
        weights = np.random.default_rng(0).multinomial(index.num_units, shares, size=resamples)
        weights = weights if index.groups is None else weights[:, index.groups]
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
