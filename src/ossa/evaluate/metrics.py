"""The metrics of a detector: COCO's twelve, and precision and recall at one confidence.

Dimensions: K classes, C confidences, A ranges of areas.

Precision and recall need a confidence. It is the one, common to all classes, at which the mean F1
is best: for each of the confidences 0.000, 0.001, ..., 1.000 the detections with at least that
score (as `Detections.above` keeps them) are counted, exactly, from COCO's matching at IoU 0.5 (all
areas, at most 100 detections per image and class). With TP true and FP false detections and T
ground-truth boxes of a class,

    precision = TP / (TP + FP), 0 without a detection;  recall = TP / T;  F1 = 2 TP / (TP + FP + T).

Each is averaged over the classes with ground truth; of equally good confidences the lowest is
taken. Detections matched to crowd or difficult boxes are neither true nor false.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate.coco import COCO_AREAS, COCO_MOST_DETECTIONS, CocoScores, score_as_coco
from ossa.evaluate.matching import AT_50, AT_75, Matches, match
from ossa.types import Detections

SIZES: Final = ("small", "medium", "large")
"""COCO's: areas up to 32 x 32, up to 96 x 96, and above, in pixels of the original image."""
KINDS: Final = ("isolated", "touching", "crowded")
"""How crowded an object stands (`ossa.evaluate.object_bins`)."""
METRIC_TITLES: Final[Mapping[str, str]] = {
    "ap": "AP50-95",
    "ap50": "AP50",
    "ap75": "AP75",
    **{f"ap_{name}": f"AP {name}" for name in (*SIZES, *KINDS)},
    "ar_1": "AR, 1 box",
    "ar_10": "AR, 10 boxes",
    "ar_100": "AR, 100 boxes",
    **{f"ar_{name}": f"AR {name}" for name in SIZES},
    "voc2007_ap50": "AP50 of VOC 2007",
    "voc2010_ap50": "AP50 of VOC 2010",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "best_confidence": "at confidence",
}
"""How each metric is called in tables and figures, in the order in which they are shown."""

