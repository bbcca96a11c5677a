"""One detector in every runtime: what is timed, and what its row says."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ossa.cost import runtimes
from ossa.cost.runtimes import REFERENCE, Way, prepare, score_runtimes, time_runtimes, ways_here
from ossa.data.api import read_data
from ossa.data.scenes import write_scenes
from ossa.evaluate.run import evaluate
from ossa.models.build import create_detector
from ossa.models.detector import Detector

BF16 = Way("torch", "bf16")


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return create_detector("yolov5n", num_classes=4, imgsz=64).eval()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "a.jpg"
    file.write_bytes(cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes())
    return file


def test_the_clock_and_the_processor_are_compared_round_by_round(
    detector: Detector, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(detector, (REFERENCE, BF16), imgsz=64)
    # Of three rounds the reference takes 4, 8, 40 s and bf16 2, 2, 20: ratios 2, 4, 2.
    walls = iter([9.0, 9.0, 4.0, 2.0, 8.0, 2.0, 40.0, 20.0])
    monkeypatch.setattr(runtimes, "_timed", lambda *_, **__: (next(walls), 1.0))
    settings = {"num_classes": 4, "imgsz": 64, "warmup": 1, "runs": 3, "threads": 1}
    reference, faster = time_runtimes(prepared, [picture], **settings)
    assert (reference["ms"], reference["times_as_fast"]) == (8000.0, 1.0)
    assert (faster["ms"], faster["times_as_fast"], faster["times_as_fast_cpu"]) == (2000, 2, 1)
    assert (faster["runtime"], faster["precision"], faster["threads"]) == ("torch", "bf16", 1)


def test_a_picture_is_timed_from_its_file_on(detector: Detector, picture: Path) -> None:
    prepared = prepare(detector, (REFERENCE,), imgsz=64)
    settings = {"num_classes": 4, "imgsz": 64, "warmup": 0, "runs": 2}
    (row,) = time_runtimes(prepared, [picture], **settings)
    assert row["ms"] > 0
    assert row["cpu_ms"] > 0
    picture.unlink()
    with pytest.raises(Exception, match="Expected an image at"):
        time_runtimes(prepared, [picture], **settings)


def test_the_ap_of_the_reference_is_that_of_an_evaluation(
    detector: Detector, tmp_path: Path
) -> None:
    index = read_data(write_scenes(tmp_path, images={"val": 3}, imgsz=128)).index
    prepared = prepare(detector, (REFERENCE,), imgsz=64)
    scored = dict(score_runtimes(prepared, index, imgsz=64))
    config = runtimes.EvaluateConfig()
    assert scored == {REFERENCE: evaluate(detector, index, imgsz=64, config=config).metrics.ap}


def test_only_what_is_installed_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "is_installed", lambda package: package == "openvino")
    offered = [str(way) for way in ways_here()]
    assert offered == ["torch fp32", "torch bf16", "openvino fp32", "openvino bf16"]
