"""Every runtime says of the same pixels what PyTorch says."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detector import NAMES, noise, picture, small_detector

from ossa.errors import CheckpointError, ConfigError
from ossa.export import onnx as onnx_format
from ossa.export.backends import ExportedRuntime, TorchRuntime
from ossa.export.graph import ExportDescription
from ossa.export.select import RuntimeName, open_exported
from ossa.models.detector import Detector
from ossa.predict.predictor import Predictor, load
from ossa.types import Detections

WAYS: list[tuple[str, RuntimeName]] = [
    ("onnx_file", "onnxruntime"),
    ("onnx_file", "openvino"),
    ("openvino_file", "openvino"),
]


def opened(request: pytest.FixtureRequest, fixture: str, runtime: RuntimeName) -> ExportedRuntime:
    pytest.importorskip(runtime, reason="needs the extras export and openvino")
    found = open_exported(request.getfixturevalue(fixture), runtime=runtime)
    assert isinstance(found, ExportedRuntime)
    return found


@pytest.mark.parametrize(("fixture", "runtime"), WAYS)
@pytest.mark.parametrize(("count", "side_hw"), [(1, (64, 64)), (3, (32, 96))])
def test_any_batch_and_any_size_gives_the_logits_of_pytorch(
    request: pytest.FixtureRequest,
    detector: Detector,
    fixture: str,
    runtime: RuntimeName,
    count: int,
    side_hw: tuple[int, int],
) -> None:
    run = opened(request, fixture, runtime)
    images = noise(count, side_hw)
    expected, found = TorchRuntime(detector)(images), run(images)
    assert found.strides == (8, 16)
    torch.testing.assert_close(found.anchors_wh, expected.anchors_wh)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fixture", "runtime"), WAYS)
def test_threads_share_a_file_and_keep_what_they_were_answered(
    request: pytest.FixtureRequest, fixture: str, runtime: RuntimeName
) -> None:
    run = opened(request, fixture, runtime)
    images = noise(16)
    one_by_one = [run(image[None]).logits[0].clone() for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: run(image[None]).logits[0], images))
    for expected, found in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fixture", "runtime"), WAYS)
def test_a_file_is_all_that_prediction_needs(
    request: pytest.FixtureRequest, detector: Detector, fixture: str, runtime: RuntimeName
) -> None:
    opened(request, fixture, runtime)
    predictor = load(request.getfixturevalue(fixture), imgsz=96)
    assert (predictor.names, predictor.licence) == (NAMES, "Apache-2.0")
    reference = Predictor(detector, names=NAMES, imgsz=96)
    expected, found = (one.predict(picture(90, 50)) for one in (reference, predictor))
    assert isinstance(expected, Detections)
    assert isinstance(found, Detections)
    assert len(expected) > 5
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected.labels)


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
    with pytest.raises(ConfigError, match=r"exported for 64 x 64 px .* found 96 x 64"):
        run(noise(1, (64, 96)))
    assert not Predictor(run, names=NAMES, imgsz=64).rectangular


def test_bf16_in_pytorch_is_near_and_not_equal(detector: Detector) -> None:
    exact = TorchRuntime(detector)(noise(1)).logits[0]
    rounded = TorchRuntime(small_detector(), precision="bf16")(noise(1)).logits[0].float()
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    with pytest.raises(ConfigError, match="runs fp32 or bf16 here, found --precision int8"):
        TorchRuntime(detector, precision="int8")


def test_what_is_asked_of_a_file_must_be_in_it(openvino_file: Path) -> None:
    with pytest.raises(ConfigError, match="holds fp32, found --precision int8"):
        open_exported(openvino_file, precision="int8")
    with pytest.raises(ConfigError, match="is run by openvino, found --runtime torch"):
        open_exported(openvino_file, runtime="torch")
    for device in ("cuda", "abacus"):
        with pytest.raises(ConfigError, match="openvino runs on the CPU here, found the device"):
            load(openvino_file, device=device)
    with pytest.raises(ConfigError, match="runs this detector, not PyTorch"):
        _ = load(openvino_file).detector


def test_an_int8_onnx_file_is_for_onnx_runtime(
    onnx_model: Any, description: ExportDescription, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extras export and openvino")
    model = type(onnx_model)()
    model.CopyFrom(onnx_model)
    file = tmp_path / "n.onnx"
    in_int8 = description.model_copy(update={"precision": "int8"})
    onnx_format.save(onnx_format.described(model, in_int8), file, precision="int8")
    assert open_exported(file).name == "onnxruntime"
    with pytest.raises(ConfigError, match=r"does not compute the int8 .* --format openvino"):
        open_exported(file, runtime="openvino")


def test_a_folder_holds_one_file(tmp_path: Path, openvino_file: Path) -> None:
    assert open_exported(openvino_file.parent).name == "openvino"
    with pytest.raises(CheckpointError, match=r"expected one OpenVINO \.xml in .* found 0"):
        open_exported(tmp_path)
    with pytest.raises(CheckpointError, match=r"expected an exported file at .*absent\.onnx"):
        open_exported(tmp_path / "absent.onnx")
