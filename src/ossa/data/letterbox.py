"""Bringing images of any size to the size that the network sees."""

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.types import Letterbox

FILL = 114
"""Grey value of YOLOv5's padding."""


def resize_long_side(image: NDArray[np.uint8], imgsz: int) -> NDArray[np.uint8]:
    """Returns the image (H, W, 3) with its longer side of `imgsz` pixels, its shape kept."""
    height, width = image.shape[:2]
    ratio = imgsz / max(height, width)
    if ratio == 1.0:
        return image
    size_wh = (max(round(width * ratio), 1), max(round(height * ratio), 1))
    # Averaging avoids aliasing where many pixels become one.
    method = cv2.INTER_AREA if ratio < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size_wh, interpolation=method), dtype=np.uint8)


def letterbox(image: NDArray[np.uint8], imgsz: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns the image (H, W, 3) centred on a grey square of `imgsz` px, and its placement."""
    original_wh = (image.shape[1], image.shape[0])
    return on_square(resize_long_side(image, imgsz), imgsz, original_wh=original_wh)


def on_square(
    resized: NDArray[np.uint8], imgsz: int, *, original_wh: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns a resized image centred on a grey square of `imgsz` px, and the original's place."""
    return _centred(resized, (imgsz, imgsz), original_wh=original_wh)


def letterbox_rectangular(
    image: NDArray[np.uint8], imgsz: int, *, stride: int
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns the image centred on the smallest grey rectangle that holds it, and its placement.

    Args:
        image: (H, W, 3).
        imgsz: longer side of the rectangle, a multiple of `stride`.
        stride: the shorter side is a multiple of it too.
    """
    resized = resize_long_side(image, imgsz)
    height, width = resized.shape[:2]
    canvas_wh = (-(-width // stride) * stride, -(-height // stride) * stride)
    return _centred(resized, canvas_wh, original_wh=(image.shape[1], image.shape[0]))


def _centred(
    resized: NDArray[np.uint8], canvas_wh: tuple[int, int], *, original_wh: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns a grey canvas with the image in its middle, and the placement of the original."""
    new_height, new_width = resized.shape[:2]
    left, top = (canvas_wh[0] - new_width) // 2, (canvas_wh[1] - new_height) // 2
    canvas = np.full((canvas_wh[1], canvas_wh[0], 3), FILL, dtype=np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resized
    placement = Letterbox(
        scale_x=new_width / original_wh[0],
        scale_y=new_height / original_wh[1],
        pad_left=left,
        pad_top=top,
        width=original_wh[0],
        height=original_wh[1],
    )
    return canvas, placement
