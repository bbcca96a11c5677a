"""From a configuration to a detector: drop path, and levels finer than YOLOv5's."""

from typing import Any, Literal

import pytest
import torch
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from ossa.config import LossConfig, ModelConfig
from ossa.errors import ConfigError
from ossa.models.detector import Detector, build_detector, neck_widths
from ossa.models.loss import DetectionLoss
from ossa.models.predictions import AnchorPredictions
from ossa.types import Batch

FOUR_STRIDES = (4, 8, 16, 32)
FOUR_ANCHORS_WH = tuple(((float(s), float(s)), (2.0 * s, 1.0 * s)) for s in FOUR_STRIDES)


def on_meta(**settings: Any) -> Detector:
    with torch.device("meta"):
        config = ModelConfig.model_validate({"neck": "n", **settings})
        return build_detector(config, num_classes=3, imgsz=64)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def drop_rates(detector: Detector) -> list[float]:
    return [part.drop_prob for part in detector.modules() if isinstance(part, DropPath)]


def test_drop_path_grows_from_block_to_block_up_to_the_rate():
    rates = drop_rates(on_meta(name="test_convnext", drop_path=0.2))
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2)
    assert drop_rates(on_meta(name="test_convnext")) == []


def test_drop_path_stands_over_the_arguments_of_the_backbone():
    given = {"backbone_args": {"drop_path_rate": 0.4}}
    assert max(drop_rates(on_meta(name="test_convnext", **given))) == pytest.approx(0.4)
    rates = drop_rates(on_meta(name="test_convnext", drop_path=0.1, **given))
    assert max(rates) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["cspdarknet_n", "vgg11"])
def test_drop_path_is_refused_where_there_is_nothing_to_drop(name: str):
    with pytest.raises(ConfigError, match=f"{name} has no blocks that drop path could drop"):
        on_meta(name=name, drop_path=0.1)


def test_the_neck_is_half_as_wide_at_stride_4_as_at_8():
    assert neck_widths("l", FOUR_STRIDES) == (128, 256, 512, 1024)
    assert neck_widths("n", FOUR_STRIDES) == (32, 64, 128, 256)
    assert neck_widths("m", (8, 16, 32)) == (192, 384, 768)
    with pytest.raises(ConfigError, match=r"strides \[4, 8, 16, 32\], found \[32, 64\]"):
        neck_widths("n", (32, 64))


@pytest.mark.parametrize(("name", "neck"), [("test_convnext", "n"), ("yolov5n", "own")])
def test_four_levels_learn_from_stride_4_to_32(name: str, neck: Literal["n", "own"]):
    torch.manual_seed(0)
    config = ModelConfig(name=name, neck=neck, strides=FOUR_STRIDES, anchors_wh=FOUR_ANCHORS_WH)
    detector = build_detector(config, num_classes=3, imgsz=64)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    raw = detector(images)
    assert [tuple(x.shape) for x in raw.logits] == [(1, 2, s, s, 8) for s in (16, 8, 4, 2)]
    loss = detector.head.criterion(LossConfig(), imgsz=64)
    batch = Batch(
        images=images,
        boxes_xyxy=torch.tensor([[10.0, 10.0, 14.0, 14.0], [0.0, 0.0, 60.0, 60.0]]),
        labels=torch.tensor([0, 2]),
        image_index=torch.tensor([0, 0]),
        image_ids=(0,),
        letterboxes=(),
    )
    before = loss(raw, batch).total()
    before.backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    torch.optim.SGD(detector.parameters(), lr=1e-5).step()
    assert loss(detector(images), batch).total() < before


def test_the_objectness_of_four_levels_is_weighted_from_fine_to_coarse():
    logits = tuple(torch.zeros(1, 2, 64 // s, 64 // s, 8) for s in FOUR_STRIDES)
    nothing = Batch(
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        boxes_xyxy=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        image_index=torch.zeros(0, dtype=torch.int64),
        image_ids=(0,),
        letterboxes=(),
    )
    loss = DetectionLoss(LossConfig(), num_classes=3, num_levels=4, imgsz=640)
    # A logit of 0 where nothing is costs log 2 a cell; the gains are shared by 4 instead of 3.
    terms = loss(AnchorPredictions(logits, torch.tensor(FOUR_ANCHORS_WH), FOUR_STRIDES), nothing)
    expected = (4.0 + 1.0 + 0.25 + 0.06) * 0.6931 * 3 / 4
    assert terms.objectness.item() == pytest.approx(expected, rel=1e-3)


def test_four_levels_need_anchors():
    with pytest.raises(ConfigError, match=r"found \[4\]: fit anchors .* --fit-anchors"):
        on_meta(name="yolov5n", neck="own", strides=FOUR_STRIDES)


def test_a_preset_grows_by_a_level_at_stride_4_and_the_parts_that_join_it():
    three = on_meta(name="yolov5n", neck="own")
    four = on_meta(
        name="yolov5n", neck="own", strides=FOUR_STRIDES, anchors_wh=(((1.0, 1.0),) * 3,) * 4
    )
    assert four.backbone.state_dict().keys() == three.backbone.state_dict().keys()
    # To 32 channels from 64: a 1x1 and a 3x3 convolution, and two C3 of one bottleneck, from 64
    # to 32 and from 64 to 64; every convolution has two numbers of norm a channel.
    reduce, downsample = 64 * 32 + 2 * 32, 9 * 32 * 32 + 2 * 32
    top_down = 2 * (64 * 16) + 32 * 32 + 10 * 16 * 16 + 2 * (4 * 16 + 32)
    bottom_up = 2 * (64 * 32) + 64 * 64 + 10 * 32 * 32 + 2 * (4 * 32 + 64)
    assert size_of(four.neck) - size_of(three.neck) == reduce + downsample + top_down + bottom_up
    assert size_of(four.head) - size_of(three.head) == (32 + 1) * 3 * (5 + 3)
