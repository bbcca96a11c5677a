"""Batches for training and evaluation: sampler, collate functions and worker processes."""

import gc
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from ossa.data.dataset import Draw, LetterboxedDataset, TrainingDataset
from ossa.types import Batch, Letterbox, Sample


class EpochBatches(Sampler[list[Draw]]):
    """Yields the batches of all epochs in a row, so that workers never wait for an epoch's end.

    Every epoch is a permutation of the images, drawn from (seed, epoch). Of several processes each
    gets every count-th image of a batch, from the one of its rank on; nothing, where there are
    fewer images left than processes.
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
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
            start = skipped * self.batch if epoch == start_epoch else 0
            for first in range(start, self.num_images, self.batch):
                members = order[first : first + self.batch][rank::count].tolist()
                yield [Draw(epoch, position) for position in members]


def training_loader(
    dataset: TrainingDataset, batches: EpochBatches, *, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Returns all batches of all epochs in their order; they have no letterboxes.

    The workers start at once.
    """
    workers = workers_that_fit(workers, batch=batches.batch, imgsz=dataset.imgsz)
    _end_opencv_threads(workers)
    loader = DataLoader(
        dataset,  # type: ignore[arg-type] - collated to batches
        batch_sampler=batches,  # type: ignore[arg-type] - of draws, not of positions
        num_workers=workers,
        collate_fn=partial(_collate_training, imgsz=dataset.imgsz),
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )
    return iter(loader)  # type: ignore[arg-type] - of batches


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
    workers = workers_that_fit(workers, batch=batch, imgsz=dataset.imgsz)
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
    """Returns samples of one size as tensors; the images lie channels-last in memory.

    In a worker process the images are stacked in memory that it shares with its parent.
    """
    counts = [len(sample.labels) for sample in samples]
    images: Tensor = default_collate([torch.from_numpy(sample.image) for sample in samples])
    return Batch(
        images=images.permute(0, 3, 1, 2),
        boxes_xyxy=torch.from_numpy(np.concatenate([s.boxes_xyxy for s in samples])),
        labels=torch.from_numpy(np.concatenate([s.labels for s in samples])),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
        image_ids=tuple(image_ids),
        letterboxes=tuple(letterboxes),
    )


def _collate_training(items: list[tuple[Sample, int]], *, imgsz: int) -> Batch:
    if not items:  # a process's share of a small batch
        return _no_images(imgsz)
    samples, image_ids = zip(*items, strict=True)
    return make_batch(samples, image_ids)


def _no_images(imgsz: int) -> Batch:
    numbers = torch.zeros(0, dtype=torch.int64)
    images = torch.zeros((0, 3, imgsz, imgsz), dtype=torch.uint8)
    return Batch(images, torch.zeros((0, 4)), numbers, numbers, (), ())


def _collate_letterboxed(items: list[tuple[Sample, int, Letterbox]]) -> Batch:
    samples, image_ids, letterboxes = zip(*items, strict=True)
    return make_batch(samples, image_ids, letterboxes)


def workers_that_fit(
    workers: int, *, batch: int, imgsz: int, shared_memory: str = "/dev/shm"
) -> int:
    """Returns the number of workers for whose batches the shared memory has room; 0 for none.

    Each worker has two batches of `batch` images of `imgsz` px in it, and the training one. Where
    it is full, as at the 64 MB of a container, the system would end the worker with SIGBUS.
    """
    try:
        status = os.statvfs(shared_memory)
    except OSError:  # no such folder: the batches lie elsewhere
        return workers
    batches = status.f_bavail * status.f_frsize // (batch * 3 * imgsz**2)
    return max(0, min(workers, (batches - 1) // 2))


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
