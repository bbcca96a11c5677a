"""How fast training batches are made, as a multiple of what decoding alone would allow.

    python benchmarks/loader.py --data coco128 --workers 2

Prints one JSON object with, for each image size and with the cache and without,
- `times_decoding`: images a second of the training loader (mosaic, affine, colours, flip, batches;
  no network), divided by those that one core decodes of the same files at full size and throws
  away. Both are measured in turn, several times, in a steady state: median, least and largest.
- `times_decoding_of_processor_time`: the same from the processor time that an image takes in all
  processes, where there are as many processors as workers: what the first would be, were no other
  program running.
- `stages`: milliseconds an image of each stage, in one process.
The images of mosaics are drawn independently from the whole split. The files are listed --repeat
times, so that a small data set has the index of a larger one.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

import cv2
import numpy as np

from ossa.config import AugmentConfig
from ossa.data import augment
from ossa.data import letterbox as resized
from ossa.data.annotations import DatasetIndex
from ossa.data.cache import CachePlace, open_pixels
from ossa.data.dataset import TrainingDataset
from ossa.data.decode import decode_image
from ossa.data.description import read_description
from ossa.data.loader import EpochBatches, training_loader
from ossa.data.reading import read_data
from ossa.machine import keep_freed_memory
from ossa.train.callbacks import Callback
from ossa.train.provenance import environment

_STAGES = (
    (resized, "decode_image"),
    (resized, "resize_long_side"),
    (augment, "_paint"),
    (augment, "_project_boxes"),
    (augment, "change_colour"),
)


def repeated(index: DatasetIndex, times: int) -> DatasetIndex:
    """Returns the index of the same images and truths several times, each with ids of its own."""
    images, truths = len(index), len(index.labels)
    columns = ("file_names", "sizes_wh", "boxes_xyxy", "labels", "areas", "crowd", "difficult")
    starts = [index.gt_offsets[:-1] + turn * truths for turn in range(times)]
    return replace(
        index,
        **{name: np.concatenate([getattr(index, name)] * times) for name in columns},
        image_ids=np.arange(images * times),
        annotation_ids=np.arange(truths * times),
        gt_offsets=np.concatenate((*starts, [truths * times])),
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


def loading(
    training: TrainingDataset, *, batch: int, batches: int, workers: int
) -> Iterator[Seconds]:
    """Yields what a running loader takes for an image, again and again.

    Between two turns the workers fill their queues and stop, so each turn first empties these.
    """
    order = EpochBatches(len(training), batch=batch, seed=0, epochs=100_000)
    loader = training_loader(training, order, workers=workers)
    while True:
        for _ in islice(loader, 4 * workers):
            pass
        started = now()
        yield per_image(started, sum(len(made.image_ids) for made in islice(loader, batches)))


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
    order = EpochBatches(len(training), batch=batch, seed=0, epochs=1000)
    loader = training_loader(training, order, workers=0)
    next(loader)
    milliseconds: dict[str, float] = {}
    with timed_stages(milliseconds):
        started = time.perf_counter()
        for _ in islice(loader, batches):
            pass
        milliseconds["in all"] = 1000 * (time.perf_counter() - started)
    return {name: total / (batch * batches) for name, total in milliseconds.items()}


def data_set(
    files: DatasetIndex, arguments: argparse.Namespace, *, imgsz: int, cache: CachePlace
) -> TrainingDataset:
    """Returns the files as often as wanted, with their pixels where a cache is wanted."""
    pixels = open_pixels(
        files,
        cache,
        description=read_description(arguments.data),
        split="train",
        imgsz=imgsz,
        reduced=True,
        callback=Callback(),
    )
    if pixels is not None:
        pixels = pixels.at(np.tile(np.arange(len(files)), arguments.repeat))
    index = repeated(files, arguments.repeat)
    return TrainingDataset(index, imgsz=imgsz, augment=AugmentConfig(), seed=0, pixels=pixels)


def summary(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}


def measured(
    files: DatasetIndex, training: TrainingDataset, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Returns the loader's rate, relative to that of decoding."""
    load = loading(
        training, batch=arguments.batch, batches=arguments.batches, workers=arguments.workers
    )
    passed, spent, loads, decodes = [], [], [], []
    for _ in range(arguments.rounds):
        before = decoding(files)
        loaded = next(load)
        alone = Seconds(*map(statistics.mean, zip(before, decoding(files), strict=True)))
        passed.append(alone.passed / loaded.passed)
        spent.append(arguments.workers * alone.spent / loaded.spent)
        loads.append(1 / loaded.passed)
        decodes.append(1 / alone.passed)
    return {
        "times_decoding": summary(passed),
        "times_decoding_of_processor_time": summary(spent),
        "images_per_second": statistics.median(loads),
        "decoded_per_second_by_one_core": statistics.median(decodes),
        "stages": stages(training, batch=arguments.batch, batches=8),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    cv2.setNumThreads(1)
    files = read_data(arguments.data, "train").index
    sizes = {
        imgsz: {
            cache: measured(files, data_set(files, arguments, imgsz=imgsz, cache=cache), arguments)
            for cache in arguments.cache
        }
        for imgsz in arguments.imgsz
    }
    return {
        "data": arguments.data,
        "workers": arguments.workers,
        "batch": arguments.batch,
        "sizes": sizes,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, nargs="+", default=[640, 320])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=64, help="timed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=16)
    parser.add_argument(
        "--cache", nargs="+", choices=get_args(CachePlace), default=["auto", "none"]
    )
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
