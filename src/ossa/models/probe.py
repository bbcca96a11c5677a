"""Whether an architecture can be a backbone, tried out on the meta device, where nothing computes.

A backbone is *supported* where it can be built for square images of 320 and of 640 pixels, and
where what is built for 640 also takes 384 x 672 (height x width), each time with maps of
ceil(H / stride) x ceil(W / stride) cells at strides 8, 16 and 32.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ossa.errors import ConfigError, UnsupportedBackbone
from ossa.models.backbones.catalog import (
    TABLE_IMGSZ,
    TABLE_TIMM,
    CatalogueRow,
    shipped_table,
)
from ossa.models.complexity import SkipInit
from ossa.models.detector import create_backbone, known_backbones
from ossa.types import Level

_OTHER_IMGSZ = 320
_OBLONG = (384, 672)
"""Height and width in pixels."""


def probe_backbone(name: str) -> CatalogueRow:
    """Returns the catalogue's row of an architecture, which takes about two seconds.

    Raises:
        ConfigError: there is no such architecture.
    """
    levels: tuple[Level, ...] = ()
    params = flops = reason = None
    try:
        backbone, levels = _build(name, TABLE_IMGSZ)
        params = sum(parameter.numel() for parameter in backbone.parameters())
        with FlopCounterMode(display=False) as counter:
            _check_maps(backbone, levels, (TABLE_IMGSZ, TABLE_IMGSZ))
        flops = counter.get_total_flops()
        if getattr(backbone, "only_imgsz", None) is not None:
            raise UnsupportedBackbone(
                f"{name} takes only square images, all of the size for which it is built"
            )
        _check_maps(backbone, levels, _OBLONG)
        _check_maps(*_build(name, _OTHER_IMGSZ), (_OTHER_IMGSZ, _OTHER_IMGSZ))
    except (UnsupportedBackbone, ConfigError) as refusal:
        if name not in known_backbones():
            raise
        # What was refused itself, without the advice that `create_backbone` adds.
        reason = str(refusal.__cause__ or refusal).removeprefix(f"{name} ")
    return CatalogueRow(name, reason, levels, params, flops)


def with_flops_at(row: CatalogueRow, imgsz: int) -> CatalogueRow:
    """Returns the row with the FLOPs of one image of `imgsz` x `imgsz` pixels.

    They are None where the architecture cannot be built for such images.
    """
    try:
        backbone, levels = _build(row.model, imgsz)
        with FlopCounterMode(display=False) as counter:
            _check_maps(backbone, levels, (imgsz, imgsz))
    except UnsupportedBackbone:
        return replace(row, flops=None)
    return replace(row, flops=counter.get_total_flops())


def known_rows(
    names: Sequence[str], keep: Callable[[CatalogueRow], bool]
) -> tuple[list[CatalogueRow], list[str]]:
    """Returns the rows to keep of the shipped table, and the names that have to be probed instead.

    Those are the names that the table does not have and, where the installed timm is of another
    version than the table, all: of them only what `keep` says yes to in the table.
    """
    table = shipped_table()
    unknown = [name for name in names if name not in table]
    kept = [table[name] for name in names if name in table and keep(table[name])]
    if timm.__version__ == TABLE_TIMM:
        return kept, unknown
    return [], [*unknown, *(row.model for row in kept)]


def _build(name: str, imgsz: int) -> tuple[nn.Module, tuple[Level, ...]]:
    with torch.device("meta"), SkipInit():
        # Without gradients: the hooks by which FLOPs are counted fail on parameters among the maps.
        backbone = create_backbone(name, imgsz=imgsz).eval().requires_grad_(False)
    levels = backbone.levels
    assert isinstance(levels, tuple)
    return backbone, levels


@torch.no_grad()
def _check_maps(backbone: nn.Module, levels: tuple[Level, ...], size: tuple[int, int]) -> None:
    """Runs an image of `size`, height and width in pixels.

    Raises:
        UnsupportedBackbone: it does not run, or its maps are others than the levels promise.
    """
    images = torch.zeros(1, 3, *size, dtype=torch.uint8, device="meta")
    found = _shapes(backbone, images)
    expected = [
        (1, level.channels, -(-size[0] // level.stride), -(-size[1] // level.stride))
        for level in levels
    ]
    if found != expected:
        raise UnsupportedBackbone(
            f"returns maps of {found} at {size[0]} x {size[1]} pixels, expected {expected}"
        )


def _shapes(backbone: nn.Module, images: Tensor) -> list[tuple[int, ...]]:
    try:
        return [tuple(features.shape) for features in backbone(images)]
    except UnsupportedBackbone:
        raise
    except Exception as problem:  # a thousand models fail in as many ways
        height, width = images.shape[-2:]
        raise UnsupportedBackbone(
            f"cannot take {height} x {width} pixels: {str(problem).partition(chr(10))[0]}"
        ) from None
