"""The convolutional blocks of YOLOv5, from which CSPDarknet and the neck are built.

Every block maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.03
_ONEDNN_CHANNELS = 16
"""From which on a strided 1x1 convolution may be left to oneDNN."""


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, SiLU; padded so that stride 1 keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.act = nn.SiLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(features)))


class Bottleneck(nn.Module):
    """1x1, then 3x3 convolution, added to the input when `residual`."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.pointwise = ConvNormAct(channels, channels)
        self.spatial = ConvNormAct(channels, channels, kernel=3)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        refined = self.spatial(self.pointwise(features))
        return features + refined if self.residual else refined


class C3(nn.Module):
    """Cross-stage partial block: half the channels through `depth` bottlenecks, half past them.

    Source: CSPNet (Wang et al., 2020) with three convolutions, as YOLOv5 uses it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, depth: int, residual: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.enter = ConvNormAct(in_channels, half)
        self.bypass = ConvNormAct(in_channels, half)
        self.bottlenecks = nn.Sequential(
            *(Bottleneck(half, residual=residual) for _ in range(depth))
        )
        self.merge = ConvNormAct(2 * half, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        deep = self.bottlenecks(self.enter(features))
        return self.merge(torch.cat((deep, self.bypass(features)), dim=1))


class SPPF(nn.Module):
    """Context at four scales: three 5x5 max pools in sequence, concatenated with their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = ConvNormAct(channels, half)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)
        self.merge = ConvNormAct(4 * half, channels)

    def forward(self, features: Tensor) -> Tensor:
        pyramid = [self.enter(features)]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        return self.merge(torch.cat(pyramid, dim=1))


class InputNormalization(nn.Module):
    """Turns uint8 pixels into the numbers that a backbone was trained on: (x / 255 - mean) / std.

    It is part of every backbone, so that the data pipeline is the same for all of them.
    Input uint8 (B, 3, H, W) RGB, output of the parameters' floating type.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        scale = 1.0 / (255.0 * self.std)
        return images.to(scale.dtype) * scale - self.mean / self.std


class SubsampledConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride, computed as one without, of every stride-th pixel.

    oneDNN, behind PyTorch on the CPU, writes outside its memory in the backward pass of a strided
    1x1 convolution where images lie channels-last and have fewer than 16 channels (oneDNN issue
    6035): the stem of RepVGG or MobileOne. What follows is a crash, or a number changed elsewhere.
    """

    def forward(self, input: Tensor) -> Tensor:
        down, right = self.stride
        return conv2d(input[..., ::down, ::right], self.weight, self.bias, groups=self.groups)


def without_small_strided_convolutions(network: nn.Module) -> nn.Module:
    """Return the network, in which a `SubsampledConv2d` now stands wherever it is needed."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if (
                type(module) is nn.Conv2d
                and module.kernel_size == (1, 1)
                and max(module.stride) > 1
                and module.padding == (0, 0)
                and module.in_channels < _ONEDNN_CHANNELS
            ):
                # With the tensors, whatever device they are on, and every attribute.
                new = SubsampledConv2d.__new__(SubsampledConv2d)
                new.__dict__ = module.__dict__
                setattr(parent, name, new)
    return network
