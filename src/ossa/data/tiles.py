"""Large images seen window by window, and what was found in the windows joined over their seams.

An image that is larger than a tile is scaled as if its tile were the whole image: a tile of T
pixels of the file fills the network input of `imgsz` pixels. It is then cut into windows of
`imgsz` x `imgsz` pixels, in equal steps from edge to edge, of which neighbours share at least the
overlap. An image that is not larger than a tile is one window, as without tiles.

The joining is SAHI's (GREEDYNMM: Akyon et al., 2022, "Slicing aided hyper inference"): the best
box takes in those of its class that overlap it by at least half of the smaller of both. SAHI joins
any two boxes, so that a large box of a low score swallows the small ones that it covers, and two
objects in a crowd become one. Here boxes are also only joined

- from different windows: within one window NMS has already decided;
- if both windows show the same in the region that they share (an IoU of at least a half there);

and the best box only grows on the sides where its own window cuts it. Of boxes that fill their
windows, cut on all sides, the result is SAHI's. This is repeated until no boxes are joined: what
has grown together from two windows may have another piece in a third.

Dimensions: N detections, W windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.config import Tiles
from ossa.data.decode import MOST_PIXELS
from ossa.data.letterbox import on_canvas, resized_wh
from ossa.errors import ConfigError
from ossa.types import Detections, Letterbox, Sample

_SAME = 0.5
"""Least overlap of boxes that are joined: of the smaller of them, and IoU in what windows share."""
_AT_EDGE = 1 / 32
"""Of the side of its window, how near to its edge a box ends that the window cuts."""
_MOST_PIXELS = 4 * MOST_PIXELS
"""Of all windows of an image: 2 GB."""
_MIN_AREA_KEPT = 0.1
"""Of the area of a box, what a window must show of it to train, as in YOLOv5's mosaics."""


def sides_seen(sizes_wh: NDArray[np.integer], imgsz: int, tiles: Tiles | None) -> NDArray[np.int64]:
    """Returns (n,) the longer sides at which images (n, 2) are seen, in pixels of network input.

    Raises:
        ConfigError: the windows of an image would take gigabytes: small tiles enlarge it, and a
            checkpoint may ask for any.

    Examples:
        >>> import numpy as np
        >>> from ossa.config import Tiles
        >>> sides_seen(np.array([[500, 400], [1280, 960]]), 320, Tiles(side=640)).tolist()
        [320, 640]
    """
    longest = sizes_wh.max(axis=1).astype(np.int64)
    if tiles is None:
        return np.full(len(longest), imgsz)
    sides = np.round(longest * (imgsz / tiles.side)).astype(np.int64)
    sides = np.where(longest <= tiles.side, imgsz, np.maximum(sides, imgsz))
    seen_wh = sizes_wh * (sides / np.maximum(longest, 1))[:, None]
    steps = np.ceil(np.maximum(seen_wh - imgsz, 0) / _step(imgsz, tiles))
    pixels = (1 + steps).prod(axis=1) * imgsz**2
    if len(pixels) and pixels.max() > _MOST_PIXELS:
        width, height = sizes_wh[pixels.argmax()].tolist()
        raise ConfigError(
            expected=f"windows of at most {_MOST_PIXELS:,} pixels together for an image",
            found=f"{pixels.max():,.0f} for one of {width} x {height} with {tiles} at {imgsz} px",
            advice="take larger tiles or less overlap",
        )
    return sides


def window_corners(
    size_wh: tuple[int, int], imgsz: int, tiles: Tiles | None
) -> list[tuple[int, int]]:
    """Returns left and top of all windows of an image of `size_wh` pixels as it is seen.

    Examples:
        >>> from ossa.config import Tiles
        >>> window_corners((1152, 600), 640, Tiles(side=640, overlap=0.2))
        [(0, 0), (512, 0)]
    """
    if tiles is None:
        return [(0, 0)]
    step = _step(imgsz, tiles)
    lefts, tops = (_starts(length - imgsz, step) for length in size_wh)
    return [(left, top) for top in tops for left in lefts]


def _step(imgsz: int, tiles: Tiles) -> int:
    return max(int(imgsz * (1.0 - tiles.overlap)), 1)


