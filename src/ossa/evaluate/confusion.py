"""The confusion matrix of a detector, background included.

The rule, image by image:

1. Detections with at least the confidence take part, and the ground truth that is neither crowd nor
   difficult.
2. A detection and a ground-truth box of any classes can be a pair where their IoU reaches the
   threshold. Pairs are formed in the order of their IoU, each detection and each box in one at
   most. Not in the order of scores: between classes the place says which object a box is about, or
   a second box of the rider takes the horse from the box around the horse. Of equal IoUs the higher
   score goes first, then a pair of one class, then the order of the input.
3. A pair counts in (class of the ground truth, class of the detection), ground truth without a pair
   in (its class, background), a detection without one in (background, its class); except that a
   detection is ignored if at least the threshold's fraction of its own area lies on one crowd or
   difficult box, whatever the class.

So a row of a class sums to the ground truth of that class, and the column of a class to the
detections of it that are not ignored. hotcoco's own matrix pairs by score and ignores only
detections of the crowd's class, so it differs (tests/evaluate/test_confusion.py has the scenes).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.escaping import write_csv
from ossa.evaluate.matching import DetectionColumns, detection_columns, overlapping_pairs
from ossa.types import Detections

CONFIDENCE = 0.25
"""At which YOLOv5 counts confusions, and from which boxes are drawn on images."""
IOU = 0.5
"""That of AP50, precision and recall (YOLOv5 counts confusions from 0.45)."""
BACKGROUND = "background"


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often objects of each class were detected as each class; K classes and background.

    Examples:
        >>> matrix = ConfusionMatrix(("cat", "background"), np.array([[3, 1], [2, 0]]), 0.25, 0.5)
        >>> matrix.normalized()[0].tolist()  # of four cats one was missed
        [0.75, 0.25]
    """

    names: tuple[str, ...]
    """K + 1, of rows and columns alike: the classes, then 'background'."""
    counts: NDArray[np.int64]
    """(K + 1, K + 1), rows ground truth, columns predictions: missed objects in the last column,
    detections of nothing in the last row."""
    confidence: float
    """Lowest score of the detections that were counted."""
    iou: float
    """From which a detection and a ground-truth box can be a pair."""

    def normalized(self) -> NDArray[np.float64]:
        """Returns the counts as fractions of their row, 0 in an empty row.

        The diagonal is the recall of each class, whatever the class of other boxes there.
        """
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    def csv(self) -> str:
        """Returns the counts as a table with the names in its first row and column."""
        text = io.StringIO()
        rows = zip(self.names, self.counts.tolist(), strict=True)
        head = ["truth \\ predicted", *self.names]
        write_csv(text, [head, *([name, *row] for name, row in rows)])
        return text.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON: names, matrix, confidence, iou."""
        matrix = {"names": list(self.names), "matrix": self.counts.tolist()}
        return {**matrix, "confidence": self.confidence, "iou": self.iou}


def confusion_matrix(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    confidence: float = CONFIDENCE,
) -> ConfusionMatrix:
    """Returns which class was detected as which, by the rule at the head of this file.

    Args:
        index: a split with its ground truth.
        detections: by image id; images without any may be left out.
        confidence: lowest score of the detections that take part.

    Raises:
        DataError: as `detection_columns`.
    """
    columns = detection_columns(index, detections)
    # In float32, as Detections.above compares.
    shown = columns.scores.astype(np.float32) >= np.float32(confidence)
    columns = columns.at(np.flatnonzero(shown))
    background = len(index.names)
    scored = ~(index.crowd | index.difficult)
    gt_of, on_ignored = _pair(columns, index, scored=scored)
    paired = gt_of >= 0
    predicted = np.full(len(index.labels), background)
    predicted[gt_of[paired]] = columns.labels[paired]
    counts = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(counts, (index.labels[scored], predicted[scored]), 1)
    np.add.at(counts[background], columns.labels[~paired & ~on_ignored], 1)
    return ConfusionMatrix((*index.names, BACKGROUND), counts, confidence, IOU)


def _pair(
    columns: DetectionColumns, index: DatasetIndex, *, scored: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns (D,) the ground truth of each detection, -1 for none, and whether it is ignored."""
    pairs = overlapping_pairs(columns, index, least_iou=IOU, ignorable=~scored, same_class=False)
    gt_of = np.full(len(columns.scores), -1)
    on_ignored = np.zeros(len(columns.scores), bool)
    counts = scored[pairs.gt]
    on_ignored[pairs.detection[~counts]] = True
    detection, gt = pairs.detection[counts], pairs.gt[counts]
    other_class = columns.labels[detection] != index.labels[gt]
    order = np.lexsort((other_class, -columns.scores[detection], -pairs.iou[counts]))
    taken = np.zeros(len(index.labels), bool)
    for one, other in zip(detection[order].tolist(), gt[order].tolist(), strict=True):
        if gt_of[one] < 0 and not taken[other]:
            gt_of[one], taken[other] = other, True
    return gt_of, on_ignored
