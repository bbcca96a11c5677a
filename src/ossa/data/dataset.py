"""Samples and letterboxed images of an index, as functions of position and seed."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ossa.config import AugmentConfig, Tiles
from ossa.data.annotations import DatasetIndex, select_gt
from ossa.data.augment import training_sample
from ossa.data.cache import PixelCache
from ossa.data.letterbox import read_resized, resized_wh
from ossa.data.tiles import (
    cut_boxes,
    num_windows,
    place_window,
    random_window,
    sides_seen,
    window_corners,
)
from ossa.types import Letterbox, Sample


class Draw(NamedTuple):
    """Which image in which epoch: with the seed, all that decides an augmented sample."""

    epoch: int
    position: int
    """Of the image in the index."""


@dataclass(eq=False)
class TrainingDataset(Dataset[tuple[Sample, int]]):
    """Maps a `Draw` to an augmented sample and its image id.

    The sample depends on (seed, epoch, position) alone, never on workers or their number.
    """

    index: DatasetIndex
    _: KW_ONLY
    imgsz: int
    augment: AugmentConfig
    seed: int
    plain_from_epoch: int | None = None
    """From this epoch on there is neither mosaic nor mixup."""
    pixels: PixelCache | None = None
    """The same images, which change no sample."""
    tiles: Tiles | None = None
    """Of larger images a random window is seen, another one in every epoch and mosaic."""

    def __post_init__(self) -> None:
        self._gt = _training_gt(self.index)
        self._sides = sides_seen(self.index.sizes_wh, self.imgsz, self.tiles)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> tuple[Sample, int]:
        generator = np.random.default_rng((self.seed, draw.epoch, draw.position))
        sample = training_sample(
            draw.position,
            load=lambda position: random_window(self.load(position), self.imgsz, generator),
            num_images=len(self.index),
            imgsz=self.imgsz,
            augment=self._augment_in(draw.epoch),
            generator=generator,
        )
        return sample, int(self.index.image_ids[draw.position])

    def _augment_in(self, epoch: int) -> AugmentConfig:
        if self.plain_from_epoch is None or epoch < self.plain_from_epoch:
            return self.augment
        return self.augment.model_copy(update={"mosaic": 0.0, "mixup": 0.0})

    def load(self, position: int) -> Sample:
        """Returns the whole image as it is seen, and the boxes that train."""
        image, scale_yx = (
            read_resized(self.index, position, int(self._sides[position]), reduced=True)
            if self.pixels is None
            else self.pixels[position]
        )
        rows = self._gt.gt_rows(position)
        boxes_xyxy = self._gt.boxes_xyxy[rows] * scale_yx[[1, 0, 1, 0]]
        return Sample(image, boxes_xyxy.astype(np.float32), self._gt.labels[rows])


@dataclass(eq=False)
class LetterboxedDataset(Dataset[tuple[Sample, int, Letterbox]]):
    """Maps a position to an image on a square of `imgsz` pixels, its id and its placement.

    With tiles, it is one of the windows of all images, those of one image in a row.
    """

    index: DatasetIndex
    _: KW_ONLY
    imgsz: int
    pixels: PixelCache | None = None
    tiles: Tiles | None = None

    def __post_init__(self) -> None:
        self._gt = _training_gt(self.index)
        self._sides = sides_seen(self.index.sizes_wh, self.imgsz, self.tiles)
        counts = num_windows(self.index.sizes_wh, self.imgsz, self.tiles)
        self._ends = counts.cumsum()
        self._read: tuple[int, NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> tuple[Sample, int, Letterbox]:
        position = int(self._ends.searchsorted(number, side="right"))
        size_wh = tuple(self.index.sizes_wh[position].tolist())
        side = int(self._sides[position])
        corners = window_corners(resized_wh(size_wh, side), self.imgsz, self.tiles)
        corner_xy = corners[number - int(self._ends[position])]  # counted from the last
        square, placement = place_window(
            self._resized(position), corner_xy, self.imgsz, original_wh=size_wh
        )
        rows = self._gt.gt_rows(position)
        boxes = placement.boxes_to_network(self._gt.boxes_xyxy[rows].astype(np.float32))
        sample = Sample(square, boxes, self._gt.labels[rows])
        sample = cut_boxes(sample) if len(corners) > 1 else sample
        return sample, int(self.index.image_ids[position]), placement

    def _resized(self, position: int) -> NDArray[np.uint8]:
        """Returns an image as it is seen; the last one is kept for its other windows."""
        if self.pixels is not None:
            return self.pixels[position].image
        if self._read is None or self._read[0] != position:
            side = int(self._sides[position])
            self._read = (position, read_resized(self.index, position, side).image)
        return self._read[1]


def _training_gt(index: DatasetIndex) -> DatasetIndex:
    """Returns the index with only the objects that train, their boxes clipped to their images."""
    training = select_gt(index, index.trains)
    # COCO's boxes may reach out of their image; on a mosaic they would cover their neighbours.
    limits = np.tile(index.sizes_wh[training.gt_image_positions()], 2)
    return replace(training, boxes_xyxy=np.clip(training.boxes_xyxy, 0, limits))
