"""The detections of all images as checked columns, which every count begins from.

Dimensions: D detections, I images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ossa.data.index import DatasetIndex
from ossa.errors import DataError, legible
from ossa.types import Detections


@dataclass(frozen=True)
class DetectionColumns:
    """One row a detection, image by image in the order of the mapping they came in."""

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
        return type(self)(
            self.images[rows],
            self.boxes_xyxy[rows],
            self.scores[rows],
            self.labels[rows],
            self.boxes_xywh[rows],
        )


def detection_columns(
    index: DatasetIndex, detections: Mapping[int, Detections]
) -> DetectionColumns:
    """Returns the detections as columns.

    Args:
        index: the split they are of.
        detections: by image id; an image that is absent has none.

    Raises:
        DataError: a detection of an unknown image or class, or with an impossible score or box.
    """
    positions = {image_id: place for place, image_id in enumerate(index.image_ids.tolist())}
    for image_id, found in detections.items():
        if image_id not in positions:
            raise unknown_image(image_id, index, "detections")
        _check_shapes(found, image_id)
    per_image = list(detections.values())
    lengths = [len(found) for found in per_image]
    images = np.repeat(np.array([positions[i] for i in detections], np.int64), lengths)
    no_box = np.zeros((0, 4))
    columns = DetectionColumns(
        images,
        np.concatenate([no_box, *(found.boxes_xyxy for found in per_image)]).astype(np.float64),
        np.concatenate([[], *(found.scores for found in per_image)]).astype(np.float64),
        np.concatenate([[], *(found.labels for found in per_image)]).astype(np.int64),
        np.concatenate([no_box, *(found.boxes_xywh for found in per_image)]),
    )
    _check_values(columns, index)
    return columns


def unknown_image(image_id: int | str, index: DatasetIndex, where: str) -> DataError:
    """Returns the error for a detection of an image that the split does not have."""
    return DataError(
        f"{where}: expected image ids of the data set at {index.root}, found "
        f"{legible(str(image_id))}, which is none of its {len(index)}; evaluate on "
        "the split that was predicted."
    )


def _check_shapes(found: Detections, image_id: int) -> None:
    boxes, scores, labels = found.boxes_xyxy.shape, found.scores.shape, found.labels.shape
    count = len(found)
    if (boxes, scores, labels) != ((count, 4), (count,), (count,)):
        raise DataError(
            f"image {image_id}: expected boxes (N, 4), scores (N,) and labels (N,), found {boxes}, "
            f"{scores} and {labels}; give every detection one of each."
        )


def _check_values(columns: DetectionColumns, index: DatasetIndex) -> None:
    labels, scores, boxes = columns.labels, columns.scores, columns.boxes_xyxy
    num_classes = len(index.names)
    upright = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
    for right, expected, values, advice in (
        (
            (labels >= 0) & (labels < num_classes),
            f"labels in 0..{num_classes - 1}",
            labels,
            "evaluate with the data set whose classes the detector was trained on.",
        ),
        (
            (scores >= 0) & (scores <= 1),  # so written, NaN is wrong too
            "scores in 0..1",
            scores,
            "give confidences, and look for NaN in the network's outputs.",
        ),
        (
            upright & np.isfinite(boxes).all(axis=1),
            "finite boxes with x0 <= x1 and y0 <= y1",
            boxes,
            "give boxes as xyxy in pixels of the image.",
        ),
    ):
        if not right.all():
            row = int(np.argmin(right))
            raise DataError(
                f"image {index.image_ids[columns.images[row]]}: expected {expected}, "
                f"found {values[row].tolist()}; {advice}"
            )
