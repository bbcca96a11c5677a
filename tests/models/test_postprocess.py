import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from yolov5_oracle import Box, decoded_box, iou, sigmoid

from ossa.config import EvaluateConfig
from ossa.data.dataset import LetterboxedDataset
from ossa.data.loader import evaluation_loader
from ossa.data.reading import read_data
from ossa.errors import CheckpointError
from ossa.models import postprocess
from ossa.models.checkpoint import detector_from, read_checkpoint
from ossa.models.head import default_anchors_wh
from ossa.models.postprocess import check_not_nan, find_candidates, non_max_suppression, run_nms
from ossa.models.predictions import AnchorPredictions
from ossa.types import Detections, Letterbox

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "postprocess.py"

STRIDES = (8, 16, 32)
PLACEMENT = Letterbox(scale_x=0.5, scale_y=0.4, pad_left=4, pad_top=10, width=100, height=90)
SAME = Letterbox(scale_x=1.0, scale_y=1.0, pad_left=0, pad_top=0, width=640, height=640)


def random_predictions(
    seed: int,
    *,
    images: int = 2,
    classes: int = 3,
    size_hw: tuple[int, int] = (64, 32),
    spread: float = 1.5,
) -> AnchorPredictions:
    """Returns logits of an input of `size_hw` pixels, by default maps of 8x4, 4x2 and 2x1 cells."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size_hw
    logits = tuple(
        spread * torch.randn(images, 3, height // s, width // s, 5 + classes, generator=generator)
        for s in STRIDES
    )
    return AnchorPredictions(logits, default_anchors_wh(STRIDES), STRIDES)


def with_logits(
    raw: AnchorPredictions, change: Callable[[torch.Tensor], torch.Tensor]
) -> AnchorPredictions:
    """Returns the predictions with every level's logits changed."""
    return raw._replace(logits=tuple(change(level) for level in raw.logits))


@pytest.fixture(scope="module")
def plain_detect() -> Callable[..., list[Detections]]:
    """Thresholds, sort and torchvision's batched suppression of every candidate."""
    return _benchmark().plain_detect


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postprocess_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def assert_same(found: list[Detections], expected: list[Detections], *, rtol: float = 0) -> None:
    """Boxes, labels and order to the last bit; scores within `rtol`."""
    assert [len(detections) for detections in found] == [len(others) for others in expected]
    for detections, others in zip(found, expected, strict=True):
        np.testing.assert_array_equal(detections.labels, others.labels)
        np.testing.assert_array_equal(detections.boxes_xyxy, others.boxes_xyxy)
        np.testing.assert_allclose(detections.scores, others.scores, rtol=rtol)


def slow_detections(
    raw: AnchorPredictions, image: int, placement: Letterbox, config: EvaluateConfig
) -> list[tuple[float, int, Box]]:
    """Returns (score, label, box in pixels of the image), best first."""
    found: list[tuple[float, int, Box]] = []
    for logits, anchors, stride in zip(raw.logits, raw.anchors_wh.tolist(), STRIDES, strict=True):
        for anchor, of_anchor in zip(anchors, logits[image].tolist(), strict=True):
            for row, of_row in enumerate(of_anchor):
                for column, answer in enumerate(of_row):
                    objectness = sigmoid(answer[4])
                    if objectness <= config.confidence:
                        continue
                    box = decoded_box(answer, anchor, row=row, column=column, stride=stride)
                    for label, logit in enumerate(answer[5:]):
                        if objectness * sigmoid(logit) > config.confidence:
                            found.append((objectness * sigmoid(logit), label, box))
    found = sorted(found, reverse=True)[: config.max_candidates]
    kept: list[tuple[float, int, Box]] = []
    for candidate in found:
        rivals = [box for _, label, box in kept if label == candidate[1]]
        if all(iou(box, candidate[2]) <= config.nms_iou for box in rivals):
            kept.append(candidate)
    return [(s, k, _home(box, placement)) for s, k, box in kept[: config.max_detections]]


def _home(box: Box, placement: Letterbox) -> Box:
    def back(value: float, pad: int, scale: float, limit: int) -> float:
        return min(max((value - pad) / scale, 0.0), float(limit))

    p = placement
    x0, x1 = (back(x, p.pad_left, p.scale_x, p.width) for x in box[::2])
    y0, y1 = (back(y, p.pad_top, p.scale_y, p.height) for y in box[1::2])
    return x0, y0, x1, y1


