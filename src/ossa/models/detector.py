"""The detector: a backbone, a neck and a head in a row."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import timm
import torch
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from ossa.config import ModelConfig
from ossa.errors import ConfigError, UnsupportedBackbone, suggestion
from ossa.models.backbones.catalog import shipped_table, similar_supported
from ossa.models.backbones.cspdarknet import SCALES, CSPDarknet, Scale
from ossa.models.backbones.plain import create_plain_backbone, single_stride
from ossa.models.backbones.pretrained import (
    BackboneWeights,
    check_backbone_weights,
    read_backbone_weights,
)
from ossa.models.backbones.timm import create_timm_backbone, known_architectures
from ossa.models.head import AnchorHead
from ossa.models.neck import PAFPN
from ossa.types import Level, RawPredictions


class Backbone(Protocol):
    """What makes a network usable as a backbone. Any `nn.Module` with these two will do."""

    levels: tuple[Level, ...]
    """Fine to coarse."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps uint8 (B, 3, H, W) RGB to one (B, C_l, H / s_l, W / s_l) a level."""
        ...


class Detector(nn.Module):
    """Maps uint8 images (B, 3, H, W) to `RawPredictions`, in training and in evaluation alike."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> RawPredictions:
        return self.head(self.neck(self.backbone(images)))


_NECK_CHANNELS = {4: 128, 8: 256, 16: 512, 32: 1024}
"""By stride, at width 1. Stride 4 is half of 8, as 8 is of 16."""
_NECK_REPEATS = 3
_PRESET_PREFIX = "yolov5"
_BACKBONE_PREFIX = "cspdarknet_"

PRESETS = tuple(_PRESET_PREFIX + scale for scale in SCALES)
CSPDARKNETS = tuple(_BACKBONE_PREFIX + scale for scale in SCALES)


@dataclass(frozen=True)
class NeckPlan:
    """Widths (channels a level, fine to coarse) and depth (bottlenecks in each C3)."""

    widths: tuple[int, ...]
    depth: int


def neck_plan(scale_name: str, strides: Sequence[int]) -> NeckPlan:
    """Returns the neck of YOLOv5 n, s, m, l or x for levels at these strides.

    Raises:
        ConfigError: a stride for which there is no width.
    """
    if not set(strides) <= set(_NECK_CHANNELS):
        raise ConfigError(
            f"the neck has widths for the strides {list(_NECK_CHANNELS)}, found {list(strides)}"
        )
    scale = SCALES[scale_name]
    widths = tuple(scale.channels(_NECK_CHANNELS[stride]) for stride in strides)
    return NeckPlan(widths=widths, depth=scale.repeats(_NECK_REPEATS))


def preset_scale(name: str) -> str | None:
    """Returns 'n' for 'yolov5n' and so on, None for a name that is no preset."""
    return name.removeprefix(_PRESET_PREFIX) if name in PRESETS else None


def cspdarknet_scale(name: str) -> Scale | None:
    """Returns the scale of 'cspdarknet_n' and so on, None for any other name."""
    return SCALES[name.removeprefix(_BACKBONE_PREFIX)] if name in CSPDARKNETS else None


DEFAULT_STRIDES = (8, 16, 32)


def create_backbone(
    name: str,
    *,
    strides: Sequence[int] = DEFAULT_STRIDES,
    imgsz: int = 640,
    pretrained: bool = False,
    weights: BackboneWeights | None = None,
    build_args: Mapping[str, Any] | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """Returns a backbone with one feature map at each of `strides`, fine to coarse.

    Args:
        name: `cspdarknet_n` to `cspdarknet_x`, or any timm architecture.
        strides: input pixels per cell.
        imgsz: side of the input at which the real map sizes are verified, in pixels.
        pretrained: take timm's weights (from the hub or its local cache).
        weights: take them from a file instead (`read_backbone_weights`).
        build_args: arguments of timm's constructor; those of `weights` where there are any.
        drop_path: timm's drop_path_rate; None for the model's own.

    Raises:
        ConfigError: no such model, or one without blocks that drop path could drop.
        UnsupportedBackbone: no feature maps at these strides or this size.
        CheckpointError: weights that cannot be had or do not belong to the model.
    """
    scale = cspdarknet_scale(name)
    if scale is None:
        _check_name(name)
        try:
            return _from_timm(
                name,
                strides=strides,
                imgsz=imgsz,
                pretrained=pretrained,
                weights=weights,
                build_args=build_args or {},
                drop_path=drop_path,
            )
        except UnsupportedBackbone as refusal:
            if tuple(strides) != DEFAULT_STRIDES:  # for which no table says what works
                raise
            raise UnsupportedBackbone(f"{refusal}{_similar(name)}") from refusal
    if drop_path is not None:
        raise _no_drop_path(name)
    if pretrained or weights is not None:
        raise ConfigError(
            f"{name} has no pretrained backbone weights: start from a whole detector with --weights"
        )
    return CSPDarknet(scale, strides=strides)


def _from_timm(
    name: str,
    *,
    strides: Sequence[int],
    imgsz: int,
    pretrained: bool,
    weights: BackboneWeights | None,
    build_args: Mapping[str, Any],
    drop_path: float | None,
) -> nn.Module:
    """Returns the model as it is, or with a pyramid on its map where it has one stride only."""
    if weights is not None:
        check_backbone_weights(name, weights)
        build_args = weights.build_args
    build_args = {key: value for key, value in build_args.items() if key != "num_classes"}
    create: Callable[..., nn.Module] = create_timm_backbone
    stride = single_stride(name, build_args)
    if stride is not None:
        create = partial(create_plain_backbone, declared_stride=stride)
    if drop_path is not None:
        if not _drops_paths(name, build_args):
            raise _no_drop_path(name)
        build_args = {**build_args, "drop_path_rate": drop_path}
    return create(
        name,
        strides=strides,
        imgsz=imgsz,
        pretrained=pretrained,
        weights=weights,
        build_args=build_args,
    )


def _similar(name: str) -> str:
    """Returns '. Similar backbones that work: a, b, c', or '' where there is none like it.

    Also '' where it works itself by the table, only not with this size or these arguments.
    """
    architecture = name.split(".")[0]
    similar = similar_supported(architecture)
    row = shipped_table().get(architecture)
    if not similar or (row is not None and row.supported):
        return ""
    return f". Similar backbones that work: {', '.join(similar)}"


def _drops_paths(name: str, build_args: Mapping[str, Any]) -> bool:
    """Returns whether timm's `name` takes a drop path rate and has blocks on which it acts."""
    with torch.device("meta"), suppress(Exception):  # models that do not take it say so variously
        network = timm.create_model(name, **{**build_args, "drop_path_rate": 0.5})
        return any(isinstance(part, DropPath) and part.drop_prob > 0 for part in network.modules())
    return False


