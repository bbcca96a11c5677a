"""Exported files of the dense head, with one branch and with the one-to-one branch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detector import NAMES, noise, small_dense_detector

from ossa.config import EvaluateConfig
from ossa.errors import CheckpointError
from ossa.export.backends import NMSRuntime, TorchRuntime, find
from ossa.export.graph import ExportSettings, NMSSettings, describe, read_description
from ossa.export.select import open_exported, write_export
from ossa.models.postprocess import non_max_suppression
from ossa.types import Letterbox

INSIDE = NMSSettings(confidence=0.3, nms_iou=0.5, max_detections=15)


@pytest.mark.parametrize(
    ("suffix", "runtime", "end_to_end"),
    [(".onnx", "onnxruntime", True), (".onnx", "onnxruntime", False), (".xml", "openvino", True)],
)
def test_a_file_of_the_dense_head_detects_what_pytorch_does(
    tmp_path: Path, suffix: str, runtime: Any, end_to_end: bool
):
    for package in (runtime, "onnx", "onnxscript"):
        pytest.importorskip(package, reason="needs the extras export and openvino")
    detector = small_dense_detector(end_to_end=end_to_end)
    settings = ExportSettings(imgsz=64, batch=None, any_size=True, nms=INSIDE)
    about = describe(detector, None, settings).model_copy(update={"names": NAMES})
    file = tmp_path / f"dense{suffix}"
    write_export(detector, about, file)
    run = open_exported(file, runtime=runtime, is_own=True)
    assert isinstance(run, NMSRuntime)
    assert run.description == about
    assert run.description.needs_nms is not end_to_end
    images, placement = noise(3, (32, 96)), Letterbox(1.0, 1.0, 0, 0, 96, 32)
    how: dict[str, Any] = {"wanted": torch.ones(3, dtype=torch.bool)}
    config, places = EvaluateConfig(**INSIDE.model_dump()), [placement] * 3
    found = find(run, images, places, config, **how)
    raw = TorchRuntime(detector)(images)
    assert raw.needs_nms is not end_to_end
    for ours, theirs in zip(found, non_max_suppression(raw, places, config, **how), strict=True):
        assert 5 < len(theirs) <= 15
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_a_description_has_anchors_or_a_dense_head():
    about = describe(small_dense_detector(end_to_end=False), None, ExportSettings(imgsz=64))
    assert about.answers == (1, 4 * 16 + 3)
    text = about.to_json()
    assert read_description(text, path="x.onnx") == about
    assert '"schema_number": 2' in text  # which earlier versions refuse
    anchors = text.replace('"strides"', '"anchors_wh": [[[1, 2]], [[3, 4]]], "strides"')
    with pytest.raises(CheckpointError, match="anchors of a dense head, which has none"):
        read_description(anchors, path="x.onnx")
