"""From image files to pixels: sizes from headers, uint8 RGB from bodies.

OpenCV decodes; Pillow reads headers and decodes what OpenCV cannot. Both honour the EXIF
orientation, so that a size read here is the shape of the decoded image.
"""

from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ossa.errors import DataError

# A file that cannot be decoded is reported once, as a DataError, not also on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# OpenCV names the reduced flags for grey and BGR only; grey's reduction with the RGB bit is RGB.
_FLAG_OF_REDUCTION: Final = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
_JPEG_START: Final = b"\xff\xd8\xff"
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*")
_EIGHT_BIT_MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def read_image_size(path: Path) -> tuple[int, int]:
    """Returns width and height in pixels as decoded (EXIF orientation applied), from the header.

    Raises:
        DataError: there is no such file, or it is not an image.
    """
    try:
        with Image.open(path) as image:
            turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
            width, height = image.size  # Pillow turns the size of a TIFF by itself
    except Exception as error:  # on damaged files Pillow raises errors of a dozen kinds
        raise DataError(f"Expected an image at {path}, found {_reason(error)}.") from error
    return (height, width) if turned else (width, height)


def decode_image(
    path: Path, *, reduce_to: int | None = None, size_wh: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Returns the image of a file as (H, W, 3) RGB.

    The EXIF orientation is applied; grey, palette and CMYK become RGB; 16 bits become 8 by their
    high byte; alpha is dropped, its colours left as stored.

    Args:
        path: JPEG, PNG, BMP, WebP or TIFF, told by content.
        reduce_to: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (much faster) as long as
            its long side keeps at least this many pixels. Needs `size_wh`.
        size_wh: width and height that the image is known to have, at full size.

    Raises:
        DataError: the file is missing, empty, cut short, no image, or not of the size `size_wh`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"Expected an image at {path}, found {_reason(error)}.") from error
    reduction = 1
    if reduce_to is not None and size_wh is not None and data.startswith(_JPEG_START):
        reduction = _reduction(max(size_wh), reduce_to)
    image = _decode(data, path=path, reduction=reduction)
    if size_wh is not None:
        _check_size(image, size_wh, path=path, reduction=reduction)
    return image


def _decode(data: bytes, *, path: Path, reduction: int) -> NDArray[np.uint8]:
    # OpenCV multiplies the colours of a TIFF by its alpha and fails on turned ones.
    pil_first = data.startswith(_TIFF_STARTS)
    image = None if pil_first else _decode_with_cv2(data, reduction)
    if image is not None:
        return image
    reason = "an image of an unknown kind (8 or 16 bits a channel are read)"
    try:
        image = _decode_with_pil(data, reduction)
    except Exception as error:  # see read_image_size
        reason = _reason(error)
    if image is None and pil_first:
        image = _decode_with_cv2(data, reduction)
    if image is None:
        raise DataError(f"Expected an image at {path}, found {reason}; replace or remove it.")
    return image


def _decode_with_cv2(data: bytes, reduction: int) -> NDArray[np.uint8] | None:
    try:
        # From memory, unlike from a file, a JPEG that is cut short gives None, not half an image.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAG_OF_REDUCTION[reduction])
    except cv2.error:
        return None
    return image  # type: ignore[return-value]  # OpenCV's stub knows neither None nor uint8


def _decode_with_pil(data: bytes, reduction: int) -> NDArray[np.uint8] | None:
    with Image.open(BytesIO(data)) as image:
        if image.mode not in _EIGHT_BIT_MODES:
            return None
        turned = ImageOps.exif_transpose(image).convert("RGB")
        return np.array(turned.reduce(reduction) if reduction > 1 else turned)


def _orientation(image: Image.Image) -> int:
    # Not getexif(): it decodes a whole PNG, and reads XMP, which OpenCV does not.
    stored = image.info.get("exif")
    if not stored:
        return 1
    exif = Image.Exif()
    try:
        exif.load(stored)
        return exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a damaged block raises: OpenCV decodes such a file unturned
        return 1


def _reduction(long_side: int, reduce_to: int) -> int:
    fitting = (factor for factor in (8, 4, 2) if -(-long_side // factor) >= reduce_to)
    return next(fitting, 1)


def _check_size(
    image: NDArray[np.uint8], size_wh: tuple[int, int], *, path: Path, reduction: int
) -> None:
    height, width = image.shape[:2]
    if (width, height) != tuple(-(-side // reduction) for side in size_wh):
        raise DataError(
            f"Expected {size_wh[0]}x{size_wh[1]} pixels in {path}, found "
            f"{width * reduction}x{height * reduction} (EXIF orientation applied); its boxes "
            "belong to another size, so correct the annotation or the image."
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "no image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"a damaged one: {error}".rstrip(". ")
