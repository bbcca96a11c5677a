"""NMS in the graph finds what post-processing in PyTorch finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_detector import NAMES, noise, picture

from ossa.config import EvaluateConfig
from ossa.errors import ConfigError
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.backends import NMSRuntime, TorchRuntime
from ossa.export.graph import ExportDescription, NMSSettings
from ossa.export.select import RuntimeName, open_exported
from ossa.models.detector import Detector
from ossa.models.postprocess import non_max_suppression
from ossa.predict.predictor import Predictor, load
from ossa.types import Detections, Letterbox

INSIDE = NMSSettings(confidence=0.4, nms_iou=0.3, max_detections=20)


@pytest.fixture(scope="session")
def with_nms(description: ExportDescription) -> ExportDescription:
    return description.model_copy(update={"nms": INSIDE, "confidence": 0.4})


@pytest.fixture(scope="session")
def onnx_nms(onnx_model: object, with_nms: ExportDescription, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("nms") / "small.onnx"
    model = onnx_format.add_nms(onnx_model, with_nms)
    onnx_format.save(onnx_format.described(model, with_nms), file, precision="fp32")
    return file


@pytest.fixture(scope="session")
def openvino_nms(
    onnx_model: object,
    openvino_file: Path,
    with_nms: ExportDescription,
    tmp_path_factory,
) -> Path:
    file = tmp_path_factory.mktemp("nms") / "small.xml"
    model, _ = openvino_format.read(openvino_file)
    model = openvino_format.add_nms(model, with_nms)
    openvino_format.save(openvino_format.described(model, with_nms), file, precision="fp32")
    return file


WAYS: list[tuple[str, RuntimeName]] = [
    ("onnx_nms", "onnxruntime"),
    ("onnx_nms", "openvino"),
    ("openvino_nms", "openvino"),
]


@pytest.mark.parametrize(("fixture", "runtime"), WAYS)
@pytest.mark.parametrize(("count", "side_hw"), [(1, (64, 64)), (3, (32, 96))])
def test_the_graph_finds_what_post_processing_finds(
    request: pytest.FixtureRequest,
    detector: Detector,
    fixture: str,
    runtime: RuntimeName,
    count: int,
    side_hw: tuple[int, int],
) -> None:
    pytest.importorskip(runtime, reason="needs the extras export and openvino")
    run = open_exported(request.getfixturevalue(fixture), runtime=runtime)
    assert isinstance(run, NMSRuntime)
    images = noise(count, side_hw)
    places = [Letterbox(1.0, 1.0, 0, 0, side_hw[1], side_hw[0])] * count
    settings = EvaluateConfig(**INSIDE.model_dump())
    every_class = torch.ones(3, dtype=torch.bool)
    raw = TorchRuntime(detector)(images)
    expected = non_max_suppression(raw, places, settings, wanted=every_class)
    found = run.detections(images, places, settings, wanted=every_class)
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert min(len(one) for one in expected) > 5
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("fixture", ["onnx_nms", "openvino_nms"])
def test_prediction_takes_what_the_graph_was_told_and_nothing_laxer(
    request: pytest.FixtureRequest, detector: Detector, fixture: str
) -> None:
    predictor = load(request.getfixturevalue(fixture))
    assert (predictor.confidence, predictor.nms_iou) == (0.4, 0.3)
    reference = Predictor(detector, names=NAMES, imgsz=64)
    settings = {"confidence": 0.41, "classes": ["dog"], "max_detections": 3}
    expected = reference.predict(picture(64, 40), nms_iou=0.3, **settings)
    found = predictor.predict(picture(64, 40), **settings)
    assert isinstance(found, Detections)
    assert isinstance(expected, Detections)
    assert found.labels.tolist() == expected.labels.tolist()
    assert set(found.labels.tolist()) == {1}
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    with pytest.raises(ConfigError, match=r"leaves out scores below 0\.4, found a confidence of 0"):
        predictor.predict([], confidence=0.1)
    with pytest.raises(ConfigError, match=r"suppresses at IoU 0\.3, found 0\.45"):
        predictor.predict([], nms_iou=0.45)


@pytest.mark.parametrize(("fixture", "runtime"), WAYS)
def test_an_image_without_anything_is_no_fault(
    request: pytest.FixtureRequest, fixture: str, runtime: RuntimeName
) -> None:
    pytest.importorskip(runtime, reason="needs the extras export and openvino")
    run = open_exported(request.getfixturevalue(fixture), runtime=runtime)
    assert isinstance(run, NMSRuntime)
    sure = EvaluateConfig(confidence=0.999999, nms_iou=0.3)
    places = [Letterbox(1.0, 1.0, 0, 0, 64, 64)]
    found = run.detections(noise(1), places, sure, wanted=torch.ones(3, dtype=torch.bool))
    assert len(found[0]) == 0
    assert found[0].boxes_xyxy.shape == (0, 4)
