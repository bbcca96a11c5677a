"""Necks: they fuse the levels of a backbone, for any number of levels and any incoming channels.

All of them begin alike, with `laterals`, so that the same neck stands behind every backbone.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from ossa.errors import ConfigError
from ossa.models.blocks import C3, SPPF, ConvNormAct
from ossa.types import Level

_FUSION_EPS = 1e-4
"""Keeps the normalised weights finite, as in the paper of BiFPN."""


class Neck(nn.Module):
    """What every neck begins with: laterals, and perhaps an SPPF behind the coarsest of them.

    A lateral is a 1x1 convolution with norm that brings the backbone's channels to the neck's
    width, or nothing where they are equal and `lateral_everywhere` is False.

    Costs are split, and the equal initial numbers of a study are drawn, by the name `laterals`.
    """

    levels: tuple[Level, ...]
    """Of the maps that it returns, fine to coarse."""

    def __init__(
        self,
        backbone_levels: Sequence[Level],
        *,
        widths: Sequence[int],
        context: bool = False,
        lateral_everywhere: bool = False,
    ) -> None:
        super().__init__()
        _check_levels(backbone_levels, widths)
        self.laterals = nn.ModuleList(
            nn.Identity()
            if level.channels == width and not lateral_everywhere
            else ConvNormAct(level.channels, width)
            for level, width in zip(backbone_levels, widths, strict=True)
        )
        self.context = SPPF(widths[-1]) if context else nn.Identity()
        self.levels = tuple(
            Level(level.stride, width) for level, width in zip(backbone_levels, widths, strict=True)
        )

    def enter(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of the backbone at the widths of the neck, fine to coarse."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        return [*maps[:-1], self.context(maps[-1])]


class PAFPN(Neck):
    r"""Fuses feature maps from coarse to fine and back; returns one map per level at `widths`.

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
        super().__init__(
            backbone_levels, widths=widths, context=context, lateral_everywhere=lateral_everywhere
        )
        # Entry i of each list joins level i (finer) and level i + 1 (coarser).
        self.reduce, self.top_down = nn.ModuleList(), nn.ModuleList()
        self.downsample, self.bottom_up = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(widths):
            self.reduce.append(ConvNormAct(coarse, fine))
            self.top_down.append(C3(2 * fine, fine, depth=depth, residual=False))
            self.downsample.append(ConvNormAct(fine, fine, kernel=3, stride=2))
            self.bottom_up.append(C3(2 * fine, coarse, depth=depth, residual=False))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        laterals = self.enter(features)
        current = laterals[-1]
        reduced = []
        for i in reversed(range(len(self.reduce))):
            reduced.append(self.reduce[i](current))
            current = self.top_down[i](torch.cat((_upsampled(reduced[-1]), laterals[i]), dim=1))
        outputs = [current]
        for i, coarse in enumerate(reversed(reduced)):
            halved = self.downsample[i](outputs[-1])
            outputs.append(self.bottom_up[i](torch.cat((halved, coarse), dim=1)))
        return tuple(outputs)


