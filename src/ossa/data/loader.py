"""Batches for training and evaluation: sampler, collate functions and worker processes."""

import gc
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ossa.data.dataset import Draw, LetterboxedDataset, TrainingDataset
from ossa.errors import OssaError
from ossa.types import Batch, Letterbox, Sample

_PREFETCH = 2
"""Batches that wait for each worker, as is usual with torch."""
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(eq=False)
class EpochBatches(Sampler[list[Draw]]):
    """Yields the batches of all epochs in a row, so that workers never wait for an epoch's end.

    Every epoch is a permutation of the images, drawn from (seed, epoch). Of `world_size` processes
    each gets every `world_size`-th image of a batch, beginning with the one of its rank; none where
    fewer images are left than processes. `share` is rank and number of these processes.
    """

    num_images: int
    _: KW_ONLY
    batch: int
    seed: int
    epochs: int
    start_batch: int = 0
    share: tuple[int, int] = (0, 1)

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
    """Returns all batches of all epochs in their order, without letterboxes; workers start now."""
    workers = workers_that_fit(workers, batch=batches.batch, imgsz=dataset.imgsz)
    if not workers:
        return _in_this_process(dataset, batches, pin_memory=pin_memory)
    shared = _SharedImages(dataset, batch=batches.batch, count=_PREFETCH * workers + 1)
    slots = itertools.cycle(range(shared.count))
    loader = _BatchLoader(
        shared,  # type: ignore[arg-type] - returns whole batches
        batch_sampler=zip(slots, batches, strict=False),  # type: ignore[arg-type] - of draws
        num_workers=workers,
        prefetch_factor=_PREFETCH,
    )
    # The workers start here, not with the first batch.
    return shared.copied(iter(loader), pin_memory=pin_memory)


