"""Samples and letterboxed images of an index, as functions of position and seed."""

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ossa.config import AugmentConfig
from ossa.data.batches.augment import training_sample
from ossa.data.batches.order import Draw, ShuffledOrder
from ossa.data.caching.pixels import PixelCache
from ossa.data.index import DatasetIndex
from ossa.data.letterbox import on_square
from ossa.data.resized import Resized, read_resized
from ossa.types import Letterbox, Sample


class TrainingDataset(Dataset[tuple[Sample, int]]):
    """Maps a `Draw` to an augmented sample and its image id.

    The sample depends on (seed, epoch, position) alone, never on workers or their number. What is
    decoded is kept while it can be a partner: who asks for the draws in their order has every
    image decoded once, and up to `augment.window` more wherever the asking begins.
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
        """Args:
        index: of the images.
        imgsz: side of a sample in pixels.
        augment: probabilities and ranges.
        seed: of all that is random.
        plain_from_epoch: the first epoch without mosaic and mixup, None for never.
        pixels: the same images, decoded as this data set decodes them; it changes no sample.
        """
        self.index = index
        self.pixels = pixels
        self.imgsz = imgsz
        self.augment = augment
        self.seed = seed
        self.plain_from_epoch = plain_from_epoch
        self._order = ShuffledOrder(len(index), seed=seed)
        self._decoded: dict[int, Sample] = {}
        """By position in the index; of what may be asked for again."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> tuple[Sample, int]:
        return self.sample(draw), int(self.index.image_ids[draw.position])

    def sample(self, draw: Draw, *, out: NDArray[np.uint8] | None = None) -> Sample:
        """Returns the sample of a draw, its image painted into `out` where there is one."""
        window = self.augment.window
        near = [] if window is None else self._order.before(draw, window).tolist()
        self._decoded = {p: self._decoded[p] for p in near if p in self._decoded}
        return training_sample(
            draw.position,
            load=self.load if window is None else self._load_once,
            partners=near or range(len(self.index)),
            imgsz=self.imgsz,
            augment=self._augment_in(draw.epoch),
            generator=np.random.default_rng((self.seed, draw.epoch, draw.position)),
            out=out,
        )

    def _augment_in(self, epoch: int) -> AugmentConfig:
        if self.plain_from_epoch is None or epoch < self.plain_from_epoch:
            return self.augment
        return self.augment.model_copy(update={"mosaic": 0.0, "mixup": 0.0})

    def _load_once(self, position: int) -> Sample:
        if position not in self._decoded:
            self._decoded[position] = self.load(position)
        return self._decoded[position]

    def load(self, position: int) -> Sample:
        """Returns the image with its longer side of `imgsz` pixels, and the truths that train."""
        image, scale_yx = self._resized(position)
        boxes_xyxy, labels = _training_boxes(self.index, position)
        boxes_xyxy = boxes_xyxy * np.tile(scale_yx[::-1], 2)
        return Sample(image, boxes_xyxy.astype(np.float32), labels)

    def _resized(self, position: int) -> Resized:
        if self.pixels is not None:
            return self.pixels[position]
        return read_resized(self.index, position, self.imgsz, reduced=True)


class LetterboxedDataset(Dataset[tuple[Sample, int, Letterbox]]):
    """Maps a position to the image on a square of `imgsz` pixels, its id and its placement."""

    def __init__(
        self, index: DatasetIndex, *, imgsz: int, pixels: PixelCache | None = None
    ) -> None:
        """`pixels`: the same images, decoded as this data set decodes them."""
        self.index = index
        self.imgsz = imgsz
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Sample, int, Letterbox]:
        width, height = (int(side) for side in self.index.sizes_wh[position])
        image, _ = (
            read_resized(self.index, position, self.imgsz)
            if self.pixels is None
            else self.pixels[position]
        )
        square, placement = on_square(image, self.imgsz, original_wh=(width, height))
        boxes_xyxy, labels = _training_boxes(self.index, position)
        boxes = placement.boxes_to_network(boxes_xyxy.astype(np.float32))
        sample = Sample(square, boxes, labels)
        return sample, int(self.index.image_ids[position]), placement


def _training_boxes(
    index: DatasetIndex, position: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns boxes (n, 4), clipped to the image, and labels (n,) of the truths that train."""
    rows = index.training_truths(position)
    # COCO's boxes may reach out of their image; on a mosaic they would cover their neighbours.
    limits = np.tile(index.sizes_wh[position], 2)
    return np.clip(index.boxes_xyxy[rows], 0, limits), index.labels[rows]