@pytest.mark.parametrize(
    "config",
    [
        EvaluateConfig(),
        EvaluateConfig(confidence=0.25, nms_iou=0.45),
        EvaluateConfig(nms_iou=0.3, max_detections=7),
        EvaluateConfig(nms_iou=1.0, max_candidates=50),
    ],
    ids=["defaults", "confident", "at most 7", "the best 50 candidates"],
)
def test_detections_are_those_of_a_plain_loop(config: EvaluateConfig):
    raw = random_predictions(5)
    both = non_max_suppression(raw, [PLACEMENT, SAME], config)
    for image, (found, placement) in enumerate(zip(both, (PLACEMENT, SAME), strict=True)):
        expected = slow_detections(raw, image, placement, config)
        assert found.labels.tolist() == [label for _, label, _ in expected]
        np.testing.assert_allclose(found.scores, [s for s, _, _ in expected], rtol=1e-5)
        boxes = np.array([box for _, _, box in expected])
        np.testing.assert_allclose(found.boxes_xyxy, boxes, rtol=1e-4, atol=1e-3)
        assert len(found) > 5


def certain_predictions(*cells: tuple[int, int, tuple[float, ...]]) -> AnchorPredictions:
    """Returns logits that say no but in some cells (row, column) of the middle anchor, stride 8."""
    raw = random_predictions(0, images=1)
    logits = tuple(torch.full_like(x, -20.0) for x in raw.logits)
    for row, column, answer in cells:
        logits[0][0, 1, row, column] = torch.tensor(answer)
    return raw._replace(logits=logits)


def test_a_logit_of_zero_is_a_box_of_the_anchors_size_in_the_middle_of_its_cell():
    # Cell (row 2, column 3) of stride 8 has its middle at (28, 20); the anchor is 16 x 30.
    raw = certain_predictions((2, 3, (0, 0, 0, 0, 20, 20, -20, -20)))
    (found,) = non_max_suppression(raw, [SAME], EvaluateConfig())
    assert found.boxes_xyxy.tolist() == [[20, 5, 36, 35]]
    assert found.labels.tolist() == [0]


def test_a_box_counts_once_for_every_class_above_the_confidence():
    raw = certain_predictions((2, 3, (0, 0, 0, 0, 20, 1, 0, -1)))
    (found,) = non_max_suppression(raw, [SAME], EvaluateConfig(confidence=0.4))
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.7311, 0.5], abs=1e-4)


def test_the_same_box_of_another_class_is_not_suppressed():
    one, two = (0, 0, 0, 0, 20, 20, -20, -20), (0, 0, 0, 0, 20, -20, 20, -20)
    # Neighbouring cells: the boxes of 16 x 30 lie 8 px apart, IoU 1/3.
    same = non_max_suppression(
        certain_predictions((2, 2, one), (2, 3, one)), [SAME], EvaluateConfig(nms_iou=0.3)
    )
    other = non_max_suppression(
        certain_predictions((2, 2, one), (2, 3, two)), [SAME], EvaluateConfig(nms_iou=0.3)
    )
    assert (len(same[0]), len(other[0])) == (1, 2)


def test_boxes_go_home_and_are_clipped_to_the_image():
    raw = certain_predictions((2, 3, (0, 0, 0, 0, 20, 20, -20, -20)))
    (found,) = non_max_suppression(raw, [PLACEMENT], EvaluateConfig())
    # x: (20 - 4) / 0.5, (36 - 4) / 0.5; y: (5 - 10) / 0.4 is above the image, (35 - 10) / 0.4.
    assert found.boxes_xyxy.tolist() == [[32, 0, 64, 62.5]]


def test_an_image_in_which_nothing_is_found_has_empty_detections():
    raw = certain_predictions()
    (found,) = non_max_suppression(raw, [SAME], EvaluateConfig())
    assert isinstance(found, Detections)
    assert found.boxes_xyxy.shape == (0, 4)
    assert (found.scores.dtype, found.labels.dtype) == (np.float32, np.int64)


