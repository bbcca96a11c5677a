"""Any timm model as a backbone: levels chosen by stride and verified at the real image size."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone, legible
from ossa.files import sha256_of
from ossa.models.backbones import roadmap as _roadmap  # noqa: F401 - registers its steps with timm
from ossa.models.backbones.plain import NormalizedFeatures, PlainBackbone, trunk_stride
from ossa.models.backbones.pretrained import BackboneWeights, check_backbone_weights
from ossa.models.blocks import InputNormalization, without_small_strided_convolutions
from ossa.types import Level

_GROWTH = 8
"""Cells by which the coarsest map grows between the two image sizes that are compared."""
_warn_once = cache(logging.getLogger("ossa").warning)
_MAX_UNPADDED_PIXELS = 64
"""Of the input that a map may lose to unpadded convolutions: Inception loses two cells of 32."""


class TimmBackbone(nn.Module):
    """A timm model whose feature maps lie at the strides asked for.

    Maps uint8 (B, 3, H, W) to one (B, C_l, ceil(H / s_l), ceil(W / s_l)) per level. Maps that a
    model returns a little too small (unpadded convolutions) are padded by replication.

    `only_imgsz` is the side in pixels of the only images that it takes, squares, or None where
    it takes any.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        levels: tuple[Level, ...],
        channels_last: bool = False,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
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
    drop_path: float | None = None,
) -> TimmBackbone | PlainBackbone:
    """Build timm's `name` with feature maps at `strides`, verified at `imgsz` x `imgsz` pixels.

    A model whose maps all have one stride, a plain transformer, gets a pyramid on its last map
    behind its final norm. Patches of 14 pixels become 16: timm resamples the pretrained patch
    embedding, and `resampled` says so.

    Arguments and errors are those of `ossa.create_backbone`.
    """
    architecture, _, tag = name.partition(".")
    known = timm.list_models(f"{architecture}.*", include_tags=True) if tag else []
    if tag and name not in known:
        raise ConfigError(
            f"timm has no weights named {name!r}: choose {' or '.join(known) or architecture}"
        )
    if weights is not None:
        check_backbone_weights(name, weights)
        build_args = weights.build_args
    arguments = {key: v for key, v in (build_args or {}).items() if key != "num_classes"}
    info = _feature_info(name, arguments)
    if drop_path is not None:
        arguments["drop_path_rate"] = drop_path
        if not _drops_paths(name, arguments):
            raise ConfigError(
                f"{name} has no blocks that drop path could drop: leave model.drop_path out"
            )
    trunk_strides, chosen = _choose_maps(name, info, strides)
    arguments, properties = _probe_sizes(name, trunk_strides, imgsz, {**arguments, **chosen})
    arguments["pretrained"] = pretrained or weights is not None
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"file": weights.file, "custom_load": False}
    # Without pretrained weights all backbones see pixel / 255, as YOLOv5 does.
    source = weights or (timm.get_pretrained_cfg(name) if pretrained else None)
    if source is not None:
        properties |= {"mean": tuple(source.mean), "std": tuple(source.std)}
    trunk = TimmBackbone(_build(name, arguments), **properties)
    patch, stride = info.reduction()[-1], trunk_strides[0]
    if "feature_cls" not in chosen:
        return trunk
    resampled = None if stride == patch else f"patches of {patch} pixels resampled to {stride}"
    return PlainBackbone(trunk, strides=strides, resampled=resampled)


