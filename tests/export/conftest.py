"""Fixtures for the tests of exports; those of a format skip where its packages are absent."""

from pathlib import Path

import pytest
from small_detector import NAMES, small_detector

from ossa.export import onnx as onnx_format
from ossa.export import openvino as openvino_format
from ossa.export.graph import ExportDescription, LogitsGraph, describe, is_installed
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
    return describe(
        detector,
        names=NAMES,
        imgsz=64,
        batch=None,
        any_size=True,
        precision="fp32",
        origin={"licence": "Apache-2.0"},
    )


@pytest.fixture(scope="session")
def onnx_model(detector: Detector, description: ExportDescription) -> object:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not is_installed(package):
            pytest.skip(f"{package} is not installed: {REASON}")
    return onnx_format.convert(LogitsGraph(detector), description)


@pytest.fixture(scope="session")
def onnx_file(onnx_model: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "small.onnx"
    onnx_format.save(onnx_model, file, precision="fp32")
    return file


@pytest.fixture(scope="session")
def openvino_file(
    detector: Detector, description: ExportDescription, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if not is_installed("openvino"):
        pytest.skip(f"openvino is not installed: {REASON}")
    file = tmp_path_factory.mktemp("openvino") / "small.xml"
    model = openvino_format.convert(LogitsGraph(detector), description)
    openvino_format.save(model, file, precision="fp32")
    return file
