"""Whether scores mean what they say: of the detections with a score of 0.7, are 70 % true?

A detection is true where it found a truth at IoU 0.5 by COCO's matching, second detections of a
truth being false; what found a crowd or a difficult truth does not count. The expected calibration
error (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning") is the
mean over detections of |precision - mean score| of their bin of scores.

Nearly all detections of an evaluation have scores near 0, and nearly all of these are false, as
they should be: they make the error small. So say from which confidence it is, and compare errors
only from the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate.confusion import ConfusionMatrix, confusion_matrix
from ossa.evaluate.crowding import (
    by_coverage,
    by_crowding,
    surroundings_of_detections,
    surroundings_of_gt,
)
from ossa.evaluate.error_types import Errors, errors_by_kind
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.metrics import Metrics, OperatingPoint, evaluate_detections, operating_point
from ossa.evaluate.object_bins import BinScores, by_size
from ossa.types import Detections

_AT_50 = 0


@dataclass(frozen=True)
class CalibrationBin:
    """The detections with scores from `lower` to below `upper` (the last bin holds 1 as well)."""

    lower: float
    upper: float
    count: int
    mean_score: float | None
    """None in an empty bin."""
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """Precision by score, and how far both are apart."""

    confidence: float
    """Lowest score of the detections that count."""
    error: float | None
    """The expected calibration error, 0..1; None without detections."""
    bins: tuple[CalibrationBin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON: confidence, error, bins."""
        return asdict(self)


def calibration(matches: Matches, *, bins: int = 10, confidence: float = 0.0) -> Calibration:
    """Returns how well scores tell the chance of being true.

    Args:
        matches: what every detection found.
        bins: number of bins of equal width.
        confidence: lowest score of the detections that count.

    Raises:
        ConfigError: fewer than one bin.
    """
    if bins < 1:
        raise ConfigError(f"expected at least one bin of scores, found {bins}")
    # In float32, as Detections.above compares, lest a score of 0.7 fall below 0.7.
    scores = matches.scores.astype(np.float32)
    counts = ~matches.ignored[:, _AT_50] & (scores >= np.float32(confidence))
    edges = np.arange(bins + 1) / bins
    scores, hits = scores[counts].astype(np.float64), matches.hits[counts, _AT_50]
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


_INDEX_AT_50 = 0
_CURVE_STEPS = 101


@dataclass(frozen=True)
class Analysis:
    """What a detector finds, takes for something else, misses and invents, on one split."""

    index: DatasetIndex
    detections: Mapping[int, Detections]
    matches: Matches
    metrics: Metrics
    confidence: float
    """From which detections are counted in the confusion matrix and shown on pictures."""
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
        found = np.zeros(len(matches.gt_scored), bool)
        found[matches.truths[shown & matches.hits[:, _INDEX_AT_50], _INDEX_AT_50]] = True
        missed = matches.gt_image_positions[matches.gt_scored & ~found]
        false = shown & ~matches.hits[:, _INDEX_AT_50] & ~matches.ignored[:, _INDEX_AT_50]
        return {
            "missed": _most_frequent(missed, matches.num_images, most),
            "false": _most_frequent(matches.images[false], matches.num_images, most),
        }


def analyse(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    imgsz: int,
    confidence: float | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Analysis:
    """Returns all that can be told of detections.

    Args:
        index: the truths.
        detections: by image id; an image that is absent has none.
        imgsz: side of the square network input in pixels, at which objects are small or large.
        confidence: of confusions and pictures; that of the best mean F1 if not given.
        resamples: of the images, for the 95 % intervals of the bins; 0 for none.
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
        generator = np.random.default_rng(seed)
        shares = np.full(len(index), 1 / len(index))
        weights = generator.multinomial(len(index), shares, size=resamples)
    truths, found = surroundings_of_gt(index), surroundings_of_detections(index, matches)
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
            by_crowding(matches, truths, found, weights=weights),
            by_coverage(matches, truths, found, weights=weights),
        ),
        errors=errors_by_kind(index, detections),
        calibration=calibration(matches, confidence=min(confidence, 0.05)),
    )


def _most_frequent(images: NDArray[np.int64], num_images: int, most: int) -> list[tuple[int, int]]:
    counts = np.bincount(images, minlength=num_images)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(position), int(counts[position])) for position in order if counts[position]]
