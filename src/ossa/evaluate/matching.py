"""Which detection found which truth: COCO's rule, exactly, once, for all IoU thresholds.

Everything that is counted beside COCO's twelve numbers (by size, by crowding, by resampling) is
counted from these columns; nothing matches again.

The rule (pycocotools, bbox, all areas): within an image and a class the best 100 detections come in
the order of their scores. Each takes, of the truths that are free, the one of largest IoU at or
above the threshold; a truth that counts is preferred to one that is ignored (crowd, difficult),
whatever their IoU; of equal IoUs the later truth is taken. An ignored truth is never taken up, and
the IoU with it is the part of the detection that lies on it. What found an ignored truth is itself
ignored.

Dimensions: D detections, N truths of the index, T IoU thresholds, P pairs, I images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.data.index import DatasetIndex
from ossa.evaluate.columns import DetectionColumns, detection_columns
from ossa.evaluate.groups import blocks, ranks_within
from ossa.types import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's, .50 to .95."""
_MOST_DETECTIONS = 100
_NOBODY = -1
_LOWEST = IOU_THRESHOLDS[0] - 1e-10


@dataclass(frozen=True)
class Matches:
    """The detections that take part, class by class, the best score first, and what they found."""

    num_images: int
    num_classes: int
    images: NDArray[np.int64]
    """(D,) position of the image in the index."""
    labels: NDArray[np.int64]
    """(D,) ascending, in 0..K-1."""
    scores: NDArray[np.float64]
    """(D,) descending within a class."""
    boxes_xyxy: NDArray[np.float64]
    """(D, 4) in pixels of the original image."""
    areas: NDArray[np.float64]
    """(D,) width x height in pixels of the original image."""
    truths: NDArray[np.int32]
    """(D, T) row of the truth that was found, -1 for none."""
    ignored: NDArray[np.bool_]
    """(D, T) whether the detection neither counts as true nor as false."""
    truth_images: NDArray[np.int64]
    """(N,) position of the image of each truth of the index."""
    truth_labels: NDArray[np.int64]
    """(N,)."""
    truth_counts: NDArray[np.bool_]
    """(N,) whether it is to be found: neither crowd nor difficult."""

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(D, T) whether the detection found a truth that counts."""
        return (self.truths != _NOBODY) & ~self.ignored


def match(index: DatasetIndex, detections: Mapping[int, Detections]) -> Matches:
    """Returns what every detection found.

    Args:
        index: the truths.
        detections: by image id; an image that is absent has none.

    Raises:
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    columns = _best_of_each_cell(detection_columns(index, detections), index)
    ignorable = index.crowd | index.difficult
    pairs = overlapping_pairs(columns, index, least_iou=_LOWEST, ignorable=ignorable)
    cells = columns.images * len(index.names) + columns.labels
    truths, ignored = _greedy(pairs, ignorable=ignorable, cells=cells)
    # Stable: of equal scores the image of the lower id comes first, as in COCO.
    order = np.lexsort((-columns.scores, columns.labels))
    return Matches(
        num_images=len(index),
        num_classes=len(index.names),
        images=columns.images[order],
        labels=columns.labels[order],
        scores=columns.scores[order],
        boxes_xyxy=columns.boxes_xyxy[order],
        areas=columns.boxes_xywh[order, 2:].prod(axis=1),
        truths=truths[order],
        ignored=ignored[order],
        truth_images=index.truth_images(),
        truth_labels=index.labels,
        truth_counts=~ignorable,
    )


class Pairs(NamedTuple):
    """P pairs of a detection and a truth of the same image and class, detection by detection."""

    detection: NDArray[np.int64]
    """(P,) row of the detection, ascending."""
    truth: NDArray[np.int64]
    """(P,) row of the truth."""
    iou: NDArray[np.float64]
    """(P,)."""


