"""Batches for training and evaluation."""

import gc
import signal
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from ossa.data.batches.dataset import LetterboxedDataset, TrainingDataset
from ossa.data.batches.order import Draw, ShuffledOrder
from ossa.data.batches.parcels import Order, Parcel, Parcels, Slots, as_it_is
from ossa.types import Batch, Letterbox, Sample

_BLOCK_WINDOWS = 4
"""Windows that a block of batches is long: a quarter is the most that is decoded twice."""
_BLOCK_BYTES = 2**29
"""Of images, the most in a block."""


class EpochBatches(Sampler[list[Draw]]):
    """Yields the batches of all epochs in a row, so that workers never wait for an epoch's end.

    The order of an epoch is that of `ShuffledOrder`. Of several processes each gets every count-th
    image of a batch, from the one of its rank on; nothing, where there are fewer images left than
    processes.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch: int,
        seed: int,
        epochs: int,
        start_batch: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """`share`: rank and count of the processes that share every batch."""
        self.num_images = num_images
        self.share = share
        self.batch = batch
        self.seed = seed
        self.epochs = epochs
        self.start_batch = start_batch
        self._order = ShuffledOrder(num_images, seed=seed)

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.num_images // self.batch)

    def images_of(self, batch_number: int) -> int:
        """Returns the images of a batch in all shares; the last of an epoch may be smaller."""
        first = batch_number % self.batches_per_epoch * self.batch
        return min(self.batch, self.num_images - first)

    def __len__(self) -> int:
        return self.batches_per_epoch * self.epochs - self.start_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        rank, count = self.share
        start_epoch, skipped = divmod(self.start_batch, self.batches_per_epoch)
        for epoch in range(start_epoch, self.epochs):
            order = self._order.of(epoch)
            start = skipped * self.batch if epoch == start_epoch else 0
            for first in range(start, self.num_images, self.batch):
                members = order[first : first + self.batch][rank::count].tolist()
                yield [Draw(epoch, position) for position in members]


def training_loader(
    dataset: TrainingDataset, batches: EpochBatches, *, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Returns all batches of all epochs in their order; they have no letterboxes.

    The workers start at once. Where images are decoded once for a window of partners, each worker
    makes blocks of consecutive batches, at whose starts it decodes the window again. Up to twice
    as many blocks as there are workers wait in memory.
    """
    _end_opencv_threads(workers)
    return _TrainingLoader(dataset, batches, workers=workers, pin_memory=pin_memory)


class _TrainingLoader(Iterator[Batch]):
    """Has torch's workers, which take turns batch by batch, make blocks of batches each."""

    def __init__(
        self, dataset: TrainingDataset, batches: EpochBatches, *, workers: int, pin_memory: bool
    ) -> None:
        block = block_length(dataset, batches) if workers > 1 else 1
        # Pinning copies in a thread of its own, which does not tell when it has.
        self._slots = None if pin_memory or not workers else Slots(workers)
        self._numbers = turns(len(batches), workers=max(workers, 1), block=block)
        self._next_number = 0
        self._arrived: dict[int, Parcel] = {}
        largest = -(-batches.batch // batches.share[1])
        orders = _Orders(batches, self._slots, workers=max(workers, 1), block=block)
        self._parcels = iter(
            DataLoader(
                Parcels(dataset, largest),
                batch_size=None,  # an order is of a whole batch
                sampler=orders,
                num_workers=workers,
                # So that the next blocks are made while the last of these are trained with.
                prefetch_factor=max(block, 2) if workers else None,
                collate_fn=as_it_is,  # type: ignore[arg-type] - torch thinks of lists
                worker_init_fn=_start_worker,
                pin_memory=pin_memory,
            )
        )

    def __next__(self) -> Batch:
        while self._next_number not in self._arrived:
            number = next(self._numbers)
            self._arrived[number] = next(self._parcels)
        parcel = self._arrived.pop(self._next_number)
        self._next_number += 1
        images = self._slots.lent(parcel) if self._slots else parcel.images
        assert images is not None
        return Batch(
            images=images.permute(0, 3, 1, 2),
            boxes_xyxy=torch.from_numpy(parcel.boxes_xyxy),
            labels=torch.from_numpy(parcel.labels),
            image_index=torch.from_numpy(parcel.image_index),
            image_ids=parcel.image_ids,
            letterboxes=(),
        )


class _Orders(Sampler[Order]):
    """Yields the orders of batches as they are given to the workers, who take turns."""

    def __init__(
        self, batches: EpochBatches, slots: Slots | None, *, workers: int, block: int
    ) -> None:
        self.batches = batches
        self.slots = slots
        self.workers = workers
        self.block = block

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Order]:
        drawn = enumerate(self.batches)
        known: dict[int, list[Draw]] = {}
        numbers = turns(len(self.batches), workers=self.workers, block=self.block)
        for turn, number in enumerate(numbers):
            while number not in known:
                following, draws = next(drawn)
                known[following] = draws
            slot = self.slots.taken(turn % self.workers) if self.slots else None
            yield Order(known.pop(number), slot)


