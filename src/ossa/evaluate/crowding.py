"""AP by how crowded an object stands, and by how much of it others cover.

The surroundings of a box are the *other objects* of its image: truths of any class, difficult ones
too (they are objects, only hard to judge), but no crowd regions, whose boxes are those of many
objects and of the gaps between them.

A box is

- *crowded* where its IoU with another object is above 0.2, or three or more other objects have
  their centre within twice its side (the square root of its area) from its own centre;
- otherwise *isolated* where no other object overlaps it and none has its centre within 1.5 sides;
- otherwise *touching*.

Detections are judged by the same rule and by their own box. A detection stands where its object
stands: the object that it overlaps most, of whatever class, is its own if their IoU is 0.1 or more,
and not one of the others. Without that a second box on an isolated object, or one of the wrong
class, or one that hits at IoU 0.5 and misses at 0.9, would be a false detection of the crowd.

The *coverage* of a box is the part of its area that lies in the boxes of other objects, each point
counted once. Who stands in front is not known from boxes.

Dimensions: D detections, N truths, M boxes of either kind, P pairs of a box and an object.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.matching import Matches, blocks, ranks_within
from ossa.evaluate.object_bins import BinScores, score_bins

KINDS = ("isolated", "touching", "crowded")
_ISOLATED, _TOUCHING, _CROWDED = range(3)
COVERAGE_EDGES = (0.0, 0.25, 0.5)
_CELLS_AT_ONCE = 2**20


@dataclass(frozen=True)
class CrowdingLimits:
    """Where isolated ends and crowded begins. Distances are between centres, in sides of a box."""

    isolated_within: float = 1.5
    """No other centre lies as near, if a box is isolated."""
    crowded_iou: float = 0.2
    """With another object; above it a box is crowded."""
    crowded_within: float = 2.0
    crowded_neighbours: int = 3
    """As many centres as near make a box crowded."""
    own_iou: float = 0.1
    """From which a detection is of the object that it overlaps most."""


@dataclass(frozen=True)
class Surroundings:
    """How M boxes stand among the other objects of their images."""

    kinds: NDArray[np.int64]
    """(M,) positions in `KINDS`."""
    coverage: NDArray[np.float64]
    """(M,) which part of the box others cover, 0..1."""


def surroundings_of_gt(index: DatasetIndex, limits: CrowdingLimits | None = None) -> Surroundings:
    """Returns how each truth (N,) stands; crowd regions among them, too."""
    return _look_around(
        index,
        index.boxes_xyxy,
        index.gt_image_positions(),
        are_gt=True,
        limits=limits or CrowdingLimits(),
    )


def surroundings_of_detections(
    index: DatasetIndex, matches: Matches, limits: CrowdingLimits | None = None
) -> Surroundings:
    """Returns how each detection (D,) stands, judged by its own box."""
    return _look_around(
        index,
        matches.boxes_xyxy,
        matches.images,
        are_gt=False,
        limits=limits or CrowdingLimits(),
    )


def by_crowding(
    matches: Matches,
    truths: Surroundings,
    found: Surroundings,
    *,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP of isolated, touching and crowded objects.

    Args:
        matches: what every detection found.
        truths: how the truths stand.
        found: how the detections of `matches` stand.
        weights: of the images in resamples, as in `score_bins`.
    """
    return score_bins(
        matches,
        name="crowding",
        labels=KINDS,
        gt_bins=truths.kinds,
        detection_bins=found.kinds,
        weights=weights,
    )


def by_coverage(
    matches: Matches,
    truths: Surroundings,
    found: Surroundings,
    *,
    edges: tuple[float, ...] = COVERAGE_EDGES,
    weights: NDArray[np.integer] | None = None,
) -> BinScores:
    """Returns AP by how much of an object others cover.

    Args:
        matches: what every detection found.
        truths: how the truths stand.
        found: how the detections of `matches` stand.
        edges: ascending from 0; a bin holds its upper edge and not its lower one.
        weights: of the images in resamples, as in `score_bins`.
    """
    inner = [f"up to {edge:g}" for edge in edges[1:]]
    return score_bins(
        matches,
        name="coverage",
        labels=("none", *inner, f"over {edges[-1]:g}"),
        gt_bins=np.searchsorted(edges, truths.coverage, side="left"),
        detection_bins=np.searchsorted(edges, found.coverage, side="left"),
        weights=weights,
    )