class FPN(Neck):
    """Adds every coarser map to the next finer one; a 3x3 convolution at each level ends it.

    All maps have the width of the finest level.

    Source: Feature Pyramid Networks (Lin et al., 2017), with norm and SiLU behind each convolution.

    Examples:
        >>> from ossa import FPN, Level
        >>> levels = (Level(8, 96), Level(16, 192), Level(32, 384))
        >>> FPN(levels, widths=(64, 128, 256)).levels[2]
        Level(stride=32, channels=64)
    """

    def __init__(
        self,
        backbone_levels: Sequence[Level],
        *,
        widths: Sequence[int],
        depth: int = 1,
        **entrance: bool,
    ) -> None:
        """As `PAFPN`; all levels have the first of the widths, and `depth` is not used."""
        width = widths[0]
        super().__init__(backbone_levels, widths=[width] * len(widths), **entrance)
        self.smooth = nn.ModuleList(ConvNormAct(width, width, kernel=3) for _ in self.levels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = self.enter(features)
        for finer in reversed(range(len(maps) - 1)):
            maps[finer] = maps[finer] + _upsampled(maps[finer + 1])
        return tuple(smooth(x) for smooth, x in zip(self.smooth, maps, strict=True))


class BiFPN(Neck):
    """Fuses the levels from coarse to fine and back, with learned weights, several times over.

    All maps have the width of the finest level.

    Source: EfficientDet (Tan et al., 2020): fast normalised fusion, separable convolutions, maximum
    pooling between levels.

    Examples:
        >>> from ossa import BiFPN, Level
        >>> levels = (Level(8, 96), Level(16, 192), Level(32, 384))
        >>> neck = BiFPN(levels, widths=(64, 128, 256), depth=2)
        >>> neck.levels[2], len(neck.rounds)
        (Level(stride=32, channels=64), 2)
    """

    def __init__(
        self,
        backbone_levels: Sequence[Level],
        *,
        widths: Sequence[int],
        depth: int = 1,
        **entrance: bool,
    ) -> None:
        """As `PAFPN`; all levels have the first of the widths, and are fused `depth` times."""
        super().__init__(backbone_levels, widths=[widths[0]] * len(widths), **entrance)
        self.rounds = nn.ModuleList(_BiFPNRound(len(widths), widths[0]) for _ in range(depth))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = self.enter(features)
        for fuse in self.rounds:
            maps = fuse(maps)
        return tuple(maps)


class _BiFPNRound(nn.Module):
    """One way from coarse to fine and back."""

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        # The coarsest level has no node on the way down, and the finest none on the way back.
        self.down = nn.ModuleList(_Fusion(2, width) for _ in range(levels - 1))
        self.back = nn.ModuleList(
            _Fusion(2 if level == levels - 1 else 3, width) for level in range(1, levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        ways_down = [maps[-1]]
        for level in reversed(range(len(maps) - 1)):
            ways_down.insert(0, self.down[level]([maps[level], _upsampled(ways_down[0])]))
        outputs = [ways_down[0]]
        for level in range(1, len(maps)):
            halved = max_pool2d(outputs[-1], kernel_size=3, stride=2, padding=1)
            is_last = level == len(maps) - 1
            own = [maps[level]] if is_last else [maps[level], ways_down[level]]
            outputs.append(self.back[level - 1]([*own, halved]))
        return outputs


class _Fusion(nn.Module):
    """The weighted mean of several maps, and a separable 3x3 convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.input_weights = nn.Parameter(torch.ones(inputs))
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = ConvNormAct(width, width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        positive = self.input_weights.relu()
        shares = (positive / (positive.sum() + _FUSION_EPS)).to(maps[0].dtype)
        fused = shares[0] * maps[0]
        for share, x in zip(shares[1:], maps[1:], strict=True):
            fused = fused + share * x
        return self.pointwise(self.depthwise(fused))


class Laterals(Neck):
    """No fusion at all: every level passes its lateral alone.

    Examples:
        >>> from ossa.models.neck import Laterals
        >>> from ossa import Level
        >>> Laterals((Level(8, 96), Level(16, 192)), widths=(64, 128)).levels[1]
        Level(stride=16, channels=128)
    """

    def __init__(
        self,
        backbone_levels: Sequence[Level],
        *,
        widths: Sequence[int],
        depth: int = 1,
        **entrance: bool,
    ) -> None:
        """As `PAFPN`; `depth` is not used."""
        super().__init__(backbone_levels, widths=widths, **entrance)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.enter(features))


NECKS: Mapping[str, type[PAFPN | FPN | BiFPN | Laterals]] = {
    "pafpn": PAFPN,
    "fpn": FPN,
    "bifpn": BiFPN,
    "none": Laterals,
}
"""By `model.neck_type`."""


def _upsampled(features: Tensor) -> Tensor:
    return interpolate(features, scale_factor=2.0, mode="nearest")


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