def _no_drop_path(name: str) -> ConfigError:
    return ConfigError(f"{name} has no blocks that drop path could drop: leave model.drop_path out")


def create_detector(
    name: str,
    *,
    num_classes: int,
    neck: str = "s",
    pretrained: bool = False,
    imgsz: int = 640,
) -> Detector:
    """Returns a detector with random neck and head.

    Args:
        name: a preset (`yolov5n` to `yolov5x`), or a backbone's name.
        num_classes: K.
        neck: scale of YOLOv5's neck, n to x; a preset always brings its own.
        pretrained: start the backbone from timm's weights.
        imgsz: side of the input in pixels at which the backbone is verified.
    """
    own = preset_scale(name) is not None
    config = ModelConfig(name=name, neck="own" if own else neck, pretrained=pretrained)  # type: ignore[arg-type]
    return build_detector(config, num_classes=num_classes, imgsz=imgsz)


def build_detector(config: ModelConfig, *, num_classes: int, imgsz: int) -> Detector:
    """Returns the detector of a configuration; `config.weights` (a whole detector) is not read.

    Raises:
        ConfigError, UnsupportedBackbone, CheckpointError: as `create_backbone`.
    """
    preset = preset_scale(config.name)
    if (preset is None) == (config.neck == "own"):
        raise ConfigError(
            f"{config.name} brings its own neck: leave --neck out, or take "
            f"cspdarknet_{preset} as the backbone of a study"
            if preset
            else f"{config.name} is a backbone: choose its neck with --neck n, s, m, l or x"
        )
    weights = None
    if config.backbone_weights is not None:
        weights, _ = read_backbone_weights(
            config.backbone_weights,
            mean=config.backbone_mean,
            std=config.backbone_std,
            build_args=config.backbone_args,
        )
    backbone = create_backbone(
        f"cspdarknet_{preset}" if preset else config.name,
        strides=config.strides,
        imgsz=imgsz,
        pretrained=config.pretrained,
        weights=weights,
        build_args=config.backbone_args,
        drop_path=config.drop_path,
    )
    plan = neck_plan(preset or config.neck, config.strides)
    levels = backbone.levels
    assert isinstance(levels, tuple)
    neck = PAFPN(
        levels,
        widths=plan.widths,
        depth=plan.depth,
        # CSPDarknet ends with an SPPF of its own.
        context=config.context == "sppf" and not isinstance(backbone, CSPDarknet),
    )
    head = AnchorHead(neck.levels, num_classes=num_classes, anchors_wh=_given_anchors_wh(config))
    return Detector(backbone, neck, head)


def _given_anchors_wh(config: ModelConfig) -> torch.Tensor | None:
    """Returns the anchors (L, A, 2) of the configuration, None where it leaves them to the head."""
    if config.anchors_wh is None:
        return None
    counts = [len(level) for level in config.anchors_wh]
    if len(counts) != len(config.strides) or min(counts) < 1 or len(set(counts)) != 1:
        raise ConfigError(
            f"model.anchors_wh: expected as many anchors for each of the strides "
            f"{list(config.strides)}, found {counts} for {len(counts)} levels"
        )
    if min(side for level in config.anchors_wh for size_wh in level for side in size_wh) <= 0:
        raise ConfigError("model.anchors_wh: expected widths and heights above 0 pixels")
    return torch.tensor(config.anchors_wh)


def with_weights_settings(config: ModelConfig) -> ModelConfig:
    """Returns the configuration with what the backbone's weights file says of itself filled in.

    So whoever builds the same detector later needs no file: mean, deviation and arguments are
    part of the model.
    """
    if config.backbone_weights is None:
        return config
    weights, _ = read_backbone_weights(
        config.backbone_weights,
        mean=config.backbone_mean,
        std=config.backbone_std,
        build_args=config.backbone_args,
    )
    return config.model_copy(
        update={
            "backbone_mean": weights.mean,
            "backbone_std": weights.std,
            "backbone_args": dict(weights.build_args),
        }
    )


def known_models() -> list[str]:
    """Returns every name that `create_detector` may take: presets, CSPDarknets, timm's."""
    return [*PRESETS, *known_backbones()]


def known_backbones() -> list[str]:
    """Returns every name that `create_backbone` may take: CSPDarknets, timm's."""
    return [*CSPDARKNETS, *known_architectures()]


def _check_name(name: str) -> None:
    known = known_models()
    architecture = name.split(".")[0]
    if architecture not in known:
        raise ConfigError(f"there is no model named {name!r}.{suggestion(architecture, known)}")
    if architecture in PRESETS:
        scale = preset_scale(architecture)
        raise ConfigError(f"{name} is a whole detector; its backbone is cspdarknet_{scale}")
