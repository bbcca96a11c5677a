"""From image files to pixels: sizes from headers, uint8 RGB from bodies.

Pillow reads headers, OpenCV decodes, and Pillow decodes what OpenCV cannot. The header is read
first: its size decides whether the image is decoded at all, and its EXIF orientation is applied to
size and pixels alike.
"""

import re
import struct
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ossa.errors import DataError, os_reason
from ossa.files import open_regular, read_regular

# A file that cannot be decoded is reported once, as a DataError, not also on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")

MOST_PIXELS: Final = 178_956_970
"""Largest image that is decoded: half a gigabyte as RGB, which is also Pillow's own limit."""
LONGEST_SIDE: Final = 65_535
"""Longest side that is decoded, the limit of JPEG."""
MOST_COUNTED: Final = 100
"""Images per file; a GIF of 50 MB may claim ten million, each a millisecond to find."""

_MOST_BYTES: Final = 2_000_000_000
_KINDS: Final = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "AVIF")
"""Pillow's names; JPEG covers MPO. For others, such as EPS, Pillow would start a program."""
_MOST_PIXELS_PER_BYTE: Final = {"JPEG": 1000, "MPO": 1000, "PNG": 10_000}
"""More than any compression reaches: a blank JPEG has 256, a blank PNG of one bit 8200."""

_REDUCED: Final = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV names these flags for grey and BGR only; grey's with the RGB bit is RGB."""
_MOST_CHUNKS: Final = 100_000
_MOST_CHUNKS_AHEAD: Final = 1000  # PNG chunks before the pixels
_IDAT_BYTES_UNCHECKED: Final = 1_000_000
"""OpenCV inflates so many bytes of a PNG to a gigabyte in two seconds, however few its pixels."""
_MOST_SCANS: Final = 100
"""JPEG scans: ten are usual, and each takes the time of a whole image for a few bytes."""
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TIFF: Final = "TIFF"
_FLIP_OF_ORIENTATION: Final = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""OpenCV's flip code, by EXIF orientation; from 5 on rows and columns are exchanged before."""
_EIGHT_BIT_MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


class ImageHeader(NamedTuple):
    """What an image file says of itself."""

    kind: str
    """Pillow's name: 'JPEG', 'PNG', ..."""
    size_wh: tuple[int, int]
    """Width and height in pixels, after the EXIF orientation is applied."""
    orientation: int
    """EXIF orientation of the stored pixels, 1 to 8; 1 is upright."""


def read_header(path: Path) -> ImageHeader:
    """Returns what the header of an image file says.

    Raises:
        DataError: there is no such file, it is not an image, or it is too large to be decoded.
    """
    try:
        with open_regular(path, most_bytes=_MOST_BYTES) as stream:
            return _read_header(stream, path)
    except OSError as error:
        raise DataError(expected="an image", found=_reason(error), path=path) from error


def count_pictures(path: Path) -> int:
    """Returns the number of images in an animation or TIFF, at most `MOST_COUNTED`; 1 if unsure."""
    count = 1
    # Pillow raises a dozen kinds.
    with suppress(Exception), open_regular(path) as stream, open_image(stream) as image:
        if image.format in ("PNG", "WEBP"):  # as the header says
            return getattr(image, "n_frames", 1)
        while image.format in ("GIF", _TIFF) and count < MOST_COUNTED:
            if image.format == "GIF":
                image._seek(count, False)  # type: ignore[attr-defined]  # draws no picture
            else:
                image.seek(count)
            count += 1
    return count


