"""The official YOLOv5n on coco128 through every format: the price of each."""

from pathlib import Path

import numpy as np
import pytest

from ossa.data.annotations import select_images
from ossa.data.reading import read_data
from ossa.export.export import SUFFIXES, ExportSettings, export_detector
from ossa.export.graph import Format, NMSSettings, Precision, is_installed, openvino_core
from ossa.export.parity import some_images
from ossa.models.checkpoint import read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.realdata]
IMAGES = 24
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def _processor_has_bf16() -> bool:
    core = openvino_core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize(
    ("format", "precision", "nms"),
    [
        ("onnx", "fp32", False),
        ("onnx", "fp32", True),
        ("onnx", "fp16", False),
        ("onnx", "int8", False),
        ("openvino", "fp32", False),
        ("openvino", "fp16", False),
        ("openvino", "bf16", False),
        ("openvino", "int8", True),
    ],
)
def test_the_export_is_good(
    shared: Path, tmp_path: Path, format: Format, precision: Precision, nms: bool
) -> None:
    packages = [*NEEDED.get(format, ()), *(("nncf",) if precision == "int8" else ())]
    absent = [package for package in packages if not is_installed(package)]
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: the extras export and openvino")
    if precision == "bf16" and not _processor_has_bf16():
        pytest.skip("needs a processor with bf16 arithmetic")
    everything = read_data(shared / "data" / "coco128").index
    index = some_images(everything, IMAGES)
    others = select_images(everything, ~np.isin(everything.image_ids, index.image_ids))
    done = export_detector(
        read_checkpoint(shared / "weights" / "yolov5n.pt"),
        tmp_path / f"n{SUFFIXES[format]}",
        ExportSettings(
            format,
            precision,
            nms=NMSSettings() if nms else None,
            max_ap_drop=0.03,
            min_agreement=0.85,
        ),
        images=index,
        calibration=others if precision == "int8" else None,
    )
    assert done.fault is None
    assert done.parity.ap_before > 0.2
    if precision == "fp32":
        assert done.parity.largest_score_difference < 1e-4
        assert done.parity.largest_box_difference_px < 0.01
        assert done.parity.unmatched == 0
    else:
        assert 0 < done.parity.largest_score_difference < 0.6