class SkipInit(TorchFunctionMode):
    """Context in which tensors on the meta device are not initialized, half the time of a build."""

    _FILLING = frozenset(
        getattr(Tensor, name)
        for name in (
            *("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"),
            "__setitem__",  # MaxViT fills a table of positions number by number
        )
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fills = func in self._FILLING or getattr(func, "__module__", None) == "torch.nn.init"
        if fills and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def known_architectures() -> list[str]:
    """Return every architecture name of the installed timm."""
    return timm.list_models()


def own_code(name: str) -> str | None:
    """Return the sha256 of the file that registers a model which is neither timm's nor ours.

    None for every other model, and for one that no file registers, as in a notebook.
    """
    architecture = name.partition(".")[0]
    return _sha256_of(timm.model_entrypoint(architecture)) if timm.is_model(architecture) else None


def warn_of_other_code(name: str, trained: str | None, *, where: Path) -> None:
    """Log a warning where a model has another `own_code` than in its training, if it had one.

    Args:
        name: of the model.
        trained: its code then; of a training that went on with another, 'A, then B'.
        where: the file that says so.
    """
    if trained is not None and (own_code(name) or "none") not in trained:
        _warn_once(
            f"{legible(str(where))} was trained with other code of {legible(name)} than the file "
            "that registers it has now: results may differ"
        )


@cache  # as it was imported: the file may be edited later
def _sha256_of(entrypoint: Callable[..., Any]) -> str | None:
    module = entrypoint.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.partition(".")[0] in ("timm", "ossa") or file is None or not Path(file).is_file():
        return None
    return sha256_of(file)


def _build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of the classifier's keys, which a detector lacks
    try:
        network = timm.create_model(name, features_only=True, **arguments)
        return without_small_strided_convolutions(network)
    except Exception as problem:  # a thousand models fail in as many ways
        if not arguments.get("pretrained"):
            raise UnsupportedBackbone(
                f"gives no feature maps: timm says {first_line(problem)!r}", model=name
            ) from problem
        if isinstance(problem, OSError):
            raise CheckpointError(
                f"the pretrained weights of {name} could not be fetched "
                f"({first_line(problem)}): give a file with --backbone-weights"
            ) from None
        raise CheckpointError(f"the weights of {name} could not be loaded: {problem}") from None
    finally:
        logger.setLevel(level)


def first_line(problem: Exception) -> str:
    """Return the first line of the message of an error, or its type where it has none."""
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__


def _feature_info(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return timm's description of all feature maps of the model."""
    try:
        with torch.device("meta"), SkipInit():
            return _build(name, arguments).feature_info
    except UnsupportedBackbone as refusal:
        if arguments and isinstance(refusal.__cause__, TypeError):
            raise ConfigError(
                f"{name} does not take these arguments: {refusal.__cause__}"
            ) from None
        raise


def _choose_maps(
    name: str, info: Any, strides: Sequence[int]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the strides of timm's network, and arguments that build the deepest map of each."""
    reductions = info.reduction()
    deepest = {stride: position for position, stride in enumerate(reductions)}
    chosen: dict[str, Any] = {}
    if len(deepest) == 1:  # a plain transformer
        stride = trunk_stride(name, reductions[-1], strides)
        chosen = {"feature_cls": NormalizedFeatures}
        if stride not in deepest:
            chosen["patch_size"] = stride
        deepest, strides = {stride: len(reductions) - 1}, (stride,)
    absent = [stride for stride in strides if stride not in deepest]
    if absent:
        raise UnsupportedBackbone(
            f"declares feature maps at strides {reductions}, "
            f"but strides {list(strides)} were asked for: {absent} are missing",
            model=name,
        )
    chosen["out_indices"] = tuple(info.out_indices[deepest[stride]] for stride in strides)
    return tuple(strides), chosen


def _drops_paths(name: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether the model takes a drop path rate and has blocks on which it acts."""
    try:
        with torch.device("meta"), SkipInit():
            network = timm.create_model(name, **{**arguments, "drop_path_rate": 0.5})
    except Exception:  # models that do not take it say so in many ways
        return False
    return any(isinstance(part, DropPath) and part.drop_prob > 0 for part in network.modules())


def _probe_sizes(
    name: str, strides: tuple[int, ...], imgsz: int, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arguments that build the model for most image sizes, and properties of the backbone.

    Transformers are built for one image size, `img_size`; some take others too if asked to at
    construction. Models without such arguments are built as they are or, where that fails, for
    `imgsz` alone.
    """
    refusals = []
    for extra in (
        {"img_size": imgsz, "dynamic_img_size": True},
        {"img_size": imgsz, "strict_img_size": False},
        {},
        {"img_size": imgsz},
    ):
        sized = {**arguments, **extra}
        try:
            with torch.device("meta"), SkipInit():
                network: Any = _build(name, sized).eval()
                levels = tuple(map(Level, strides, network.feature_info.channels()))
                output_format = getattr(network, "output_fmt", None)
                nhwc = str(getattr(output_format, "value", output_format)).upper() == "NHWC"
                backbone = TimmBackbone(network, levels=levels, channels_last=nhwc)
                any_size = _verify(name, backbone, imgsz)
        except UnsupportedBackbone as refusal:
            refusals.append(refusal)
            continue
        only_imgsz = None if any_size else imgsz
        return sized, {"levels": levels, "channels_last": nhwc, "only_imgsz": only_imgsz}
    raise refusals[2] from None  # of the model without arguments of size


def _verify(name: str, backbone: TimmBackbone, imgsz: int) -> bool:
    """Return whether images of any size give the maps that the levels promise.

    A map may lack cells, as long as it lacks the same number in a larger image: then unpadded
    convolutions take a fixed number of pixels from it, while a map of another stride would lack
    cells in proportion to the image. Where there is no larger image to compare with it may lack an
    eighth: other strides lack half.

    Raises:
        UnsupportedBackbone: a map that lacks more, or no maps of images of `imgsz` pixels.
    """
    missing = _missing_cells(name, backbone, (imgsz, imgsz))
    # What divides two neighbouring heights divides every height.
    step = backbone.levels[-1].stride
    try:
        grown = _missing_cells(name, backbone, (imgsz + step, imgsz + _GROWTH * step))
    except UnsupportedBackbone:
        grown = None
    any_size = True
    for i, (level, cells) in enumerate(zip(backbone.levels, missing, strict=True)):
        pixels = max(cells) * level.stride
        if grown is not None and cells == grown[i] and 0 <= pixels <= _MAX_UNPADDED_PIXELS:
            continue
        any_size = False
        expected = -(-imgsz // level.stride)
        tolerated = expected // 8 if grown is None else 0
        if not all(0 <= lacking <= tolerated for lacking in cells):
            raise UnsupportedBackbone(
                f"declares stride {level.stride}, a map of {expected} x {expected} at "
                f"{imgsz} x {imgsz} px, but returns {expected - cells[0]} x {expected - cells[1]}",
                model=name,
            )
    return any_size


@torch.no_grad()
def _missing_cells(
    name: str, backbone: TimmBackbone, size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return how many rows and columns the map of each level lacks for images of this size (h, w).

    Raises:
        UnsupportedBackbone: the network cannot take it, or a map has other channels than declared.
    """
    try:
        maps = backbone.network(torch.zeros(1, 3, *size, device="meta"))
    except Exception as problem:  # a thousand models fail in as many ways
        raise UnsupportedBackbone(
            f"cannot take {size[0]} x {size[1]} pixels: {first_line(problem)}", model=name
        ) from None
    missing = []
    for level, features in zip(backbone.levels, maps, strict=True):
        shape = tuple(features.shape)
        height, width, channels = shape[1:] if backbone.channels_last else (*shape[2:], shape[1])
        if channels != level.channels:
            raise UnsupportedBackbone(
                f"declares {level.channels} channels at stride {level.stride}, "
                f"but returns {channels}",
                model=name,
            )
        expected_h, expected_w = (-(-side // level.stride) for side in size)
        missing.append((expected_h - height, expected_w - width))
    return missing


def _pad_to(features: Tensor, height: int, width: int) -> Tensor:
    """Return the map (B, C, h, w) brought to (B, C, height, width) by repeating its border."""
    missing_h, missing_w = height - features.shape[-2], width - features.shape[-1]
    if missing_h == 0 and missing_w == 0:
        return features
    top, left = missing_h // 2, missing_w // 2
    return pad(features, (left, missing_w - left, top, missing_h - top), mode="replicate")
