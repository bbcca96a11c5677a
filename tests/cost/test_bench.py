"""Timing by a protocol: what is timed, how, and what the rows say of it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ossa.cost import benchmark as bench
from ossa.cost.benchmark import Protocol, bench_detectors, hardware_slug, using_threads, write_rows
from ossa.models.detector import Detector, create_detector

QUICK = Protocol(imgsz=64, warmup=0, runs=2, threads=1)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return create_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64)


def timed(
    detector: Detector, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> tuple[Detector, dict[str, Any]]:
    """Returns the detector that is really timed, and with which arguments."""
    seen: list[Any] = []
    real = bench.measure_throughput

    def noting(detectors: dict[str, Detector], **arguments: Any) -> Any:
        seen.extend((next(iter(detectors.values())), arguments))
        return real(detectors, **arguments)

    monkeypatch.setattr(bench, "measure_throughput", noting)
    bench_detectors({"a": detector}, protocol)
    return seen[0], seen[1]


def has_norms(network: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_as_it_stands_it_is_the_protocol_of_convnext_yolo() -> None:
    protocol = Protocol()
    assert (protocol.batch, protocol.imgsz, protocol.warmup, protocol.runs) == (1, 640, 100, 300)


@pytest.mark.parametrize(("form", "norms"), [("deployed", False), ("training", True)])
def test_the_form_asked_for_is_timed(
    detector: Detector, form: Any, norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, _ = timed(detector, replace(QUICK, form=form), monkeypatch)
    assert has_norms(prepared) == norms
    assert not prepared.training


@pytest.mark.parametrize(
    ("memory_format", "channels_last"), [("channels_last", True), ("contiguous", False)]
)
def test_precision_and_memory_format_are_those_asked_for(
    detector: Detector, memory_format: Any, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = replace(QUICK, precision="bf16", memory_format=memory_format, batch=2)
    prepared, arguments = timed(detector, protocol, monkeypatch)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    features: Tensor = prepared.backbone(images.to(memory_format=arguments["memory_format"]))[0]
    assert features.dtype == torch.bfloat16
    assert features.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_the_detector_stays_as_it_is(detector: Detector) -> None:
    bench_detectors({"a": detector}, replace(QUICK, precision="bf16", form="training"))
    assert {parameter.dtype for parameter in detector.parameters()} == {torch.float32}
    assert detector.training


def test_a_row_says_what_was_timed_where(detector: Detector) -> None:
    row, other = bench_detectors({"a": detector, "b": detector}, replace(QUICK, batch=2))
    assert (row["model"], other["model"]) == ("a", "b")
    assert row["ms_per_image"] == pytest.approx(row["mean_ms"] / 2)
    assert row["images_per_second"] == pytest.approx(2000 / row["mean_ms"])
    assert 0 < row["mean_ms_network"] < row["mean_ms"]
    assert row["median_ms"] <= row["p95_ms"]
    expected = {"imgsz": 64, "batch": 2, "runs": 2, "threads": 1, "form": "deployed"}
    assert {key: row[key] for key in expected} == expected
    assert row["torch"] == torch.__version__
    assert row["hardware"] == row["cpu"]
    assert not row["tf32_convolutions"]


def test_the_number_of_threads_is_only_borrowed() -> None:
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_files_are_named_after_the_hardware_and_never_overwritten(
    detector: Detector, tmp_path: Path
) -> None:
    rows = bench_detectors({"a": detector}, QUICK)
    first, second = (write_rows(rows, tmp_path, command="ossa bench a") for _ in range(2))
    slug = hardware_slug("cpu", 1)
    assert re.fullmatch(r"[a-z0-9-]+-1-threads", slug)
    assert first.name == f"{slug}-bench-fp32-channels_last-deployed-batch1-64px.json"
    assert second.name == f"{first.stem}-2.json"
    assert json.loads(first.read_text()) == {"command": "ossa bench a", "rows": rows}
