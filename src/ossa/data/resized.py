"""Images with their longer side as long as the input of a network, from their files."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.data.decode import decode_image
from ossa.data.index import DatasetIndex
from ossa.data.letterbox import resize_long_side


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

    Args:
        index: whose image it is.
        position: in the index.
        imgsz: in pixels.
        reduced: a JPEG that is twice as large or more is decoded at 1/2, 1/4 or 1/8 of its size,
            much faster and with slightly other pixels.

    Raises:
        DataError: the file is missing, damaged, or not of the size that the index has.
    """
    width, height = (int(side) for side in index.sizes_wh[position])
    decoded = decode_image(
        index.image_path(position), reduce_to=imgsz if reduced else None, size_wh=(width, height)
    )
    # Reduced sides are rounded up, so the ratio of the sides is not exactly the reduction.
    reduction = round(max(width, height) / max(decoded.shape[:2]))
    image = resize_long_side(decoded, imgsz)
    return Resized(image, np.divide(image.shape[:2], decoded.shape[:2]) / reduction)
