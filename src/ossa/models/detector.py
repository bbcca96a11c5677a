"""The detector: a backbone, a neck and a head in a row; presets, and building from names."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ossa.config import ModelConfig
from ossa.errors import ConfigError, UnsupportedBackbone, suggestion
from ossa.models.backbones.catalog import shipped_table, similar_supported
from ossa.models.backbones.cspdarknet import (
    CSPDARKNETS,
    SCALES,
    CSPDarknet,
    cspdarknet_scale,
)
from ossa.models.backbones.pretrained import BackboneWeights, read_backbone_weights
from ossa.models.backbones.timm import create_timm_backbone, known_architectures
from ossa.models.dense_head import DenseHead
from ossa.models.head import AnchorHead, Head
from ossa.models.neck import NECKS
from ossa.types import Level, RawPredictions

PRESETS = {f"yolov5{scale}": scale for scale in SCALES}
"""Name of each original detector, and its scale: n, s, m, l or x."""
DEFAULT_STRIDES = (8, 16, 32)
_NECK_CHANNELS = {4: 128, 8: 256, 16: 512, 32: 1024}
"""By stride, at width 1. Stride 4 is half of 8, as 8 is of 16."""
_NECK_REPEATS = 3


class Backbone(Protocol):
    """The interface of a backbone: any `nn.Module` with `levels` and this `forward`.

    Examples:
        >>> import ossa
        >>> backbone = ossa.create_backbone("resnet10t", imgsz=64)
        >>> isinstance(backbone.levels[0], ossa.Level)
        True
    """

    levels: tuple[Level, ...]
    """Fine to coarse."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 (B, 3, H, W) RGB to one (B, C_l, H / s_l, W / s_l) per level."""
        ...


