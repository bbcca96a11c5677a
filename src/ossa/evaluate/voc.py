"""PASCAL VOC's average precision, by its own matching, which is not COCO's.

The rule (VOC's development kit): within a class the detections come in the order of their scores,
with no limit to their number. Each belongs to the ground-truth box of its image that it overlaps
most, taken or not. If their IoU reaches the threshold, it is ignored where that box is difficult,
true where it is the first of that box, false otherwise; below the threshold it is false. So a
detection that overlaps a taken box most is false even where it would also fit a free one, which
COCO would give it.

AP is either of two: of VOC 2007 the mean of the precisions at the recalls 0, 0.1, ..., 1; since VOC
2010 the whole area. Both take for the precision at a recall the best at that recall or above.

The kit counts pixels: a box from pixel 1 to 10 is 10 wide, 10 - 1 + 1. Boxes of an index are
distances from the left and upper edge of the image, so that same box goes from 0 to 10, and the
IoUs here, without any + 1, are the kit's (`ossa.data.formats.voc` subtracts 1 from xmin and ymin).
VOC knows no crowds: a crowd region counts as difficult.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.matching import (
    DetectionColumns,
    detection_columns,
    overlapping_pairs,
    ranks_within,
)
from ossa.types import Detections

_IOU = 0.5


@dataclass(frozen=True)
class VocClassScore:
    """AP of one class; None where it has no ground truth."""

    name: str
    ap_11_points: float | None
    """VOC 2007's."""
    ap_area: float | None
    """VOC's since 2010."""
    num_truths: int
    """Ground-truth boxes that are not difficult."""


@dataclass(frozen=True)
class VocScores:
    """VOC's AP of every class, and the means over those with ground truth."""

    map_11_points: float | None
    map_area: float | None
    per_class: tuple[VocClassScore, ...]
    """K, in the order of the labels."""


def score_as_voc(index: DatasetIndex, detections: Mapping[int, Detections]) -> VocScores:
    """Returns VOC's AP by the rule at the head of this file.

    Raises:
        DataError: as `ossa.evaluate.matching.detection_columns`.
    """
    columns = detection_columns(index, detections)
    # Of equal scores the image that comes first in the index.
    columns = columns.at(np.lexsort((columns.images, -columns.scores)))
    true, false = _judge(columns, index)
    scored = ~(index.difficult | index.crowd)
    counts = np.bincount(index.labels[scored], minlength=len(index.names)).tolist()
    classes = []
    for label, (name, num_gt) in enumerate(zip(index.names, counts, strict=True)):
        mine = columns.labels == label
        hits = np.flatnonzero(true[mine])
        found = np.arange(1, len(hits) + 1)
        precision = found / (found + np.cumsum(false[mine])[hits])
        # For every hit the best precision from it on: false ones only lower it.
        curve = np.maximum.accumulate(precision[::-1])[::-1]
        eleven = _mean_of_eleven(curve, num_gt) if num_gt else None
        area = float(curve.sum() / num_gt) if num_gt else None
        classes.append(VocClassScore(name, eleven, area, num_gt))
    known = [one for one in classes if one.num_truths]
    eleven, area = (
        sum(getattr(one, key) for one in known) / len(known) if known else None
        for key in ("ap_11_points", "ap_area")
    )
    return VocScores(eleven, area, tuple(classes))


def _judge(
    columns: DetectionColumns, index: DatasetIndex
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns whether each detection (D,), best first, is true, and whether it is false."""
    pairs = overlapping_pairs(columns, index, least_iou=_IOU)
    best_first = np.lexsort((-pairs.iou, pairs.detection))  # stable: the first of equal boxes
    chosen = best_first[ranks_within(pairs.detection[best_first]) == 0]
    detection, gt = pairs.detection[chosen], pairs.gt[chosen]
    _, first = np.unique(gt, return_index=True)  # detections ascend: the best of each box
    is_main, ignored = np.zeros((2, len(columns.scores)), bool)
    is_main[detection[first]] = True
    ignored[detection[(index.difficult | index.crowd)[gt]]] = True
    return is_main & ~ignored, ~is_main & ~ignored


def _mean_of_eleven(curve: NDArray[np.float64], num_gt: int) -> float:
    """Returns the mean precision at the recalls 0, 0.1, ..., 1; 0 at one that is not reached."""
    # In whole numbers: as floats, 3 of 10 boxes would miss the recall 0.30000000000000004.
    needed = np.maximum(-(-np.arange(11) * num_gt // 10), 1)
    reached = needed[needed <= len(curve)]
    return float(curve[reached - 1].sum() / 11)
