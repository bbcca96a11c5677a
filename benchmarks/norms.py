"""What norms that add up precisely cost: a training's step with them and with PyTorch's own.

    python benchmarks/norms.py --model yolov5n --imgsz 320 --batch 8

Prints one JSON object. The two ways take turns step by step (forward, losses, backward, optimiser),
in an order that changes, on the same images and with equal weights; `ratio` is the median over the
pairs of the time with the precise norms over the time with PyTorch's, and `quartiles` are those of
the same ratios. `clock: processor` counts the processor's time with one thread, which other load
on the machine disturbs less.
"""

import argparse
import copy
import json
import statistics
import time
from contextlib import nullcontext

import torch

from ossa.config import TrainConfig, build_config
from ossa.machine import keep_freed_memory
from ossa.models.detector import PRESETS, build_detector
from ossa.models.loss import DetectionLoss
from ossa.models.norms import PreciseNorms
from ossa.train.optim import EMA, build_optimizer
from ossa.train.provenance import environment
from ossa.types import Batch

_WARMUP_PAIRS = 3


def random_batch(images: int, imgsz: int) -> Batch:
    """Returns random pixels with ten boxes in each image."""
    boxes = 10 * images
    corners = torch.rand(boxes, 2) * imgsz / 2
    sizes = (0.05 + 0.4 * torch.rand(boxes, 2)) * imgsz
    pixels = torch.randint(0, 256, (images, 3, imgsz, imgsz), dtype=torch.uint8)
    return Batch(
        images=pixels.contiguous(memory_format=torch.channels_last),
        boxes_xyxy=torch.cat((corners, corners + sizes), dim=1),
        labels=torch.arange(boxes) % 3,
        image_index=torch.arange(images).repeat_interleave(10),
        image_ids=tuple(range(images)),
        letterboxes=(),
    )


class Way:
    """A detector with optimiser and average of its own, trained with one kind of norms."""

    def __init__(self, detector: torch.nn.Module, train: TrainConfig, *, precise: bool) -> None:
        self.detector = copy.deepcopy(detector).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.detector, train)
        self.average = EMA(self.detector, decay=0.9999, ramp=2000.0)
        self.precise = precise
        self.bf16 = train.precision == "bf16"

    def step(self, batch: Batch, loss: DetectionLoss) -> None:
        """Does forward, losses, backward and the optimiser's step."""
        norms = PreciseNorms() if self.precise else nullcontext()
        with norms, torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            raw = self.detector(batch.images)
        (loss(raw, batch).total() * len(batch.image_ids)).backward()
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.detector)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    train = {"imgsz": options.imgsz, "batch": options.batch, "precision": options.precision}
    neck = "own" if options.model in PRESETS else "s"
    settings = {"model": {"name": options.model, "neck": neck}, "data": "none", "train": train}
    config = build_config(settings)
    detector = build_detector(config.model, num_classes=3, imgsz=options.imgsz)
    loss = DetectionLoss(config.loss, num_classes=3, num_levels=3, imgsz=options.imgsz)
    batch = random_batch(options.batch, options.imgsz)
    ways = [Way(detector, config.train, precise=precise) for precise in (False, True)]
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    seconds: list[list[float]] = [[], []]
    for pair in range(_WARMUP_PAIRS + options.pairs):
        for number in (0, 1) if pair % 2 else (1, 0):
            started = clock()
            ways[number].step(batch, loss)
            seconds[number].append(clock() - started)
    plain, precise = (values[_WARMUP_PAIRS:] for values in seconds)
    ratios = [ours / theirs for ours, theirs in zip(precise, plain, strict=True)]
    print(
        json.dumps(
            {
                **vars(options),
                "ms_pytorch": 1000 * statistics.median(plain),
                "ms_precise": 1000 * statistics.median(precise),
                "ratio": statistics.median(ratios),
                "quartiles": statistics.quantiles(ratios),
                "environment": environment(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
