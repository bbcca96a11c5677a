"""AP within bins of objects: by size, by crowding, by how much of an object others cover.

Ground truth counts in its own bin, and with it the detection that matches it; a false detection
counts in the bin of its own box. One rule places both: if every false detection counted in every
bin, the rarest bin would be charged with all of them. What matches ground truth of another bin is
ignored. Detectors are compared within a bin, never bins with one another: precision, and so AP,
falls with the number of false detections per object, which differs between bins whatever the
detector.

The surroundings of a box are the *other objects* of its image: ground truth of any class, difficult
boxes too, but no crowd regions, whose boxes are those of many objects and of the gaps between them.
A box is

- *crowded* where its IoU with another object is above 0.2, or three or more other objects have
  their centre within twice its side (the square root of its area) from its own centre;
- otherwise *isolated* where no other object overlaps it and none has its centre within 1.5 sides;
- otherwise *touching*.

A detection stands where its object stands: the object that it overlaps most, of any class, is its
own if their IoU is 0.1 or more, and not one of the others. Without that a second box on an isolated
object, or one of the wrong class, or one that hits at IoU 0.5 and misses at 0.9, would be a false
detection of the crowd.

The *coverage* of a box is the fraction of its area that lies in the boxes of other objects, each
point counted once. Which object is in front is not known from boxes.

Dimensions: D detections, N ground-truth boxes, M boxes of either kind, P pairs of a box and an
object of its image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.bootstrap import Bin, average_precision, is_varied
from ossa.evaluate.matching import AT_50, Matches, blocks, match, ranks_within
from ossa.evaluate.metrics import KINDS, SIZES

SIZE_EDGES = (8.0, 16.0, 32.0, 64.0, 128.0)
"""Square roots of areas in pixels of the network's input: the strides of a detector of five levels,
each the size of one of its cells."""
COVERAGE_EDGES = (0.0, 0.25, 0.5)
_COCO_LIMITS = (32.0**2, 96.0**2)
_ISOLATED, _TOUCHING, _CROWDED = range(3)
_ISOLATED_WITHIN, _CROWDED_WITHIN = 1.5, 2.0
"""Distances between centres, in sides of a box."""
_CROWDED_NEIGHBOURS = 3
_CROWDED_IOU = 0.2
_OWN_IOU = 0.1
_CELLS_AT_ONCE = 2**20


@dataclass(frozen=True)
class BinScore:
    """The scores of one bin; None where it has no ground truth."""

    label: str
    ap: float | None
    """Mean over the IoU thresholds .50, .55, ..., .95 and the classes with ground truth here."""
    ap50: float | None
    recall: float | None
    """At IoU 0.5, of all detections whatever their score; mean over the same classes."""
    num_truths: int
    """Ground-truth boxes that are neither crowd nor difficult."""
    num_detections: int
    """True and false ones at IoU 0.5 that count here."""
    ap_low: float | None = None
    """The 95% interval of `ap` over resampled images; None without resamples, and where the ground
    truth lies in one image, or in one group of images."""
    ap_high: float | None = None


@dataclass(frozen=True)
class BinScores:
    """The scores of all bins of one quantity."""

    name: str
    """What the bins divide: 'crowding', 'size' or 'coverage'."""
    bins: tuple[BinScore, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per bin, ready for JSON."""
        return [asdict(one) for one in self.bins]


