"""How fast a detector trains here, and where the time goes, beside a matrix product.

    python benchmarks/train.py --data DATA --model yolov5n --imgsz 320 --batch 16 --workers 2

Prints one JSON object: images a second with everything included (loading, augmentation, transfer,
forward, loss, backward, optimiser, average), the share of each, and the rate of a 2048 x 2048
fp32 matrix product measured before and after in the same run. No time is promised by a test:
machines differ, the ratio of the two rates hardly does.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ossa.config import build_config, load_recipe, merge
from ossa.data.dataset import TrainingDataset
from ossa.data.loader import EpochBatches, training_loader
from ossa.models.presets import preset_scale
from ossa.train.events import Silence
from ossa.train.optim import apply_settings, clip_and_step
from ossa.train.record import environment
from ossa.train.schedule import full_accumulation, settings_at
from ossa.train.setup import prepare

_WARMUP_BATCHES = 3
_MATRIX = 2048


class Stopwatch:
    """Adds up the seconds spent in each named part."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def matrix_gflops(device: torch.device, repeats: int = 5) -> float:
    """Returns GFLOP/s of a fp32 product of two 2048 x 2048 matrices (2 FLOPs a multiply-add)."""
    a, b = (torch.rand(_MATRIX, _MATRIX, device=device) for _ in range(2))
    watch = Stopwatch(device)
    _ = a @ b
    with watch.part("product"):
        for _ in range(repeats):
            _ = a @ b
    return repeats * 2 * _MATRIX**3 / watch.seconds["product"] / 1e9


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    device = torch.device(arguments.device)
    neck = "own" if preset_scale(arguments.model) else "s"
    train = {"imgsz": arguments.imgsz, "batch": arguments.batch, "epochs": 1000}
    settings = {"model": {"name": arguments.model, "neck": neck}, "data": arguments.data}
    config = build_config(merge(merge(load_recipe("yolov5-low"), {"train": train}), settings))
    before = matrix_gflops(device)
    parts = prepare(config, device=device, watcher=Silence())
    dataset = TrainingDataset(
        parts.train_index, imgsz=arguments.imgsz, augment=config.augment, seed=0
    )
    batches = EpochBatches(len(dataset), batch=arguments.batch, seed=0, epochs=1000)
    loader = iter(training_loader(dataset, batches, workers=arguments.workers))
    watch = Stopwatch(device)
    images = 0
    started = time.perf_counter()
    parts.detector.train()
    for number in range(_WARMUP_BATCHES + arguments.batches):
        if number == _WARMUP_BATCHES:
            watch, images, started = Stopwatch(device), 0, time.perf_counter()
        with watch.part("data"):
            batch = next(loader).to(device)
        apply_settings(
            parts.optimizer, settings_at(config.train, number, batches.batches_per_epoch)
        )
        with watch.part("forward"):
            raw = parts.detector(batch.images)
        with watch.part("loss"):
            loss = parts.loss(raw, batch).total() * len(batch.image_ids)
        with watch.part("backward"):
            loss.backward()
        if (number + 1) % full_accumulation(config.train) == 0:
            with watch.part("optimiser"):
                clip_and_step(parts.optimizer, parts.detector, clip_norm=config.train.clip_norm)
            with watch.part("average"):
                parts.average.update(parts.detector)
        images += len(batch.image_ids)
    seconds = time.perf_counter() - started
    gflops = (before + matrix_gflops(device)) / 2
    return {
        "model": arguments.model,
        "imgsz": arguments.imgsz,
        "batch": arguments.batch,
        "workers": arguments.workers,
        "images_per_second": images / seconds,
        "share": {name: value / seconds for name, value in watch.seconds.items()},
        "matrix_gflops": gflops,
        "images_per_second_at_220_gflops": images / seconds * 220 / gflops,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
