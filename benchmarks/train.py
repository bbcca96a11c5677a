"""How fast a detector trains here, where the time goes, and what each option buys.

    python benchmarks/train.py --data DATA --model yolov5n --imgsz 320 --batch 16

Prints one JSON object with
- `options`: forward, losses, backward and step on batches that already lie on the device, for each
  option of memory format, precision and (with --compile) compilation; milliseconds a batch (median)
  and the ratio to `plain`: fp32, channels first. The options take turns, batch by batch, so that
  drift of the machine hits all alike. `share` says where the time goes.
- `training`: images a second with everything included (loading, augmentation, transfer), for
  --precision, and its ratio to the rate of the same option on one fixed batch.
- `allocator`: milliseconds a batch of fp32, channels-last, before the process was told to keep the
  memory that it frees, and how many times as fast it was afterwards. Both are of this run, but did
  not take turns: what was once kept stays.
- `matrix_gflops`: of a 2048 x 2048 fp32 matrix product before and after, in the same run.
No time is promised by a test: machines differ, the ratios hardly do.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ossa.config import RunConfig, build_config, merge
from ossa.data.dataset import TrainingDataset
from ossa.data.loader import EpochBatches, training_loader
from ossa.machine import keep_freed_memory
from ossa.models.detector import PRESETS
from ossa.recipes import load_recipe
from ossa.train.callbacks import Callback
from ossa.train.loop import forward
from ossa.train.optim import EMA, build_optimizer, optimizer_step
from ossa.train.provenance import environment
from ossa.train.setup import init_run
from ossa.train.state import TrainState
from ossa.types import Batch

_WARMUP_BATCHES = 3
_FIXED_BATCHES = 4
_MATRIX = 2048


class Stopwatch:
    """Adds up the seconds spent in each named part; waits for the device at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self._now()
        yield
        self.seconds.setdefault(name, []).append(self._now() - started)

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
    return repeats * 2 * _MATRIX**3 / sum(watch.seconds["product"]) / 1e9


class Option:
    """One way to compute the same step, with a detector, optimiser and average of its own."""

    def __init__(self, state: TrainState, config: RunConfig, device: torch.device, **settings: Any):
        self.memory_format = settings.pop("memory_format", torch.channels_last)
        self.train = train = config.train.model_copy(update=settings)
        self.detector = copy.deepcopy(state.detector).to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.detector.train()
        self.watch = Stopwatch(device)
        self.network: Any = torch.compile(self.detector) if train.compile else self.detector
        self.losses: Any = torch.compile(state.loss) if train.compile else state.loss
        self.optimizer = build_optimizer(self.detector, train)
        self.ema = EMA(self.detector, decay=0.9999, ramp=2000.0)
        update = self.ema.update

        def timed_update(network: Any) -> None:
            with self.watch.part("average"):
                update(network)

        self.ema.update = timed_update

    def run(self, batch: Batch) -> None:
        """Does one batch and one step; every part of it is timed."""
        images = batch.images.contiguous(memory_format=self.memory_format)
        with self.watch.part("batch"):
            with self.watch.part("forward"):
                raw = forward(self.network, images, self.train)
            with self.watch.part("loss"):
                loss = self.losses(raw, batch).total() * len(batch.image_ids)
            with self.watch.part("backward"):
                loss.backward()
            with self.watch.part("update"):
                optimizer_step(self.detector, self.optimizer, self.ema, self.train)

    def report(self, plain_ms: float | None) -> dict[str, Any]:
        """Returns median milliseconds a batch, the ratio to `plain` and the share of each part."""
        seconds = {name: times[_WARMUP_BATCHES:] for name, times in self.watch.seconds.items()}
        ms = 1000 * statistics.median(seconds["batch"])
        total = sum(seconds["batch"])
        share = {name: sum(times) / total for name, times in seconds.items() if name != "batch"}
        share["optimiser"] = share.pop("update") - share["average"]
        return {"ms_per_batch": ms, "times_plain": (plain_ms or ms) / ms, "share": share}