def _starts(room: int, step: int) -> list[int]:
    """Returns where windows begin along an axis on which the last begins at `room` pixels."""
    if room <= 0:
        return [0]
    count = -(-room // step)
    return [number * room // count for number in range(count + 1)]


def num_windows(
    sizes_wh: NDArray[np.integer], imgsz: int, tiles: Tiles | None
) -> NDArray[np.int64]:
    """Returns (n,) the number of windows of each of the images (n, 2)."""
    sides = sides_seen(sizes_wh, imgsz, tiles)
    return np.array(
        [
            len(window_corners(resized_wh((width, height), side), imgsz, tiles))
            for (width, height), side in zip(sizes_wh.tolist(), sides.tolist(), strict=True)
        ],
        dtype=np.int64,
    )


def cut_window(
    resized: NDArray[np.uint8], corner_xy: tuple[int, int], imgsz: int
) -> NDArray[np.uint8]:
    """Returns the window of an image (H, W, 3) as it is seen; smaller where the image ends."""
    left, top = corner_xy
    return resized[top : top + imgsz, left : left + imgsz]


def place_window(
    resized: NDArray[np.uint8],
    corner_xy: tuple[int, int],
    imgsz: int,
    *,
    original_wh: tuple[int, int],
    stride: int | None = None,
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Returns a window in the middle of a grey canvas, and the placement of the whole image.

    The canvas is a square of `imgsz` pixels, or the smallest rectangle of multiples of `stride`.
    """
    window = cut_window(resized, corner_xy, imgsz)
    height, width = window.shape[:2]
    canvas_wh = (imgsz, imgsz)
    if stride is not None:
        canvas_wh = (-(-width // stride) * stride, -(-height // stride) * stride)
    canvas, placed = on_canvas(window, canvas_wh, original_wh=(width, height))
    whole = Letterbox(
        scale_x=resized.shape[1] / original_wh[0],
        scale_y=resized.shape[0] / original_wh[1],
        pad_left=placed.pad_left - corner_xy[0],
        pad_top=placed.pad_top - corner_xy[1],
        width=original_wh[0],
        height=original_wh[1],
    )
    return canvas, whole


def random_window(sample: Sample, imgsz: int, generator: np.random.Generator) -> Sample:
    """Returns a random window of an image as it is seen, with what it shows of the boxes.

    Its middle is drawn evenly over the image and then moved as far as the window lies within, so
    that objects at an edge are seen nearly as often as those in the middle. An image that is one
    window comes back as it is, and nothing is drawn.
    """
    size_wh = np.array(sample.image.shape[1::-1])
    room = np.maximum(size_wh - imgsz, 0)
    if not room.any():
        return sample
    middle = generator.random(2) * size_wh
    left, top = np.clip(np.floor(middle - imgsz / 2), 0, room).astype(np.int64).tolist()
    window = cut_window(sample.image, (left, top), imgsz)
    boxes_xyxy = sample.boxes_xyxy - np.array([left, top] * 2, dtype=np.float32)
    return cut_boxes(replace(sample, image=window, boxes_xyxy=boxes_xyxy))


def cut_boxes(sample: Sample) -> Sample:
    """Returns the sample with boxes clipped to its image, without those it hardly shows."""
    limits = np.tile(np.array(sample.image.shape[1::-1], dtype=np.float32), 2)
    clipped = np.clip(sample.boxes_xyxy, 0, limits)
    keep = _area(clipped.T) > _MIN_AREA_KEPT * _area(sample.boxes_xyxy.T)
    return replace(sample, boxes_xyxy=clipped[keep], labels=sample.labels[keep])


class InWindow(NamedTuple):
    """What was found in one window of an image, in pixels of the original image."""

    area_xyxy: NDArray[np.floating]
    """(4,) the part of the image that the window shows."""
    detections: Detections


def in_window(detections: Detections, letterbox: Letterbox, canvas_hw: Sequence[int]) -> InWindow:
    """Returns detections with the part of the image that their network input showed."""
    corners = np.array([[0, 0, canvas_hw[1], canvas_hw[0]]], dtype=np.float32)
    return InWindow(letterbox.boxes_to_image(corners)[0], detections)


def join_windows(
    windows: Sequence[InWindow], *, size_wh: Sequence[int], max_detections: int
) -> Detections:
    """Returns the detections of an image from those in all of its windows, in any order.

    Those in a single window come back as they are.

    Args:
        windows: what was found.
        size_wh: of the image in pixels.
        max_detections: the best are returned.

    Examples:
        >>> import numpy as np
        >>> from ossa import Detections
        >>> left, right = np.array([0, 0, 640, 640]), np.array([512, 0, 1152, 640])
        >>> cut = Detections(np.array([[100, 10, 640, 90.0]]), np.array([0.7]), np.array([0]))
        >>> rest = Detections(np.array([[512, 10, 700, 90.0]]), np.array([0.6]), np.array([0]))
        >>> found = [InWindow(left, cut), InWindow(right, rest)]
        >>> join_windows(found, size_wh=(1152, 640), max_detections=300).boxes_xyxy.tolist()
        [[100.0, 10.0, 700.0, 90.0]]
    """
    if len(windows) == 1:
        return windows[0].detections
    boxes = _Boxes.of(windows)
    before = len(boxes.scores) + 1
    while len(boxes.scores) < before:
        before = len(boxes.scores)
        boxes = _joined(boxes, limits=(0, 0, *size_wh), most=max_detections)
    dtype = windows[0].detections.boxes_xyxy.dtype
    return Detections(boxes.sides.T.astype(dtype), boxes.scores, boxes.labels)


@dataclass(frozen=True)
class _Boxes:
    """Boxes that may be pieces of the same objects, best first."""

    sides: NDArray[np.float64]
    """(4, N) left, top, right and bottom: by column, as NumPy compares them fastest."""
    scores: NDArray[np.floating]
    labels: NDArray[np.int64]
    shown: NDArray[np.float64]
    """(4, N) the same sides of the rectangle around all windows in which each was found."""
    windows: NDArray[np.object_]
    """(N,) which windows these are, as bits of an int."""

    @classmethod
    def of(cls, windows: Sequence[InWindow]) -> "_Boxes":
        counts = [len(one.detections) for one in windows]
        of_window = np.repeat(np.arange(len(windows)), counts)
        sides = np.concatenate([one.detections.boxes_xyxy for one in windows]).T
        scores = np.concatenate([one.detections.scores for one in windows])
        labels = np.concatenate([one.detections.labels for one in windows])
        shown = np.stack([one.area_xyxy for one in windows], axis=1)[:, of_window]
        bits = np.array([1 << number for number in range(len(windows))], dtype=object)
        order = np.lexsort((*sides[::-1], -scores))
        return cls(
            sides[:, order].astype(np.float64),
            scores[order],
            labels[order],
            shown[:, order].astype(np.float64),
            bits[of_window][order],
        )

    def matches(self, best: int, left: NDArray[np.bool_]) -> list[int]:
        """Returns which of those that are left may be of the same object as one of them."""
        some = np.flatnonzero(left & (self.labels == self.labels[best]))
        sides, box = self.sides[:, some], self.sides[:, best, None]
        common = _area(_common(sides, box))
        near = (common >= _SAME * np.minimum(_area(sides), _area(box))) & (common > 0)
        some = some[near]
        some = some[(self.windows[some] & self.windows[best]) == 0]
        shared = _common(self.shown[:, some], self.shown[:, best, None])
        ours, theirs = _common(shared, box), _common(shared, self.sides[:, some])
        both = _area(_common(ours, theirs))
        same = (both >= _SAME * (_area(ours) + _area(theirs) - both)) & (both > 0)
        return some[same].tolist()


def _joined(boxes: _Boxes, *, limits: Sequence[float], most: int) -> _Boxes:
    """Returns the boxes after each, best first, took in those that are of the same object."""
    rows: list[int] = []
    grown: list[tuple[list[float], list[float], int]] = []
    sides, shown = boxes.sides.T.tolist(), boxes.shown.T.tolist()
    left = np.ones(len(boxes.scores), dtype=np.bool_)
    while len(rows) < most and left.any():
        best = int(left.argmax())
        left[best] = False
        box, area, windows = sides[best], shown[best], boxes.windows[best]
        for other in boxes.matches(best, left):
            if windows & boxes.windows[other]:
                continue
            left[other] = False
            if not _overlaps(box, sides[other]):  # as SAHI does: it did before the box grew
                continue
            around = _around(box, sides[other])
            cut = _cut_sides(box, area, limits)
            box = [
                new if is_cut else old for new, old, is_cut in zip(around, box, cut, strict=True)
            ]
            area, windows = _around(area, shown[other]), windows | boxes.windows[other]
        rows.append(best)
        grown.append((box, area, windows))
    new_sides, new_shown, new_windows = zip(*grown, strict=True) if grown else ([], [], [])
    return _Boxes(
        np.array(new_sides, dtype=np.float64).reshape(-1, 4).T,
        boxes.scores[rows],
        boxes.labels[rows],
        np.array(new_shown, dtype=np.float64).reshape(-1, 4).T,
        np.array(new_windows, dtype=object),
    )


def _cut_sides(box: list[float], area: list[float], limits: Sequence[float]) -> list[bool]:
    """Returns which of its four sides a box has because its window ends there."""
    margins = [_AT_EDGE * (area[2] - area[0]), _AT_EDGE * (area[3] - area[1])] * 2
    return [
        edge != limit and abs(side - edge) <= margin
        for side, edge, limit, margin in zip(box, area, limits, margins, strict=True)
    ]


def _around(box: list[float], other: list[float]) -> list[float]:
    return [*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:])]


def _overlaps(box: list[float], other: list[float]) -> bool:
    columns = [np.array(one)[:, None] for one in (box, other)]
    smaller = min(float(_area(one)[0]) for one in columns)
    return bool(_area(_common(*columns))[0] >= _SAME * smaller)


def _common(sides: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Returns (4, N) what boxes have in common; where nothing, the sides are in no order."""
    starts = np.maximum(sides[:2], others[:2])
    return np.concatenate((starts, np.minimum(sides[2:], others[2:])))


def _area(sides: NDArray[Any]) -> NDArray[Any]:
    width, height = sides[2] - sides[0], sides[3] - sides[1]
    return np.maximum(width, 0) * np.maximum(height, 0)