_CONFIDENCES = np.arange(1001) / 1000
_ALL = 0
"""Position of the range of all areas; those of `SIZES` follow."""
_LARGEST = COCO_AREAS["all"][1]


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class; None where it has no ground truth."""

    name: str
    num_truths: int
    """Ground-truth boxes that are neither crowd nor difficult."""
    num_images: int
    """Images with at least one of them."""
    ap: float | None
    ap50: float | None
    ap75: float | None
    precision: float | None
    """At the confidence that is best for all classes together."""
    recall: float | None
    pr50: tuple[float, ...] | None = field(repr=False)
    """Precision at IoU 0.5 and at the recalls 0.00, 0.01, ..., 1.00 (COCO's, never rising)."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of one detector on one data set, fractions in 0..1; None where undefined.

    Examples:
        >>> import ossa
        >>> index = ossa.read_data("scenes").index
        >>> metrics = ossa.evaluate_detections(index, {})  # nothing was detected
        >>> metrics.ap, metrics.num_images, metrics.flat()["ap50"]
        (0.0, 2, 0.0)
    """

    ap: float | None
    """Mean over the IoU thresholds .50, .55, ..., .95 and the classes with ground truth."""
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    """Objects under 32 x 32 pixels, by the annotation's own area; large: over 96 x 96."""
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
    """At IoU 0.5 and `best_confidence`, mean over the classes with ground truth."""
    recall: float | None
    f1: float | None
    best_confidence: float | None
    """Where the mean F1 is best; None when it is 0 at every confidence."""
    num_images: int
    num_truths: int
    """Ground-truth boxes that are neither crowd nor difficult."""
    num_detections: int
    per_class: tuple[ClassMetrics, ...]
    """K, in the order of the labels."""

    def flat(self) -> dict[str, float | None]:
        """Returns every field but `per_class` by its name, ready for JSON."""
        names = [field.name for field in fields(self) if field.name != "per_class"]
        return {name: getattr(self, name) for name in names}

    def rows(self) -> list[dict[str, str | float | None]]:
        """Returns one row per class: every field of `ClassMetrics` but the curve."""
        names = [field.name for field in fields(ClassMetrics) if field.name != "pr50"]
        return [{name: getattr(row, name) for name in names} for row in self.per_class]

    def pr50(self) -> tuple[float, ...] | None:
        """Returns the mean over classes of their precision at IoU 0.5 and the 101 recalls."""
        curves = [row.pr50 for row in self.per_class if row.pr50 is not None]
        return tuple(np.mean(curves, axis=0).tolist()) if curves else None


@dataclass(frozen=True)
class OperatingPoint:
    """Precision, recall and F1 at IoU 0.5 and one confidence; NaN without ground truth."""

    confidence: float
    precision: NDArray[np.float64]
    """(K,)."""
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    def means(self) -> dict[str, float | None]:
        """Returns precision, recall and f1, means over the classes with ground truth."""
        has_gt = ~np.isnan(self.f1)
        columns = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {
            name: float(column[has_gt].mean()) if has_gt.any() else None
            for name, column in columns.items()
        }


def operating_point(matches: Matches, confidence: float | None = None) -> OperatingPoint:
    """Returns precision, recall and F1 of the detections with at least a confidence.

    Args:
        matches: what every detection matches.
        confidence: 0..1; that of the best mean F1 if not given.
    """
    confidences = _CONFIDENCES if confidence is None else np.array([confidence])
    hits = matches.hits[:, AT_50]
    true = _count_at_confidences(matches, hits, confidences)
    false = _count_at_confidences(matches, ~hits & ~matches.ignored[:, AT_50], confidences)
    labels = matches.gt_labels[matches.gt_scored]
    num_gt = np.bincount(labels, minlength=matches.num_classes)[:, None]
    f1 = 2 * true / np.maximum(true + false + num_gt, 1)
    # Rounded, so that the order of a sum does not decide between equally good confidences.
    best = int(f1[num_gt[:, 0] > 0].sum(axis=0).round(12).argmax())
    precision = true / np.maximum(true + false, 1)
    recall = true / np.maximum(num_gt, 1)
    undefined = np.where(num_gt > 0, 0.0, np.nan)
    columns = ((values + undefined)[:, best] for values in (precision, recall, f1))
    return OperatingPoint(float(confidences[best]), *columns)


def evaluate_detections(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    matches: Matches | None = None,
) -> Metrics:
    """Returns the metrics of `detections` against the ground truth of `index`.

    Equal to pycocotools, crowds and areas included; a difficult box counts as crowd.

    Args:
        index: the data set split.
        detections: by image id, boxes in pixels of the original image; an absent image counts as
            one in which nothing was detected.
        matches: of the same detections, where they are known already.

    Raises:
        DataError: a detection of an unknown image or class, or with an impossible score or box.

    Examples:
        >>> import ossa
        >>> from pathlib import Path
        >>> index = ossa.read_data("scenes").index
        >>> detections = ossa.read_coco_results(Path("results.json"), index)  # the ground truth
        >>> round(evaluate_detections(index, detections).ap, 3)
        1.0
    """
    scores = score_as_coco(index, detections)
    operating = operating_point(match(index, detections) if matches is None else matches)
    means = operating.means()
    ap, ar = scores.precision, scores.recall
    return Metrics(
        **_precisions(ap[..., _ALL]),
        **{f"ar_{most}": _mean(ar[..., _ALL, m]) for m, most in enumerate(COCO_MOST_DETECTIONS)},
        **{f"ap_{size}": _mean(ap[..., area]) for area, size in enumerate(SIZES, start=1)},
        **{f"ar_{size}": _mean(ar[..., area, -1]) for area, size in enumerate(SIZES, start=1)},
        **means,
        best_confidence=operating.confidence if means["f1"] else None,
        num_images=len(index),
        num_truths=int((~(index.crowd | index.difficult)).sum()),
        num_detections=sum(len(found) for found in detections.values()),
        per_class=tuple(_class_metrics(index, scores, operating)),
    )


def _class_metrics(
    index: DatasetIndex, scores: CocoScores, operating: OperatingPoint
) -> Iterator[ClassMetrics]:
    scored = ~(index.crowd | index.difficult)
    positions, labels = index.gt_image_positions()[scored], index.labels[scored]
    pairs = np.unique(np.stack((positions, labels)), axis=1)
    boxes, images = (np.bincount(of, minlength=len(index.names)) for of in (labels, pairs[1]))
    for label, name in enumerate(index.names):
        precision = scores.precision[:, :, label, _ALL]
        has_gt = bool(boxes[label])
        yield ClassMetrics(
            name=name,
            num_truths=int(boxes[label]),
            num_images=int(images[label]),
            **_precisions(precision),
            precision=float(operating.precision[label]) if has_gt else None,
            recall=float(operating.recall[label]) if has_gt else None,
            pr50=tuple(precision[AT_50].tolist()) if has_gt else None,
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


def score_at_limits(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    areas: Mapping[str, tuple[float, float]] = COCO_AREAS,
    most_detections: Sequence[int] = COCO_MOST_DETECTIONS,
) -> list[dict[str, Any]]:
    """Returns COCO's metrics at other sizes and numbers of detections, ready for a table.

    For each range of areas the first row, with the class None, has the means over the classes with
    ground truth in it; one row per class follows. Keys: `area`, `class`, `num_truths`, `ap`, `ap50`
    and `ap75` with the largest number of detections, and one recall for each, such as `ar_300`;
    None where there is no ground truth. By COCO's rule ground truth out of a range is ignored like
    a crowd region, and so is a detection out of it that matches nothing.

    Args:
        index: the ground truth.
        detections: by image id; an absent image has none.
        areas: by name, from and to, both included, in square pixels of the original image (the
            annotation's own area, that of the box for a detection); infinity is allowed.
        most_detections: the best of an image and class that are scored, in any order.

    Raises:
        ConfigError: no limit, or an impossible one.
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    _check_limits(areas, most_detections)
    bounded = {name: (low, min(high, _LARGEST)) for name, (low, high) in areas.items()}
    most = sorted(set(most_detections))
    scores = score_as_coco(index, detections, areas=bounded, most_detections=most)
    scored = ~(index.crowd | index.difficult)
    rows = []
    for place, (name, (low, high)) in enumerate(bounded.items()):
        inside = index.labels[scored & (low <= index.areas) & (index.areas <= high)]
        for label in (None, *range(len(index.names))):
            classes = slice(None) if label is None else label
            recalls = scores.recall[:, classes, place]
            rows.append(
                {
                    "area": name,
                    "class": None if label is None else index.names[label],
                    "num_truths": len(inside) if label is None else int((inside == label).sum()),
                    **_precisions(scores.precision[:, :, classes, place]),
                    **{f"ar_{n}": _mean(recalls[..., column]) for column, n in enumerate(most)},
                }
            )
    return rows


def _check_limits(areas: Mapping[str, tuple[float, float]], most_detections: Sequence[int]) -> None:
    if not areas or not most_detections:
        raise ConfigError(
            expected="one range of areas and one number of detections at least",
            found=f"{dict(areas)} and {list(most_detections)}",
        )
    for name, (low, high) in areas.items():
        if not 0 <= low <= high or math.isinf(low):
            raise ConfigError(
                expected="an area from 0 on and not above its end",
                found=f"{low} to {high} for {name!r}",
                advice="give square pixels",
            )
    if min(most_detections) < 1:
        raise ConfigError(
            expected="one detection of an image and class at least in most_detections",
            found=str(min(most_detections)),
        )


def _precisions(precision: NDArray[np.float64]) -> dict[str, float | None]:
    """Returns ap, ap50 and ap75 of COCO's precisions (10, 101) or (10, 101, K)."""
    columns = {"ap": precision, "ap50": precision[AT_50], "ap75": precision[AT_75]}
    return {name: _mean(values) for name, values in columns.items()}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Returns the mean of what is defined: COCO writes -1 where there is no ground truth."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