class Detector(nn.Module):
    """Maps uint8 images (B, 3, H, W) to `RawPredictions`, in training and in evaluation alike.

    Examples:
        >>> import torch
        >>> from ossa import PAFPN, AnchorHead, Detector, create_backbone
        >>> backbone = create_backbone("cspdarknet_n")
        >>> neck = PAFPN(backbone.levels, widths=(32, 64, 128))
        >>> detector = Detector(backbone, neck, AnchorHead(neck.levels, num_classes=3))
        >>> raw = detector(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
        >>> [tuple(logits.shape) for logits in raw.logits]
        [(1, 3, 8, 12, 8), (1, 3, 4, 6, 8), (1, 3, 2, 3, 8)]
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: Head) -> None:
        """Args:
        backbone: as `Backbone` says.
        neck: maps the backbone's features to one map per level, and has `levels`, too.
        head: maps the neck's features to `RawPredictions`, and owns their loss and decoding.
        """
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head: Head = head

    def forward(self, images: Tensor) -> RawPredictions:
        return self.head(self.neck(self.backbone(images)))


def create_backbone(
    name: str,
    *,
    strides: Sequence[int] = DEFAULT_STRIDES,
    imgsz: int = 640,
    pretrained: bool = False,
    weights: BackboneWeights | None = None,
    build_args: Mapping[str, Any] | None = None,
    drop_path: float | None = None,
    context: bool = True,
) -> nn.Module:
    """Return a backbone with one feature map at each of `strides`, fine to coarse.

    Args:
        name: `cspdarknet_n` to `cspdarknet_x`, another scale such as `cspdarknet-w0.375-d0.33`,
            or any timm architecture.
        strides: input pixels per cell.
        imgsz: side of the input at which the real map sizes are verified, in pixels.
        pretrained: take timm's weights (from the hub or its local cache).
        weights: take them from a file instead (`read_backbone_weights`).
        build_args: arguments of timm's constructor; those of `weights` where there are any.
        drop_path: timm's drop_path_rate; None for the model's own.
        context: False leaves out the SPPF that CSPDarknet ends with; no other backbone has one.

    Raises:
        ConfigError: no such model, or one without blocks that drop path could drop.
        UnsupportedBackbone: no feature maps at these strides or this size.
        CheckpointError: weights that cannot be had or do not belong to the model.

    Examples:
        >>> from ossa import create_backbone
        >>> create_backbone("resnet18", strides=(16, 32)).levels
        (Level(stride=16, channels=256), Level(stride=32, channels=512))
    """
    scale = cspdarknet_scale(name)
    if scale is not None:
        if drop_path is not None:
            raise ConfigError(
                f"{name} has no blocks that drop path could drop: leave model.drop_path out"
            )
        if pretrained or weights is not None:
            raise ConfigError(
                f"{name} has no pretrained backbone weights: start from a whole detector with "
                "--weights"
            )
        return CSPDarknet(scale, strides=strides, context=context)
    check_name(name)
    if preset := PRESETS.get(name.split(".")[0]):
        raise ConfigError(
            f"{name} is a whole detector, with the backbone cspdarknet_{preset}: --weights FILE "
            f"starts from its weights, --model {name.split('.')[0]} from random ones"
        )
    try:
        return create_timm_backbone(
            name,
            strides=strides,
            imgsz=imgsz,
            pretrained=pretrained,
            weights=weights,
            build_args=build_args,
            drop_path=drop_path,
        )
    except UnsupportedBackbone as refusal:
        architecture = name.split(".")[0]
        row = shipped_table().get(architecture)
        works_by_the_table = row is not None and row.supported  # with another size, say
        if works_by_the_table or tuple(strides) != DEFAULT_STRIDES:  # the table is for these only
            raise
        similar = similar_supported(architecture)
        raise UnsupportedBackbone(refusal.args[0], model=refusal.model, similar=similar) from None


def create_detector(
    name: str,
    *,
    num_classes: int,
    neck: str = "s",
    neck_type: str = "pafpn",
    head: str = "anchor",
    pretrained: bool = False,
    imgsz: int = 640,
    equal_conditions: bool = False,
    seed: int | None = None,
) -> Detector:
    """Return a detector with random neck and head.

    Args:
        name: a preset (`yolov5n` to `yolov5x`), or a backbone's name.
        num_classes: K.
        neck: scale of YOLOv5's neck, n to x; a preset always brings its own.
        neck_type: how it fuses the levels: 'pafpn', 'fpn', 'bifpn' or 'none'.
        head: 'anchor' (YOLOv5's) or 'dense'.
        pretrained: start the backbone from timm's weights.
        imgsz: side of the input in pixels at which the backbone is verified.
        equal_conditions: as a study trains it: a lateral at every level, no SPPF in CSPDarknet.
        seed: of the initial numbers; those of neck and head are then equal behind every backbone.

    Raises:
        ConfigError, UnsupportedBackbone, CheckpointError: as `create_backbone`.

    Examples:
        >>> from ossa import create_detector
        >>> detector = create_detector("resnet18", num_classes=3, neck="n", imgsz=64)
        >>> detector.neck.levels[0]
        Level(stride=8, channels=64)
    """
    settings: dict[str, Any] = {"name": name, "neck_type": neck_type, "head": head}
    settings |= {"neck": "own" if name in PRESETS else neck, "pretrained": pretrained}
    config = ModelConfig.model_validate({**settings, "equal_conditions": equal_conditions})
    return build_detector(config, num_classes=num_classes, imgsz=imgsz, seed=seed)


def build_detector(
    config: ModelConfig, *, num_classes: int, imgsz: int, seed: int | None = None
) -> Detector:
    """Return the detector of a configuration; `config.weights` (a whole detector) is not read.

    Args:
        config: which detector.
        num_classes: K.
        imgsz: side of the input in pixels at which the backbone is verified.
        seed: under `equal_conditions`, neck and head are drawn from it: every parameter but the
            laterals' is then the same for every backbone, bit for bit.

    Raises:
        ConfigError, UnsupportedBackbone, CheckpointError: as `create_backbone`.
    """
    preset = PRESETS.get(config.name)
    if (preset is None) == (config.neck == "own"):
        raise ConfigError(
            f"{config.name} brings its own neck: leave --neck out, or take "
            f"cspdarknet_{preset} as the backbone of a study"
            if preset
            else f"{config.name} is a backbone: choose its neck with --neck n, s, m, l or x"
        )
    if preset and config.neck_type != "pafpn":
        raise ConfigError(
            f"{config.name} brings its own neck, a PAFPN: take cspdarknet_{preset} as the backbone "
            f"before the neck {config.neck_type}"
        )
    equal = config.equal_conditions
    if equal and preset:
        raise ConfigError(
            f"{config.name} stays the original, which equal conditions would change: take "
            f"cspdarknet_{preset} as the backbone of a study"
        )
    backbone = create_backbone(
        f"cspdarknet_{preset}" if preset else config.name,
        strides=config.strides,
        imgsz=imgsz,
        pretrained=config.pretrained,
        weights=_read_weights(config),
        build_args=config.backbone_args,
        drop_path=config.drop_path,
        context=not equal,
    )
    levels = backbone.levels
    assert isinstance(levels, tuple)
    scale = preset or config.neck
    neck = NECKS[config.neck_type](
        levels,
        widths=neck_widths(scale, config.strides),
        depth=SCALES[scale].repeats(_NECK_REPEATS),
        # CSPDarknet ends with an SPPF of its own, but for equal conditions.
        context=config.context == "sppf" and (equal or not isinstance(backbone, CSPDarknet)),
        lateral_everywhere=equal,
    )
    head = _build_head(config, neck.levels, num_classes=num_classes)
    if equal and seed is not None:
        _draw_parameters(nn.ModuleDict({"neck": neck, "head": head}), seed)
        head.start_from_priors()
    return Detector(backbone, neck, head)


def _build_head(config: ModelConfig, levels: Sequence[Level], *, num_classes: int) -> Head:
    if config.head == "dense":
        return DenseHead(
            levels,
            num_classes=num_classes,
            reg_max=config.reg_max,
            end_to_end=config.end_to_end,
        )
    return AnchorHead(levels, num_classes=num_classes, anchors_wh=_configured_anchors(config))


def _draw_parameters(network: nn.Module, seed: int) -> None:
    """Draw weights and biases as PyTorch does, each from its own generator: (seed, name)."""
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue  # norms start from ones and zeros
        bound = 1 / math.sqrt(module.weight[0].numel())
        for key, parameter in module.named_parameters():
            digest = hashlib.sha256(f"{seed} {name}.{key}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
            nn.init.uniform_(parameter, -bound, bound, generator=generator)


def neck_widths(scale: str, strides: Sequence[int]) -> tuple[int, ...]:
    """Return the channels per level of the neck of YOLOv5 n, s, m, l or x.

    Raises:
        ConfigError: a stride for which there is no width.
    """
    if not set(strides) <= set(_NECK_CHANNELS):
        raise ConfigError(
            f"the neck has widths for the strides {list(_NECK_CHANNELS)}, found {list(strides)}"
        )
    return tuple(SCALES[scale].channels(_NECK_CHANNELS[stride]) for stride in strides)


def with_weights_settings(config: ModelConfig) -> ModelConfig:
    """Return the configuration with the settings that the backbone's weights file holds.

    These are mean, standard deviation and arguments of the model, so that the same detector can be
    built later without the file.
    """
    weights = _read_weights(config)
    if weights is None:
        return config
    return config.model_copy(
        update={
            "backbone_mean": weights.mean,
            "backbone_std": weights.std,
            "backbone_args": dict(weights.build_args),
        }
    )


def known_backbones() -> list[str]:
    """Return every name that `create_backbone` may take: CSPDarknets, timm's."""
    return [*CSPDARKNETS, *known_architectures()]


def _read_weights(config: ModelConfig) -> BackboneWeights | None:
    if config.backbone_weights is None:
        return None
    weights, _ = read_backbone_weights(
        config.backbone_weights,
        mean=config.backbone_mean,
        std=config.backbone_std,
        build_args=config.backbone_args,
    )
    return weights


def _configured_anchors(config: ModelConfig) -> Tensor | None:
    """Return the anchors (L, A, 2) of the configuration, None where the head's own are taken."""
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


def check_name(name: str) -> None:
    """Raise ConfigError where no preset and no backbone has a name; nothing is built."""
    known, architecture = [*PRESETS, *known_backbones()], name.split(".")[0]
    if cspdarknet_scale(name) is None and architecture not in known:
        near = suggestion(architecture, known)
        own = " One of your own is registered in this process first (docs/backbones.md)."
        raise ConfigError(f"there is no model named {name!r}.{near or own}")
