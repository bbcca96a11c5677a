"""Which class is taken for which: the confusion matrix of a detector, background included.

Dimensions: D detections and T truths of one image, K classes, background as class K.

The rule, image by image:

1. Detections with at least the confidence take part; of the truths those that are neither crowd
   nor difficult.
2. A detection and a truth of whatever classes can be a pair where their IoU reaches the threshold.
   Pairs are formed in the order of their IoU, each detection and each truth in one at most. Not in
   the order of scores, as COCO does within a class: between classes the place says which object
   a box is about, or a second box of the rider takes the horse from the box around the horse. Of
   equal IoUs the higher score goes first (a box reported for two classes is about the same
   object, and the better answer counts), then a pair of one class, then the order of the input.
3. A pair counts in (class of the truth, class of the detection), a truth without a pair in
   (its class, background), a detection without one in (background, its class); except that a
   detection of whatever class is ignored if at least the threshold's fraction of its own area
   lies on one crowd or difficult truth: nobody knows what it should have found there.

So a row of a class sums to the truths of that class, and the column of a class to the detections
of it that are not ignored. In (background, background) nothing can be counted.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.escaping import write_csv
from ossa.evaluate.matching import detection_columns
from ossa.types import NOTHING_FOUND, Detections

CONFIDENCE = 0.25
"""At which YOLOv5 counts confusions, and from which boxes are drawn on pictures."""
IOU = 0.5
"""That of AP50, precision and recall (YOLOv5 counts confusions from 0.45)."""
BACKGROUND = "background"


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often truths of each class were found as each class. Rows: truth, columns: prediction."""

    names: tuple[str, ...]
    """K + 1, of rows and columns alike: the classes, then 'background'."""
    counts: NDArray[np.int64]
    """(K + 1, K + 1). In the last column truths that were missed, in the last row detections of
    what is not there."""
    confidence: float
    """Lowest score of the detections that were counted."""
    iou: float
    """From which a detection can be of a truth."""

    def normalized(self) -> NDArray[np.float64]:
        """Returns the counts (K + 1, K + 1) as fractions of their row; 0 in a row of nothing.

        The diagonal then is the recall of each class, whatever the class of other boxes there.
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
        return {
            "names": list(self.names),
            "matrix": self.counts.tolist(),
            "confidence": self.confidence,
            "iou": self.iou,
        }


def confusion_matrix(
    index: DatasetIndex,
    detections: Mapping[int, Detections],
    *,
    confidence: float = CONFIDENCE,
    iou: float = IOU,
) -> ConfusionMatrix:
    """Returns which class was taken for which, by the rule at the head of this file.

    Args:
        index: the truths.
        detections: by image id; an image that is absent has none.
        confidence: lowest score of the detections that take part.
        iou: of a detection and a truth from which they can be a pair; in (0, 1].

    Raises:
        ConfigError: an `iou` out of range.
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    if not 0 < iou <= 1:
        raise ConfigError(f"expected an IoU above 0 and up to 1 for the confusions, found {iou}")
    detection_columns(index, detections)  # refuses what is impossible
    side = len(index.names) + 1
    counts = np.zeros((side, side), np.int64)
    for position, image_id in enumerate(index.image_ids.tolist()):
        found = detections.get(image_id, NOTHING_FOUND).above(confidence)
        true_labels, found_labels = _answers(index, position, found, iou=iou)
        np.add.at(counts, (true_labels, found_labels), 1)
    return ConfusionMatrix((*index.names, BACKGROUND), counts, confidence, iou)


def _answers(
    index: DatasetIndex, position: int, found: Detections, *, iou: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns row and column of everything that one image adds to the matrix."""
    background = len(index.names)
    counting, ignored = _gt(index, position)
    rows = index.labels[counting]
    columns = np.full(len(rows), background)
    if not len(found):
        return rows, columns
    boxes_xywh, gt_xywh = found.boxes_xywh, index.boxes_xywh
    gt_of = _pairs(
        _ious(boxes_xywh, gt_xywh[counting]),
        found.scores,
        same_class=found.labels[:, None] == rows,
        iou=iou,
    )
    paired = gt_of >= 0
    columns[gt_of[paired]] = found.labels[paired]
    on_ignored = _fractions_on(boxes_xywh, gt_xywh[ignored]) >= iou
    false = ~paired & ~on_ignored.any(axis=1)
    return (
        np.concatenate((rows, np.full(false.sum(), background))),
        np.concatenate((columns, found.labels[false])),
    )


def _gt(index: DatasetIndex, position: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows of the truths of one image that count, and of those that are ignored."""
    rows = np.arange(index.gt_offsets[position], index.gt_offsets[position + 1])
    ignored = index.crowd[rows] | index.difficult[rows]
    return rows[~ignored], rows[ignored]


def _pairs(
    ious: NDArray[np.float64],
    scores: NDArray[np.floating],
    *,
    same_class: NDArray[np.bool_],
    iou: float,
) -> NDArray[np.int64]:
    """Returns (D,) the truth of each detection, -1 for none.

    Args:
        ious: (D, T).
        scores: (D,).
        same_class: (D, T).
        iou: the least of a pair.
    """
    found, true = np.nonzero(ious >= iou)
    order = np.lexsort((~same_class[found, true], -scores[found], -ious[found, true]))
    gt_of = np.full(len(scores), -1)
    taken = np.zeros(ious.shape[1], bool)
    for detection, truth in zip(found[order].tolist(), true[order].tolist(), strict=True):
        if gt_of[detection] < 0 and not taken[truth]:
            gt_of[detection] = truth
            taken[truth] = True
    return gt_of


def _ious(boxes_xywh: NDArray[np.float64], others_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (D, T) the IoU of boxes (D, 4) and others (T, 4); 0 for two without area."""
    common = _intersections(boxes_xywh, others_xywh)
    unions = _areas(boxes_xywh)[:, None] + _areas(others_xywh) - common
    return np.divide(common, unions, out=np.zeros_like(common), where=unions > 0)


def _fractions_on(
    boxes_xywh: NDArray[np.float64], others_xywh: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns (D, T) which fraction of each box (D, 4) lies on each other one (T, 4)."""
    common = _intersections(boxes_xywh, others_xywh)
    areas = np.broadcast_to(_areas(boxes_xywh)[:, None], common.shape)
    return np.divide(common, areas, out=np.zeros_like(common), where=areas > 0)


def _intersections(
    boxes_xywh: NDArray[np.float64], others_xywh: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns (D, T) the common area of boxes (D, 4) and others (T, 4)."""
    starts = np.maximum(boxes_xywh[:, None, :2], others_xywh[:, :2])
    ends = np.minimum(
        (boxes_xywh[:, :2] + boxes_xywh[:, 2:])[:, None], others_xywh[:, :2] + others_xywh[:, 2:]
    )
    return np.prod(np.maximum(ends - starts, 0), axis=2)


def _areas(boxes_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (N,) the areas of boxes (N, 4)."""
    return boxes_xywh[:, 2:].prod(axis=1)
