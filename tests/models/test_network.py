"""YOLOv5 v6/v7 as a whole: its size, its cost, and its official weights."""

from pathlib import Path

import pytest
import torch

from ossa.config import EvaluateConfig
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.evaluate.evaluator import evaluate
from ossa.models.checkpoint import detector_from, read_checkpoint
from ossa.models.complexity import count_cost
from ossa.models.detector import create_detector

SIZES = [
    ("yolov5n", 1_872_157, 4.468),
    ("yolov5s", 7_235_389, 16.434),
    *(
        pytest.param(*size, marks=pytest.mark.slow)
        for size in [
            ("yolov5m", 21_190_557, 48.872),
            ("yolov5l", 46_563_709, 108.994),
            ("yolov5x", 86_749_405, 205.448),
        ]
    ),
]


@pytest.mark.parametrize(("name", "params", "gflops"), SIZES)
def test_parameters_and_flops_at_640_px_are_those_of_yolov5(name: str, params: int, gflops: float):
    with torch.device("meta"):
        detector = create_detector(name, num_classes=80)
    cost = count_cost(detector, 640)
    assert cost.total.params == params
    assert round(cost.total.flops / 1e9, 3) == gflops
    assert cost.total.macs * 2 == cost.total.flops


def test_the_parts_add_up_and_a_preset_has_no_laterals():
    with torch.device("meta"):
        preset = count_cost(create_detector("yolov5n", num_classes=80), 64)
        studied = count_cost(create_detector("cspdarknet_n", num_classes=80, neck="s"), 64)
    row = studied.flat()
    parts = ("backbone", "lateral", "neck", "head")
    assert row["params"] == sum(row[f"params_{part}"] for part in parts)
    assert row["flops"] == sum(row[f"flops_{part}"] for part in parts)
    assert preset.parts["lateral"].params == preset.parts["lateral"].flops == 0
    # Weights and norms of three 1x1 convolutions: 64 to 128, 128 to 256, 256 to 512 channels.
    weights = 64 * 128 + 128 * 256 + 256 * 512
    assert studied.parts["lateral"].params == weights + 2 * (128 + 256 + 512)
    # Maps of 8x8, 4x4 and 2x2 cells.
    macs = 64 * 128 * 64 + 128 * 256 * 16 + 256 * 512 * 4
    assert studied.parts["lateral"].macs == macs


def test_counting_leaves_the_detector_as_it_was():
    detector = create_detector("yolov5n", num_classes=3).train()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    count_cost(detector, 64)
    assert detector.training
    after = detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_predictions_are_anchor_major_with_the_channels_last():
    detector = create_detector("yolov5n", num_classes=3).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        raw = detector(images)
        fused = detector.neck(detector.backbone(images))
        channels = detector.head.get_submodule("predict.1")(fused[1])
    assert [tuple(x.shape) for x in raw.logits] == [
        (2, 3, 8, 12, 8),
        (2, 3, 4, 6, 8),
        (2, 3, 2, 3, 8),
    ]
    assert raw.strides == (8, 16, 32)
    # Output channel 2 x 8 + 4 is the objectness of the third anchor.
    assert torch.equal(raw.logits[1][:, 2, :, :, 4], channels[:, 20])


@pytest.mark.realdata
def test_every_tensor_of_the_official_file_is_used(shared: Path):
    checkpoint = read_checkpoint(shared / "weights" / "yolov5n.pt")
    detector = detector_from(checkpoint)
    own = detector.state_dict()
    assert set(own) == set(checkpoint.tensors)
    assert all(torch.equal(own[key], tensor) for key, tensor in checkpoint.tensors.items())
    assert checkpoint.names[:2] == ("person", "bicycle")
    assert checkpoint.model.name == "yolov5n"
    assert detector.head.get_buffer("anchors_wh")[0].tolist() == [[10, 13], [16, 30], [33, 23]]


@pytest.mark.realdata
def test_the_official_weights_reach_their_ap_on_coco128(shared: Path):
    detector = detector_from(read_checkpoint(shared / "weights" / "yolov5n.pt"))
    index = read_index(read_description(shared / "data" / "coco128"), "train").index
    row = evaluate(detector, index, imgsz=640, config=EvaluateConfig()).metrics.flat()
    expected = {
        "ap": 0.356,
        "ap50": 0.551,
        "ap75": 0.358,
        "ap_small": 0.167,
        "ap_medium": 0.374,
        "ap_large": 0.512,
    }
    assert {key: row[key] for key in expected} == pytest.approx(expected, abs=0.003)
