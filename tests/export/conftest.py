"""Fixtures for the tests of exports; those of a format skip where its packages are absent."""

from pathlib import Path
from typing import Any

import pytest
from small_detector import NAMES, small_detector

from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.graph import ExportDescription, ExportSettings, LogitsGraph, describe
from ossa.models.detector import Detector

REASON = "needs the extras export and openvino"


@pytest.fixture(autouse=True)
def _no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are opened once: a trial takes a second, and has tests of its own."""
    monkeypatch.setattr("ossa.export.select.try_to_open", lambda file, *, runtime: None)


@pytest.fixture(scope="session")
def detector() -> Detector:
    return small_detector()


@pytest.fixture(scope="session")
def description(detector: Detector) -> ExportDescription:
    """Of any batch and any size."""
    about = describe(detector, None, ExportSettings(imgsz=64, batch=None, any_size=True))
    return about.model_copy(update={"names": NAMES, "origin": {"licence": "Apache-2.0"}})


@pytest.fixture(scope="session")
def onnx_model(detector: Detector, description: ExportDescription) -> Any:
    """An `onnx.ModelProto` without its description."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=REASON)
    return onnx_format.convert(LogitsGraph(detector), description)


@pytest.fixture(scope="session")
def onnx_file(onnx_model: Any, description: ExportDescription, folder: Path) -> Path:
    onnx_format.save(onnx_model, folder / "small.onnx", description)
    return folder / "small.onnx"


@pytest.fixture(scope="session")
def openvino_file(detector: Detector, description: ExportDescription, folder: Path) -> Path:
    pytest.importorskip("openvino", reason=REASON)
    (folder / "openvino").mkdir()
    model = openvino_format.convert(LogitsGraph(detector), description)
    openvino_format.save(model, folder / "openvino" / "small.xml", description)
    return folder / "openvino" / "small.xml"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")
