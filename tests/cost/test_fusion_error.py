"""Comparing the two forms must see a form that is wrong."""

import pytest
import torch
from torch import Tensor, nn

from ossa.cost.model_cost import compare_fused


class _Scale(nn.Module):
    """Doubles; its deployed form, made by the method that timm calls, may be wrong."""

    def __init__(self, deployed_factor: float) -> None:
        super().__init__()
        self.factor = 2.0
        self.deployed_factor = deployed_factor

    def reparameterize(self) -> None:
        self.factor = self.deployed_factor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor


class _ToFloat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images / 255


def network_with(deployed_factor: float) -> nn.Module:
    return nn.Sequential(
        _ToFloat(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), _Scale(deployed_factor)
    )


def test_equal_forms_differ_by_rounding_only() -> None:
    difference = compare_fused(lambda: network_with(2.0), imgsz=32)
    assert difference.relative < 1e-5
    assert difference.rounding < 1e-5


def test_a_deployed_form_that_is_wrong_is_seen() -> None:
    difference = compare_fused(lambda: network_with(3.0), imgsz=32)
    # Three times instead of twice: half as much again.
    assert difference.relative == pytest.approx(0.5, rel=1e-3)
    assert difference.absolute > 0.1
    assert difference.rounding < 1e-5


class _ThereAndBack(nn.Module):
    """Adds 4096 to pixels of at most 1 and takes it away again, which costs 12 of 24 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(4096.0))

    def forward(self, images: Tensor) -> Tensor:
        return images / 255 + self.shift - 4096


def test_rounding_is_as_large_as_the_weights_make_it() -> None:
    rounding = compare_fused(_ThereAndBack, imgsz=32).rounding
    # The neighbours of 4096 are 2^-11 above and 2^-12 below, and sums are multiples of 2^-11.
    assert 2**-12 <= rounding <= 2**-10


def test_the_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    compare_fused(lambda: network_with(2.0), imgsz=32)
    assert torch.equal(torch.rand(3), expected)
