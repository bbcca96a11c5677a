"""How fast training batches are made, as a multiple of what decoding alone would allow.

    python benchmarks/loader.py --data coco128 --workers 2

Prints one JSON object with
- for each image size `times_decoding`: images a second of the training loader (mosaic, affine,
  colours, flip, batches; no network), divided by those that one core decodes of the same files at
  full size and does nothing with. Both are measured in turn, several times; the median is told, and
  the least and largest beside it. `times_decoding_of_processor_time` sets the processor time that
  an image takes in all processes beside that of decoding it, where there are as many processors as
  workers: what the first would be, were no other program running.
- `decoded_per_image`: JPEGs a worker decodes for each image of its batches. What is above 1 it
  decodes again at the start of every block of batches.
- `stages`: milliseconds an image of each stage, in one process.
- with --cache, `times_without_cache`: images a second of the loader with a cache of pixels, divided
  by those without, measured in turn; by the clock and by processor time.
The files are told apart --repeat times, so that a small data set is as a large one: no image is
found decoded because the epoch is short.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import numpy as np

from ossa.config import AugmentConfig
from ossa.data import resized
from ossa.data.api import read_data
from ossa.data.batches import augment, mosaic, parcels
from ossa.data.batches.dataset import TrainingDataset
from ossa.data.batches.loader import EpochBatches, block_length, training_loader
from ossa.data.caching.pixel_store import open_pixels
from ossa.data.decode import decode_image
from ossa.data.description import read_description
from ossa.data.index import DatasetIndex
from ossa.train.events import Silence
from ossa.train.record import environment
from ossa.types import Sample

_STAGES = (
    (resized, "decode_image"),
    (resized, "resize_long_side"),
    (mosaic, "_paint"),
    (mosaic, "_project_boxes"),
    (augment, "change_colour"),
)


class CountingDataset(TrainingDataset):
    """Counts what would be decoded."""

    decoded = 0

    def load(self, position: int) -> Sample:
        self.decoded += 1
        nothing = np.zeros((1, 1, 3), np.uint8)
        return Sample(nothing, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def repeated(index: DatasetIndex, times: int) -> DatasetIndex:
    """Returns the index of the same images and truths several times, each with ids of its own."""
    images, truths = len(index), len(index.labels)
    columns = ("file_names", "sizes_wh", "boxes_xyxy", "labels", "areas", "crowd", "difficult")
    starts = [index.truth_offsets[:-1] + turn * truths for turn in range(times)]
    return replace(
        index,
        **{name: np.concatenate([getattr(index, name)] * times) for name in columns},
        image_ids=np.arange(images * times),
        annotation_ids=np.arange(truths * times),
        truth_offsets=np.concatenate((*starts, [truths * times])),
    )


class Seconds(NamedTuple):
    """What an image takes."""

    passed: float
    """Of the clock."""
    spent: float
    """Of processors, in this process and those that it started."""


def now() -> Seconds:
    """Returns the clock and what processors have spent so far."""
    children = [Path(f"/proc/{child.pid}/schedstat") for child in multiprocessing.active_children()]
    spent = sum(int(file.read_text().split()[0]) for file in children) / 1e9
    return Seconds(time.perf_counter(), time.process_time() + spent)


def per_image(started: Seconds, images: int) -> Seconds:
    """Returns what each of so many images took since then."""
    return Seconds(*((end - start) / images for start, end in zip(started, now(), strict=True)))


def decoding(index: DatasetIndex) -> Seconds:
    """Returns what one core takes to decode a file at full size."""
    started = now()
    for position in range(len(index)):
        decode_image(index.image_path(position))
    return per_image(started, len(index))


def decoded_per_image(
    index: DatasetIndex, settings: AugmentConfig, *, imgsz: int, batch: int
) -> float:
    """Returns how many JPEGs the first of two workers decodes for an image, in ten blocks."""
    counting = CountingDataset(index, imgsz=imgsz, augment=settings, seed=0)
    order = EpochBatches(len(index), batch=batch, seed=0, epochs=1000)
    block, images = block_length(counting, order), 0
    for number, draws in enumerate(islice(order, 20 * block)):
        if number // block % 2 == 0:
            images += len(draws)
            for draw in draws:
                counting.sample(draw)
    return counting.decoded / images


def loading(
    training: TrainingDataset, *, batch: int, block: int, blocks: int, workers: int
) -> Seconds:
    """Returns what the loader takes for an image, without its start."""
    order = EpochBatches(len(training), batch=batch, seed=0, epochs=1000)
    # Whole rounds of all workers' blocks: when one ends, they have made as much of the next.
    a_round = workers * block
    loader = training_loader(training, order, workers=workers)
    for _ in islice(loader, 2 * a_round):  # until memory and queues are as they stay
        pass
    started = now()
    return per_image(started, sum(len(made.image_ids) for made in islice(loader, blocks * a_round)))


@contextmanager
def timed_stages(milliseconds: dict[str, float]) -> Iterator[None]:
    """Adds up what each stage takes, while it lasts."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.removeprefix("_")

        @wraps(function)
        def measured(*arguments: Any, **settings: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **settings)
            passed = 1000 * (time.perf_counter() - started)
            milliseconds[name] = milliseconds.get(name, 0.0) + passed
            return result

        return measured

    patches = [patch.object(module, name, timed(getattr(module, name))) for module, name in _STAGES]
    for one in patches:
        one.start()
    yield
    for one in patches:
        one.stop()


