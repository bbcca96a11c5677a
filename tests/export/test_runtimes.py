"""Every runtime finds in the same pixels what PyTorch finds, with NMS in its graph or without."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detector import NAMES, SmallBackbone, noise, picture, small_detector
from torch import nn

from ossa.config import EvaluateConfig
from ossa.errors import CheckpointError, ConfigError
from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.backends import ExportedRuntime, NMSRuntime, TorchRuntime, find
from ossa.export.graph import (
    ExportDescription,
    ExportSettings,
    LogitsGraph,
    NMSSettings,
    describe,
)
from ossa.export.select import open_exported
from ossa.models.detector import Detector, create_detector
from ossa.models.head import AnchorHead
from ossa.models.neck import NECKS
from ossa.models.postprocess import non_max_suppression
from ossa.predict.predictor import Predictor, load
from ossa.types import Detections, Letterbox

INSIDE = NMSSettings(confidence=0.4, nms_iou=0.3, max_detections=20)
EVERY_CLASS = torch.ones(3, dtype=torch.bool)
BACKENDS = (("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino"))
SIZES = [(1, (64, 64)), (3, (32, 96))]


@pytest.fixture(scope="session")
def with_nms(description: ExportDescription) -> ExportDescription:
    return description.model_copy(update={"nms": INSIDE, "confidence": 0.4})


@pytest.fixture(scope="session")
def onnx_nms(onnx_model: Any, with_nms: ExportDescription, folder: Path) -> Path:
    onnx_format.save(onnx_format.add_nms(onnx_model, with_nms), folder / "nms.onnx", with_nms)
    return folder / "nms.onnx"


@pytest.fixture(scope="session")
def openvino_nms(
    onnx_model: Any, openvino_file: Path, with_nms: ExportDescription, folder: Path
) -> Path:
    model = openvino_format.add_nms(openvino_format.read(openvino_file)[0], with_nms)
    openvino_format.save(model, folder / "nms.xml", with_nms)
    return folder / "nms.xml"


@pytest.fixture(params=BACKENDS, ids="-in-".join)
def run(request: pytest.FixtureRequest) -> ExportedRuntime:
    """A file of logits in each runtime."""
    return opened(request, "file")


@pytest.fixture(params=BACKENDS, ids="-in-".join)
def run_nms(request: pytest.FixtureRequest) -> NMSRuntime:
    """A file with NMS in its graph in each runtime."""
    return opened(request, "nms")


def opened(request: pytest.FixtureRequest, kind: str) -> Any:
    format, runtime = request.param
    pytest.importorskip(runtime, reason="needs the extras export and openvino")
    return open_exported(request.getfixturevalue(f"{format}_{kind}"), runtime=runtime)


def assert_same(found: Detections, expected: Detections) -> None:
    assert len(expected) > 5
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize(("count", "side_hw"), SIZES)
def test_any_batch_and_any_size_gives_the_logits_of_pytorch(
    run: ExportedRuntime, detector: Detector, count: int, side_hw: tuple[int, int]
) -> None:
    images = noise(count, side_hw)
    expected: Any = TorchRuntime(detector)(images)
    found: Any = run(images)
    assert found.strides == (8, 16)
    torch.testing.assert_close(found.anchors_wh, expected.anchors_wh)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("neck_type", ["fpn", "bifpn", "none"])
def test_a_file_has_the_logits_of_every_neck(tmp_path: Path, neck_type: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra export")
    torch.manual_seed(0)
    backbone = SmallBackbone()
    neck = NECKS[neck_type](backbone.levels, widths=(8, 12), depth=2)
    detector = Detector(backbone, neck, AnchorHead(neck.levels, num_classes=3)).eval()
    about = describe(detector, None, ExportSettings(imgsz=64)).model_copy(update={"names": NAMES})
    onnx_format.save(onnx_format.convert(LogitsGraph(detector), about), tmp_path / "n.onnx", about)
    found: Any = open_exported(tmp_path / "n.onnx", runtime="onnxruntime")(noise(1))
    for ours, theirs in zip(found.logits, detector(noise(1)).logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_paddings_that_follow_the_size_are_fixed_numbers_in_a_file() -> None:
    detector = create_detector("tf_mobilenetv3_small_minimal_100", num_classes=3, imgsz=64).eval()
    graph = LogitsGraph(detector)
    assert any(isinstance(module, nn.ZeroPad2d) for module in graph.modules())
    images = torch.randint(0, 256, (2, 3, 96, 160), dtype=torch.uint8)
    with torch.no_grad():
        expected = detector.head.cells(detector.neck(detector.backbone(images)))
        for found, level in zip(graph(images), expected, strict=True):
            torch.testing.assert_close(found, level.contiguous(), rtol=1e-4, atol=1e-4)


def test_threads_share_a_file_and_keep_what_they_were_answered(run: ExportedRuntime) -> None:
    images = noise(16)
    one_by_one = [run(image[None]).logits[0].clone() for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: run(image[None]).logits[0], images))
    for expected, found in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fixture", ["onnx_file", "openvino_file"])
def test_a_file_is_all_that_prediction_needs(
    request: pytest.FixtureRequest, detector: Detector, fixture: str
) -> None:
    predictor = load(request.getfixturevalue(fixture), imgsz=96)
    assert (predictor.names, predictor.licence) == (NAMES, "Apache-2.0")
    reference = Predictor(detector, names=NAMES, imgsz=96)
    assert_same(predictor.predict(picture(90, 50)), reference.predict(picture(90, 50)))


@pytest.mark.parametrize(("count", "side_hw"), SIZES)
def test_nms_in_the_graph_finds_what_post_processing_finds(
    run_nms: NMSRuntime, detector: Detector, count: int, side_hw: tuple[int, int]
) -> None:
    images = noise(count, side_hw)
    places = [Letterbox(1.0, 1.0, 0, 0, side_hw[1], side_hw[0])] * count
    settings = EvaluateConfig(**INSIDE.model_dump())
    raw = TorchRuntime(detector)(images)
    expected = non_max_suppression(raw, places, settings, wanted=EVERY_CLASS)
    found = find(run_nms, images, places, settings, wanted=EVERY_CLASS)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
    sure = EvaluateConfig(confidence=0.999999, nms_iou=0.3)
    nothing = find(run_nms, images, places, sure, wanted=EVERY_CLASS)
    assert [one.boxes_xyxy.shape for one in nothing] == [(0, 4)] * count


@pytest.mark.parametrize("fixture", ["onnx_nms", "openvino_nms"])
def test_prediction_takes_the_settings_of_the_graph_and_nothing_laxer(
    request: pytest.FixtureRequest, detector: Detector, fixture: str
) -> None:
    predictor = load(request.getfixturevalue(fixture))
    assert (predictor.confidence, predictor.nms_iou) == (0.4, 0.3)
    reference = Predictor(detector, names=NAMES, imgsz=64)
    settings: dict[str, Any] = {"confidence": 0.41, "classes": ["dog"], "max_detections": 3}
    expected = reference.predict(picture(64, 40), nms_iou=0.3, **settings)
    found = predictor.predict(picture(64, 40), **settings)
    assert found.labels.tolist() == expected.labels.tolist() == [1] * len(found)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    with pytest.raises(ConfigError, match=r"confidence of at least 0\.4.* found 0\.1"):
        predictor.predict([], confidence=0.1)
    with pytest.raises(ConfigError, match=r"an IoU of 0\.3.* found 0\.45"):
        predictor.predict([], nms_iou=0.45)


def fixed(description: ExportDescription, batch: int) -> ExportDescription:
    return description.model_copy(update={"batch": batch, "any_size": False, "rectangular": False})


def test_a_fixed_batch_takes_any_number_of_images(description: ExportDescription) -> None:
    seen = []

    def engine(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(images))
        means = images.float().mean(dim=(1, 2, 3))
        return tuple(means.view(-1, 1, 1, 1, 1).expand(-1, 64 // s, 64 // s, 3, 8) for s in (8, 16))

    run = ExportedRuntime(engine, fixed(description, 4), name="fake", precision="fp32")
    images = noise(6)
    logits = run(images).logits[0]
    assert seen == [4, 4]
    assert logits.shape == (6, 3, 8, 8, 8)
    torch.testing.assert_close(logits[:, 0, 0, 0, 0], images.float().mean(dim=(1, 2, 3)))


def test_a_fixed_size_takes_no_other(description: ExportDescription) -> None:
    run = ExportedRuntime(lambda images: (), fixed(description, 1), name="fake", precision="fp32")
    with pytest.raises(ConfigError, match=r"64 x 64 px, .* found 96 x 64"):
        run(noise(1, (64, 96)))
    assert not Predictor(run, names=NAMES, imgsz=64).rectangular


def test_bf16_in_pytorch_is_near_and_not_equal(detector: Detector) -> None:
    exact = TorchRuntime(detector)(noise(1)).logits[0]
    rounded = TorchRuntime(small_detector(), precision="bf16")(noise(1)).logits[0].float()
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    with pytest.raises(ConfigError, match="fp32 or bf16, which PyTorch runs, found int8"):
        TorchRuntime(detector, precision="int8")


def test_what_is_asked_of_a_file_must_be_in_it(openvino_file: Path) -> None:
    with pytest.raises(ConfigError, match="the fp32 of the file, found --precision int8"):
        open_exported(openvino_file, precision="int8")
    with pytest.raises(ConfigError, match="--runtime openvino for this file, found torch"):
        open_exported(openvino_file, runtime="torch")
    for device in ("cuda", "abacus"):
        with pytest.raises(ConfigError, match="on which openvino runs here, found"):
            load(openvino_file, device=device)
    with pytest.raises(ConfigError, match="runs this detector, not PyTorch"):
        _ = load(openvino_file).detector


def test_an_int8_onnx_file_is_for_onnx_runtime(
    onnx_model: Any, description: ExportDescription, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extras export and openvino")
    file = tmp_path / "n.onnx"
    onnx_format.save(onnx_model, file, description.model_copy(update={"precision": "int8"}))
    assert open_exported(file).name == "onnxruntime"
    with pytest.raises(ConfigError, match=r"does not compute int8 .* --format openvino"):
        open_exported(file, runtime="openvino")


def test_a_folder_holds_one_file(tmp_path: Path, openvino_file: Path) -> None:
    assert open_exported(openvino_file.parent).name == "openvino"
    with pytest.raises(CheckpointError, match=r"one OpenVINO \.xml in the folder, found 0"):
        open_exported(tmp_path)
    with pytest.raises(CheckpointError, match=r"an exported file, found none .*absent\.onnx"):
        open_exported(tmp_path / "absent.onnx")
