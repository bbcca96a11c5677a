"""Any timm model as a backbone: levels chosen by stride and verified at the real image size."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone, suggestion
from ossa.models.backbones import roadmap as _roadmap  # noqa: F401 - registers its steps with timm
from ossa.models.backbones.pretrained import BackboneWeights
from ossa.models.backbones.subsampling import without_small_strided_convolutions
from ossa.models.blocks import InputNormalization
from ossa.types import Level

_GROWTH = 8
"""Cells by which the coarsest map grows between the two image sizes that are compared."""
_MOST_UNPADDED_PIXELS = 64
"""Of the input that a map may lose to unpadded convolutions: Inception loses two cells of 32."""


class TimmBackbone(nn.Module):
    """A timm model whose feature maps lie at the strides asked for.

    Maps uint8 (B, 3, H, W) to one (B, C_l, ceil(H / s_l), ceil(W / s_l)) a level. Maps that a
    model returns a little too small (unpadded convolutions) are padded by replication.

    `only_imgsz` is the side in pixels of the only images that it takes, squares, or None where
    it takes any.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        levels: tuple[Level, ...],
        channels_last: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        only_imgsz: int | None = None,
    ) -> None:
        super().__init__()
        self.normalize = InputNormalization(mean, std)
        self.network = network
        self.levels = levels
        self.channels_last = channels_last
        self.only_imgsz = only_imgsz

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = images.shape[-2:]
        side = self.only_imgsz
        if side is not None and (height, width) != (side, side):
            raise UnsupportedBackbone(
                f"this backbone was built for images of {side} x {side} pixels and takes no "
                f"other size, found {height} x {width}: give --imgsz {side}"
            )
        maps = []
        for level, features in zip(self.levels, self.network(self.normalize(images)), strict=True):
            if self.channels_last:
                features = features.permute(0, 3, 1, 2).contiguous()
            maps.append(_pad_to(features, -(-height // level.stride), -(-width // level.stride)))
        return tuple(maps)


def create_timm_backbone(
    name: str,
    *,
    strides: Sequence[int],
    imgsz: int,
    pretrained: bool = False,
    weights: BackboneWeights | None = None,
    build_args: Mapping[str, Any] | None = None,
) -> TimmBackbone:
    """Builds timm's `name` with feature maps at `strides`, verified at `imgsz` x `imgsz` pixels.

    Args:
        name: architecture, with a tag (`convnext_tiny.fb_in1k`) or without.
        strides: input pixels per cell, fine to coarse.
        imgsz: side of the input at which the real map sizes are compared with the declared ones.
        pretrained: take timm's weights from the hub or its local cache.
        weights: take them from a file instead.
        build_args: arguments of timm's constructor, those of `weights` among them.

    Raises:
        ConfigError: timm knows no such model, or one that does not take these arguments.
        UnsupportedBackbone: no feature maps at these strides.
        CheckpointError: weights that cannot be had.
    """
    _check_name(name)
    probe = _probe_sizes(name, strides=strides, imgsz=imgsz, build_args=build_args or {})
    network = _build(
        name,
        {**probe.build_args, "out_indices": probe.indices, **_source(pretrained, weights)},
    )
    mean, std = _input_statistics(name, pretrained, weights)
    return TimmBackbone(
        network,
        levels=probe.levels,
        channels_last=probe.channels_last,
        mean=mean,
        std=std,
        only_imgsz=None if probe.any_size else imgsz,
    )


def declared_strides(name: str, build_args: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the stride of each feature map that the model declares.

    Raises:
        ConfigError: it does not take these arguments.
        UnsupportedBackbone: it has no feature maps.
    """
    with torch.device("meta"):
        info: Any = _build(name, build_args).feature_info
    return tuple(info.reduction())


def known_architectures() -> list[str]:
    """Returns every architecture name of the installed timm."""
    return timm.list_models()


def _check_name(name: str) -> None:
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        hint = suggestion(architecture, known_architectures())
        raise ConfigError(f"timm has no model named {architecture!r}.{hint}")


@contextmanager
def _without_log() -> Iterator[None]:
    """Keeps timm from warning of the classifier's keys, which a detector has no use for."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        with _without_log():
            network = timm.create_model(name, features_only=True, **arguments)
            return without_small_strided_convolutions(network)
    except Exception as problem:  # a thousand models fail in as many ways
        if "unexpected keyword" in str(problem):
            raise ConfigError(f"{name} does not take these arguments: {problem}") from None
        if "Invalid pretrained tag" in str(problem):
            architecture = name.partition(".")[0]
            known = timm.list_models(f"{architecture}.*", include_tags=True)
            raise ConfigError(
                f"timm has no weights named {name!r}: choose {' or '.join(known) or architecture}"
            ) from None
        if not arguments.get("pretrained"):
            raise UnsupportedBackbone(
                f"{name} gives no feature maps: timm says {_first_line(problem)!r}"
            ) from None
        if isinstance(problem, OSError):
            raise CheckpointError(
                f"the pretrained weights of {name} could not be fetched "
                f"({_first_line(problem)}): give a file with --backbone-weights"
            ) from None
        raise CheckpointError(f"the weights of {name} could not be loaded: {problem}") from None


def _first_line(problem: Exception) -> str:
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__


@dataclass(frozen=True)
class _Probe:
    """What a model really returns at one image size."""

    build_args: dict[str, Any]
    indices: tuple[int, ...]
    """timm's `out_indices` of the chosen maps."""
    levels: tuple[Level, ...]
    channels_last: bool
    any_size: bool
    """Whether it takes other images than squares of the one size."""


def _probe_sizes(
    name: str, *, strides: Sequence[int], imgsz: int, build_args: Mapping[str, Any]
) -> _Probe:
    """Returns the probe of the model as it takes most image sizes.

    Transformers are built for one image size, which timm calls `img_size`; some take others too
    when told so at construction (ViT by one name, Swin by the other). What knows neither is built
    as it is or, failing that, for `imgsz` alone.
    """
    for extra in (
        {"img_size": imgsz, "dynamic_img_size": True},
        {"img_size": imgsz, "strict_img_size": False},
    ):
        with suppress(UnsupportedBackbone, ConfigError):
            return _probe(name, strides=strides, imgsz=imgsz, build_args={**build_args, **extra})
    try:
        return _probe(name, strides=strides, imgsz=imgsz, build_args=build_args)
    except UnsupportedBackbone as as_it_is:
        sized = {**build_args, "img_size": imgsz}
        try:
            return _probe(name, strides=strides, imgsz=imgsz, build_args=sized)
        except (UnsupportedBackbone, ConfigError):
            raise as_it_is from None


def _probe(
    name: str, *, strides: Sequence[int], imgsz: int, build_args: Mapping[str, Any]
) -> _Probe:
    with torch.device("meta"):
        indices, levels = _choose_levels(name, _build(name, build_args), strides)
        network = _build(name, {**build_args, "out_indices": indices}).eval()
        channels_last = _returns_nhwc(network)
        any_size = _verify(name, network, levels=levels, imgsz=imgsz, channels_last=channels_last)
    return _Probe(dict(build_args), indices, levels, channels_last, any_size)


def _choose_levels(
    name: str, network: nn.Module, strides: Sequence[int]
) -> tuple[tuple[int, ...], tuple[Level, ...]]:
    """Returns, for each stride, the deepest feature map that declares it, and its level."""
    info: Any = network.feature_info
    reductions, channels = info.reduction(), info.channels()
    positions = {stride: i for i, stride in enumerate(reductions)}
    absent = [stride for stride in strides if stride not in positions]
    if absent:
        raise UnsupportedBackbone(
            f"{name} declares feature maps at strides {reductions}, "
            f"but strides {list(strides)} were asked for: {absent} are missing"
        )
    chosen = [positions[stride] for stride in strides]
    levels = tuple(Level(s, channels[i]) for s, i in zip(strides, chosen, strict=True))
    return tuple(info.out_indices[i] for i in chosen), levels


def _returns_nhwc(network: nn.Module) -> bool:
    output_format = getattr(network, "output_fmt", None)
    return str(getattr(output_format, "value", output_format)).upper() == "NHWC"


def _verify(
    name: str, network: nn.Module, *, levels: Sequence[Level], imgsz: int, channels_last: bool
) -> bool:
    """Returns whether images of any size give the maps that the levels promise.

    A map keeps its promise where it has every cell. It may also lack some, as long as it lacks
    the same number in a larger image: then unpadded convolutions take a fixed number of pixels
    from it, while a map of another stride would lack cells in proportion to the image. Where
    there is no larger image to compare with it may lack an eighth: other strides lack half.

    Raises:
        UnsupportedBackbone: a map that does neither, or no maps of images of `imgsz` pixels.
    """
    missing_at = partial(_missing_cells, name, network, levels=levels, channels_last=channels_last)
    missing = missing_at(size=(imgsz, imgsz))
    # What divides two neighbouring heights divides every height.
    step = levels[-1].stride
    try:
        grown = missing_at(size=(imgsz + step, imgsz + _GROWTH * step))
    except UnsupportedBackbone:
        grown = None
    any_size = True
    for i, (level, cells) in enumerate(zip(levels, missing, strict=True)):
        pixels = max(cells) * level.stride
        if grown is not None and cells == grown[i] and 0 <= pixels <= _MOST_UNPADDED_PIXELS:
            continue
        any_size = False
        expected = -(-imgsz // level.stride)
        tolerated = expected // 8 if grown is None else 0
        if not all(0 <= lacking <= tolerated for lacking in cells):
            raise UnsupportedBackbone(
                f"{name} declares stride {level.stride}, a map of {expected} x {expected} at "
                f"{imgsz} x {imgsz} px, but returns {expected - cells[0]} x {expected - cells[1]}"
            )
    return any_size


@torch.no_grad()
def _missing_cells(
    name: str,
    network: nn.Module,
    *,
    levels: Sequence[Level],
    size: tuple[int, int],
    channels_last: bool,
) -> list[tuple[int, int]]:
    """Returns how many rows and columns the map of each level lacks.

    `size` is height and width of the image in pixels.

    Raises:
        UnsupportedBackbone: the network cannot take it, or a map has other channels than declared.
    """
    try:
        maps = network(torch.zeros(1, 3, *size, device="meta"))
    except Exception as problem:  # a thousand models fail in as many ways
        raise UnsupportedBackbone(
            f"{name} cannot take {size[0]} x {size[1]} pixels: {_first_line(problem)}"
        ) from None
    missing = []
    for level, features in zip(levels, maps, strict=True):
        shape = tuple(features.shape)
        height, width, channels = shape[1:] if channels_last else (*shape[2:], shape[1])
        if channels != level.channels:
            raise UnsupportedBackbone(
                f"{name} declares {level.channels} channels at stride {level.stride}, "
                f"but returns {channels}"
            )
        expected_h, expected_w = (-(-side // level.stride) for side in size)
        missing.append((expected_h - height, expected_w - width))
    return missing


def _source(pretrained: bool, weights: BackboneWeights | None) -> dict[str, Any]:
    """Returns the arguments by which timm loads the weights while it builds the model."""
    if weights is not None:
        overlay = {"file": weights.file, "custom_load": False}
        return {"pretrained": True, "pretrained_cfg_overlay": overlay}
    return {"pretrained": pretrained}


def _input_statistics(
    name: str, pretrained: bool, weights: BackboneWeights | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of the input in 0..1 as the weights were trained with.

    Without pretrained weights all backbones see pixel / 255, as YOLOv5 does.
    """
    if weights is not None:
        return weights.mean, weights.std
    config = timm.get_pretrained_cfg(name) if pretrained else None
    if config is None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(config.mean), tuple(config.std)


def _pad_to(features: Tensor, height: int, width: int) -> Tensor:
    """Returns the map (B, C, h, w) brought to (B, C, height, width) by repeating its border."""
    missing_h, missing_w = height - features.shape[-2], width - features.shape[-1]
    if missing_h == 0 and missing_w == 0:
        return features
    top, left = missing_h // 2, missing_w // 2
    return pad(features, (left, missing_w - left, top, missing_h - top), mode="replicate")
