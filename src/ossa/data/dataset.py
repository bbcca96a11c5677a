"""Samples and letterboxed images of an index, as functions of position and seed."""

from dataclasses import KW_ONLY, dataclass, replace
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

    def __post_init__(self) -> None:
        self._gt = _training_gt(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> tuple[Sample, int]:
        sample = training_sample(
            draw.position,
            load=self.load,
            num_images=len(self.index),
            imgsz=self.imgsz,
            augment=self._augment_in(draw.epoch),
            generator=np.random.default_rng((self.seed, draw.epoch, draw.position)),
        )
        return sample, int(self.index.image_ids[draw.position])

    def _augment_in(self, epoch: int) -> AugmentConfig:
        if self.plain_from_epoch is None or epoch < self.plain_from_epoch:
            return self.augment
        return self.augment.model_copy(update={"mosaic": 0.0, "mixup": 0.0})

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


@dataclass(eq=False)
class LetterboxedDataset(Dataset[tuple[Sample, int, Letterbox]]):
    """Maps a position to the image on a square of `imgsz` pixels, its id and its placement."""

    index: DatasetIndex
    _: KW_ONLY
    imgsz: int
    pixels: PixelCache | None = None

    def __post_init__(self) -> None:
        self._gt = _training_gt(self.index)

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
