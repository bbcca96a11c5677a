"""What the boxes of a split are like: sizes, crowding, shapes, and whether anchors fit them.

Dimensions: I images, N annotations.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.anchors import best_possible_recall, sizes_at_input_wh
from ossa.data.annotations import DatasetIndex

SIZE_LIMITS: Final = (32.0, 96.0)
"""Sides of squares in pixels: COCO's small ends at the first, its large begins at the second."""
SIZE_NAMES: Final = ("small", "medium", "large")
_QUANTILES: Final = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Statistics:
    """Of one split; crowd regions are counted in `num_crowd` alone."""

    num_images: int
    num_background: int
    """Images without an annotation."""
    num_boxes: int
    """Difficult ones included."""
    num_crowd: int
    num_difficult: int
    sizes: Mapping[str, int]
    """Boxes that COCO calls small, medium and large at the network's input: by their own area
    where they state one, as COCO counts it."""
    sizes_in_files: Mapping[str, int]
    """The same in pixels of the original images, which is how COCO's AP counts them."""
    boxes_per_image: Mapping[str, float]
    """Mean and quantiles, over all images."""
    crowding: Mapping[str, int]
    """Boxes by how they stand; empty where nobody counts them."""
    aspect_ratios: Mapping[str, float]
    """Quantiles of width over height."""
    best_possible_recall: float | None
    """Fraction 0..1 of the boxes that train that some anchor answers for; None without any."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe(
    index: DatasetIndex,
    *,
    imgsz: int,
    anchors_wh: NDArray[np.floating],
    anchor_ratio: float,
    crowding: Mapping[str, int],
) -> Statistics:
    """Returns the statistics of a split.

    Args:
        index: of the split.
        imgsz: side of the square network input.
        anchors_wh: (L, A, 2) in pixels of the network input.
        anchor_ratio: factor within which a box belongs to an anchor.
        crowding: boxes by how they stand.
    """
    objects = ~index.crowd
    trains = objects & ~index.difficult
    per_image = boxes_per_image(index)
    usable = trains & (sizes_at_input_wh(index, imgsz) > 0).all(axis=1)
    recall = (
        best_possible_recall(index, anchors_wh, imgsz=imgsz, ratio=anchor_ratio)
        if usable.any()
        else None
    )
    return Statistics(
        num_images=len(index),
        num_background=int((np.diff(index.gt_offsets) == 0).sum()),
        num_boxes=int(objects.sum()),
        num_crowd=int(index.crowd.sum()),
        num_difficult=int(index.difficult.sum()),
        sizes=_sizes(box_sides(index, imgsz)[objects]),
        sizes_in_files=_sizes(np.sqrt(index.areas)[objects]),
        boxes_per_image={"mean": round(float(per_image.mean()), 4), **_quantiles(per_image)},
        crowding=crowding,
        aspect_ratios=_quantiles(aspect_ratios(index)),
        best_possible_recall=recall,
    )


def boxes_per_image(index: DatasetIndex) -> NDArray[np.int64]:
    """Returns (I,) the boxes of every image, crowd regions left out."""
    return np.bincount(index.gt_image_positions()[~index.crowd], minlength=len(index))


def box_sides(index: DatasetIndex, imgsz: int) -> NDArray[np.float64]:
    """Returns (N,) the square roots of the areas, in pixels of the network input."""
    scales = imgsz / index.sizes_wh.max(axis=1)[index.gt_image_positions()]
    return np.sqrt(index.areas) * scales


def aspect_ratios(index: DatasetIndex) -> NDArray[np.float64]:
    """Returns the width over the height of every box that is no crowd region."""
    sizes_wh = (index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2])[~index.crowd]
    return sizes_wh[:, 0] / sizes_wh[:, 1]


def duplicate_boxes(index: DatasetIndex) -> NDArray[np.bool_]:
    """Returns (N,) which annotations have image, class and box of an earlier one."""
    columns = (*index.boxes_xyxy.T, index.labels, index.gt_image_positions())
    order = np.lexsort(columns)
    same = np.ones(max(len(order) - 1, 0), np.bool_)
    for column in columns:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    duplicate = np.zeros(len(order), np.bool_)
    duplicate[order[1:]] = same  # the sort is stable: of equal ones the first comes first
    return duplicate


def _sizes(sides: NDArray[np.float64]) -> dict[str, int]:
    counts = np.bincount(np.searchsorted(SIZE_LIMITS, sides, side="right"), minlength=3)
    return dict(zip(SIZE_NAMES, counts.tolist(), strict=True))


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, list(_QUANTILES.values())).tolist()
    return {name: round(value, 4) for name, value in zip(_QUANTILES, found, strict=True)}
