"""A few images of a split with their truths, and with what a detector found in them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossa.data.decode import decode_image
from ossa.data.index import DatasetIndex
from ossa.data.letterbox import resize_long_side
from ossa.errors import DataError
from ossa.evaluate.confusion import CONFIDENCE
from ossa.report.drawing import draw_boxes, picture_grid
from ossa.types import NOTHING_FOUND, Detections

_IN_A_ROW = 4


@dataclass(frozen=True)
class Gallery:
    """Images of a split, decoded once, to be drawn upon again and again."""

    index: DatasetIndex
    positions: tuple[int, ...]
    """Of the images in the index."""
    images: tuple[NDArray[np.uint8], ...]
    """(h, w, 3), smaller or larger than their files."""

    def with_truths(self) -> list[NDArray[np.uint8]]:
        """Returns the images with all their truths, ignored ones included."""
        rows = [self.index.truths(position) for position in self.positions]
        return [
            self._drawn(number, self.index.boxes_xyxy[mine], self.index.labels[mine])
            for number, mine in enumerate(rows)
        ]

    def with_detections(
        self, detections: Mapping[int, Detections], *, confidence: float = CONFIDENCE
    ) -> list[NDArray[np.uint8]]:
        """Returns the images with the detections of at least `confidence`, and their scores."""
        image_ids = self.index.image_ids[list(self.positions)].tolist()
        found = [detections.get(id_, NOTHING_FOUND).above(confidence) for id_ in image_ids]
        return [
            self._drawn(number, mine.boxes_xyxy, mine.labels, scores=mine.scores)
            for number, mine in enumerate(found)
        ]

    def _drawn(
        self,
        number: int,
        boxes_xyxy: NDArray[np.floating],
        labels: NDArray[np.int64],
        *,
        scores: NDArray[np.floating] | None = None,
    ) -> NDArray[np.uint8]:
        image = self.images[number]
        size_wh = np.array((image.shape[1], image.shape[0]))
        scale_xy = size_wh / self.index.sizes_wh[self.positions[number]]
        return draw_boxes(
            image,
            boxes_xyxy * np.tile(scale_xy, 2),
            labels,
            names=self.index.names,
            scores=scores,
        )


def open_gallery(index: DatasetIndex, *, most: int, side: int) -> Gallery:
    """Returns up to `most` images, evenly spread over those with truths.

    Args:
        index: the split; if none of its images has a truth, any of them.
        most: images.
        side: the longer one of each image, in pixels.
    """
    with_truths = np.flatnonzero(np.diff(index.truth_offsets))
    candidates = with_truths if len(with_truths) else np.arange(len(index))
    chosen = np.linspace(0, len(candidates) - 1, min(most, len(candidates))).astype(int)
    return gallery_of(index, candidates[chosen].tolist(), side=side)


def gallery_of(index: DatasetIndex, positions: Sequence[int], *, side: int) -> Gallery:
    """Returns those images at these positions of the index that can be decoded.

    Their longer side has `side` pixels.
    """
    images = {}
    for position in positions:
        with suppress(DataError):
            images[position] = resize_long_side(decode_image(index.image_path(position)), side)
    return Gallery(index, tuple(images), tuple(images.values()))


def predictions_above_truths(
    gallery: Gallery, detections: Mapping[int, Detections]
) -> NDArray[np.uint8]:
    """Returns one picture of the gallery: four predictions a row, the truths in the row below."""
    found, true = gallery.with_detections(detections), gallery.with_truths()
    rows: list[Sequence[NDArray[np.uint8]]] = []
    for first in range(0, len(found), _IN_A_ROW):
        rows += [found[first : first + _IN_A_ROW], true[first : first + _IN_A_ROW]]
    titles = [f"predicted, confidence {CONFIDENCE:g} or more", "truth"] * (len(rows) // 2)
    return picture_grid(rows, row_titles=titles)
