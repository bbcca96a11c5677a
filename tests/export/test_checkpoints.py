"""A checkpoint in the fastest runtime, and its conversion in the cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detector import NAMES, picture, small_detector

from ossa.config import ModelConfig
from ossa.data.cache_files import cache_folder
from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.export import graph, select
from ossa.export import onnx as onnx_format
from ossa.export.backends import AnyRuntime, ExportedRuntime, TorchRuntime
from ossa.export.select import runtime_for_checkpoint, runtimes_by_speed
from ossa.models.checkpoint import Checkpoint
from ossa.predict.predictor import Predictor

openvino = pytest.mark.skipif(not graph.is_installed("openvino"), reason="needs the extra openvino")


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Checkpoint:
    """One of the small detector, and an empty cache."""
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(select, "detector_from", lambda checkpoint: small_detector())
    return Checkpoint(
        model=ModelConfig(name="small", strides=(8, 16)),
        names=NAMES,
        imgsz=64,
        tensors={},
        origin={"file": "small.safetensors", "sha256": "ab" * 32, "licence": "Apache-2.0"},
        details={"metrics": {"best_confidence": 0.3}},
    )


def assert_like_pytorch(converted: AnyRuntime, name: str) -> None:
    assert isinstance(converted, ExportedRuntime)
    assert converted.name == name
    images = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    expected = TorchRuntime(small_detector())(images).logits[0]
    torch.testing.assert_close(converted(images).logits[0], expected, atol=1e-5, rtol=1e-5)


@openvino
def test_a_checkpoint_is_converted_once_and_answers_as_pytorch_does(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = runtime_for_checkpoint(checkpoint, imgsz=64, runtime="auto")
    assert isinstance(converted, ExportedRuntime)
    assert (converted.name, converted.precision) == ("openvino", "fp32")
    assert converted.description.confidence == 0.3
    kept = sorted(file.name for file in cache_folder().rglob("*") if file.is_file())
    assert kept == ["model.bin", "model.xml"]

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("converted a second time")

    with monkeypatch.context() as patched:
        patched.setattr(select, "_convert_checkpoint", forbidden)
        again = runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino")
    plain = Predictor(small_detector(), names=NAMES, imgsz=64)
    expected = plain.predict(picture(60, 40))
    assert len(expected) > 5
    for runtime in (converted, again):
        found = Predictor(runtime, names=NAMES, imgsz=64).predict(picture(60, 40))
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=0.1)
        np.testing.assert_allclose(found.scores, expected.scores, atol=0.001)

    next(cache_folder().rglob("model.bin")).write_bytes(b"damaged")
    healed = runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino")
    found = Predictor(healed, names=NAMES, imgsz=64).predict(picture(60, 40))
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.001)


@openvino
def test_auto_is_pytorch_where_nothing_else_can_express_the_network(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UnsupportedBackbone("an operator is unknown")

    monkeypatch.setattr(select, "_convert_checkpoint", refuse)
    assert isinstance(runtime_for_checkpoint(checkpoint, imgsz=64), TorchRuntime)
    with pytest.raises(UnsupportedBackbone):
        runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino")


@openvino
def test_a_cache_that_cannot_be_written_is_done_without(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "file"))
    converted = runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino")
    assert_like_pytorch(converted, "openvino")


@pytest.mark.parametrize(
    ("installed", "precision", "expected"),
    [
        ({"openvino", "onnxruntime", "onnx", "onnxscript"}, None, "openvino onnxruntime torch"),
        ({"onnxruntime", "onnx", "onnxscript"}, "fp32", "onnxruntime torch"),
        ({"onnxruntime", "onnx", "onnxscript"}, "bf16", "torch"),
        ({"onnxruntime", "onnx"}, None, "torch"),  # nothing that converts
        (set(), None, "torch"),
    ],
)
def test_the_fastest_of_what_is_installed_comes_first(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], precision: Any, expected: str
) -> None:
    monkeypatch.setattr(graph, "is_installed", lambda package: package in installed)
    assert runtimes_by_speed("cpu", precision) == expected.split()
    assert runtimes_by_speed("cuda:0", precision) == ["torch"]


def test_auto_is_onnx_runtime_where_openvino_is_not(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, onnx_model: Any
) -> None:
    monkeypatch.setattr(graph, "is_installed", lambda package: package.startswith("onnx"))
    monkeypatch.setattr(onnx_format, "convert", lambda graph, description: onnx_model)
    assert_like_pytorch(runtime_for_checkpoint(checkpoint, imgsz=64), "onnxruntime")


def test_auto_is_pytorch_where_nothing_faster_is(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda package: None)
    assert isinstance(runtime_for_checkpoint(checkpoint, imgsz=64), TorchRuntime)
    with pytest.raises(ConfigError, match=r'--runtime openvino needs .* pip install "ossa\[openv'):
        runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino")


def test_what_a_runtime_cannot_do_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="on which openvino runs here, found cuda"):
        runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino", device="cuda:0")
    for runtime, precision in (("openvino", "int8"), ("onnxruntime", "bf16")):
        with pytest.raises(ConfigError, match=f"ossa export --precision {precision}"):
            runtime_for_checkpoint(
                checkpoint,
                imgsz=64,
                runtime=runtime,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
            )


def test_bf16_is_computed_only_where_it_is_asked_for(checkpoint: Checkpoint) -> None:
    images = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    exact = runtime_for_checkpoint(checkpoint, imgsz=64, runtime="torch")(images)
    rounded = runtime_for_checkpoint(checkpoint, imgsz=64, runtime="torch", precision="bf16")
    assert not torch.equal(exact.logits[0], rounded(images).logits[0].float())  # type: ignore[union-attr]