def overlapping_pairs(
    columns: DetectionColumns,
    index: DatasetIndex,
    *,
    least_iou: float,
    ignorable: NDArray[np.bool_] | None = None,
) -> Pairs:
    """Returns all pairs of one image and class with at least an IoU, by pycocotools' arithmetic.

    Args:
        columns: the detections (D,).
        index: the truths (N,).
        least_iou: of a pair.
        ignorable: (N,) truths that come behind the others of a detection, and whose IoU is the
            part of the detection that lies on them; none if not given.
    """
    last = np.zeros(len(index.labels), bool) if ignorable is None else ignorable
    num_classes = len(index.names)
    cells = columns.images * num_classes + columns.labels
    truth_cells = index.truth_images() * num_classes + index.labels
    order = np.lexsort((last, truth_cells))
    first, end = (np.searchsorted(truth_cells[order], cells, side) for side in ("left", "right"))
    counts = end - first
    boxes_xywh, truths_xywh = columns.boxes_xywh, index.boxes_xywh
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    # In blocks, because a crowded class has many more pairs than overlap.
    for start, stop in blocks(counts):
        detection = np.repeat(np.arange(start, stop), counts[start:stop])
        truth = order[ranks_within(detection) + first[detection]]
        iou = _ious(boxes_xywh[detection], truths_xywh[truth], onto=last[truth])
        near = iou >= least_iou
        parts.append((detection[near], truth[near], iou[near]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _best_of_each_cell(columns: DetectionColumns, index: DatasetIndex) -> DetectionColumns:
    """Returns the best 100 of each image and class.

    They come by the image's id, class by class, the best first; of equal scores the first given.
    """
    ranks = np.argsort(np.argsort(index.image_ids))
    cells = ranks[columns.images] * len(index.names) + columns.labels
    order = np.lexsort((-columns.scores, cells))  # stable: equal scores keep their order
    rank = ranks_within(cells[order])
    chosen = order[rank < _MOST_DETECTIONS]
    return columns.at(chosen)


def _ious(
    boxes_xywh: NDArray[np.float64], truths_xywh: NDArray[np.float64], *, onto: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns (P,) IoUs by pycocotools' arithmetic; where `onto`, over the area of the box."""
    starts = np.maximum(boxes_xywh[:, :2], truths_xywh[:, :2])
    ends = np.minimum(
        boxes_xywh[:, :2] + boxes_xywh[:, 2:], truths_xywh[:, :2] + truths_xywh[:, 2:]
    )
    sides = np.maximum(ends - starts, 0.0)
    common = sides[:, 0] * sides[:, 1]
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    truth_areas = truths_xywh[:, 2] * truths_xywh[:, 3]
    unions = np.where(onto, areas, areas + truth_areas - common)
    return np.divide(common, unions, out=np.zeros_like(common), where=unions > 0)


def _greedy(
    pairs: Pairs, *, ignorable: NDArray[np.bool_], cells: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Returns the truth (D, T) of every detection and whether it is ignored (D, T).

    Cells (an image and a class each) do not touch one another, so the first detections of all
    cells choose at once, then all second ones, and so on.
    """
    shape = (len(cells), len(IOU_THRESHOLDS))
    truths = np.full(shape, _NOBODY, np.int32)
    ignored = np.zeros(shape, bool)
    if not len(pairs.detection):
        return truths, ignored
    taken = np.zeros((len(ignorable), shape[1]), bool)
    limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    rounds = _rounds(pairs.detection, cells)
    order = np.argsort(rounds, kind="stable")
    ends = np.searchsorted(rounds[order], np.arange(rounds[order][-1] + 2))
    for first, last in pairwise(ends):
        rows = order[first:last]
        of, to, iou = pairs.detection[rows], pairs.truth[rows], pairs.iou[rows, None]
        free = (iou >= limits) & (~taken[to] | ignorable[to, None])
        # One number tells preference, without rounding: IoUs of 0.5 to 1, and 1 less for ignored.
        value = np.where(free, iou - 1.0 * ignorable[to, None], -2.0)
        segments = np.flatnonzero(np.diff(of, prepend=-1))
        best = np.maximum.reduceat(value, segments, axis=0)
        lengths = np.diff(segments, append=len(of))
        is_best = free & (value == np.repeat(best, lengths, axis=0))
        place = np.where(is_best, np.arange(len(of))[:, None], _NOBODY)
        winner = np.maximum.reduceat(place, segments, axis=0)  # the later of equals
        matched = winner != _NOBODY
        chosen = np.where(matched, to[winner], _NOBODY)
        truths[of[segments]] = chosen
        ignored[of[segments]] = matched & ignorable[chosen]
        _, at = np.nonzero(matched)
        taken[chosen[matched], at] = True
    return truths, ignored


def _rounds(detection: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (P,) the how-manieth of its cell the detection of each pair is, of those in pairs."""
    is_new = np.diff(detection, prepend=_NOBODY) != 0
    number = np.cumsum(is_new) - 1  # of the detection among those in pairs
    return ranks_within(cells[detection[is_new]])[number]