def _look_around(
    index: DatasetIndex,
    boxes_xyxy: NDArray[np.float64],
    images: NDArray[np.int64],
    *,
    are_gt: bool,
    limits: CrowdingLimits,
) -> Surroundings:
    """Returns how boxes (M, 4) of images (M,) stand; truths are all of the index, in its order."""
    kinds = np.full(len(boxes_xyxy), _ISOLATED)
    coverage = np.zeros(len(boxes_xyxy))
    objects = np.flatnonzero(~index.crowd)
    first = np.searchsorted(objects, index.gt_offsets)
    order = np.argsort(images, kind="stable")
    counts = np.diff(first)[images[order]]
    for start, end in blocks(counts):
        rows = order[start:end]
        of = np.repeat(np.arange(len(rows)), counts[start:end])
        others = objects[first[images[rows[of]]] + ranks_within(of)]
        pairs = _Pairs.between(of, boxes_xyxy[rows], index.boxes_xyxy[others])
        own = rows[of] == others if are_gt else pairs.most_overlapped(limits.own_iou)
        pairs = pairs.only(~own)
        kinds[rows] = pairs.kinds(limits)
        coverage[rows] = pairs.coverage()
    return Surroundings(kinds, coverage)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a box and an object of its image."""

    areas: NDArray[np.float64]
    """(M,) of the boxes."""
    of: NDArray[np.int64]
    """(P,) ascending, the row of the box."""
    common_xyxy: NDArray[np.float64]
    """(P, 4) what both have in common, without area where they do not meet."""
    common: NDArray[np.float64]
    """(P,) its area."""
    ious: NDArray[np.float64]
    distances: NDArray[np.float64]
    """(P,) between the centres, in pixels."""

    @classmethod
    def between(
        cls,
        of: NDArray[np.int64],
        boxes_xyxy: NDArray[np.float64],
        objects_xyxy: NDArray[np.float64],
    ) -> Self:
        """Returns the pairs of boxes (M, 4) and objects (P, 4)."""
        areas, boxes = _areas(boxes_xyxy), boxes_xyxy[of]
        starts = np.maximum(boxes[:, :2], objects_xyxy[:, :2])
        ends = np.minimum(boxes[:, 2:], objects_xyxy[:, 2:])
        common_xyxy = np.concatenate((starts, np.maximum(ends, starts)), axis=1)
        common = _areas(common_xyxy)
        unions = areas[of] + _areas(objects_xyxy) - common
        ious = np.divide(common, unions, out=np.zeros(len(of)), where=unions > 0)
        apart = (boxes[:, :2] + boxes[:, 2:] - objects_xyxy[:, :2] - objects_xyxy[:, 2:]) / 2
        return cls(areas, of, common_xyxy, common, ious, np.hypot(apart[:, 0], apart[:, 1]))

    def only(self, kept: NDArray[np.bool_]) -> Self:
        """Returns the pairs of which `kept` (P,) is true."""
        return type(self)(
            self.areas,
            self.of[kept],
            self.common_xyxy[kept],
            self.common[kept],
            self.ious[kept],
            self.distances[kept],
        )

    def most_overlapped(self, least_iou: float) -> NDArray[np.bool_]:
        """Returns (P,) whether the object is the first that its box overlaps most, and enough."""
        chosen = np.zeros(len(self.of), bool)
        candidates = np.flatnonzero(self.ious >= least_iou)
        best_first = candidates[np.lexsort((-self.ious[candidates], self.of[candidates]))]
        chosen[best_first[ranks_within(self.of[best_first]) == 0]] = True
        return chosen

    def kinds(self, limits: CrowdingLimits) -> NDArray[np.int64]:
        """Returns (M,) positions in `KINDS`."""
        sides = np.sqrt(self.areas)[self.of]
        alone = ~self._any((self.common > 0) | (self.distances <= limits.isolated_within * sides))
        close = self._count(self.distances <= limits.crowded_within * sides)
        crowded = (close >= limits.crowded_neighbours) | self._any(self.ious > limits.crowded_iou)
        return np.select([crowded, alone], [_CROWDED, _ISOLATED], _TOUCHING)

    def coverage(self) -> NDArray[np.float64]:
        """Returns (M,) which part of each box lies in objects."""
        meeting = self.common > 0
        covered = _union_areas(self.of[meeting], self.common_xyxy[meeting], len(self.areas))
        # Of one that is covered wholly, rounding must not make more.
        share = np.divide(covered, self.areas, out=np.zeros_like(covered), where=self.areas > 0)
        return np.minimum(share, 1.0)

    def _count(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(self.of[chosen], minlength=len(self.areas))

    def _any(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return self._count(chosen) > 0


def _areas(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def _union_areas(
    of: NDArray[np.int64], boxes_xyxy: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Returns (count,) the area that the boxes (P, 4) of each of `of` (P,), ascending, cover.

    Exact: the edges of k boxes cut the plane into (2k - 1)^2 cells, each of which lies in a box or
    does not. All that have the same number of boxes are cut at once.
    """
    areas = np.zeros(count)
    numbers = np.bincount(of, minlength=count)
    for k in np.unique(numbers[numbers > 0]).tolist():
        groups = np.flatnonzero(numbers == k)
        of_these = boxes_xyxy[numbers[of] == k].reshape(-1, k, 4)
        step = max(_CELLS_AT_ONCE // (2 * k) ** 2, 1)
        for start in range(0, len(groups), step):
            some = slice(start, start + step)
            areas[groups[some]] = _areas_of_unions(of_these[some])
    return areas


def _areas_of_unions(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (G,) the area that k boxes (G, k, 4) cover together."""
    widths, in_columns = _cut(boxes_xyxy[..., 0], boxes_xyxy[..., 2])
    heights, in_rows = _cut(boxes_xyxy[..., 1], boxes_xyxy[..., 3])
    covered = np.matmul(in_columns.transpose(0, 2, 1), in_rows) > 0
    return np.einsum("gx,gxy,gy->g", widths, covered, heights)


def _cut(
    starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Returns the widths (G, 2k - 1) of the pieces between all ends, and who holds them.

    The latter is float32 (G, k, 2k - 1), 1 where the piece lies between start and end (G, k).
    """
    edges = np.sort(np.concatenate((starts, ends), axis=1), axis=1)
    held = (starts[..., None] <= edges[:, None, :-1]) & (edges[:, None, 1:] <= ends[..., None])
    return np.diff(edges, axis=1), held.astype(np.float32)
