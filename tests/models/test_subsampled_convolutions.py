"""1x1 convolutions with a stride and few channels: the same numbers, and memory left in peace."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from ossa.models.blocks import (
    SubsampledConv2d,
    without_small_strided_convolutions,
)
from ossa.models.detector import create_backbone

TRAINED = """
import torch
from torch import nn
from ossa.models.blocks import without_small_strided_convolutions
torch.set_num_threads(1)
network = without_small_strided_convolutions(nn.Sequential(nn.Conv2d(3, 48, 1, 2, bias=False)))
network.to(memory_format=torch.channels_last)
images = torch.randn(16, 3, 160, 160).to(memory_format=torch.channels_last)
for _ in range(5):
    network(images).sum().backward()
"""


def test_the_numbers_are_those_of_the_convolution():
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, 1, stride=(2, 3))
    images = torch.randn(2, 3, 7, 9)
    expected = plain(images)
    network = nn.Sequential(plain)
    without_small_strided_convolutions(network)
    assert type(network[0]) is SubsampledConv2d
    assert network[0].weight is plain.weight
    torch.testing.assert_close(network(images), expected)


def test_only_what_needs_it_is_changed():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(16, 8, 1, 2), nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 1, 2)
    )
    without_small_strided_convolutions(network)
    kinds = [type(module) for module in network]
    assert kinds == [nn.Conv2d, nn.Conv2d, nn.Conv2d, SubsampledConv2d]


def test_the_stem_of_repvgg_is_changed():
    with torch.device("meta"):
        backbone = create_backbone("repvgg_a0", imgsz=64)
    changed = [name for name, m in backbone.named_modules() if isinstance(m, SubsampledConv2d)]
    assert changed == ["network.stem.conv_1x1.conv"]


@pytest.mark.slow
def test_the_backward_pass_leaves_other_memory_alone():
    # A process of its own: before, it ended by a segmentation fault.
    finished = subprocess.run([sys.executable, "-c", TRAINED], check=False)
    assert finished.returncode == 0
