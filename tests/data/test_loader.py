"""Batches: every image once an epoch, the same for any number of workers and after a resume."""

import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from dataset_files import gradient, write_yolo
from PIL import Image

from ossa.config import AugmentConfig
from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import LetterboxedDataset, TrainingDataset
from ossa.data.description import read_description
from ossa.data.loader import (
    EpochBatches,
    evaluation_loader,
    make_batch,
    training_loader,
    workers_that_fit,
)
from ossa.data.reading import read_index
from ossa.types import Batch, Letterbox, Sample


@pytest.fixture(autouse=True)
def no_endless_wait() -> Iterator[None]:
    """Workers that hang fail their test instead of stopping all tests."""

    def fail(*_: Any) -> None:
        raise TimeoutError("no batch for a minute")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    """Seven different pictures of 96x64 pixels, ids 10 to 16; the even ones have a box."""
    line = "1 0.5 0.5 0.5 0.25\n"
    names = [f"{10 + i}.png" for i in range(7)]
    data_yaml = write_yolo(tmp_path, {name: line * (1 - i % 2) for i, name in enumerate(names)})
    for i, name in enumerate(names):
        picture = Image.fromarray(gradient() + np.uint8(20 * i))
        picture.save(tmp_path / "images" / "train" / name)
    return read_index(read_description(data_yaml), "train").index


def sample_with(count: int, value: int = 0) -> Sample:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4) + value
    return Sample(np.full((8, 6, 3), value, np.uint8), boxes, np.arange(count, dtype=np.int64))


def assert_same(batch: Batch, other: Batch) -> None:
    assert torch.equal(batch.images, other.images)
    assert torch.equal(batch.boxes_xyxy, other.boxes_xyxy)
    assert torch.equal(batch.labels, other.labels)
    assert torch.equal(batch.image_index, other.image_index)
    assert batch.image_ids == other.image_ids
    assert batch.letterboxes == other.letterboxes


# ---- order


def test_an_epoch_is_a_permutation_in_batches_of_which_the_last_is_short() -> None:
    batches = EpochBatches(10, batch=4, seed=0, epochs=2)
    drawn = list(batches)
    assert [len(batch) for batch in drawn] == [4, 4, 2] * 2
    assert (len(batches), batches.batches_per_epoch) == (6, 3)
    for epoch in range(2):
        members = [draw for batch in drawn[3 * epoch : 3 * epoch + 3] for draw in batch]
        assert {draw.epoch for draw in members} == {epoch}
        assert sorted(draw.position for draw in members) == list(range(10))


def test_the_order_differs_between_epochs_and_seeds_and_is_repeatable() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        # One batch an epoch: each is an order.
        batches = EpochBatches(50, batch=50, seed=seed, epochs=5)
        return [tuple(draw.position for draw in batch) for batch in batches]

    assert len({*orders(0), *orders(1)}) == 10
    assert orders(0) == orders(0)
    assert tuple(range(50)) not in orders(0)


@pytest.mark.parametrize("start_batch", range(10))
def test_a_resumed_order_goes_on_where_it_stopped(start_batch: int) -> None:
    whole = list(EpochBatches(10, batch=4, seed=3, epochs=3))
    rest = EpochBatches(10, batch=4, seed=3, epochs=3, start_batch=start_batch)
    assert list(rest) == whole[start_batch:]
    assert len(rest) == len(whole) - start_batch


# ---- one batch


def test_a_batch_knows_of_which_image_each_box_is() -> None:
    samples = [sample_with(0), sample_with(2, 10), sample_with(0), sample_with(1, 20)]
    batch = make_batch(samples, [5, 6, 7, 8])
    assert batch.image_index.tolist() == [1, 1, 3]
    assert batch.boxes_xyxy.tolist() == [[10, 11, 12, 13], [14, 15, 16, 17], [20, 21, 22, 23]]
    assert batch.labels.tolist() == [0, 1, 0]
    assert batch.image_ids == (5, 6, 7, 8)
    assert batch.letterboxes == ()
    assert batch.images[:, 0, 0, 0].tolist() == [0, 10, 0, 20]


def test_images_are_channels_first_in_shape_and_last_in_memory() -> None:
    image = gradient(6, 8)
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    images = make_batch([sample, sample], [1, 2]).images
    assert images.shape == (2, 3, 8, 6)
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(images[1, 2], image[..., 2])


# ---- loaders