def stages(training: TrainingDataset, *, batch: int, batches: int) -> dict[str, float]:
    """Returns milliseconds an image of every stage and in all, in this process."""
    order = iter(EpochBatches(len(training), batch=batch, seed=0, epochs=1000))
    maker = parcels.Parcels(training, batch)
    slot = parcels.Order(next(order), slot=0)
    maker[slot]
    milliseconds: dict[str, float] = {}
    started = time.perf_counter()
    with timed_stages(milliseconds):
        for draws in islice(order, batches):
            maker[parcels.Order(draws, slot=0)]
    milliseconds["in all"] = 1000 * (time.perf_counter() - started)
    return {name: total / (batch * batches) for name, total in milliseconds.items()}


def with_cache(
    training: TrainingDataset, files: DatasetIndex, arguments: argparse.Namespace
) -> TrainingDataset:
    """Returns the data set with the pixels of the files, each as often as it is in there."""
    pixels = open_pixels(
        files,
        arguments.cache,
        description=read_description(arguments.data),
        split="train",
        imgsz=training.imgsz,
        reduced=True,
        listener=Silence(),
    )
    return TrainingDataset(
        training.index,
        imgsz=training.imgsz,
        augment=training.augment,
        seed=training.seed,
        pixels=pixels.at(np.tile(np.arange(len(files)), arguments.repeat)),
    )


def told(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    cv2.setNumThreads(1)
    files = read_data(arguments.data, "train").index
    index = repeated(files, arguments.repeat)
    settings = AugmentConfig(window=arguments.window or None)
    sizes: dict[int, dict[str, Any]] = {}
    for imgsz in arguments.imgsz:
        training = TrainingDataset(index, imgsz=imgsz, augment=settings, seed=0)
        order = EpochBatches(len(index), batch=arguments.batch, seed=0, epochs=1)
        load = partial(
            loading,
            batch=arguments.batch,
            block=block_length(training, order),
            blocks=arguments.blocks,
            workers=arguments.workers,
        )
        cached = None if arguments.cache is None else with_cache(training, files, arguments)
        passed, spent, loads, decodes = [], [], [], []
        bought: list[Seconds] = []
        for _ in range(arguments.rounds):
            before = decoding(files)
            loaded = load(training)
            if cached is not None:
                ratios = (a / b for a, b in zip(loaded, load(cached), strict=True))
                bought.append(Seconds(*ratios))
            alone = Seconds(*map(statistics.mean, zip(before, decoding(files), strict=True)))
            passed.append(alone.passed / loaded.passed)
            spent.append(arguments.workers * alone.spent / loaded.spent)
            loads.append(1 / loaded.passed)
            decodes.append(1 / alone.passed)
        sizes[imgsz] = {
            "times_decoding": statistics.median(passed),
            "times_decoding_range": [min(passed), max(passed)],
            "times_decoding_of_processor_time": statistics.median(spent),
            "times_decoding_of_processor_time_range": [min(spent), max(spent)],
            "images_per_second": statistics.median(loads),
            "decoded_per_second_by_one_core": statistics.median(decodes),
            "decoded_per_image": decoded_per_image(
                index, settings, imgsz=imgsz, batch=arguments.batch
            ),
            "batches_in_a_block": block_length(training, order),
            "stages": stages(training, batch=arguments.batch, batches=16),
        }
        if bought:
            sizes[imgsz]["times_without_cache"] = told([ratio.passed for ratio in bought])
            by_processor = told([ratio.spent for ratio in bought])
            sizes[imgsz]["times_without_cache_of_processor_time"] = by_processor
    return {
        "data": arguments.data,
        "workers": arguments.workers,
        "batch": arguments.batch,
        "window": settings.window,
        "sizes": sizes,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, nargs="+", default=[640, 320])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--window", type=int, default=AugmentConfig().window, help="0: anywhere")
    parser.add_argument("--blocks", type=int, default=3, help="of each worker, timed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=16)
    parser.add_argument("--cache", choices=["ram", "disk"])
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
