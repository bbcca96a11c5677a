"""Conversions of boxes. Inside the package boxes are xyxy in absolute pixels; any other format
exists only in a function whose name says so.

All functions take arrays or tensors of shape (..., 4) and return the same kind.
"""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Boxes = TypeVar("Boxes", NDArray[Any], Tensor)


def xyxy_to_cxcywh(boxes_xyxy: Boxes) -> Boxes:
    """Return centre x, centre y, width, height in the unit of the input."""
    x0, y0, x1, y1 = _columns(boxes_xyxy)
    return _stacked([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])


def cxcywh_to_xyxy(boxes_cxcywh: Boxes) -> Boxes:
    """Return left, top, right, bottom in the unit of the input."""
    cx, cy, w, h = _columns(boxes_cxcywh)
    return _stacked([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def xyxy_to_xywh(boxes_xyxy: Boxes) -> Boxes:
    """Return left, top, width, height (the format of COCO's files)."""
    x0, y0, x1, y1 = _columns(boxes_xyxy)
    return _stacked([x0, y0, x1 - x0, y1 - y0])


def xywh_to_xyxy(boxes_xywh: Boxes) -> Boxes:
    """Return left, top, right, bottom from COCO's left, top, width, height."""
    x0, y0, w, h = _columns(boxes_xywh)
    return _stacked([x0, y0, x0 + w, y0 + h])


def _columns(boxes: Any) -> tuple[Any, Any, Any, Any]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _stacked(columns: list[Any]) -> Any:
    if isinstance(columns[0], Tensor):
        return torch.stack(columns, dim=-1)
    return np.stack(columns, axis=-1)
