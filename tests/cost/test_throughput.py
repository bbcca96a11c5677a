"""Timing: every detector is run as often as asked, turn by turn."""

import pytest
import torch
from torch import Tensor, nn

from ossa.config import EvaluateConfig
from ossa.cost.benchmark import measure_throughput
from ossa.models.detector import create_detector


class _Calls(nn.Module):
    """Notes by name that it was called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name = name
        self.calls = calls

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape == (2, 3, 64, 64)
        assert images.dtype == torch.uint8
        self.calls.append(self.name)
        return images


def test_detectors_take_turns_and_warm_up_runs_are_not_counted() -> None:
    calls: list[str] = []
    detectors = {name: _Calls(name, calls) for name in ("a", "b")}
    times = measure_throughput(detectors, imgsz=64, batch=2, warmup=1, runs=3)
    assert calls == ["a", "b"] * 4
    assert set(times) == {"a", "b"}


def test_rates_count_images_and_not_batches() -> None:
    times = measure_throughput({"a": _Calls("a", [])}, imgsz=64, batch=2, warmup=0, runs=2)["a"]
    assert times.ms_per_image == pytest.approx(times.mean_ms / 2)
    assert times.images_per_second == pytest.approx(1000 / times.ms_per_image)


def test_decoding_and_suppression_are_timed_when_asked_for() -> None:
    detector = create_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64).eval()
    times = measure_throughput(
        {"a": detector}, imgsz=64, warmup=0, runs=2, config=EvaluateConfig()
    )["a"]
    assert 0 < times.median_ms <= times.p95_ms


def test_the_network_is_timed_alone_as_well() -> None:
    detector = create_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64).eval()
    whole, alone = (
        measure_throughput({"a": detector}, imgsz=64, warmup=0, runs=2, config=config)["a"]
        for config in (EvaluateConfig(), None)
    )
    assert 0 < whole.network.mean_ms < whole.mean_ms
    assert alone.network.mean_ms == alone.mean_ms
