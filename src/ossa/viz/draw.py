"""Boxes on images, images side by side, and images as bytes.

Images are uint8 (H, W, 3) RGB throughout; boxes are xyxy in pixels of the image they lie on.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's seven hues first, then the thirteen of Paul Tol's and ColorBrewer's schemes that
# keep farthest from all before them in CIELAB, seen normally, with deuteranopia or protanopia.
_CODES = (
    "0072B2 E69F00 009E73 D55E00 CC79A7 56B4E9 F0E442 D9F0D3 A50026 EEDD88 "
    "332288 882255 5AAE61 99DDFF 762A83 BBBBBB 999933 994F00 C2A5CF AA3377"
)
BOX_COLOURS = tuple(tuple(bytes.fromhex(code)) for code in _CODES.split())
"""RGB of class 0 to 19; class 20 has the colour of class 0 again."""

_WHITE, _BLACK = (255, 255, 255), (20, 20, 20)
_TITLE_GREY = (70, 70, 70)
_FONT = "sans"  # built into OpenCV 5: TrueType with Latin, Greek, Cyrillic and CJK
_WEIGHT = 500


def draw_boxes(
    image: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    names: Sequence[str],
    scores: NDArray[np.floating] | None = None,
) -> NDArray[np.uint8]:
    """Returns a copy of the image with boxes and the names of their classes.

    Args:
        image: (H, W, 3).
        boxes_xyxy: (N, 4) in pixels of `image`, best first where they have scores.
        labels: (N,) positions in `names`.
        names: class names; characters missing in the font become question marks.
        scores: (N,) in 0..1, written after the names.

    Examples:
        >>> import numpy as np, ossa
        >>> image, boxes_xyxy = np.zeros((48, 64, 3), np.uint8), np.array([[8.0, 20.0, 40.0, 40.0]])
        >>> drawn = ossa.draw_boxes(image, boxes_xyxy, np.array([0]), names=("cat",))
        >>> drawn.shape, bool(drawn.any()), bool(image.any())
        ((48, 64, 3), True, False)
    """
    canvas = np.array(image, dtype=np.uint8, order="C")
    corners = np.rint(np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)).astype(int)
    shorter_side = min(canvas.shape[:2])
    line_width = max(1, round(shorter_side / 240))
    # Reversed, so that the best is on top; all boxes before all labels, so that no box covers one.
    order = range(len(corners))[::-1]
    for i in order:
        left, top, right, bottom = corners[i].tolist()
        colour, _ = box_colours(int(labels[i]))
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, line_width)
    for i in order:
        text = names[int(labels[i])]
        if scores is not None:
            text = f"{text} {scores[i]:.2f}"
        left, top, *_ = corners[i].tolist()
        _label(canvas, text, (left, top), int(labels[i]), max(10, shorter_side // 42))
    return canvas


def picture_grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    *,
    row_titles: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Returns one image of rows of images on white, each row under its title, if there are titles.

    Images keep their size and are centred in their cells. All columns are as wide as the widest
    image, and each row is as high as its highest.
    """
    width = max(image.shape[1] for row in rows for image in row)
    heights = [max(image.shape[0] for image in row) for row in rows]
    columns = max(len(row) for row in rows)
    gap = max(4, width // 40)
    title_size = max(12, width // 22)
    title_height = 2 * title_size if row_titles else 0
    sheet_width = gap + columns * (width + gap)
    sheet_height = gap + sum(title_height + height + gap for height in heights)
    sheet = np.full((sheet_height, sheet_width, 3), 255, dtype=np.uint8)
    top = gap
    for r, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if row_titles:
            text = _shortened(row_titles[r], title_size, sheet_width - 2 * gap)
            baseline = (gap, top + int(1.3 * title_size))
            _write(sheet, text, baseline, _TITLE_GREY, title_size)
        top += title_height
        for c, image in enumerate(row):
            y = top + (height - image.shape[0]) // 2
            x = gap + c * (width + gap) + (width - image.shape[1]) // 2
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
        top += height + gap
    return sheet


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Returns the image as the bytes of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def encode_jpeg(image: NDArray[np.uint8], quality: int = 88) -> bytes:
    """Returns the image as the bytes of a JPEG file of `quality` 0..100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def box_colours(label: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns RGB of the box of a class, and of the text on its label: black on light colours."""
    colour = BOX_COLOURS[label % len(BOX_COLOURS)]
    channels = np.array(colour) / 255  # to the relative luminance 0..1 of WCAG 2
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return colour, _BLACK if linear @ (0.2126, 0.7152, 0.0722) > 0.27 else _WHITE


def _label(
    canvas: NDArray[np.uint8], text: str, corner_xy: tuple[int, int], label: int, size: int
) -> None:
    """Writes `text` onto the canvas in place, on a patch in the colour of class `label`.

    The patch is above the left top corner of a box, or below it where there is no room, and
    always inside the image.
    """
    height, width = canvas.shape[:2]
    pad = max(2, size // 4)
    text = _shortened(text, size, width - 2 * pad)
    patch_width, patch_height = _text_width(text, size) + 2 * pad, size + 2 * pad
    left, top = corner_xy
    colour, ink = box_colours(label)
    x = max(0, min(left, width - patch_width))
    y = max(0, min(top - patch_height if top >= patch_height else top, height - patch_height))
    canvas[y : y + patch_height, x : x + patch_width] = colour
    _write(canvas, text, (x + pad, y + pad + round(0.87 * size)), ink, size)


def _write(
    canvas: NDArray[np.uint8],
    text: str,
    baseline_xy: tuple[int, int],
    colour: tuple[int, ...],
    size: int,
) -> None:
    """Writes onto the canvas in place, from the left end of the baseline."""
    cv2.putText(canvas, text, baseline_xy, colour, cv2.FontFace(_FONT), size, _WEIGHT)


def _text_width(text: str, size: int) -> int:
    # A sheet wide enough that nothing is wrapped.
    sheet_wh = (size * (len(text) + 1) * 2, size * 2)
    x, _, width, _ = cv2.getTextSize(sheet_wh, text, (0, size), cv2.FontFace(_FONT), size, _WEIGHT)
    return x + width


def _shortened(text: str, size: int, most_pixels: int) -> str:
    """Returns the text on one line, cut with an ellipsis where it would be too wide."""
    text = " ".join(text.split())
    if _text_width(text, size) <= most_pixels:
        return text
    while text and _text_width(text + "…", size) > most_pixels:
        text = text[:-1]
    return text + "…"
