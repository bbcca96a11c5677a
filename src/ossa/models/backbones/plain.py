"""Plain vision transformers as backbones: their one feature map becomes a pyramid.

Source: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet, Li et al.,
2022).
"""

from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from ossa.errors import UnsupportedBackbone
from ossa.types import Level

_TRUNK_STRIDES = (8, 16, 32)
_RESAMPLED_STRIDES = {14: 16}
"""Strides of patches that are rebuilt with another size."""
_FINEST, _COARSEST = 4, 32


class SimpleFeaturePyramid(nn.Module):
    """Maps the one map (B, C, H / s, W / s) of a plain backbone to one map per level.

        stride s / 4   transposed convolution to C / 2, norm, GELU, transposed convolution to C / 4
        stride s / 2   transposed convolution to C / 2
        stride s       the map as it is
        stride 2 s     max pool
        stride 4 s     max pool over 4 x 4

    The others 2 x 2 with stride 2, as in ViTDet, whose s is 16. The convolutions with norm that
    follow there, level by level, are the neck's laterals here.
    """

    def __init__(self, level: Level, strides: Sequence[int]) -> None:
        """`level` describes the one map."""
        super().__init__()
        self.branches = nn.ModuleList(_branch(level, stride) for stride in strides)
        self.levels = tuple(
            Level(stride, level.channels * min(stride, level.stride) // level.stride)
            for stride in strides
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(branch(features) for branch in self.branches)


class PlainBackbone(nn.Module):
    """A backbone of one level with a simple feature pyramid on it.

    Maps uint8 (B, 3, H, W), sides divisible by the largest stride, to one
    (B, C_l, H / s_l, W / s_l) per level. `resampled` says how the trunk differs from the model that
    timm has under its name, None where it does not; `only_imgsz` is the trunk's.
    """

    def __init__(self, trunk: Any, *, strides: Sequence[int], resampled: str | None = None) -> None:
        super().__init__()
        (level,) = trunk.levels
        self.trunk = trunk
        self.pyramid = SimpleFeaturePyramid(level, strides)
        self.levels = self.pyramid.levels
        self.only_imgsz = trunk.only_imgsz
        self.resampled = resampled

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (features,) = self.trunk(images)
        return self.pyramid(features)


class NormalizedFeatures(FeatureGetterNet):
    """Makes timm apply the model's final norm, which it drops otherwise, to the maps."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__(model, norm=True, **settings)


def trunk_stride(name: str, declared_stride: int, strides: Sequence[int]) -> int:
    """Return the stride at which a plain model is built: patches of 14 pixels become 16.

    Raises:
        UnsupportedBackbone: no pyramid at `strides` stands on `declared_stride`.
    """
    stride = _RESAMPLED_STRIDES.get(declared_stride, declared_stride)
    if stride not in _TRUNK_STRIDES:
        raise UnsupportedBackbone(
            f"declares feature maps at stride {declared_stride} only, but strides "
            f"{list(strides)} were asked for: of the models with one stride those with 16 "
            "(vit_small_patch16_224, say), 8, 32 or 14 get a pyramid",
            model=name,
        )
    reachable = [step for step in (4, 8, 16, 32) if max(stride // 4, _FINEST) <= step <= _COARSEST]
    if not set(strides) <= set(reachable):
        raise UnsupportedBackbone(
            f"has one stride, {declared_stride}, from which a pyramid at {reachable} is made, "
            f"but strides {list(strides)} were asked for",
            model=name,
        )
    return stride


def _branch(level: Level, stride: int) -> nn.Module:
    """Return what makes a map at `stride` of the one at the level's own."""
    channels, half, quarter = level.channels, level.channels // 2, level.channels // 4
    if 4 * stride == level.stride:
        return nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, stride=2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        )
    if 2 * stride == level.stride:
        return nn.ConvTranspose2d(channels, half, 2, stride=2)
    if stride == level.stride:
        return nn.Identity()
    return nn.MaxPool2d(stride // level.stride)
