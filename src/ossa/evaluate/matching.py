"""COCO's matching of detections to ground truth, vectorised over a whole split.

Dimensions: D detections, N ground-truth boxes, T IoU thresholds, K classes, P pairs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import DataError
from ossa.types import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's, .50 to .95."""
AT_50, AT_75 = 0, 5
"""Positions in `IOU_THRESHOLDS`."""
_MOST_DETECTIONS = 100
_NONE = -1
_LOWEST = IOU_THRESHOLDS[0] - 1e-10
_AT_ONCE = 2**18


def ranks_within(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns the rank of each row (n,) within its group, from 0; rows of a group lie together."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def blocks(counts: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Yields ranges of rows, first and last + 1, whose counts (n,) sum to about 250,000.

    An array with `count` entries per row then fits into memory.
    """
    sums = np.cumsum(counts)
    total = int(sums[-1]) if len(sums) else 0
    inner = np.searchsorted(sums, np.arange(_AT_ONCE, total, _AT_ONCE))
    yield from pairwise(np.unique([0, *inner.tolist(), len(counts)]).tolist())


@dataclass(frozen=True)
class DetectionColumns:
    """One row per detection, image by image in the order of the mapping they came from."""

    images: NDArray[np.int64]
    """(D,) position of the image in the index."""
    boxes_xyxy: NDArray[np.float64]
    """(D, 4) in pixels of the original image; not float32, which would move the IoU of large
    boxes in the arithmetic that follows."""
    scores: NDArray[np.float64]
    """(D,)."""
    labels: NDArray[np.int64]
    """(D,) in 0..K-1."""
    boxes_xywh: NDArray[np.float64]
    """(D, 4) left, top, width, height, as stated where they come from a file."""

    def at(self, rows: NDArray[np.int64]) -> Self:
        """Returns the rows in the order given."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


def detection_columns(
    index: DatasetIndex, detections: Mapping[int, Detections]
) -> DetectionColumns:
    """Returns the detections as columns.

    Args:
        index: the split.
        detections: by image id; an absent image has none.

    Raises:
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    positions = {image_id: place for place, image_id in enumerate(index.image_ids.tolist())}
    for image_id, found in detections.items():
        if image_id not in positions:
            raise unknown_image(image_id, index)
        shapes, count = (
            [one.shape for one in (found.boxes_xyxy, found.scores, found.labels)],
            len(found),
        )
        if shapes != [(count, 4), (count,), (count,)]:
            raise DataError(
                expected="boxes (N, 4), scores (N,) and labels (N,)",
                found=f"{', '.join(map(str, shapes))} in image {image_id}",
                advice="give every detection one of each",
            )
    per_image = list(detections.values())
    lengths = [len(found) for found in per_image]
    no_box = np.zeros((0, 4))
    columns = DetectionColumns(
        np.repeat(np.array([positions[i] for i in detections], np.int64), lengths),
        np.concatenate([no_box, *(found.boxes_xyxy for found in per_image)]).astype(np.float64),
        np.concatenate([[], *(found.scores for found in per_image)]).astype(np.float64),
        np.concatenate([[], *(found.labels for found in per_image)]).astype(np.int64),
        np.concatenate([no_box, *(found.boxes_xywh for found in per_image)]),
    )
    _check_values(columns, index)
    return columns


def unknown_image(
    image_id: int | str, index: DatasetIndex, *, where: str | None = None
) -> DataError:
    """Returns the error for a detection in an image that the split does not have."""
    return DataError(
        expected=f"image ids of the data set at {index.root}",
        found=f"{image_id}, which is none of its {len(index)}",
        path=where,
        advice="evaluate on the split that was predicted",
    )


def _check_values(columns: DetectionColumns, index: DatasetIndex) -> None:
    labels, scores, boxes = columns.labels, columns.scores, columns.boxes_xyxy
    upright = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
    # So written, NaN is wrong, too.
    for values, is_right, expected, advice in (
        (
            labels,
            (labels >= 0) & (labels < len(index.names)),
            f"labels in 0..{len(index.names) - 1}",
            "evaluate with the data set whose classes the detector was trained on",
        ),
        (
            scores,
            (scores >= 0) & (scores <= 1),
            "scores in 0..1",
            "give confidences, and look for NaN in the network's outputs",
        ),
        (
            boxes,
            upright & np.isfinite(boxes).all(axis=1),
            "finite boxes with x0 <= x1 and y0 <= y1",
            "give boxes as xyxy in pixels of the image",
        ),
    ):
        if not is_right.all():
            row = int(np.argmin(is_right))
            found = f"{values[row].tolist()} in image {index.image_ids[columns.images[row]]}"
            raise DataError(expected=expected, found=found, advice=advice)


@dataclass(frozen=True)
class Matches:
    """The detections that are scored, class by class, best first, and what each one matched."""

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
    matched_gt: NDArray[np.int32]
    """(D, T) row of the ground-truth box that was matched, -1 for none."""
    ignored: NDArray[np.bool_]
    """(D, T) whether the detection counts neither as true nor as false positive."""
    gt_image_positions: NDArray[np.int64]
    """(N,) position of the image of each ground-truth box."""
    gt_labels: NDArray[np.int64]
    """(N,)."""
    gt_scored: NDArray[np.bool_]
    """(N,) whether the box is neither crowd nor difficult."""

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(D, T) whether the detection is a true positive."""
        return (self.matched_gt != _NONE) & ~self.ignored


def match(index: DatasetIndex, detections: Mapping[int, Detections]) -> Matches:
    """Returns which ground-truth box every detection matches, at all ten IoU thresholds.

    Raises:
        DataError: as `detection_columns`.
    """
    columns, num_classes = detection_columns(index, detections), len(index.names)
    # The best 100 of each image and class, by image id, then class, then score.
    ranks = np.argsort(np.argsort(index.image_ids))
    cells = ranks[columns.images] * num_classes + columns.labels
    order = np.lexsort((-columns.scores, cells))  # stable: equal scores keep their order
    columns = columns.at(order[ranks_within(cells[order]) < _MOST_DETECTIONS])
    ignorable = index.crowd | index.difficult
    pairs = overlapping_pairs(columns, index, least_iou=_LOWEST, ignorable=ignorable)
    cells = columns.images * num_classes + columns.labels
    matched_gt, ignored = _greedy(pairs, ignorable=ignorable, cells=cells)
    # Stable: of equal scores the image of the lower id comes first, as in COCO.
    order = np.lexsort((-columns.scores, columns.labels))
    columns = columns.at(order)
    return Matches(
        num_images=len(index),
        num_classes=num_classes,
        images=columns.images,
        labels=columns.labels,
        scores=columns.scores,
        boxes_xyxy=columns.boxes_xyxy,
        areas=columns.boxes_xywh[:, 2:].prod(axis=1),
        matched_gt=matched_gt[order],
        ignored=ignored[order],
        gt_image_positions=index.gt_image_positions(),
        gt_labels=index.labels,
        gt_scored=~ignorable,
    )


class Pairs(NamedTuple):
    """P pairs of a detection and a ground-truth box of its image, detection by detection."""

    detection: NDArray[np.int64]
    """(P,) row of the detection, ascending."""
    gt: NDArray[np.int64]
    """(P,) row of the ground-truth box."""
    iou: NDArray[np.float64]
    """(P,)."""


def overlapping_pairs(
    columns: DetectionColumns,
    index: DatasetIndex,
    *,
    least_iou: float,
    ignorable: NDArray[np.bool_] | None = None,
    same_class: bool = True,
) -> Pairs:
    """Returns all pairs of one image with at least an IoU, by pycocotools' arithmetic.

    Args:
        columns: the detections (D,).
        index: the ground truth (N,).
        least_iou: of a pair.
        ignorable: (N,) boxes that come after the others of a detection, and whose IoU is the
            fraction of the detection's area that lies on them; none if not given.
        same_class: pairs of one class only.
    """
    last = np.zeros(len(index.labels), bool) if ignorable is None else ignorable
    cells, gt_cells = columns.images, index.gt_image_positions()
    if same_class:
        num_classes = len(index.names)
        cells = cells * num_classes + columns.labels
        gt_cells = gt_cells * num_classes + index.labels
    order = np.lexsort((last, gt_cells))
    first, end = (np.searchsorted(gt_cells[order], cells, side) for side in ("left", "right"))
    counts = end - first
    boxes_xywh, gt_xywh = columns.boxes_xywh, index.boxes_xywh
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    # In blocks, because a crowded class has many more pairs than overlap.
    for start, stop in blocks(counts):
        detection = np.repeat(np.arange(start, stop), counts[start:stop])
        gt = order[ranks_within(detection) + first[detection]]
        iou = _ious(boxes_xywh[detection], gt_xywh[gt], onto=last[gt])
        near = iou >= least_iou
        parts.append((detection[near], gt[near], iou[near]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _ious(
    boxes_xywh: NDArray[np.float64], gt_xywh: NDArray[np.float64], *, onto: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns (P,) IoUs by pycocotools' arithmetic; where `onto`, over the area of the box."""
    starts = np.maximum(boxes_xywh[:, :2], gt_xywh[:, :2])
    ends = np.minimum(boxes_xywh[:, :2] + boxes_xywh[:, 2:], gt_xywh[:, :2] + gt_xywh[:, 2:])
    sides = np.maximum(ends - starts, 0.0)
    common = sides[:, 0] * sides[:, 1]
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    gt_areas = gt_xywh[:, 2] * gt_xywh[:, 3]
    unions = np.where(onto, areas, areas + gt_areas - common)
    return np.divide(common, unions, out=np.zeros_like(common), where=unions > 0)


def _greedy(
    pairs: Pairs, *, ignorable: NDArray[np.bool_], cells: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Returns the matched ground truth (D, T) of every detection and whether it is ignored (D, T).

    Cells (an image and a class each) do not touch one another, so the first detections of all
    cells choose at once, then all second ones, and so on.
    """
    shape = (len(cells), len(IOU_THRESHOLDS))
    matched_gt = np.full(shape, _NONE, np.int32)
    ignored = np.zeros(shape, bool)
    if not len(pairs.detection):
        return matched_gt, ignored
    taken = np.zeros((len(ignorable), shape[1]), bool)
    limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    # The rank of the detection of each pair within its cell, among those in pairs.
    is_new = np.diff(pairs.detection, prepend=_NONE) != 0
    rounds = ranks_within(cells[pairs.detection[is_new]])[np.cumsum(is_new) - 1]
    order = np.argsort(rounds, kind="stable")
    ends = np.searchsorted(rounds[order], np.arange(rounds[order][-1] + 2))
    for first, last in pairwise(ends):
        rows = order[first:last]
        of, to, iou = pairs.detection[rows], pairs.gt[rows], pairs.iou[rows, None]
        free = (iou >= limits) & (~taken[to] | ignorable[to, None])
        # One number orders them, without rounding: IoUs of 0.5 to 1, and 1 less for ignored.
        value = np.where(free, iou - 1.0 * ignorable[to, None], -2.0)
        segments = np.flatnonzero(np.diff(of, prepend=-1))
        best = np.maximum.reduceat(value, segments, axis=0)
        lengths = np.diff(segments, append=len(of))
        is_best = free & (value == np.repeat(best, lengths, axis=0))
        place = np.where(is_best, np.arange(len(of))[:, None], _NONE)
        winner = np.maximum.reduceat(place, segments, axis=0)  # the later of equals
        matched = winner != _NONE
        chosen = np.where(matched, to[winner], _NONE)
        matched_gt[of[segments]] = chosen
        ignored[of[segments]] = matched & ignorable[chosen]
        _, at = np.nonzero(matched)
        taken[chosen[matched], at] = True
    return matched_gt, ignored