def training_batches(
    index: DatasetIndex,
    *,
    workers: int,
    start_batch: int = 0,
    epochs: int = 2,
    share: tuple[int, int] = (0, 1),
    imgsz: int = 64,
) -> list[Batch]:
    """Returns batches of three."""
    augment = AugmentConfig(mixup=0.3)
    dataset = TrainingDataset(index, imgsz=imgsz, augment=augment, seed=1)
    order = EpochBatches(
        len(index), batch=3, seed=1, epochs=epochs, start_batch=start_batch, share=share
    )
    return list(training_loader(dataset, order, workers=workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_training_batch(index: DatasetIndex, workers: int) -> None:
    alone = training_batches(index, workers=0, epochs=4)
    assert [len(batch.image_ids) for batch in alone] == [3, 3, 1] * 4
    others = training_batches(index, workers=workers, epochs=4)
    for batch, other in zip(alone, others, strict=True):
        assert_same(batch, other)
        # Shared memory keeps the layout.
        assert other.images.is_contiguous(memory_format=torch.channels_last)


def test_processes_share_the_batches_that_one_alone_has(index: DatasetIndex) -> None:
    alone = training_batches(index, workers=0)
    shares = [training_batches(index, workers=2, share=(rank, 2)) for rank in range(2)]
    for whole, first, second in zip(alone, *shares, strict=True):
        assert torch.equal(whole.images[0::2], first.images)
        assert torch.equal(whole.images[1::2], second.images)
        assert whole.image_ids[0::2] == first.image_ids
        assert whole.image_ids[1::2] == second.image_ids
    # The last batch of an epoch has one image, and the second process nothing of it.
    assert [len(batch.image_ids) for batch in shares[1]] == [1, 1, 0] * 2
    assert shares[1][2].images.shape == (0, 3, 64, 64)
    assert shares[1][2].boxes_xyxy.shape == (0, 4)


def test_workers_do_not_wait_for_threads_of_opencv_that_were_not_forked(
    index: DatasetIndex,
) -> None:
    dataset = LetterboxedDataset(index, imgsz=64)
    for _ in range(2):
        cv2.setNumThreads(2)
        cv2.resize(gradient(1024, 1024), (999, 999))  # its threads hold locks for a while
        training_batches(index, workers=1, epochs=1)
        cv2.setNumThreads(2)
        cv2.resize(gradient(1024, 1024), (999, 999))
        assert len(list(evaluation_loader(dataset, batch=7, workers=1))) == 1


@pytest.mark.parametrize(("start_batch", "workers"), [(1, 0), (4, 0), (4, 2), (5, 1)])
def test_a_loader_resumed_anywhere_gives_what_was_left(
    index: DatasetIndex, start_batch: int, workers: int
) -> None:
    whole = training_batches(index, workers=0)
    rest = training_batches(index, workers=workers, start_batch=start_batch)
    for batch, other in zip(whole[start_batch:], rest, strict=True):
        assert_same(batch, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_through_the_index_in_its_order(index: DatasetIndex, workers: int) -> None:
    dataset = LetterboxedDataset(index, imgsz=64)
    batches = list(evaluation_loader(dataset, batch=3, workers=workers))
    assert [batch.image_ids for batch in batches] == [(10, 11, 12), (13, 14, 15), (16,)]
    assert [batch.image_index.tolist() for batch in batches] == [[0, 2], [1], [0]]
    placement = Letterbox(64 / 96, 43 / 64, 0, 10, 96, 64)  # 42.67 rows become 43
    for batch in batches:
        assert batch.letterboxes == (placement,) * len(batch.image_ids)
    squares = [dataset[position][0].image for position in range(7)]
    images = torch.cat([batch.images for batch in batches])
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), np.stack(squares))


def test_one_sigterm_to_a_worker_is_for_the_main_process_and_a_second_ends_it(
    index: DatasetIndex,
) -> None:
    dataset = TrainingDataset(index, imgsz=64, augment=AugmentConfig(), seed=1)
    batches = EpochBatches(len(index), batch=2, seed=0, epochs=50)
    others = set(multiprocessing.active_children())
    loader = training_loader(dataset, batches, workers=1)
    seen = {next(loader).image_ids}
    (worker,) = set(multiprocessing.active_children()) - others
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    seen |= {next(loader).image_ids for _ in range(10)}
    assert worker.is_alive()
    assert len(seen) > 5
    with suppress(RuntimeError):  # by which torch may tell of a lost worker
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(timeout=30)
    assert worker.exitcode == -signal.SIGTERM


def test_no_more_workers_are_started_than_the_shared_memory_has_room_for(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    fit = partial(workers_that_fit, 4, shared_memory=str(tmp_path))
    side = math.isqrt(free // (3 * 6))  # so that six images fit: two workers, and one more
    assert fit(batch=1, imgsz=side - side // 100) == 2
    assert fit(batch=7, imgsz=side) == 0
    assert fit(batch=1, imgsz=32) == 4
    assert workers_that_fit(4, batch=16, imgsz=640, shared_memory=str(tmp_path / "none")) == 4
