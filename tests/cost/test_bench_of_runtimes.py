"""One detector in every runtime: what is timed, and what its row says."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ossa.cost import runtimes
from ossa.cost.benchmark import Taken, Turn, plain_pytorch, take_turn
from ossa.cost.runtimes import IN_TORCH, Way, prepare, score_runtimes, time_runtimes, ways_here
from ossa.data.reading import read_data
from ossa.data.synthetic import write_scenes
from ossa.errors import DataError, RunFailed
from ossa.evaluate.evaluator import evaluate
from ossa.models.detector import Detector, create_detector

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
    # Of three rounds plain PyTorch takes 4, 8, 40 s and bf16 2, 2, 20: ratios 2, 4, 2.
    plain, bf16 = iter([9.0, 4.0, 8.0, 40.0]), iter([9.0, 2.0, 2.0, 20.0])

    @contextmanager
    def as_planned(*_: object, **__: object) -> Iterator[Turn]:
        yield lambda picture: Taken(next(plain), 1.0)

    monkeypatch.setattr(runtimes, "plain_pytorch", as_planned)
    monkeypatch.setattr(runtimes, "take_turn", lambda *_, **__: Taken(next(bf16), 0.5))
    prepared = prepare(detector, (BF16,), imgsz=64)
    settings = {"num_classes": 4, "imgsz": 64, "warmup": 1, "runs": 3, "threads": 1}
    reference, faster = time_runtimes(detector, prepared, [picture], **settings)
    assert (reference["ms"], reference["times_as_fast"]) == (8000.0, 1.0)
    assert (faster["ms"], faster["times_as_fast"], faster["times_as_fast_cpu"]) == (2000, 2, 2)
    assert (reference["runtime"], reference["precision"]) == ("plain torch", "fp32")
    assert (faster["runtime"], faster["precision"], faster["threads"]) == ("torch", "bf16", 1)


def test_a_turn_begins_with_the_file(detector: Detector, picture: Path) -> None:
    taken = take_turn(detector, picture, imgsz=64, num_classes=4)
    assert taken.wall > 0
    assert taken.cpu > 0
    picture.unlink()
    with pytest.raises(DataError, match="an image at"):
        take_turn(detector, picture, imgsz=64, num_classes=4)


def test_plain_pytorch_takes_its_turns_in_a_process_of_its_own(
    detector: Detector, picture: Path
) -> None:
    others = multiprocessing.active_children()
    with plain_pytorch(detector, imgsz=64, num_classes=4, threads=1) as plain:
        (child,) = set(multiprocessing.active_children()) - set(others)
        assert plain(picture).wall > 0
        with pytest.raises(DataError, match="an image at"):
            plain(picture.with_name("none.jpg"))
        assert plain(picture).cpu > 0
    assert child.exitcode == 0


@pytest.mark.slow
def test_a_killed_process_of_plain_pytorch_is_told(detector: Detector, picture: Path) -> None:
    others = multiprocessing.active_children()
    with plain_pytorch(detector, imgsz=64, num_classes=4, threads=1) as plain:
        (child,) = set(multiprocessing.active_children()) - set(others)
        child.kill()
        child.join()
        with pytest.raises(RunFailed, match="the process of plain PyTorch has ended"):
            plain(picture)


def test_the_ap_of_pytorch_is_that_of_an_evaluation(detector: Detector, tmp_path: Path) -> None:
    index = read_data(write_scenes(tmp_path, images={"val": 3}, imgsz=128)).index
    prepared = prepare(detector, (IN_TORCH,), imgsz=64)
    scored = dict(score_runtimes(prepared, index, imgsz=64))
    config = runtimes.EvaluateConfig()
    assert scored == {IN_TORCH: evaluate(detector, index, imgsz=64, config=config).metrics.ap}


def test_only_what_is_installed_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"openvino": object()}
    monkeypatch.setattr("ossa.export.graph.find_spec", present.get)
    offered = [str(way) for way in ways_here()]
    assert offered == ["torch fp32", "torch bf16", "openvino fp32", "openvino bf16"]
