"""Plain vision transformers as backbones: their one feature map becomes a pyramid.

Source: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet, Li et al.,
2022).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from ossa.errors import UnsupportedBackbone
from ossa.models.backbones.pretrained import BackboneWeights
from ossa.models.backbones.timm import TimmBackbone, create_timm_backbone, declared_strides
from ossa.types import Level

_STRIDES = (8, 16, 32)
_RESAMPLED = {14: 16}
"""Strides that are rebuilt as another one."""
_FINEST, _COARSEST = 4, 32


class SimpleFeaturePyramid(nn.Module):
    """Maps the one map (B, C, H / s, W / s) of a plain backbone to one a level.

        stride s / 4   transposed convolution to C / 2, norm, GELU, transposed convolution to C / 4
        stride s / 2   transposed convolution to C / 2
        stride s       the map as it is
        stride 2 s     max pool
        stride 4 s     max pool over 4 x 4

    The others 2 x 2 with stride 2, as in ViTDet, whose s is 16. The convolutions with norm that
    follow there, level by level, are the neck's laterals here.
    """

    def __init__(self, level: Level, strides: Sequence[int]) -> None:
        """`level` is that of the one map."""
        super().__init__()
        self.branches = nn.ModuleList(_branch(level, stride) for stride in strides)
        self.levels = tuple(
            Level(stride, level.channels * min(stride, level.stride) // level.stride)
            for stride in strides
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(branch(features) for branch in self.branches)


class PlainBackbone(nn.Module):
    """A plain vision transformer of timm's with a simple feature pyramid.

    Maps uint8 (B, 3, H, W), sides divisible by the largest stride, to one
    (B, C_l, H / s_l, W / s_l) a level. The trunk has one level.

    `rebuilt` says how the trunk differs from the model that timm knows by its name, None where it
    does not; `only_imgsz` is the trunk's.
    """

    def __init__(
        self, trunk: TimmBackbone, *, strides: Sequence[int], rebuilt: str | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pyramid = SimpleFeaturePyramid(trunk.levels[0], strides)
        self.levels = self.pyramid.levels
        self.only_imgsz = trunk.only_imgsz
        self.rebuilt = rebuilt

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (features,) = self.trunk(images)
        return self.pyramid(features)


def create_plain_backbone(
    name: str,
    *,
    declared_stride: int,
    strides: Sequence[int],
    imgsz: int,
    pretrained: bool = False,
    weights: BackboneWeights | None = None,
    build_args: Mapping[str, Any] | None = None,
) -> PlainBackbone:
    """Builds timm's plain `name` with a pyramid at `strides`, verified at `imgsz` x `imgsz` pixels.

    The pyramid stands on the last map behind the model's final norm, where it has one: the patch
    tokens that timm's `forward_features` returns. Patches of 14 pixels become 16: timm resamples
    the pretrained patch embedding, and `rebuilt` says so.

    Args:
        name: architecture, with a tag or without.
        declared_stride: of all the model's feature maps (`single_stride`).
        strides: input pixels per cell, fine to coarse.
        imgsz: side of the input in pixels; position embeddings are resampled to it.
        pretrained: take timm's weights from the hub or its local cache.
        weights: take them from a file instead.
        build_args: arguments of timm's constructor, those of `weights` among them.

    Raises:
        UnsupportedBackbone: no pyramid on this stride, at these strides, or at this size.
        CheckpointError: weights that cannot be had.
    """
    stride = _RESAMPLED.get(declared_stride, declared_stride)
    if stride not in _STRIDES:
        raise UnsupportedBackbone(
            f"{name} declares feature maps at stride {declared_stride} only, but strides "
            f"{list(strides)} were asked for: of the models with one stride those with 16 "
            "(vit_small_patch16_224, say), 8, 32 or 14 get a pyramid"
        )
    finest = max(stride // 4, _FINEST)
    if any(wanted % finest or wanted > _COARSEST or wanted & (wanted - 1) for wanted in strides):
        reach = [step for step in (4, 8, 16, 32) if step >= finest]
        raise UnsupportedBackbone(
            f"{name} has one stride, {declared_stride}, from which a pyramid at {reach} is made, "
            f"but strides {list(strides)} were asked for"
        )
    trunk_args = {**(build_args or {}), "feature_cls": _NormalizedMap}
    rebuilt = None
    if stride != declared_stride:
        trunk_args["patch_size"] = stride
        rebuilt = f"patches of {declared_stride} pixels resampled to {stride}"
    trunk = create_timm_backbone(
        name,
        strides=(stride,),
        imgsz=imgsz,
        pretrained=pretrained,
        weights=weights,
        build_args=trunk_args,
    )
    return PlainBackbone(trunk, strides=strides, rebuilt=rebuilt)


def single_stride(name: str, build_args: Mapping[str, Any]) -> int | None:
    """Returns the stride that all feature maps of timm's `name` declare; None if they differ.

    Raises:
        ConfigError: it does not take these arguments.
        UnsupportedBackbone: it has no feature maps.
    """
    declared = set(declared_strides(name, build_args))
    return declared.pop() if len(declared) == 1 else None


class _NormalizedMap(FeatureGetterNet):
    """Makes timm apply the model's final norm, which it drops otherwise, to the maps."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__(model, norm=True, **settings)


def _branch(level: Level, stride: int) -> nn.Module:
    """Returns what makes a map at `stride` of the one at the level's own."""
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