def test_predictions_that_are_no_numbers_are_no_detections():
    raw = random_predictions(1, images=1)
    nan = raw._replace(logits=tuple(x * float("nan") for x in raw.logits))
    (found,) = non_max_suppression(nan, [SAME], EvaluateConfig())
    assert len(found) == 0


def test_one_class_that_is_no_number_is_an_error_where_numbers_are_expected():
    raw = random_predictions(1, images=1)
    check_not_nan(raw)
    raw.logits[1][0, 0, 0, 0, -1] = float("nan")
    with pytest.raises(CheckpointError, match="expected numbers from the network, found NaN"):
        check_not_nan(raw)


# 25 x 15, 12 x 7 and 6 x 3 cells with 3 boxes each: 1,431 boxes of an image.
MANY: dict[str, Any] = {"size_hw": (200, 120), "images": 2}


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ({**MANY, "classes": 80}, EvaluateConfig()),
        ({**MANY, "classes": 80}, EvaluateConfig(confidence=0.0, max_detections=5_000)),
        ({**MANY, "classes": 1}, EvaluateConfig(nms_iou=0.45)),
        ({**MANY, "classes": 300, "spread": 3.0}, EvaluateConfig(confidence=0.05)),
        ({**MANY, "classes": 3, "spread": 5.0}, EvaluateConfig(nms_iou=0.2, max_detections=7)),
        ({**MANY, "classes": 80}, EvaluateConfig(max_candidates=3_000, max_detections=3_000)),
    ],
    ids=[
        "more than 30,000 candidates",
        "everything",
        "one class",
        "300 classes",
        "the best 7",
        "at most 3,000 candidates",
    ],
)
def test_detections_are_those_of_the_plain_method(
    plain_detect: Callable[..., list[Detections]], shape: dict[str, Any], config: EvaluateConfig
):
    raw = random_predictions(3, **shape)
    found = non_max_suppression(raw, [PLACEMENT, SAME], config)
    expected = plain_detect(raw, [PLACEMENT, SAME], config, scores_in=torch.float64)
    assert_same(found, expected)
    assert min(len(detections) for detections in found) >= 7


def test_equal_scores_are_told_apart_as_by_the_plain_method(
    plain_detect: Callable[..., list[Detections]],
):
    # Logits of -2, 0 and 2 only: the best 8,000 have two scores.
    raw = with_logits(
        random_predictions(4, **MANY, classes=20), lambda level: level.sign() * 2 * (abs(level) > 1)
    )
    config = EvaluateConfig(max_detections=8_000)
    found = non_max_suppression(raw, [SAME, SAME], config)
    assert_same(found, plain_detect(raw, [SAME, SAME], config, scores_in=torch.float64))
    assert [len(np.unique(detections.scores)) for detections in found] == [2, 2]
    assert min(len(detections) for detections in found) > 1_000


def test_of_equal_scores_the_finer_level_the_upper_row_and_the_left_column_come_first():
    raw = certain_predictions()
    answer = torch.tensor([0, 0, 0, 0, 2, 1, 1, -20.0])
    raw.logits[1][0, 0, 0, 0] = answer
    for anchor, row, column in ((2, 6, 1), (1, 6, 3), (2, 1, 3), (0, 1, 3)):
        raw.logits[0][0, anchor, row, column] = answer
    (found,) = non_max_suppression(
        raw, [SAME._replace(pad_left=-100, pad_top=-100)], EvaluateConfig()
    )
    middles = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2 - 100
    # In cells of 8 px (row 1, column 3) twice, (6, 1) and (6, 3); in the first of 16 px.
    assert middles[::2].tolist() == [[28, 12], [28, 12], [12, 52], [28, 52], [8, 8]]
    assert np.diff(found.boxes_xyxy[:, ::2])[:4, 0].tolist() == [10, 10, 33, 33]
    assert found.labels.tolist() == [0, 1] * 5
    assert len(np.unique(found.scores)) == 1


@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_the_size_of_a_chunk_decides_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch):
    raw = random_predictions(5)
    config = EvaluateConfig(nms_iou=0.3)
    expected = non_max_suppression(raw, [PLACEMENT, SAME], config)
    monkeypatch.setattr(postprocess, "_MIN_CHUNK", chunk)
    monkeypatch.setattr(postprocess, "_CHUNK_PER_DETECTION", 0)
    assert_same(non_max_suppression(raw, [PLACEMENT, SAME], config), expected)
    assert len(expected[0]) > 50


