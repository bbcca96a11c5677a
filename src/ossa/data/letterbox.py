"""Bringing images of any size to the size that the network sees."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.decode import decode_image
from ossa.types import Letterbox

FILL = 114
"""Grey value of YOLOv5's padding."""


def resize_long_side(image: NDArray[np.uint8], imgsz: int) -> NDArray[np.uint8]:
    """Returns the image (H, W, 3) with its longer side of `imgsz` pixels, its shape kept."""
    height, width = image.shape[:2]
    ratio = imgsz / max(height, width)
    if ratio == 1.0:
        return image
    # Averaging avoids aliasing where many pixels become one.
    method = cv2.INTER_AREA if ratio < 0.5 else cv2.INTER_LINEAR
    size_wh = resized_wh((width, height), imgsz)
    return np.asarray(cv2.resize(image, size_wh, interpolation=method), dtype=np.uint8)


def resized_wh(size_wh: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """Returns the size of an image of `size_wh` pixels with its longer side of `imgsz` pixels."""
    width, height = size_wh
    ratio = imgsz / max(height, width)
    return max(round(width * ratio), 1), max(round(height * ratio), 1)


def letterbox(image: NDArray[np.uint8], imgsz: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns the image (H, W, 3) centred on a grey square of `imgsz` px, and its placement.

    Examples:
        >>> import numpy as np
        >>> canvas, placement = letterbox(np.zeros((48, 64, 3), np.uint8), 32)
        >>> canvas.shape, placement.scale_x, placement.pad_top
        ((32, 32, 3), 0.5, 4)
    """
    original_wh = (image.shape[1], image.shape[0])
    return on_canvas(resize_long_side(image, imgsz), (imgsz, imgsz), original_wh=original_wh)


def letterbox_rectangular(
    image: NDArray[np.uint8], imgsz: int, *, stride: int
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns the image (H, W, 3) centred on the smallest grey rectangle, and its placement.

    Its sides are multiples of `stride`, and the longer one is `imgsz`.
    """
    resized = resize_long_side(image, imgsz)
    height, width = resized.shape[:2]
    canvas_wh = (-(-width // stride) * stride, -(-height // stride) * stride)
    return on_canvas(resized, canvas_wh, original_wh=(image.shape[1], image.shape[0]))


def on_canvas(
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


class Resized(NamedTuple):
    """An image at another size."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    scale_yx: NDArray[np.float64]
    """(2,) pixels of it for each of the original, down and across."""


def read_resized(
    index: DatasetIndex, position: int, imgsz: int, *, reduced: bool = False
) -> Resized:
    """Returns the image at `position` with its longer side of `imgsz` pixels.

    Where `reduced`, a JPEG that is twice as large or more is decoded at 1/2, 1/4 or 1/8 of its
    size, much faster and with slightly other pixels.

    Raises:
        DataError: the file is missing, damaged, or not of the size that the index has.
    """
    width, height = index.sizes_wh[position].tolist()
    decoded = decode_image(
        index.image_path(position), reduce_to=imgsz if reduced else None, size_wh=(width, height)
    )
    # Reduced sides are rounded up, so the ratio of the sides is not exactly the reduction.
    reduction = round(max(width, height) / max(decoded.shape[:2]))
    image = resize_long_side(decoded, imgsz)
    return Resized(image, np.divide(image.shape[:2], decoded.shape[:2]) / reduction)
