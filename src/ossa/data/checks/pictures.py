"""Pictures of cases: the image, or the part of it that matters, with the boxes in question.

Images are uint8 (H, W, 3) RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.data.checks.findings import Case, Shown
from ossa.data.decode import decode_image, open_image
from ossa.data.formats.common import Box
from ossa.data.letterbox import FILL
from ossa.errors import DataError
from ossa.files import read_regular
from ossa.report.drawing import picture_grid

_SIDE: Final = 300
"""Pixels of the longer side of a picture; what lies outside the image is grey."""
_IN_A_ROW: Final = 4
_INK: Final = (213, 94, 0)
_HALO: Final = (255, 255, 255)
_SMALL: Final = 0.05
"""Boxes whose longer side is a smaller part of the image are shown enlarged."""
_CONTEXT: Final = 8
"""Sides of such a box that the enlarged part measures."""
_LEAST_WINDOW: Final = 48
_MOST_BEYOND: Final = 0.5
"""Of the image's longer side: how far around it a picture reaches for boxes outside."""

_MOST_BYTES: Final = 2_000_000_000
_END_OF_JPEG: Final = b"\xff\xd9"


@dataclass(frozen=True)
class CasePicture:
    """One picture of several cases."""

    image: NDArray[np.uint8]
    numbers: tuple[int, ...]
    """Which cases it shows, counted from 1, row by row."""

    @property
    def caption(self) -> str:
        """Which rows of a table of the cases stand where in the picture."""
        *others, last = map(str, self.numbers)
        if not others:
            return f"Case {last} of the table."
        return f"Cases {', '.join(others)} and {last} of the table, row by row."


def picture_of_cases(cases: Sequence[Case], *, most: int) -> CasePicture | None:
    """Returns one picture of the first cases that images show, or None without any.

    Four a row; the two images of a case stand one above the other. What cannot be decoded at all
    is left out.

    Args:
        cases: worst first.
        most: cases that are drawn.
    """
    drawn: dict[int, list[NDArray[np.uint8]]] = {}
    for number, case in enumerate(cases[:most], start=1):
        pictures = [picture for picture in map(_draw, case.shown) if picture is not None]
        if pictures and len(pictures) == len(case.shown):
            drawn[number] = pictures
    if not drawn:
        return None
    rows = []
    columns = list(drawn.values())
    blank = np.full((1, 1, 3), 255, np.uint8)
    for start in range(0, len(columns), _IN_A_ROW):
        together = columns[start : start + _IN_A_ROW]
        for line in range(max(map(len, together))):
            rows.append([one[line] if line < len(one) else blank for one in together])
    return CasePicture(picture_grid(rows), tuple(drawn))


def _draw(shown: Shown) -> NDArray[np.uint8] | None:
    """Returns a picture whose longer side is `_SIDE`, or None where nothing can be decoded."""
    image = _decoded(Path(shown.image))
    if image is None:
        return None
    height, width = image.shape[:2]
    left, top, right, bottom = _window(shown.boxes_xyxy, (width, height))
    scale = _SIDE / max(right - left, bottom - top)
    size_wh = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    method = cv2.INTER_NEAREST if scale > 2 else cv2.INTER_LINEAR
    if scale < 0.5:  # warping would leave pixels out
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    zoom_xy = scale * width / image.shape[1], scale * height / image.shape[0]
    matrix = np.array([[zoom_xy[0], 0, -scale * left], [0, zoom_xy[1], -scale * top]])
    grey = (FILL, FILL, FILL)
    picture = cv2.warpAffine(image, matrix, size_wh, flags=method, borderValue=grey)
    for box_xyxy in shown.boxes_xyxy:
        _draw_box(picture, (np.array(box_xyxy).reshape(2, 2) - (left, top)) * scale)
    return np.asarray(picture, np.uint8)


def _draw_box(picture: cv2.typing.MatLike, corners: NDArray[np.float64]) -> None:
    """Draws a box with corners (2, 2) in pixels of the picture onto it, in place."""
    far = 4 * _SIDE  # OpenCV draws no line to a point that is very far away
    low, high = np.rint(np.clip(corners, -far, far)).astype(int).tolist()
    for colour, thickness in ((_HALO, 4), (_INK, 2)):
        cv2.rectangle(picture, low, high, colour, thickness, cv2.LINE_AA)


def _window(boxes_xyxy: Sequence[Box], size_wh: tuple[int, int]) -> Box:
    """Returns the part of the plane to be shown: all boxes, and the image where they are large."""
    width, height = size_wh
    if not boxes_xyxy:
        return 0.0, 0.0, float(width), float(height)
    corners = np.array(boxes_xyxy)
    x0, y0 = corners[:, :2].min(axis=0).tolist()
    x1, y1 = corners[:, 2:].max(axis=0).tolist()
    longest = max(x1 - x0, y1 - y0)
    if longest < _SMALL * max(size_wh):
        reach = max(_CONTEXT * longest, _LEAST_WINDOW) / 2
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return x - reach, y - reach, x + reach, y + reach
    beyond = _MOST_BEYOND * max(size_wh)
    return (
        max(min(x0, 0.0), -beyond),
        max(min(y0, 0.0), -beyond),
        min(max(x1, float(width)), width + beyond),
        min(max(y1, float(height)), height + beyond),
    )


def _decoded(path: Path) -> NDArray[np.uint8] | None:
    """Returns the image, as far as it goes where it is cut short."""
    try:
        return decode_image(path)
    except DataError:
        try:
            # With an end, the decoder fills the rest of a JPEG with grey.
            data = read_regular(path, most_bytes=_MOST_BYTES)
            with open_image(BytesIO(data + _END_OF_JPEG)) as image:
                return np.array(image.convert("RGB"))
        except Exception:  # on damaged files Pillow raises errors of a dozen kinds
            return None