def decode_image(
    path: Path, *, reduce_to: int | None = None, size_wh: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Returns the image of a file as (H, W, 3) RGB.

    The EXIF orientation is applied; grey, palette and CMYK become RGB; 16 bits become 8 by their
    high byte; alpha is dropped, its colours left as stored.

    Args:
        path: JPEG, PNG, BMP, WebP or TIFF, recognised by content.
        reduce_to: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (much faster) as long as
            its long side keeps at least this many pixels. Needs `size_wh`.
        size_wh: expected width and height at full size.

    Raises:
        DataError: the file is missing, empty, cut short, no image, not of the size `size_wh`, or
            its header claims more than `MOST_PIXELS` or `LONGEST_SIDE`.
    """
    try:
        data = read_regular(path, most_bytes=_MOST_BYTES)
    except OSError as error:
        raise DataError(expected="an image", found=_reason(error), path=path) from error
    header = _read_header(BytesIO(data), path)
    width, height = header.size_wh
    # A decoder would allocate all pixels before it finds that they are missing.
    if width * height > _MOST_PIXELS_PER_BYTE.get(header.kind, MOST_PIXELS) * len(data):
        raise _damaged(f"{width}x{height} pixels do not fit in {len(data)} bytes", path)
    if header.kind == "PNG":
        _check_chunks(data, path)
    is_jpeg = header.kind in ("JPEG", "MPO")
    if is_jpeg and _count_scans(data) > _MOST_SCANS:
        raise _damaged(f"its pixels come in more than {_MOST_SCANS} scans", path)
    reduction = 1
    if reduce_to is not None and size_wh is not None and is_jpeg:
        sides = {factor: -(-max(size_wh) // factor) for factor in (8, 4, 2)}
        reduction = next((factor for factor, side in sides.items() if side >= reduce_to), 1)
    image = _decode(data, header, path, reduction=reduction)
    height, width = image.shape[:2]
    if size_wh is not None and (width, height) != tuple(-(-side // reduction) for side in size_wh):
        raise DataError(
            expected=f"{size_wh[0]}x{size_wh[1]} pixels",
            found=f"{width * reduction}x{height * reduction} (EXIF orientation applied)",
            path=path,
            advice="its boxes belong to another size, so correct the annotation or the image",
        )
    return image


def open_image(source: BinaryIO) -> Image.Image:
    """Returns what Pillow makes of a file of the kinds that are read; raises a dozen kinds."""
    return Image.open(source, formats=_KINDS)


def _read_header(source: BinaryIO, path: Path) -> ImageHeader:
    try:
        _check_chunks_ahead(source, path)
        with open_image(source) as image:
            kind, size_wh = str(image.format), image.size
            # Pillow turns a TIFF, size and pixels, by itself.
            orientation = 1 if kind == _TIFF else _orientation(image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large("a larger one", path) from error
    except Exception as error:  # on damaged files Pillow raises errors of a dozen kinds
        raise DataError(expected="an image", found=_reason(error), path=path) from error
    width, height = size_wh
    if width * height > MOST_PIXELS or max(size_wh) > LONGEST_SIDE:
        raise _too_large(f"{width}x{height}", path)
    return ImageHeader(kind, (height, width) if orientation >= 5 else (width, height), orientation)


def _damaged(what: str, path: Path) -> DataError:
    return _no_image(f"a damaged one: {what}", path)


def _no_image(found: str, path: Path) -> DataError:
    return DataError(expected="an image", found=found, path=path, advice="replace or remove it")


def _too_large(size: str, path: Path) -> DataError:
    return DataError(
        expected=f"an image of at most {MOST_PIXELS:,} pixels and {LONGEST_SIDE:,} a side",
        found=f"{size}, which is too large to decode",
        path=path,
        advice="scale it down or cut it into tiles",
    )


def _decode(data: bytes, header: ImageHeader, path: Path, *, reduction: int) -> NDArray[np.uint8]:
    decoders = [_decode_with_cv2, _decode_with_pil]
    if header.kind == _TIFF:  # OpenCV multiplies its colours by its alpha, and fails on turned ones
        decoders.reverse()
    reason = "an image of an unknown kind (8 or 16 bits a channel are read)"
    for decode in decoders:
        try:
            image = decode(data, reduction)
        except Exception as error:  # see _read_header
            reason = _reason(error)
        else:
            if image is not None:
                return _upright(image, header.orientation)
    raise _no_image(reason, path)


def _check_chunks(data: bytes, path: Path) -> None:
    """Raises DataError for a PNG with a chunk that is cut short, missing or not what was written.

    OpenCV makes black rows of the rest, and room for as many bytes as a chunk claims, up to 4 GB.
    """
    at, name, count, pixels = 8, b"", 0, []
    while name != b"IEND":
        count += 1
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if name == b"IDAT":
            pixels.append((at + 8, end - 4))
        if count > _MOST_CHUNKS:
            raise _damaged(f"more than {_MOST_CHUNKS} chunks", path)
        if len(name) < 4 or end > len(data):
            found = "cut short"
        elif zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            found = "not what its checksum says"
        else:
            at = end
            continue
        raise _damaged(f"the chunk at byte {at} is {found}", path)
    if sum(end - start for start, end in pixels) > _IDAT_BYTES_UNCHECKED:
        _check_inflated(data, pixels, path)


def _check_chunks_ahead(stream: BinaryIO, path: Path) -> None:
    """Raises DataError for a PNG of thousands of chunks before pixels, for which Pillow is slow."""
    if stream.read(8) == b"\x89PNG\r\n\x1a\n":
        chunks = 0
        while len(head := stream.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
            chunks += 1
            if chunks > _MOST_CHUNKS_AHEAD:
                raise _damaged(f"more than {_MOST_CHUNKS_AHEAD} chunks before pixels", path)
    stream.seek(0)


def _check_inflated(data: bytes, chunks: list[tuple[int, int]], path: Path) -> None:
    """Raises DataError for a PNG that inflates to more than its pixels: OpenCV would do it all."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    # Twice the bytes of the rows, for interlaced ones have remainders.
    left = 2 * height * (width * samples * depth // 8 + 2) + 65_536
    inflate = zlib.decompressobj()
    for start, end in chunks:
        block = data[start:end]
        while block and not inflate.eof:
            left -= len(inflate.decompress(block, 1 << 20))
            block = inflate.unconsumed_tail
            if left < 0:
                raise _damaged("it inflates to more than its pixels", path)


def _count_scans(data: bytes) -> int:
    """Returns the scans of the first JPEG image of a file, counted to one above `_MOST_SCANS`."""
    at, scans, components, is_progressive = 2, 0, 0, False
    while scans <= _MOST_SCANS and (found := _JPEG_MARKER.search(data, at)):
        at, marker = found.end(), found[0][1]
        if marker == 0xD9:  # the end of the image
            break
        if marker in (0xC0, 0xC1, 0xC2) and len(data) > at + 7:
            components, is_progressive = data[at + 7], marker == 0xC2
        if marker == 0xDA:
            scans += 1
            if not is_progressive and len(data) > at + 2 and data[at + 2] >= components:
                break
        at += int.from_bytes(data[at : at + 2], "big")
    return scans


def _decode_with_cv2(data: bytes, reduction: int) -> NDArray[np.uint8] | None:
    # Of a damaged EXIF block OpenCV makes another orientation than Pillow: the header's counts.
    flags = cv2.IMREAD_COLOR_RGB | _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    with suppress(cv2.error):
        # From memory, unlike from a file, a JPEG that is cut short gives None, not half an image.
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]
    return None


def _decode_with_pil(data: bytes, reduction: int) -> NDArray[np.uint8] | None:
    with open_image(BytesIO(data)) as image:
        if image.mode not in _EIGHT_BIT_MODES:
            return None
        image.load()  # turns a TIFF in place
        rgb = image.convert("RGB")
        return np.array(rgb.reduce(reduction) if reduction > 1 else rgb)


def _orientation(image: Image.Image) -> int:
    # Not getexif(): it decodes a whole PNG, and reads XMP, which OpenCV does not.
    stored = image.info.get("exif")
    if not stored:
        return 1
    exif = Image.Exif()
    try:
        exif.load(stored)
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a damaged block raises: the image is taken as it is stored
        return 1
    return orientation if type(orientation) is int and 1 <= orientation <= 8 else 1


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Returns an image turned and mirrored as its EXIF orientation (TIFF 6.0, tag 274) asks."""
    if orientation >= 5:
        image = cv2.transpose(image)  # type: ignore[assignment]  # see _decode_with_cv2
    if orientation in _FLIP_OF_ORIENTATION:
        image = cv2.flip(image, _FLIP_OF_ORIENTATION[orientation])  # type: ignore[assignment]
    return image


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image"
    if isinstance(error, OSError) and error.strerror:
        return os_reason(error)
    return f"a damaged one: {error}".rstrip(". ")
