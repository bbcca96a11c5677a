"""Between a training and the workers that make its batches: orders go there, parcels come back.

Dimensions: B images, H W pixels.
"""

import math
import weakref
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from ossa.data.batches.dataset import TrainingDataset
from ossa.data.batches.order import Draw

_NO_BOXES = np.zeros((0, 4), np.float32)
_NO_LABELS = np.zeros(0, np.int64)


class Order(NamedTuple):
    """What a worker is asked for."""

    draws: list[Draw]
    slot: int | None
    """Of the worker, where to paint the images; None for new memory."""


class Slots:
    """Shared memory of the workers, each slot for the images of a batch, used again and again.

    Pages are costly while they are new: as much as the colours of an image, on some machines. A
    worker makes a slot when it is first asked to paint there, and both sides keep it.
    """

    def __init__(self, workers: int) -> None:
        self._free: list[list[int]] = [[] for _ in range(workers)]
        self._workers: list[int] = []
        """Of every slot."""
        self._images: dict[int, torch.Tensor] = {}

    def taken(self, worker: int) -> int:
        """Returns a slot of the worker that was free, or else a new one; it is in use now."""
        if self._free[worker]:
            return self._free[worker].pop()
        self._workers.append(worker)
        return len(self._workers) - 1

    def lent(self, parcel: "Parcel") -> torch.Tensor:
        """Returns the images of a parcel; their slot is free again once no tensor shows them."""
        assert parcel.slot is not None
        if parcel.images is not None:
            self._images[parcel.slot] = parcel.images
        images = self._images[parcel.slot][: len(parcel.image_ids)].numpy()
        # A tensor made of this array, and every view of it, keeps the array; nothing else does.
        weakref.finalize(images, self._free[self._workers[parcel.slot]].append, parcel.slot)
        return torch.from_numpy(images)


class Parcel(NamedTuple):
    """A batch on its way from a worker.

    Only images are tensors: each shared tensor needs an open file, and time for it.
    """

    slot: int | None
    images: torch.Tensor | None
    """(B or more, H, W, 3); None for those of a slot that both sides know already."""
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    image_index: NDArray[np.int64]
    image_ids: tuple[int, ...]


class Parcels(Dataset[Parcel]):
    """Maps orders to parcels."""

    def __init__(self, dataset: TrainingDataset, largest: int) -> None:
        """`largest`: the most images of a batch, for which slots are made."""
        self.dataset = dataset
        self.largest = largest
        self._slots: dict[int, torch.Tensor] = {}

    def __getitem__(self, order: Order) -> Parcel:
        draws, slot = order
        known = None if slot is None else self._slots.get(slot)
        images = known
        if images is None:
            count = len(draws) if slot is None else self.largest
            images = _new_images(count, self.dataset.imgsz)
        if slot is not None:
            self._slots[slot] = images
        samples = [
            self.dataset.sample(draw, out=image)
            for draw, image in zip(draws, images.numpy(), strict=False)
        ]
        # With something empty before them: a process's share of a small batch may be no image.
        return Parcel(
            slot=slot,
            images=images if known is None else None,
            boxes_xyxy=np.concatenate((_NO_BOXES, *(sample.boxes_xyxy for sample in samples))),
            labels=np.concatenate((_NO_LABELS, *(sample.labels for sample in samples))),
            image_index=np.repeat(np.arange(len(draws)), [len(s.labels) for s in samples]),
            image_ids=tuple(self.dataset.index.image_ids[[d.position for d in draws]].tolist()),
        )


def _new_images(count: int, imgsz: int) -> torch.Tensor:
    """Returns (count, imgsz, imgsz, 3) uint8; in a worker in memory shared with its parent."""
    shape = (count, imgsz, imgsz, 3)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's own collation does, so that images are painted where the parent reads them.
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)  # type: ignore[arg-type]


def as_it_is(parcel: Parcel) -> Parcel:
    return parcel
