"""The numbers by which detectors are compared: COCO's twelve, and precision and recall at one
confidence.

Dimensions: K classes, C confidences.

Precision and recall need a confidence. It is the one, common to all classes, at which the mean F1
is best: for each of the confidences 0.000, 0.001, ..., 1.000 the detections with at least that
score (as `Detections.above` keeps them) are counted, exactly, from COCO's matching at IoU 0.5 (all
areas, at most 100 detections per image and class). With TP true and FP false detections and T
truths of a class,

    precision = TP / (TP + FP), 0 without a detection;  recall = TP / T;  F1 = 2 TP / (TP + FP + T).

Each is averaged over the classes that have truths; of equally good confidences the lowest is taken.
Detections matched to ignored truths (crowd, difficult) are neither true nor false.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.coco import CocoScores, score_as_coco
from ossa.evaluate.matching import Matches, match
from ossa.types import Detections

_CONFIDENCES = np.arange(1001) / 1000
_AT_50, _AT_75 = 0, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class; None where it has no truths."""

    name: str
    num_truths: int
    """Truths that count: neither crowd nor difficult."""
    num_images: int
    """Images with at least one of them."""
    ap: float | None
    ap50: float | None
    ap75: float | None
    precision: float | None
    """At the confidence that is best for all classes together."""
    recall: float | None
    pr50: tuple[float, ...] | None
    """Precision at IoU 0.5 and at the recalls 0.00, 0.01, ..., 1.00 (COCO's, never rising)."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of one detector on one data set, fractions in 0..1; None where undefined."""

    ap: float | None
    """Mean over the IoU thresholds .50, .55, ..., .95 and the classes that have truths."""
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    """Truths under 32 x 32 pixels, by the annotation's own area; large: over 96 x 96."""
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    """Recall with one detection per image and class, mean as for `ap`."""
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    precision: float | None
    """At IoU 0.5 and `best_confidence`, mean over the classes that have truths."""
    recall: float | None
    f1: float | None
    best_confidence: float | None
    """Where the mean F1 is best; None when it is 0 at every confidence."""
    num_images: int
    num_truths: int
    """Truths that count: neither crowd nor difficult."""
    num_detections: int
    per_class: tuple[ClassMetrics, ...]
    """K, in the order of the labels."""

    def flat(self) -> dict[str, float | None]:
        """Returns every field but `per_class` by its name, ready for JSON."""
        names = [field.name for field in fields(self) if field.name != "per_class"]
        return {name: getattr(self, name) for name in names}

    def rows(self) -> list[dict[str, str | float | None]]:
        """Returns one row a class: every field of `ClassMetrics` but the curve."""
        names = [field.name for field in fields(ClassMetrics) if field.name != "pr50"]
        return [{name: getattr(row, name) for name in names} for row in self.per_class]

    def pr50(self) -> tuple[float, ...] | None:
        """Returns the mean over classes of their precision at IoU 0.5 and the 101 recalls."""
        curves = [row.pr50 for row in self.per_class if row.pr50 is not None]
        return tuple(np.mean(curves, axis=0).tolist()) if curves else None


@dataclass(frozen=True)
class OperatingPoint:
    """Precision, recall and F1 at IoU 0.5 and one confidence; NaN for classes without truths."""

    confidence: float
    precision: NDArray[np.float64]
    """(K,)."""
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    def means(self) -> dict[str, float | None]:
        """Returns precision, recall and f1, means over the classes that have truths."""
        has_gt = ~np.isnan(self.f1)
        columns = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {
            name: float(column[has_gt].mean()) if has_gt.any() else None
            for name, column in columns.items()
        }


def operating_point(matches: Matches, confidence: float | None = None) -> OperatingPoint:
    """Returns precision, recall and F1 of the detections with at least a confidence.

    Args:
        matches: what every detection found.
        confidence: 0..1; that of the best mean F1, as the head of this file tells, if not given.
    """
    confidences = _CONFIDENCES if confidence is None else np.array([confidence])
    hits = matches.hits[:, _AT_50]
    true = _count_at_confidences(matches, hits, confidences)
    false = _count_at_confidences(matches, ~hits & ~matches.ignored[:, _AT_50], confidences)
    sought = matches.gt_labels[matches.gt_scored]
    num_truths = np.bincount(sought, minlength=matches.num_classes)[:, None]
    f1 = 2 * true / np.maximum(true + false + num_truths, 1)
    # Rounded, so that the order of a sum does not decide between equally good confidences.
    best = int(f1[num_truths[:, 0] > 0].sum(axis=0).round(12).argmax())
    precision = true / np.maximum(true + false, 1)
    recall = true / np.maximum(num_truths, 1)
    undefined = np.where(num_truths > 0, 0.0, np.nan)
    columns = ((values + undefined)[:, best] for values in (precision, recall, f1))
    return OperatingPoint(float(confidences[best]), *columns)


