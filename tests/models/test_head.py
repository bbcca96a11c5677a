import math
from typing import Any

import pytest
import torch

from ossa.config import ModelConfig
from ossa.errors import ConfigError
from ossa.models.detector import build_detector
from ossa.models.head import AnchorHead, default_anchors_wh
from ossa.types import Level

LEVELS = (Level(8, 16), Level(16, 16), Level(32, 16))


def mean_biases(head: AnchorHead, channels: slice | int) -> list[float]:
    """Returns the mean bias of some channels a level; PyTorch's own part has the mean 0."""
    return [
        convolution.bias.detach().view(3, -1)[:, channels].mean().item()  # type: ignore[union-attr]
        for convolution in head.predict
    ]


def test_the_first_objectness_is_that_of_eight_objects_in_an_image_of_640_px():
    torch.manual_seed(0)
    head = AnchorHead([Level(s, 4096) for s in (8, 16, 32)], num_classes=80)
    # 8 / 80^2, 8 / 40^2 and 8 / 20^2 have the logarithms -6.685, -5.298 and -3.912.
    assert mean_biases(head, 4) == pytest.approx([-6.685, -5.298, -3.912], abs=0.03)
    # log(0.6 / 79.00001) = -4.880.
    assert mean_biases(head, slice(5, None)) == pytest.approx([-4.880] * 3, abs=0.03)
    assert mean_biases(head, slice(0, 4)) == pytest.approx([0] * 3, abs=0.03)


def test_the_offsets_are_added_to_pytorchs_own_initialisation():
    torch.manual_seed(0)
    head = AnchorHead(LEVELS, num_classes=2)
    torch.manual_seed(0)
    plain = [torch.nn.Conv2d(16, 21, kernel_size=1) for _ in LEVELS]
    for ours, theirs, stride in zip(head.predict, plain, (8, 16, 32), strict=True):
        assert torch.equal(ours.weight, theirs.weight)  # type: ignore[arg-type]
        offset = (ours.bias - theirs.bias).view(3, 7)  # type: ignore[operator]
        expected = [0, 0, 0, 0, math.log(8 * stride**2 / 640**2), *[math.log(0.6 / 1.00001)] * 2]
        assert torch.allclose(offset, torch.tensor(expected), atol=1e-5)


def test_one_class_starts_as_certain():
    # log(0.6 / 0.00001) = 11.0: with one class every object is of it.
    torch.manual_seed(0)
    head = AnchorHead([Level(s, 4096) for s in (8, 16, 32)], num_classes=1)
    assert mean_biases(head, 5) == pytest.approx([11.0] * 3, abs=0.05)


def test_the_anchors_are_yolov5s():
    assert default_anchors_wh((8, 16, 32)).tolist() == [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]


def test_a_stride_without_anchors_is_refused():
    with pytest.raises(ConfigError, match=r"strides \[8, 16, 32\], found \[4, 64\]"):
        default_anchors_wh((4, 8, 64))


def test_given_anchors_decide_their_number_and_travel_with_the_weights():
    anchors_wh = torch.tensor([[[4.0, 4.0], [8.0, 8.0]]] * 3)
    head = AnchorHead(LEVELS, num_classes=5, anchors_wh=anchors_wh)
    raw = head([torch.zeros(1, 16, 8 // 2**i, 4 // 2**i) for i in range(3)])
    assert [tuple(x.shape) for x in raw.logits] == [
        (1, 2, 8, 4, 10),
        (1, 2, 4, 2, 10),
        (1, 2, 2, 1, 10),
    ]
    assert torch.equal(head.state_dict()["anchors_wh"], anchors_wh)


@pytest.mark.parametrize(
    ("anchors_wh", "complaint"),
    [
        ([[[4, 4]], [[8, 8]]], r"strides \[8, 16, 32\], found \[1, 1\] for 2 levels"),
        ([[[4, 4]], [[8, 8]], [[9, 9], [9, 8]]], r"found \[1, 1, 2\]"),
        ([[], [], []], r"found \[0, 0, 0\]"),
        ([[[4, 4]], [[8, 8]], [[9, 0]]], "above 0 pixels"),
    ],
)
def test_anchors_that_do_not_fit_the_levels_are_refused(anchors_wh: Any, complaint: str):
    config = ModelConfig(name="yolov5n", neck="own", anchors_wh=anchors_wh)
    with pytest.raises(ConfigError, match=complaint):
        build_detector(config, num_classes=2, imgsz=64)


def test_the_anchors_of_the_configuration_reach_the_head():
    anchors_wh = (((4.0, 5.0),), ((8.0, 9.0),), ((16.0, 17.0),))
    config = ModelConfig(name="yolov5n", neck="own", anchors_wh=anchors_wh)
    detector = build_detector(config, num_classes=2, imgsz=64)
    assert detector.head.get_buffer("anchors_wh").tolist() == [[[4, 5]], [[8, 9]], [[16, 17]]]