def build_options(
    state: TrainState, config: RunConfig, device: torch.device, *, compiled: bool
) -> dict[str, Option]:
    options = {
        "plain": Option(state, config, device, memory_format=torch.contiguous_format),
        "channels_last": Option(state, config, device),
        "channels_last_bf16": Option(state, config, device, precision="bf16"),
    }
    if compiled:
        options["channels_last_compile"] = Option(state, config, device, compile=True)
        options["channels_last_bf16_compile"] = Option(
            state, config, device, precision="bf16", compile=True
        )
    return options


def milliseconds_of(option: Option, batches: list[Batch], rounds: int) -> float:
    for number in range(_WARMUP_BATCHES + rounds):
        option.run(batches[number % len(batches)])
    return option.report(None)["ms_per_batch"]


def compare_options(
    options: dict[str, Option], batches: list[Batch], rounds: int
) -> dict[str, dict[str, Any]]:
    for number in range(_WARMUP_BATCHES + rounds):
        for option in options.values():
            option.run(batches[number % len(batches)])
    plain_ms = options["plain"].report(None)["ms_per_batch"]
    return {name: option.report(plain_ms) for name, option in options.items()}


def measure_training(
    option: Option, loader: Iterator[Batch], *, batches: int, device: torch.device
) -> tuple[float, float]:
    """Returns images a second with everything, and the share of the time spent waiting for data."""
    watch, images = Stopwatch(device), 0
    for number in range(_WARMUP_BATCHES + batches):
        if number == _WARMUP_BATCHES:
            watch, images = Stopwatch(device), 0
        with watch.part("all"):
            started = time.perf_counter()
            batch = next(loader)
            watch.seconds.setdefault("data", []).append(time.perf_counter() - started)
            batch = batch.to(device)
            option.run(batch)
            images += len(batch.image_ids)
    seconds = sum(watch.seconds["all"])
    return images / seconds, sum(watch.seconds["data"]) / seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(arguments.device)
    neck = "own" if arguments.model in PRESETS else "s"
    train = {"imgsz": arguments.imgsz, "batch": arguments.batch, "epochs": 1000}
    settings = {"model": {"name": arguments.model, "neck": neck}, "data": arguments.data}
    config = build_config(merge(merge(load_recipe("yolov5-low"), {"train": train}), settings))
    before = matrix_gflops(device)
    state = init_run(config, Path("run"), device=device, callback=Callback())
    dataset = TrainingDataset(
        state.train.index, imgsz=arguments.imgsz, augment=config.augment, seed=0
    )
    sampler = EpochBatches(len(dataset), batch=arguments.batch, seed=0, epochs=1000)
    loader = iter(training_loader(dataset, sampler, workers=0))
    full = (batch for batch in loader if len(batch.image_ids) == arguments.batch)
    fixed = [batch.to(device) for batch in islice(full, _FIXED_BATCHES)]
    options = build_options(state, config, device, compiled=arguments.compile)
    untold_ms = milliseconds_of(Option(state, config, device), fixed, arguments.batches)
    keep_freed_memory()
    compared = compare_options(options, fixed, arguments.batches)
    chosen = "channels_last_bf16" if arguments.precision == "bf16" else "channels_last"
    chosen += "_compile" if arguments.compile else ""
    workers = training_loader(
        dataset, sampler, workers=arguments.workers, pin_memory=device.type == "cuda"
    )
    rate, data_share = measure_training(
        options[chosen], iter(workers), batches=arguments.batches, device=device
    )
    fixed_rate = 1000 * arguments.batch / compared[chosen]["ms_per_batch"]
    gflops = (before + matrix_gflops(device)) / 2
    return {
        "model": arguments.model,
        "imgsz": arguments.imgsz,
        "batch": arguments.batch,
        "workers": arguments.workers,
        "options": compared,
        "allocator": {
            "ms_per_batch_before": untold_ms,
            "times_as_fast": untold_ms / compared["channels_last"]["ms_per_batch"],
        },
        "training": {
            "option": chosen,
            "images_per_second": rate,
            "share_waiting_for_data": data_share,
            "times_fixed_batch": rate / fixed_rate,
            "images_per_second_at_220_gflops": rate * 220 / gflops,
        },
        "matrix_gflops": gflops,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=12, help="timed, for each option")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
