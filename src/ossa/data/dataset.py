"""Samples and letterboxed images of an index, as functions of position and seed."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ossa.config import AugmentConfig
from ossa.data.annotations import DatasetIndex, select_gt
from ossa.data.augment import training_sample
from ossa.data.cache import PixelCache
from ossa.data.letterbox import on_canvas, read_resized
from ossa.types import Letterbox, Sample


class Draw(NamedTuple):
    """Which image in which epoch: with the seed, all that decides an augmented sample."""

    epoch: int
    position: int
    """Of the image in the index."""


class TrainingDataset(Dataset[tuple[Sample, int]]):
    """Maps a `Draw` to an augmented sample and its image id.

    The sample depends on (seed, epoch, position) alone, never on workers or their number.
    """

    def __init__(
        self,
        index: DatasetIndex,
        *,
        imgsz: int,
        augment: AugmentConfig,
        seed: int,
        plain_from_epoch: int | None = None,
        pixels: PixelCache | None = None,
    ) -> None:
        """`imgsz` is the side of a sample; `pixels` are the same images, which change no sample.

        From `plain_from_epoch` on there is neither mosaic nor mixup.
        """
        self.index = index
        self.pixels = pixels
        self.imgsz = imgsz
        self.augment = augment
        self.seed = seed
        self._plain_from = math.inf if plain_from_epoch is None else plain_from_epoch
        self._plain = augment.model_copy(update={"mosaic": 0.0, "mixup": 0.0})
        self._gt = _training_gt(index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> tuple[Sample, int]:
        sample = training_sample(
            draw.position,
            load=self.load,
            num_images=len(self.index),
            imgsz=self.imgsz,
            augment=self.augment if draw.epoch < self._plain_from else self._plain,
            generator=np.random.default_rng((self.seed, draw.epoch, draw.position)),
        )
        return sample, int(self.index.image_ids[draw.position])

    def load(self, position: int) -> Sample:
        """Returns the image with its longer side of `imgsz` pixels, and the boxes that train."""
        image, scale_yx = (
            read_resized(self.index, position, self.imgsz, reduced=True)
            if self.pixels is None
            else self.pixels[position]
        )
        rows = self._gt.gt_rows(position)
        boxes_xyxy = self._gt.boxes_xyxy[rows] * scale_yx[[1, 0, 1, 0]]
        return Sample(image, boxes_xyxy.astype(np.float32), self._gt.labels[rows])


class LetterboxedDataset(Dataset[tuple[Sample, int, Letterbox]]):
    """Maps a position to the image on a square of `imgsz` pixels, its id and its placement."""

    def __init__(
        self, index: DatasetIndex, *, imgsz: int, pixels: PixelCache | None = None
    ) -> None:
        """`pixels`: the same images, decoded as this data set decodes them."""
        self.index = index
        self.imgsz = imgsz
        self.pixels = pixels
        self._gt = _training_gt(index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Sample, int, Letterbox]:
        width, height = self.index.sizes_wh[position].tolist()
        image, _ = (
            read_resized(self.index, position, self.imgsz)
            if self.pixels is None
            else self.pixels[position]
        )
        square, placement = on_canvas(image, (self.imgsz, self.imgsz), original_wh=(width, height))
        rows = self._gt.gt_rows(position)
        boxes = placement.boxes_to_network(self._gt.boxes_xyxy[rows].astype(np.float32))
        sample = Sample(square, boxes, self._gt.labels[rows])
        return sample, int(self.index.image_ids[position]), placement


def _training_gt(index: DatasetIndex) -> DatasetIndex:
    """Returns the index with only the objects that train, their boxes clipped to their images."""
    training = select_gt(index, index.trains)
    # COCO's boxes may reach out of their image; on a mosaic they would cover their neighbours.
    limits = np.tile(index.sizes_wh[training.gt_image_positions()], 2)
    return replace(training, boxes_xyxy=np.clip(training.boxes_xyxy, 0, limits))