def evaluate_detections(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    matches: Matches | None = None,
) -> Metrics:
    """Returns the metrics of `detections` against the truths of `index`.

    Equal to pycocotools, crowds and areas included; a difficult truth counts as crowd.

    Args:
        index: the data set split.
        detections: by image id, boxes in pixels of the original image; an image that is absent
            counts as one in which nothing was found.
        matches: of the same, where they are known already.

    Raises:
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    scores = score_as_coco(index, detections)
    gt_per_class, images_per_class = _count_gt(index)
    operating = operating_point(match(index, detections) if matches is None else matches)
    means = operating.means()
    return Metrics(
        **_coco_numbers(scores),
        **means,
        best_confidence=operating.confidence if means["f1"] else None,
        num_images=len(index),
        num_truths=int(gt_per_class.sum()),
        num_detections=sum(len(found) for found in detections.values()),
        per_class=tuple(
            _class_metrics(
                scores,
                operating,
                label,
                name=name,
                num_truths=int(gt_per_class[label]),
                num_images=int(images_per_class[label]),
            )
            for label, name in enumerate(index.names)
        ),
    )


def _count_at_confidences(
    matches: Matches, chosen: NDArray[np.bool_], confidences: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Returns (K, C) how many of the chosen detections have at least each confidence, ascending."""
    # In float32, as Detections.above compares, lest a score of 0.7 miss the confidence 0.700.
    reached = np.searchsorted(
        confidences.astype(np.float32), matches.scores[chosen].astype(np.float32), "right"
    )
    width = len(confidences) + 1
    cells = matches.labels[chosen] * width + reached
    histogram = np.bincount(cells, minlength=matches.num_classes * width)
    histogram = histogram.reshape(matches.num_classes, width)
    return histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]


def _count_gt(index: DatasetIndex) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns (K,) truths that count and (K,) images that have one."""
    positions = index.gt_image_positions()
    counts = ~(index.crowd | index.difficult)
    pairs = np.unique(np.stack((positions[counts], index.labels[counts])), axis=1)
    num_classes = len(index.names)
    return (
        np.bincount(index.labels[counts], minlength=num_classes),
        np.bincount(pairs[1], minlength=num_classes),
    )


def _coco_numbers(scores: CocoScores) -> dict[str, float | None]:
    precision, recall = scores.precision, scores.recall
    return {
        "ap": _mean(precision[..., _ALL]),
        "ap50": _mean(precision[_AT_50, ..., _ALL]),
        "ap75": _mean(precision[_AT_75, ..., _ALL]),
        "ap_small": _mean(precision[..., _SMALL]),
        "ap_medium": _mean(precision[..., _MEDIUM]),
        "ap_large": _mean(precision[..., _LARGE]),
        "ar_1": _mean(recall[..., _ALL, 0]),
        "ar_10": _mean(recall[..., _ALL, 1]),
        "ar_100": _mean(recall[..., _ALL, 2]),
        "ar_small": _mean(recall[..., _SMALL, 2]),
        "ar_medium": _mean(recall[..., _MEDIUM, 2]),
        "ar_large": _mean(recall[..., _LARGE, 2]),
    }


def _class_metrics(
    scores: CocoScores,
    operating: OperatingPoint,
    label: int,
    *,
    name: str,
    num_truths: int,
    num_images: int,
) -> ClassMetrics:
    precision = scores.precision[:, :, label, _ALL]
    return ClassMetrics(
        name=name,
        num_truths=num_truths,
        num_images=num_images,
        ap=_mean(precision),
        ap50=_mean(precision[_AT_50]),
        ap75=_mean(precision[_AT_75]),
        precision=float(operating.precision[label]) if num_truths else None,
        recall=float(operating.recall[label]) if num_truths else None,
        pr50=tuple(precision[_AT_50].tolist()) if num_truths else None,
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Returns the mean of what is defined: COCO writes -1 where there is no truth to find."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