def by_size(
    index: DatasetIndex,
    matches: Matches,
    *,
    imgsz: int,
    edges: tuple[float, ...] = SIZE_EDGES,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP by the size of objects at the network's input.

    Args:
        index: the ground truth.
        matches: of the same split.
        imgsz: side of the square network input in pixels.
        edges: ascending; a bin includes its lower edge and not its upper one.
        weights: (B, I) how often each image counts in each resample, for intervals.
    """
    scales = imgsz / index.sizes_wh.max(axis=1)
    gt = np.sqrt(index.boxes_xywh[:, 2:].prod(axis=1)) * scales[matches.gt_image_positions]
    found = np.sqrt(matches.areas) * scales[matches.images]
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    labels = (f"under {edges[0]:g}", *inner, f"{edges[-1]:g} and over")
    places = (np.searchsorted(edges, sizes, side="right") for sizes in (gt, found))
    return _scores("size", matches, _bins(labels, *places), weights)


def by_crowding(
    matches: Matches,
    gt: "Surroundings",
    found: "Surroundings",
    *,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP of isolated, touching and crowded objects.

    Args:
        matches: what every detection matches.
        gt: the surroundings of the ground truth.
        found: the surroundings of the detections.
        weights: (B, I) how often each image counts in each resample, for intervals.
    """
    return _scores("crowding", matches, _bins(KINDS, gt.kinds, found.kinds), weights)


def by_coverage(
    matches: Matches,
    gt: "Surroundings",
    found: "Surroundings",
    *,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP by how much of an object others cover; see `by_crowding`.

    A bin includes its upper edge and not its lower one.
    """
    edges = COVERAGE_EDGES
    labels = ("none", *(f"up to {edge:g}" for edge in edges[1:]), f"over {edges[-1]:g}")
    places = (np.searchsorted(edges, one.coverage, side="left") for one in (gt, found))
    return _scores("coverage", matches, _bins(labels, *places), weights)


def bins_of(index: DatasetIndex, matches: Matches) -> dict[str, Bin]:
    """Returns the bins of `RESAMPLED_METRICS` by COCO's sizes and by crowding.

    COCO's own AP of small objects matches again among small objects alone, and so may differ from
    the AP of this bin in the third decimal.
    """
    # A limit itself belongs to the smaller size, as in COCO.
    sizes = (np.searchsorted(_COCO_LIMITS, areas) for areas in (index.areas, matches.areas))
    gt, found = surroundings_of_gt(index), surroundings_of_detections(index, matches)
    return _bins(SIZES, *sizes) | _bins(KINDS, gt.kinds, found.kinds)


def metrics_of_one_image(index: DatasetIndex) -> frozenset[str]:
    """Returns the `RESAMPLED_METRICS` of a kind whose objects lie in fewer than two images.

    If the images have groups, in fewer than two of these.
    """
    matches = match(index, {})
    units = np.arange(len(index)) if index.groups is None else index.groups
    bins = bins_of(index, matches).items()
    return frozenset(
        f"ap_{name}" for name, one in bins if not is_varied(matches, units[None], one.gt)
    )


def _bins(
    labels: Sequence[str], gt: NDArray[np.integer], detections: NDArray[np.integer]
) -> dict[str, Bin]:
    return {label: Bin(gt == number, detections == number) for number, label in enumerate(labels)}


def _scores(
    name: str, matches: Matches, bins: Mapping[str, Bin], weights: NDArray[np.integer] | None
) -> BinScores:
    return BinScores(name, tuple(_score(matches, *one, weights) for one in bins.items()))


def _score(
    matches: Matches, label: str, inside: Bin, weights: NDArray[np.integer] | None
) -> BinScore:
    wanted = matches.gt_scored & inside.gt
    matched = matches.matched_gt[:, AT_50]
    true = np.append(wanted, False)[matched]  # -1, no match, is not wanted
    false = (matched < 0) & ~matches.ignored[:, AT_50] & inside.detections
    counts = {"num_truths": int(wanted.sum()), "num_detections": int((true | false).sum())}
    if not wanted.any():
        return BinScore(label, ap=None, ap50=None, recall=None, **counts)
    gt, found = inside
    accuracy = average_precision(matches, gt_bin=gt, detection_bin=found)
    means = {name: float(mean) for name, mean in accuracy.means().items()}
    low = high = None
    if weights is not None and is_varied(matches, weights, gt):
        drawn = average_precision(matches, weights=weights, gt_bin=gt, detection_bin=found)
        low, high = np.nanpercentile(drawn.means()["ap"], [2.5, 97.5]).tolist()
    recall = float(np.nanmean(accuracy.recall[AT_50]))
    return BinScore(label, means["ap"], means["ap50"], recall, **counts, ap_low=low, ap_high=high)


class Surroundings(NamedTuple):
    """How M boxes stand among the other objects of their images."""

    kinds: NDArray[np.int64]
    """(M,) positions in `ossa.evaluate.metrics.KINDS`."""
    coverage: NDArray[np.float64]
    """(M,) which fraction of the box others cover."""


def surroundings_of_gt(index: DatasetIndex) -> Surroundings:
    """Returns the surroundings of every ground-truth box (N,), crowd regions included."""
    return _surroundings(index, index.boxes_xyxy, index.gt_image_positions(), are_gt=True)


def surroundings_of_detections(index: DatasetIndex, matches: Matches) -> Surroundings:
    """Returns the surroundings of every detection (D,), judged by its own box."""
    return _surroundings(index, matches.boxes_xyxy, matches.images, are_gt=False)


def _surroundings(
    index: DatasetIndex,
    boxes_xyxy: NDArray[np.float64],
    images: NDArray[np.int64],
    *,
    are_gt: bool,
) -> Surroundings:
    kinds = np.full(len(boxes_xyxy), _ISOLATED)
    coverage = np.zeros(len(boxes_xyxy))
    objects = np.flatnonzero(~index.crowd)
    first = np.searchsorted(objects, index.gt_offsets)
    order = np.argsort(images, kind="stable")
    counts = np.diff(first)[images[order]]
    for start, end in blocks(counts):
        rows = order[start:end]
        box = np.repeat(np.arange(len(rows)), counts[start:end])
        others = objects[first[images[rows[box]]] + ranks_within(box)]
        pairs = _pairs(box, boxes_xyxy[rows], index.boxes_xyxy[others])
        own = rows[box] == others if are_gt else _most_overlapped(pairs)
        pairs = _Pairs._make(column[~own] for column in pairs)
        areas, meeting = _areas(boxes_xyxy[rows]), pairs.common > 0
        kinds[rows] = _kinds(pairs, areas)
        covered = _union_areas(pairs.box[meeting], pairs.common_xyxy[meeting], len(rows))
        shares = np.divide(covered, areas, out=np.zeros(len(rows)), where=areas > 0)
        coverage[rows] = np.minimum(shares, 1.0)  # rounding must not make more
    return Surroundings(kinds, coverage)


class _Pairs(NamedTuple):
    """Pairs of a box and an object of its image."""

    box: NDArray[np.int64]
    """(P,) row of the box, ascending."""
    common_xyxy: NDArray[np.float64]
    """(P, 4) their intersection, without area where they do not meet."""
    common: NDArray[np.float64]
    """(P,) its area."""
    iou: NDArray[np.float64]
    distance: NDArray[np.float64]
    """(P,) between the centres, in pixels."""


def _pairs(
    box: NDArray[np.int64], boxes_xyxy: NDArray[np.float64], objects_xyxy: NDArray[np.float64]
) -> _Pairs:
    """Returns the pairs of boxes (M, 4) and objects (P, 4)."""
    boxes = boxes_xyxy[box]
    starts = np.maximum(boxes[:, :2], objects_xyxy[:, :2])
    ends = np.minimum(boxes[:, 2:], objects_xyxy[:, 2:])
    common_xyxy = np.concatenate((starts, np.maximum(ends, starts)), axis=1)
    common = _areas(common_xyxy)
    unions = _areas(boxes) + _areas(objects_xyxy) - common
    iou = np.divide(common, unions, out=np.zeros(len(box)), where=unions > 0)
    apart = (boxes[:, :2] + boxes[:, 2:] - objects_xyxy[:, :2] - objects_xyxy[:, 2:]) / 2
    return _Pairs(box, common_xyxy, common, iou, np.hypot(apart[:, 0], apart[:, 1]))


def _most_overlapped(pairs: _Pairs) -> NDArray[np.bool_]:
    """Returns (P,) whether the object is the first that its box overlaps most, and enough."""
    chosen = np.zeros(len(pairs.box), bool)
    candidates = np.flatnonzero(pairs.iou >= _OWN_IOU)
    best_first = candidates[np.lexsort((-pairs.iou[candidates], pairs.box[candidates]))]
    chosen[best_first[ranks_within(pairs.box[best_first]) == 0]] = True
    return chosen


def _kinds(pairs: _Pairs, areas: NDArray[np.float64]) -> NDArray[np.int64]:
    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(pairs.box[chosen], minlength=len(areas))

    sides = np.sqrt(areas)[pairs.box]
    alone = count((pairs.common > 0) | (pairs.distance <= _ISOLATED_WITHIN * sides)) == 0
    close = count(pairs.distance <= _CROWDED_WITHIN * sides)
    crowded = (close >= _CROWDED_NEIGHBOURS) | (count(pairs.iou > _CROWDED_IOU) > 0)
    return np.select([crowded, alone], [_CROWDED, _ISOLATED], _TOUCHING)


def _areas(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)


def _union_areas(
    box: NDArray[np.int64], boxes_xyxy: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Returns (count,) the area of the union of the boxes (P, 4) with each value of `box` (P,).

    Exact: the edges of k boxes cut the plane into (2k - 1)^2 cells, each of which lies in a box or
    does not. All unions of the same number of boxes are computed at once.
    """
    areas = np.zeros(count)
    numbers = np.bincount(box, minlength=count)
    for k in np.unique(numbers[numbers > 0]).tolist():
        groups = np.flatnonzero(numbers == k)
        boxes = boxes_xyxy[numbers[box] == k].reshape(-1, k, 4)
        step = max(_CELLS_AT_ONCE // (2 * k) ** 2, 1)
        for start in range(0, len(groups), step):
            some = boxes[start : start + step]
            widths, in_columns = _cut(some[..., 0], some[..., 2])
            heights, in_rows = _cut(some[..., 1], some[..., 3])
            covered = np.matmul(in_columns.transpose(0, 2, 1), in_rows) > 0
            areas[groups[start : start + step]] = np.einsum(
                "gx,gxy,gy->g", widths, covered, heights
            )
    return areas


def _cut(
    starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Returns the widths (G, 2k - 1) of the pieces between all ends, and which box holds them.

    The latter is float32 (G, k, 2k - 1), 1 where the piece lies between start and end (G, k).
    """
    edges = np.sort(np.concatenate((starts, ends), axis=1), axis=1)
    held = (starts[..., None] <= edges[:, None, :-1]) & (edges[:, None, 1:] <= ends[..., None])
    return np.diff(edges, axis=1), held.astype(np.float32)