def test_candidates_of_a_low_confidence_hold_the_detections_of_every_higher_one():
    raw = random_predictions(8, images=1)
    (all_of_them,) = find_candidates(raw, 0.01)
    for confidence, nms_iou in ((0.05, 0.3), (0.2, 0.6), (0.4, 1.0)):
        config = EvaluateConfig(confidence=confidence, nms_iou=nms_iou)
        (expected,) = non_max_suppression(raw, [PLACEMENT], config)
        above = all_of_them.take(all_of_them.scores > np.float32(confidence))
        again = run_nms(above, PLACEMENT, config)
        assert 0 < len(expected) < len(all_of_them.scores)
        np.testing.assert_array_equal(again.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(again.scores, expected.scores)
        np.testing.assert_array_equal(again.labels, expected.labels)


def test_an_image_has_the_same_detections_alone_and_in_any_memory_format():
    raw = random_predictions(6, **MANY, classes=70)
    together = non_max_suppression(raw, [PLACEMENT, SAME], EvaluateConfig())
    alone = non_max_suppression(with_logits(raw, lambda level: level[1:]), [SAME], EvaluateConfig())
    assert_same(alone, together[1:])
    channels_last = with_logits(
        raw, lambda level: level.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4)
    )
    assert channels_last.logits[0].stride() != raw.logits[0].stride()
    assert_same(non_max_suppression(channels_last, [PLACEMENT, SAME], EvaluateConfig()), together)


def test_logits_of_half_precision_are_taken_for_what_they_are():
    rounded = with_logits(random_predictions(7), lambda level: level.bfloat16())
    widened = with_logits(rounded, lambda level: level.float())
    found = non_max_suppression(rounded, [PLACEMENT, SAME], EvaluateConfig())
    assert_same(found, non_max_suppression(widened, [PLACEMENT, SAME], EvaluateConfig()))


def test_the_predictions_stay_as_they_are():
    raw = random_predictions(8)
    before = [level.clone() for level in raw.logits]
    non_max_suppression(raw, [PLACEMENT, SAME], EvaluateConfig())
    assert all(torch.equal(a, b) for a, b in zip(raw.logits, before, strict=True))


@pytest.mark.parametrize("label", [0, 79])
def test_the_number_of_a_class_does_not_decide_what_its_boxes_suppress(label: int):
    # Boxes of 16 x 30, 4.0005 px apart: IoU 11.9995 / 20.0005 = 0.59996. Moved apart by 79 times
    # the image, as torchvision's batched suppression does, they would be 4 px apart: 0.6 in float32
    # is above 0.6.
    raw = random_predictions(0, images=1, classes=80)
    raw = with_logits(raw, lambda level: torch.full_like(level, -20.0))
    for column, fraction in ((2, 0.625), (3, 0.375 + 0.0005 / 16)):
        raw.logits[0][0, 1, 2, column, :4] = 0
        raw.logits[0][0, 1, 2, column, 0] = float(np.log(fraction / (1 - fraction)))
        raw.logits[0][0, 1, 2, column, [4, 5 + label]] = 20.0
    (found,) = non_max_suppression(raw, [SAME], EvaluateConfig(nms_iou=0.6))
    assert np.ptp(found.boxes_xyxy[:, 0]) == pytest.approx(4.0005, abs=1e-5)
    assert len(found) == 2


@pytest.mark.realdata
def test_the_detections_of_photographs_are_those_of_the_plain_method(
    shared: Path, plain_detect: Callable[..., list[Detections]]
):
    detector = detector_from(read_checkpoint(shared / "weights" / "yolov5n.pt")).eval()
    index = read_data(shared / "data" / "coco128", "train").index
    batch = next(iter(evaluation_loader(LetterboxedDataset(index, imgsz=640), batch=8, workers=0)))
    with torch.no_grad():
        raw = detector(batch.images)
    found = non_max_suppression(raw, batch.letterboxes, EvaluateConfig())
    assert_same(found, plain_detect(raw, batch.letterboxes, EvaluateConfig()), rtol=3e-7)
    assert max(len(detections) for detections in found) == 300
