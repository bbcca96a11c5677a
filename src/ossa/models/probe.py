"""Whether an architecture can be a backbone, tried out on the meta device, where nothing computes.

A backbone is *supported* where it can be built for square images of 320 and of 640 pixels, and
where the one built for 640 also takes 384 x 672 (height x width), each time with maps of
ceil(H / stride) x ceil(W / stride) cells at strides 8, 16 and 32.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ossa.errors import UnsupportedBackbone
from ossa.models.backbones.catalog import TABLE_IMGSZ, TABLE_TIMM, CatalogRow, shipped_table
from ossa.models.backbones.timm import SkipInit, first_line
from ossa.models.detector import Backbone, create_backbone
from ossa.types import Level

_OTHER_IMGSZ = 320
_OBLONG = (384, 672)
"""Height and width in pixels."""


def probe_backbone(name: str) -> CatalogRow:
    """Return the catalog's row of an architecture, which takes about two seconds.

    Raises:
        ConfigError: there is no such architecture.
    """
    levels: tuple[Level, ...] = ()
    params = flops = reason = None
    try:
        backbone = _build(name, TABLE_IMGSZ)
        levels = cast(Backbone, backbone).levels
        params = sum(parameter.numel() for parameter in backbone.parameters())
        flops = _count_flops(backbone, (TABLE_IMGSZ, TABLE_IMGSZ))
        if getattr(backbone, "only_imgsz", None) is not None:
            raise UnsupportedBackbone(
                "takes only square images, all of the size for which it is built", model=name
            )
        _count_flops(backbone, _OBLONG)
        _count_flops(_build(name, _OTHER_IMGSZ), (_OTHER_IMGSZ, _OTHER_IMGSZ))
    except UnsupportedBackbone as refusal:
        reason = refusal.args[0]
    return CatalogRow(name, reason, levels, params, flops)


def with_flops_at(row: CatalogRow, imgsz: int) -> CatalogRow:
    """Return the row with the FLOPs of one image of `imgsz` x `imgsz` pixels.

    They are None where the architecture cannot be built for such images.
    """
    try:
        return replace(row, flops=_count_flops(_build(row.model, imgsz), (imgsz, imgsz)))
    except UnsupportedBackbone:
        return replace(row, flops=None)


def known_rows(
    names: Sequence[str], keep: Callable[[CatalogRow], bool]
) -> tuple[list[CatalogRow], list[str]]:
    """Return the rows to keep of the shipped table, and the names that have to be probed instead.

    Those are the names that are not in the table and, where the installed timm is of another
    version than the table, also those in the table for which `keep` returns True.
    """
    table = shipped_table()
    unknown = [name for name in names if name not in table]
    kept = [table[name] for name in names if name in table and keep(table[name])]
    if timm.__version__ == TABLE_TIMM:
        return kept, unknown
    return [], [*unknown, *(row.model for row in kept)]


def _build(name: str, imgsz: int) -> nn.Module:
    with torch.device("meta"), SkipInit():
        # Without gradients: the hooks by which FLOPs are counted fail on parameters among the maps.
        return create_backbone(name, imgsz=imgsz).eval().requires_grad_(False)


@torch.no_grad()
def _count_flops(backbone: nn.Module, size: tuple[int, int]) -> int:
    """Return the FLOPs of an image of `size`, height and width in pixels.

    Raises:
        UnsupportedBackbone: it does not run, or its maps are others than the levels promise.
    """
    height, width = size
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8, device="meta")
    try:
        with FlopCounterMode(display=False) as counter:
            found = [tuple(features.shape) for features in backbone(images)]
    except UnsupportedBackbone:
        raise
    except Exception as problem:  # a thousand models fail in as many ways
        reason = f"cannot take {height} x {width} pixels: {first_line(problem)}"
        raise UnsupportedBackbone(reason) from None
    expected = [
        (1, level.channels, -(-height // level.stride), -(-width // level.stride))
        for level in cast(Backbone, backbone).levels
    ]
    if found != expected:
        raise UnsupportedBackbone(
            f"returns maps of {found} at {height} x {width} pixels, expected {expected}"
        )
    return counter.get_total_flops()
