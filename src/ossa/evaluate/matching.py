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

import numpy as np
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_xywh
from ossa.data.index import DatasetIndex
from ossa.evaluate.columns import DetectionColumns, detection_columns
from ossa.types import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's, .50 to .95."""
_MOST_DETECTIONS = 100
_NOBODY = -1
_BLOCK = 1_000_000
"""Pairs that are looked at together, which bounds the memory."""


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
    columns = _best_of_each_cell(detection_columns(index, detections), num_classes=len(index.names))
    truth_images = np.repeat(np.arange(len(index)), np.diff(index.truth_offsets))
    ignorable = index.crowd | index.difficult
    detection, truth, iou = _pairs(columns, index, truth_images, ignorable)
    cells = _cells(columns.images, columns.labels, len(index.names))
    truths, ignored = _greedy(detection, truth, iou, ignorable=ignorable, cells=cells)
    # Of equal scores COCO puts the image of the lower id first.
    ranks = np.argsort(np.argsort(index.image_ids))
    order = np.lexsort((ranks[columns.images], -columns.scores, columns.labels))
    return Matches(
        num_images=len(index),
        num_classes=len(index.names),
        images=columns.images[order],
        labels=columns.labels[order],
        scores=columns.scores[order],
        boxes_xyxy=columns.boxes_xyxy[order],
        truths=truths[order],
        ignored=ignored[order],
        truth_images=truth_images,
        truth_labels=index.labels,
        truth_counts=~ignorable,
    )


def _cells(
    images: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Returns a number for each image and class together: what can match lies in one cell."""
    return images * num_classes + labels


def _best_of_each_cell(columns: DetectionColumns, *, num_classes: int) -> DetectionColumns:
    """Returns the best 100 of each image and class.

    They come image by image, class by class, the best first; of equal scores the first given.
    """
    cells = _cells(columns.images, columns.labels, num_classes)
    order = np.lexsort((-columns.scores, cells))  # stable: equal scores keep their order
    rank = _ranks_within(cells[order])
    chosen = order[rank < _MOST_DETECTIONS]
    return DetectionColumns(
        columns.images[chosen],
        columns.boxes_xyxy[chosen],
        columns.scores[chosen],
        columns.labels[chosen],
    )


def _pairs(
    columns: DetectionColumns,
    index: DatasetIndex,
    truth_images: NDArray[np.int64],
    ignorable: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Returns detection (P,), truth (P,) and IoU (P,) of all that could match at any threshold.

    Detection by detection, the truths in COCO's order: those that count, then the ignored ones.
    """
    num_classes = len(index.names)
    cells = _cells(columns.images, columns.labels, num_classes)
    truth_cells = _cells(truth_images, index.labels, num_classes)
    truth_order = np.lexsort((ignorable, truth_cells))
    first, last = (
        np.searchsorted(truth_cells[truth_order], cells, side) for side in ("left", "right")
    )
    counts = last - first
    boxes_xywh, truths_xywh = xyxy_to_xywh(columns.boxes_xyxy), xyxy_to_xywh(index.boxes_xyxy)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    # In blocks, because a crowded class has many more pairs than any that could match.
    for start, end in _blocks(counts):
        detection = np.repeat(np.arange(start, end), counts[start:end])
        place = _ranks_within(detection) + first[detection]
        truth = truth_order[place]
        iou = _ious(boxes_xywh[detection], truths_xywh[truth], onto=ignorable[truth])
        near = iou >= IOU_THRESHOLDS[0] - 1e-10
        parts.append((detection[near], truth[near], iou[near]))
    detection, truth, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detection, truth, iou


def _blocks(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns first and last + 1 of runs of rows whose counts sum to about a million or less."""
    sums = np.cumsum(counts)
    total = int(sums[-1]) if len(sums) else 0
    steps = np.arange(_BLOCK, total, _BLOCK)
    bounds = np.unique([0, *np.searchsorted(sums, steps).tolist(), len(counts)]).tolist()
    return list(pairwise(bounds))


def _ranks_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (n,) the how-manieth of its group each row is; groups (n,) lie together."""
    starts = np.flatnonzero(np.diff(groups, prepend=_NOBODY))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _ious(
    boxes_xywh: NDArray[np.float64], truths_xywh: NDArray[np.float64], *, onto: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns (P,) IoUs by pycocotools' arithmetic; where `onto`: over the area of the box alone."""
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
    detection: NDArray[np.int64],
    truth: NDArray[np.int64],
    iou: NDArray[np.float64],
    *,
    ignorable: NDArray[np.bool_],
    cells: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Returns the truth (D, T) of every detection and whether it is ignored (D, T).

    Cells (an image and a class each) do not touch one another, so the first detections of all
    cells choose at once, then all second ones, and so on.
    """
    shape = (len(cells), len(IOU_THRESHOLDS))
    truths = np.full(shape, _NOBODY, np.int32)
    ignored = np.zeros(shape, bool)
    if not len(detection):
        return truths, ignored
    taken = np.zeros((len(ignorable), shape[1]), bool)
    limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    rounds = _rounds(detection, cells)
    order = np.argsort(rounds, kind="stable")
    ends = np.searchsorted(rounds[order], np.arange(rounds[order][-1] + 2))
    for first, last in pairwise(ends):
        pairs = order[first:last]
        of, to = detection[pairs], truth[pairs]
        free = (iou[pairs, None] >= limits) & (~taken[to] | ignorable[to, None])
        # One number tells preference, without rounding: IoUs of 0.5 to 1, and 1 less for ignored.
        value = np.where(free, iou[pairs, None] - 1.0 * ignorable[to, None], -2.0)
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
        rows, columns = np.nonzero(matched)
        taken[chosen[rows, columns], columns] = True
    return truths, ignored


def _rounds(detection: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (P,) the how-manieth of its cell the detection of each pair is, of those in pairs."""
    is_new = np.diff(detection, prepend=_NOBODY) != 0
    number = np.cumsum(is_new) - 1  # of the detection among those in pairs
    return _ranks_within(cells[detection[is_new]])[number]
