"""Convolutions that PyTorch computes wrongly on the CPU, in a form that it computes rightly.

oneDNN, behind PyTorch, writes outside its memory in the backward pass of a 1x1 convolution with a
stride where images lie channels-last and have fewer than 16 channels (oneDNN issue 6035): the stem
of RepVGG or MobileOne. What follows is a crash, or a number changed elsewhere.
"""

from torch import Tensor, nn
from torch.nn.functional import conv2d

_FEWEST_CHANNELS = 16
"""From which such a convolution may be left to oneDNN."""


class SubsampledConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride, as one without, of every stride-th pixel."""

    def forward(self, input: Tensor) -> Tensor:
        down, right = self.stride
        return conv2d(input[..., ::down, ::right], self.weight, self.bias, groups=self.groups)


def without_small_strided_convolutions(network: nn.Module) -> nn.Module:
    """Returns the network, in which a `SubsampledConv2d` now stands wherever it is needed."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Conv2d and _needs_subsampling(module):
                # With the tensors, whatever device they are on, and every attribute.
                new = SubsampledConv2d.__new__(SubsampledConv2d)
                new.__dict__ = module.__dict__
                setattr(parent, name, new)
    return network


def _needs_subsampling(convolution: nn.Conv2d) -> bool:
    return (
        convolution.kernel_size == (1, 1)
        and max(convolution.stride) > 1
        and convolution.padding == (0, 0)
        and convolution.in_channels < _FEWEST_CHANNELS
    )
