"""A checkpoint in the fastest runtime, and its conversion in the cache."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detector import NAMES, picture, small_detector

from ossa.config import ModelConfig
from ossa.data.cache_files import cache_folder
from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.export import graph as extras
from ossa.export import select as cache
from ossa.export import select as choose
from ossa.export.backends import ExportedRuntime, TorchRuntime
from ossa.export.select import runtime_for_checkpoint, runtimes_by_speed
from ossa.models.checkpoint import Checkpoint
from ossa.predict.predictor import Predictor

openvino = pytest.mark.skipif(
    not extras.is_installed("openvino"), reason="needs the extra openvino"
)


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Checkpoint:
    """One of the small detector, and an empty cache."""
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    for module in (cache, choose):
        monkeypatch.setattr(module, "detector_from", lambda checkpoint: small_detector())
    return Checkpoint(
        model=ModelConfig(name="small", strides=(8, 16)),
        names=NAMES,
        imgsz=64,
        tensors={},
        origin={"file": "small.safetensors", "sha256": "ab" * 32, "licence": "Apache-2.0"},
        details={"metrics": {"best_confidence": 0.3}},
    )


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
        patched.setattr(cache, "_convert_into", forbidden)
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
def test_signals_still_reach_a_process_whose_engines_have_gone(tmp_path: Path) -> None:
    program = """
import gc, os, signal, openvino
from ossa.export import graph as extras
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
cores = [extras.openvino_core(purpose="a test") for _ in range(2)]
cores.append(openvino.Core())
for core in cores:
    core.get_property("CPU", "FULL_DEVICE_NAME")
while cores:
    del core
    cores.pop(0)
    core = None
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["heard"] * 3)


@openvino
def test_auto_is_pytorch_where_nothing_else_can_express_the_network(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UnsupportedBackbone("an operator is unknown")

    monkeypatch.setattr(cache, "_convert_into", refuse)
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
    assert isinstance(converted, ExportedRuntime)
    images = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    expected = TorchRuntime(small_detector())(images).logits[0]
    torch.testing.assert_close(converted(images).logits[0], expected, atol=1e-5, rtol=1e-5)


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
    monkeypatch.setattr(extras, "is_installed", lambda package: package in installed)
    assert runtimes_by_speed("cpu", precision) == expected.split()
    assert runtimes_by_speed("cuda:0", precision) == ["torch"]


def test_auto_is_onnx_runtime_where_openvino_is_not(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra export")
    monkeypatch.setattr(extras, "is_installed", lambda package: package.startswith("onnx"))
    converted = runtime_for_checkpoint(checkpoint, imgsz=64)
    assert converted.name == "onnxruntime"
    images = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    expected = TorchRuntime(small_detector())(images).logits[0]
    assert isinstance(converted, ExportedRuntime)
    torch.testing.assert_close(converted(images).logits[0], expected, atol=1e-5, rtol=1e-5)


def test_auto_is_pytorch_where_nothing_faster_is(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    assert isinstance(runtime_for_checkpoint(checkpoint, imgsz=64), TorchRuntime)
    with pytest.raises(ConfigError, match=r'--runtime openvino needs .* pip install "ossa\[openv'):
        runtime_for_checkpoint(checkpoint, imgsz=64, runtime="openvino")


def test_what_a_runtime_cannot_do_is_told(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="openvino runs on the CPU here, found the device 'cuda"):
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
