"""How long a detector takes for an image."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ossa.config import EvaluateConfig
from ossa.models.postprocess import detect
from ossa.types import Letterbox


@dataclass(frozen=True)
class Throughput:
    """Milliseconds and rates of one detector; every run counts one batch."""

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


@torch.no_grad()
def measure_throughput(
    detectors: Mapping[str, nn.Module],
    *,
    imgsz: int,
    batch: int = 1,
    warmup: int = 100,
    runs: int = 300,
    device: torch.device | str = "cpu",
    config: EvaluateConfig | None = None,
) -> dict[str, Throughput]:
    """Times several detectors turn by turn, so that drift of the machine hits all alike.

    Args:
        detectors: by name, in evaluation mode, on `device`.
        imgsz: side of the square input in pixels.
        batch: images in one run.
        warmup: runs of each detector that are not counted.
        runs: runs of each detector that are.
        device: where they run; a GPU is waited for before and after every run.
        config: include decoding and suppression with these settings; the network alone if None.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator
    ).to(device, memory_format=torch.channels_last)
    placements = [Letterbox(1.0, 1.0, 0, 0, imgsz, imgsz)] * batch
    milliseconds: dict[str, list[float]] = {name: [] for name in detectors}
    for run in range(warmup + runs):
        for name, detector in detectors.items():
            started = _now(device)
            raw = detector(images)
            if config is not None:
                detect(raw, placements, config)
            if run >= warmup:
                milliseconds[name].append(1000.0 * (_now(device) - started))
    return {name: _summary(times, batch) for name, times in milliseconds.items()}


def _now(device: torch.device | str) -> float:
    """Returns seconds, once the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _summary(times_ms: list[float], batch: int) -> Throughput:
    times = torch.tensor(times_ms, dtype=torch.float64)
    return Throughput(
        mean_ms=times.mean().item(),
        median_ms=times.median().item(),
        p95_ms=times.quantile(0.95).item(),
        batch=batch,
    )