def turns(count: int, *, workers: int, block: int) -> Iterator[int]:
    """Yields 0..count-1 so that workers who take turns at it get `block` in a row each.

    What is left at the end is shared among them in shorter rows.
    """
    for first in range(0, count, workers * block):
        numbers = np.arange(first, min(first + workers * block, count))
        rows = np.array_split(numbers, workers)  # the first are longer by one, if any
        for turn in range(len(rows[0])):
            yield from (int(row[turn]) for row in rows if turn < len(row))


def block_length(dataset: TrainingDataset, batches: EpochBatches) -> int:
    """Returns how many consecutive batches a worker makes before it goes on elsewhere."""
    window = dataset.augment.window
    if window is None or dataset.pixels is not None:  # nothing is decoded twice
        return 1
    batch_bytes = 3 * dataset.imgsz**2 * -(-batches.batch // batches.share[1])
    return max(min(_BLOCK_WINDOWS * window // batches.batch, _BLOCK_BYTES // batch_bytes), 1)


def evaluation_loader(
    dataset: LetterboxedDataset,
    *,
    batch: int,
    workers: int,
    pin_memory: bool = False,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[Batch]:
    """Returns a loader over the images of the index in their order.

    Of several processes each gets whole batches: every count-th from the one of its rank on.
    """
    _end_opencv_threads(workers)
    rank, count = share
    batches = [
        list(range(first, min(first + batch, len(dataset))))
        for first in range(0, len(dataset), batch)
    ]
    return DataLoader(
        dataset,  # type: ignore[arg-type] - collated to batches
        batch_sampler=batches[rank::count],
        num_workers=workers,
        collate_fn=_collate_letterboxed,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )


def make_batch(
    samples: Sequence[Sample],
    image_ids: Sequence[int],
    letterboxes: Sequence[Letterbox] = (),
) -> Batch:
    """Returns samples of one size as tensors; the images lie channels-last in memory."""
    counts = [len(sample.labels) for sample in samples]
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return Batch(
        images=images.permute(0, 3, 1, 2),
        boxes_xyxy=torch.from_numpy(np.concatenate([s.boxes_xyxy for s in samples])),
        labels=torch.from_numpy(np.concatenate([s.labels for s in samples])),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
        image_ids=tuple(image_ids),
        letterboxes=tuple(letterboxes),
    )


def _collate_letterboxed(items: list[tuple[Sample, int, Letterbox]]) -> Batch:
    samples, image_ids, letterboxes = zip(*items, strict=True)
    return make_batch(samples, image_ids, letterboxes)


def _end_opencv_threads(workers: int) -> None:
    # A worker forked while one of OpenCV's threads holds a lock would wait for it for ever.
    # A number of 1 ends these threads; 0, the usual advice, does not.
    if workers:
        cv2.setNumThreads(1)


def _start_worker(_: int) -> None:
    # Else the first full collection would write into all that is shared with the main process.
    gc.freeze()
    # Ctrl-C is for the main process, which saves before it lets the workers go. So is the SIGTERM
    # of a scheduler that warns all processes of a job; a second one ends the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    # One process a core: OpenCV's own threads would only compete.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
