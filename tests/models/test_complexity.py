"""What a forward needs, in networks small enough for a pencil."""

import torch
from torch import Tensor, nn

from ossa.models.complexity import (
    CONVOLUTIONS_AND_LINEAR,
    UncountedOperation,
    count_cost,
    measure_on_meta,
)
from ossa.models.detector import Detector, create_backbone
from ossa.models.head import AnchorHead
from ossa.types import Level


def two_convolutions(*, inplace: bool) -> nn.Sequential:
    """One channel to two and back: 2 + 2 weights of 4 bytes."""
    with torch.device("meta"):
        return nn.Sequential(
            nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=inplace), nn.Conv2d(2, 1, 1, bias=False)
        ).eval()


def image() -> Tensor:
    """16 numbers, 64 bytes."""
    return torch.empty(1, 1, 4, 4, device="meta")


def test_memory_is_what_lives_at_the_worst_moment() -> None:
    cost = measure_on_meta(two_convolutions(inplace=False), image())
    # At the ReLU: weights 16, image 64, its input 128 and its output 128. At the second
    # convolution the ReLU's input is gone: 16 + 64 + 128 + 64 is less.
    assert cost.total.peak_bytes == 16 + 64 + 128 + 128


def test_what_is_done_in_place_takes_no_memory() -> None:
    cost = measure_on_meta(two_convolutions(inplace=True), image())
    assert cost.total.peak_bytes == 16 + 64 + 128 + 64
    assert cost.uncounted == (UncountedOperation("relu", calls=1, elements=32),)


def test_each_part_has_its_own_activations_and_peak() -> None:
    network = two_convolutions(inplace=False)
    parts = {"first": [network[0]], "whole": [network]}
    cost = measure_on_meta(network, image(), parts=parts)
    # The innermost part counts.
    first, whole = cost.parts["first"], cost.parts["whole"]
    # Multiply-adds are as many as outputs of the first, with one input channel, and twice as many
    # of the second.
    assert (first.params, first.flops, first.activations) == (2, 2 * 32, 32)
    assert (whole.params, whole.flops, whole.activations) == (2, 2 * 32, 16)
    assert first.peak_bytes == 16 + 64 + 128
    assert whole.peak_bytes == cost.total.peak_bytes == 16 + 64 + 128 + 128
    assert (cost.total.params, cost.total.flops, cost.total.activations) == (4, 2 * 64, 48)


class _EveryKind(nn.Module):
    """Moves, views and computes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        row = self.linear(self.norm(images).flatten(1))
        both = torch.cat((row, row.clone()), dim=1).view(1, 2, 16).transpose(1, 2)
        products = both @ both.transpose(1, 2)
        return nn.functional.interpolate(products[None].softmax(-1), scale_factor=2.0)


def test_all_that_computes_is_counted_or_listed_and_what_moves_is_neither() -> None:
    with torch.device("meta"):
        network = _EveryKind().eval()
    cost = measure_on_meta(network, image())
    assert {entry.operation: (entry.calls, entry.elements) for entry in cost.uncounted} == {
        "upsample_nearest2d": (1, 32 * 32),
        "_softmax": (1, 16 * 16),
        "native_batch_norm": (1, 16),
    }
    assert cost.total.activations == 16 + 16 * 16


def test_what_the_count_leaves_out_is_listed() -> None:
    with torch.device("meta"):
        network = _EveryKind().eval()
    cost = measure_on_meta(network, image(), counted=CONVOLUTIONS_AND_LINEAR)
    assert UncountedOperation("bmm", calls=1, elements=256) in cost.uncounted
    assert cost.total.activations == 16


class OneConvolution(nn.Module):
    """A neck of somebody else's: one map, and nothing called laterals."""

    levels = (Level(8, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 16, 1)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.conv(features[0]),)


def test_a_neck_need_not_have_laterals() -> None:
    backbone, neck = create_backbone("cspdarknet_n"), OneConvolution()
    detector = Detector(backbone, neck, AnchorHead(neck.levels, num_classes=3))
    cost = count_cost(detector, 64).parts
    assert cost["lateral"].flops == 0
    assert cost["neck"].flops == 2 * 8 * 8 * 64 * 16
