"""What a first batch tells of a detector, and where a bad one went wrong."""

from typing import Any

import pytest
import torch
from test_step import batch_of, losses_of
from torch import Tensor

from ossa.config import LossConfig
from ossa.models.detector import Detector, create_detector
from ossa.train.diagnostics import LevelHealth, first_bad_layer, reporting_levels


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return create_detector("yolov5n", num_classes=2, imgsz=64).train()


def levels_of(detector: Detector) -> list[LevelHealth]:
    batch, levels = batch_of(2), list[LevelHealth]()
    loss = detector.head.criterion(LossConfig(), imgsz=64)
    with reporting_levels(detector, batch, loss=loss, report=levels.append):
        (2 * losses_of(detector, batch).total()).backward()
    return levels


def test_every_level_has_its_scale_its_gradient_and_its_positives(detector: Detector):
    levels = levels_of(detector)
    assert [level.stride for level in levels] == [8, 16, 32]
    assert all(level.feature_scale > 0 and level.gradient_norm for level in levels)
    assert not any(level.dead for level in levels)
    # A box of 32 x 32 px: of the finest anchors (10,13), (16,30) and (33,23) all fit it, ratio 4;
    # its centre, (24, 24) px, is a corner of cells of stride 8, where no neighbour is nearer
    # than the two to the upper left.
    assert levels[0].positives == 2 * 3 * 3
    assert "stride 8: features 0." in str(levels[0])


def test_a_level_behind_dead_weights_is_dead(detector: Detector):
    with torch.no_grad():
        for parameter in detector.get_submodule("backbone.context").parameters():
            parameter.zero_()
    assert [level.dead for level in levels_of(detector)] == [False, False, True]


def test_a_frozen_backbone_has_no_gradient_and_is_not_dead(detector: Detector):
    detector.get_submodule("backbone").requires_grad_(False)
    levels = levels_of(detector)
    assert [level.gradient_norm for level in levels] == [None] * 3
    assert not any(level.dead for level in levels)
    assert "gradient frozen" in str(levels[0])


def test_the_layer_whose_activations_went_bad_first_is_named(detector: Detector):
    convolutions = [n for n, m in detector.named_modules() if isinstance(m, torch.nn.Conv2d)]
    name = convolutions[7]
    with torch.no_grad():
        detector.get_parameter(f"{name}.weight")[0] = float("inf")
    told = first_bad_layer(detector, lambda: losses_of(detector, batch_of(2)).total())
    assert told == f"the activations of {name} went bad first"


class _BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("nan")


def test_the_parameter_whose_gradient_went_bad_first_is_named(detector: Detector):
    convolutions = [n for n, m in detector.named_modules() if isinstance(m, torch.nn.Conv2d)]
    name = convolutions[2]
    detector.get_submodule(name).register_forward_hook(lambda *call: _BadBackward.apply(call[-1]))
    told = first_bad_layer(detector, lambda: losses_of(detector, batch_of(2)).total())
    assert told == f"the gradient of {name}.weight went bad first"
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_a_batch_that_is_good_the_second_time_is_called_so(detector: Detector):
    told = first_bad_layer(detector, lambda: losses_of(detector, batch_of(2)).total())
    assert told == "done again, the batch gives finite losses and gradients"
