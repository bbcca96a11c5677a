import numpy as np
import pytest
import torch
from yolov5_oracle import Box, decoded_box, iou, sigmoid

from ossa.config import EvaluateConfig
from ossa.models.head import default_anchors_wh
from ossa.models.postprocess import detect
from ossa.types import Detections, Letterbox, RawPredictions

STRIDES = (8, 16, 32)
PLACEMENT = Letterbox(scale_x=0.5, scale_y=0.4, pad_left=4, pad_top=10, width=100, height=90)
SAME = Letterbox(scale_x=1.0, scale_y=1.0, pad_left=0, pad_top=0, width=640, height=640)


def random_predictions(seed: int, *, images: int = 2, classes: int = 3) -> RawPredictions:
    """Returns logits of maps of 8x4, 4x2 and 2x1 cells."""
    generator = torch.Generator().manual_seed(seed)
    logits = tuple(
        1.5 * torch.randn(images, 3, 64 // s, 32 // s, 5 + classes, generator=generator)
        for s in STRIDES
    )
    return RawPredictions(logits, default_anchors_wh(STRIDES), STRIDES)


def slow_detections(
    raw: RawPredictions, image: int, placement: Letterbox, config: EvaluateConfig
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
    both = detect(raw, [PLACEMENT, SAME], config)
    for image, (found, placement) in enumerate(zip(both, (PLACEMENT, SAME), strict=True)):
        expected = slow_detections(raw, image, placement, config)
        assert found.labels.tolist() == [label for _, label, _ in expected]
        np.testing.assert_allclose(found.scores, [s for s, _, _ in expected], rtol=1e-5)
        boxes = np.array([box for _, _, box in expected])
        np.testing.assert_allclose(found.boxes_xyxy, boxes, rtol=1e-4, atol=1e-3)
        assert len(found) > 5


def test_every_setting_of_these_loops_does_something():
    raw = random_predictions(5)
    unlimited = EvaluateConfig(nms_iou=1.0, max_detections=10_000)
    changes = (
        {"nms_iou": 0.6},
        {"confidence": 0.25},
        {"max_detections": 7},
        {"max_candidates": 50},
    )
    counts = [
        len(detect(raw, [SAME, SAME], unlimited.model_copy(update=change))[0]) for change in changes
    ]
    # 42 cells x 3 anchors x 3 classes.
    assert len(detect(raw, [SAME, SAME], unlimited)[0]) == 378
    assert counts[0] < 378
    assert counts[1] < 378
    assert counts[2:] == [7, 50]


def certain_predictions(*cells: tuple[int, int, tuple[float, ...]]) -> RawPredictions:
    """Returns logits that say no but in some cells (row, column) of the middle anchor, stride 8."""
    raw = random_predictions(0, images=1)
    logits = tuple(torch.full_like(x, -20.0) for x in raw.logits)
    for row, column, answer in cells:
        logits[0][0, 1, row, column] = torch.tensor(answer)
    return raw._replace(logits=logits)


def test_a_logit_of_zero_is_a_box_of_the_anchors_size_in_the_middle_of_its_cell():
    # Cell (row 2, column 3) of stride 8 has its middle at (28, 20); the anchor is 16 x 30.
    raw = certain_predictions((2, 3, (0, 0, 0, 0, 20, 20, -20, -20)))
    (found,) = detect(raw, [SAME], EvaluateConfig())
    assert found.boxes_xyxy.tolist() == [[20, 5, 36, 35]]
    assert found.labels.tolist() == [0]


def test_a_box_counts_once_for_every_class_above_the_confidence():
    raw = certain_predictions((2, 3, (0, 0, 0, 0, 20, 1, 0, -1)))
    (found,) = detect(raw, [SAME], EvaluateConfig(confidence=0.4))
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.7311, 0.5], abs=1e-4)


def test_the_same_box_of_another_class_is_not_suppressed():
    one, two = (0, 0, 0, 0, 20, 20, -20, -20), (0, 0, 0, 0, 20, -20, 20, -20)
    # Neighbouring cells: the boxes of 16 x 30 lie 8 px apart, IoU 1/3.
    same = detect(
        certain_predictions((2, 2, one), (2, 3, one)), [SAME], EvaluateConfig(nms_iou=0.3)
    )
    other = detect(
        certain_predictions((2, 2, one), (2, 3, two)), [SAME], EvaluateConfig(nms_iou=0.3)
    )
    assert (len(same[0]), len(other[0])) == (1, 2)


def test_boxes_go_home_and_are_clipped_to_the_image():
    raw = certain_predictions((2, 3, (0, 0, 0, 0, 20, 20, -20, -20)))
    (found,) = detect(raw, [PLACEMENT], EvaluateConfig())
    # x: (20 - 4) / 0.5, (36 - 4) / 0.5; y: (5 - 10) / 0.4 is above the image, (35 - 10) / 0.4.
    assert found.boxes_xyxy.tolist() == [[32, 0, 64, 62.5]]


def test_an_image_in_which_nothing_is_found_has_empty_detections():
    raw = certain_predictions()
    (found,) = detect(raw, [SAME], EvaluateConfig())
    assert isinstance(found, Detections)
    assert found.boxes_xyxy.shape == (0, 4)
    assert (found.scores.dtype, found.labels.dtype) == (np.float32, np.int64)


def test_predictions_that_are_no_numbers_are_no_detections():
    raw = random_predictions(1, images=1)
    nan = raw._replace(logits=tuple(x * float("nan") for x in raw.logits))
    (found,) = detect(nan, [SAME], EvaluateConfig())
    assert len(found) == 0