def evaluation_loader(
    dataset: LetterboxedDataset,
    *,
    batch: int,
    workers: int,
    pin_memory: bool = False,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[Batch]:
    """Returns a loader over the images of the index in their order.

    Of several processes each gets whole batches: every `world_size`-th from its rank on.
    """
    rank, count = share
    positions = range(len(dataset))
    batches = [positions[first : first + batch] for first in range(0, len(dataset), batch)]
    return _BatchLoader(
        _LetterboxedBatches(dataset),
        batch_sampler=batches[rank::count],
        num_workers=workers_that_fit(workers, batch=batch, imgsz=dataset.imgsz),
        pin_memory=pin_memory,
    )


class _BatchLoader(DataLoader[Batch]):
    """Loads batches that the data set makes; raises errors here that it returns in their place.

    Of an error that is raised in a worker process torch keeps only the text.
    """

    def __init__(self, dataset: Dataset[Any], *, num_workers: int, **options: Any) -> None:
        # A worker forked while one of OpenCV's threads holds a lock would wait for it for ever.
        # A number of 1 ends these threads; 0, the usual advice, does not.
        if num_workers:
            cv2.setNumThreads(1)
        super().__init__(
            dataset,
            num_workers=num_workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] - any iterator will do
        return map(_raised, super().__iter__())


def _raised(made: Any) -> Any:
    if isinstance(made, OssaError):
        raise made
    return made


def _unchanged(batch: Any) -> Any:
    return batch


class _LetterboxedBatches(Dataset[Batch]):
    """Makes the batches of an evaluation."""

    def __init__(self, dataset: LetterboxedDataset) -> None:
        self._dataset = dataset

    def __getitems__(self, positions: Sequence[int]) -> Batch | OssaError:
        try:
            samples, image_ids, letterboxes = zip(
                *map(self._dataset.__getitem__, positions), strict=True
            )
        except OssaError as error:
            return error
        return make_batch(samples, image_ids, letterboxes)


def _in_this_process(
    dataset: TrainingDataset, batches: EpochBatches, *, pin_memory: bool
) -> Iterator[Batch]:
    for draws in batches:
        images = torch.zeros((len(draws), dataset.imgsz, dataset.imgsz, 3), dtype=torch.uint8)
        batch = _batch(images, *_fill(images, dataset, draws))
        yield batch.pin_memory() if pin_memory else batch


def _fill(
    images: Tensor, dataset: TrainingDataset, draws: Sequence[Draw]
) -> tuple[list[Sample], list[int]]:
    """Writes the drawn images into the first of `images` (B, H, W, 3).

    Returns their samples, without the pixels, and their image ids.
    """
    samples, image_ids = [], []
    for pixels, draw in zip(images.numpy(), draws, strict=False):
        sample, image_id = dataset[draw]
        pixels[...] = sample.image
        samples.append(replace(sample, image=_NO_PIXELS))
        image_ids.append(image_id)
    return samples, image_ids


class _Made(NamedTuple):
    """A training batch on its way from a worker process, but for its images."""

    slot: int
    samples: list[Sample]
    """Without pixels. As arrays they are sent at once; each tensor would be a shared file."""
    image_ids: list[int]


class _SharedImages(Dataset[_Made]):
    """Makes batches in worker processes, their images in shared memory that is used in turn.

    A fresh page of shared memory costs more than ten times the copy of what is written into it: at
    640 px a third of all that an image takes. So the images of a batch are written into one of
    `count` slots, and the process that takes the batch copies them out before the slot's next turn.
    """

    def __init__(self, dataset: TrainingDataset, *, batch: int, count: int) -> None:
        self.dataset = dataset
        self.count = count
        side = dataset.imgsz
        self._slots = torch.zeros((count, batch, side, side, 3), dtype=torch.uint8).share_memory_()

    def __getitems__(self, numbered: tuple[int, list[Draw]]) -> _Made | OssaError:
        slot, draws = numbered
        try:
            return _Made(slot, *_fill(self._slots[slot], self.dataset, draws))
        except OssaError as error:
            return error

    def copied(self, made: Iterator[_Made], *, pin_memory: bool) -> Iterator[Batch]:
        """Yields the batches with their images in memory of their own."""
        for slot, samples, image_ids in made:
            images = self._slots[slot, : len(samples)]
            batch = _batch(images if pin_memory else images.clone(), samples, image_ids)
            yield batch.pin_memory() if pin_memory else batch


def make_batch(
    samples: Sequence[Sample],
    image_ids: Sequence[int],
    letterboxes: Sequence[Letterbox] = (),
) -> Batch:
    """Returns samples of one size as tensors; the images lie channels-last in memory.

    In a worker process the images are stacked in memory that it shares with its parent.
    """
    images: Tensor = default_collate([torch.from_numpy(sample.image) for sample in samples])
    return _batch(images, samples, image_ids, letterboxes)


def _batch(
    images: Tensor,
    samples: Sequence[Sample],
    image_ids: Sequence[int],
    letterboxes: Sequence[Letterbox] = (),
) -> Batch:
    """Returns the images (B, H, W, 3) with the boxes of their samples; B may be 0."""
    boxes = [np.zeros((0, 4), np.float32), *(sample.boxes_xyxy for sample in samples)]
    labels = [np.zeros(0, np.int64), *(sample.labels for sample in samples)]
    counts = torch.tensor([len(sample.labels) for sample in samples], dtype=torch.int64)
    return Batch(
        images=images.permute(0, 3, 1, 2),
        boxes_xyxy=torch.from_numpy(np.concatenate(boxes)),
        labels=torch.from_numpy(np.concatenate(labels)),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), counts),
        image_ids=tuple(image_ids),
        letterboxes=tuple(letterboxes),
    )


def workers_that_fit(
    workers: int, *, batch: int, imgsz: int, shared_memory: str = "/dev/shm"
) -> int:
    """Returns the number of workers for whose batches the shared memory has room; 0 for none.

    Each worker has two batches of `batch` images of `imgsz` px in it, and the training one. Where
    it is full, as at the 64 MB of a container, the system would end the worker with SIGBUS.
    """
    try:
        status = os.statvfs(shared_memory)
    except (OSError, AttributeError):  # no such folder, or Windows: the batches lie elsewhere
        return workers
    batches = status.f_bavail * status.f_frsize // (batch * 3 * imgsz**2)
    return max(0, min(workers, (batches - 1) // 2))


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
