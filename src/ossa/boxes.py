"""Conversions of boxes. Inside the package boxes are xyxy in absolute pixels; any other format
exists only in a function whose name says so.

All functions take numpy arrays or tensors of shape (..., 4) and return the same kind.
"""

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Boxes = TypeVar("Boxes", NDArray[np.float32], NDArray[np.float64], Tensor)


def _stack(like: Boxes, columns: list[Boxes]) -> Boxes:
    if isinstance(like, Tensor):
        return torch.stack(columns, dim=-1)  # type: ignore[arg-type,return-value]
    return np.stack(columns, axis=-1)  # type: ignore[return-value]


def xyxy_to_cxcywh(boxes_xyxy: Boxes) -> Boxes:
    """Returns centre x, centre y, width, height in the unit of the input."""
    x0, y0, x1, y1 = (boxes_xyxy[..., i] for i in range(4))
    return _stack(boxes_xyxy, [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])


def cxcywh_to_xyxy(boxes_cxcywh: Boxes) -> Boxes:
    """Returns left, top, right, bottom in the unit of the input."""
    cx, cy, w, h = (boxes_cxcywh[..., i] for i in range(4))
    return _stack(boxes_cxcywh, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def xyxy_to_xywh(boxes_xyxy: Boxes) -> Boxes:
    """Returns left, top, width, height (the format of COCO's files)."""
    x0, y0, x1, y1 = (boxes_xyxy[..., i] for i in range(4))
    return _stack(boxes_xyxy, [x0, y0, x1 - x0, y1 - y0])


def xywh_to_xyxy(boxes_xywh: Boxes) -> Boxes:
    """Returns left, top, right, bottom from COCO's left, top, width, height."""
    x0, y0, w, h = (boxes_xywh[..., i] for i in range(4))
    return _stack(boxes_xywh, [x0, y0, x0 + w, y0 + h])


def box_areas(boxes_xyxy: Boxes) -> Boxes:
    """Returns width x height, (...,), in square pixels."""
    widths = boxes_xyxy[..., 2] - boxes_xyxy[..., 0]
    return widths * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])  # type: ignore[return-value]
