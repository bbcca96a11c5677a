"""How long a detector takes for an image."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ossa.config import EvaluateConfig
from ossa.models.postprocess import detect
from ossa.types import Letterbox, RawPredictions

Network: TypeAlias = Callable[[Tensor], RawPredictions]
"""Maps uint8 images (B, 3, H, W) to raw predictions: a detector, or what runs one."""

WARMUP_RUNS, TIMED_RUNS = 100, 300
"""With batch 1 at 640 x 640 pixels the protocol of ConvNeXt-YOLO."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds and rates; every run counts one batch."""

    mean_ms: float
    median_ms: float
    p95_ms: float
    batch: int

    @property
    def ms_per_image(self) -> float:
        return self.mean_ms / self.batch

    @property
    def images_per_second(self) -> float:
        return 1000.0 / self.ms_per_image


@dataclass(frozen=True)
class Throughput(Timing):
    """From images to detections where these were asked for, and the network's share of it."""

    network: Timing


@torch.no_grad()
def measure_throughput(
    detectors: Mapping[str, Network],
    *,
    imgsz: int,
    batch: int = 1,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    device: torch.device | str = "cpu",
    config: EvaluateConfig | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> dict[str, Throughput]:
    """Times several detectors turn by turn, so that drift of the machine hits all alike.

    The images are random and lie on the device already.

    Args:
        detectors: by name, in evaluation mode where they have modes, on `device`.
        imgsz: side of the square input in pixels.
        batch: images in one run.
        warmup: runs of each detector that are not counted.
        runs: runs of each detector that are.
        device: where they run; a GPU is waited for before and after network and suppression.
        config: include decoding and suppression with these settings; the network alone if None.
        memory_format: of the images; it should be that of the detectors' weights.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator
    ).to(device, memory_format=memory_format)
    placements = [Letterbox(1.0, 1.0, 0, 0, imgsz, imgsz)] * batch
    whole_ms: dict[str, list[float]] = {name: [] for name in detectors}
    network_ms: dict[str, list[float]] = {name: [] for name in detectors}
    for run in range(warmup + runs):
        for name, detector in detectors.items():
            started = _now(device)
            raw = detector(images)
            computed = _now(device)
            if config is not None:
                detect(raw, placements, config)
            finished = computed if config is None else _now(device)
            if run >= warmup:
                network_ms[name].append(1000.0 * (computed - started))
                whole_ms[name].append(1000.0 * (finished - started))
    return {
        name: Throughput(
            **asdict(_timing(whole_ms[name], batch)), network=_timing(network_ms[name], batch)
        )
        for name in detectors
    }


def _now(device: torch.device | str) -> float:
    """Returns seconds, once the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _timing(times_ms: list[float], batch: int) -> Timing:
    times = torch.tensor(times_ms, dtype=torch.float64)
    return Timing(
        mean_ms=times.mean().item(),
        median_ms=times.quantile(0.5).item(),
        p95_ms=times.quantile(0.95).item(),
        batch=batch,
    )
