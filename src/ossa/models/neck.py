"""The path-aggregation neck of YOLOv5 for any number of levels and any incoming channels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ossa.errors import ConfigError
from ossa.models.blocks import C3, SPPF, ConvNormAct
from ossa.types import Level


class PAFPN(nn.Module):
    r"""Fuses feature maps from coarse to fine and back; returns one map per level at `widths`.

    Every level first passes its lateral: a 1x1 convolution with norm that brings the backbone's
    channels to the neck's width, or nothing where they are equal and `lateral_everywhere` is
    False. After the laterals the neck is the same for every backbone.

        backbone  lateral   top-down                bottom-up
        P5 ──────── ○ ──── reduce ─┬───────────── concat, C3 ──> N5
                                   ↓ x2               ↑ stride 2
        P4 ──────── ○ ──── concat, C3, reduce ─┬─ concat, C3 ──> N4
                                               ↓ x2   ↑ stride 2
        P3 ──────── ○ ──────────────────── concat, C3 ─────────> N3

    Source: PANet (Liu et al., 2018) as YOLOv5 builds it from C3 blocks.

    Examples:
        >>> from ossa import PAFPN, Level
        >>> levels = (Level(8, 96), Level(16, 192), Level(32, 384))
        >>> PAFPN(levels, widths=(64, 128, 256), depth=1).levels[0]
        Level(stride=8, channels=64)
    """

    def __init__(
        self,
        backbone_levels: Sequence[Level],
        *,
        widths: Sequence[int],
        depth: int = 1,
        context: bool = False,
        lateral_everywhere: bool = False,
    ) -> None:
        """Args:
            backbone_levels: what the backbone returns, fine to coarse, each stride twice the last.
            widths: channels of each level inside the neck and of its outputs.
            depth: bottlenecks in each C3.
            context: apply an SPPF after the coarsest lateral.
            lateral_everywhere: a 1x1 convolution also where the channels fit.

        Raises:
            ConfigError: widths and levels differ in number, or strides do not double.
        """
        super().__init__()
        _check_levels(backbone_levels, widths)
        self.laterals = nn.ModuleList(
            nn.Identity()
            if level.channels == width and not lateral_everywhere
            else ConvNormAct(level.channels, width)
            for level, width in zip(backbone_levels, widths, strict=True)
        )
        self.context = SPPF(widths[-1]) if context else nn.Identity()
        # Entry i of each list joins level i (finer) and level i + 1 (coarser).
        self.reduce, self.top_down = nn.ModuleList(), nn.ModuleList()
        self.downsample, self.bottom_up = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(widths):
            self.reduce.append(ConvNormAct(coarse, fine))
            self.top_down.append(C3(2 * fine, fine, depth=depth, residual=False))
            self.downsample.append(ConvNormAct(fine, fine, kernel=3, stride=2))
            self.bottom_up.append(C3(2 * fine, coarse, depth=depth, residual=False))
        self.levels = tuple(
            Level(level.stride, width) for level, width in zip(backbone_levels, widths, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        laterals = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        current = self.context(laterals[-1])
        reduced = []
        for i in reversed(range(len(self.reduce))):
            reduced.append(self.reduce[i](current))
            upsampled = interpolate(reduced[-1], scale_factor=2.0, mode="nearest")
            current = self.top_down[i](torch.cat((upsampled, laterals[i]), dim=1))
        outputs = [current]
        for i, coarse in enumerate(reversed(reduced)):
            halved = self.downsample[i](outputs[-1])
            outputs.append(self.bottom_up[i](torch.cat((halved, coarse), dim=1)))
        return tuple(outputs)


def _check_levels(levels: Sequence[Level], widths: Sequence[int]) -> None:
    strides = [level.stride for level in levels]
    if len(levels) != len(widths):
        raise ConfigError(
            f"the neck needs one width per level, found widths {list(widths)} for strides {strides}"
        )
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ConfigError(
            f"the neck needs strides that double from level to level, found {strides}"
        )
