"""Training samples: mosaic, affine change, flip, mixup and colour, all random from one generator.

YOLOv5 pastes four images onto a canvas of twice the size and then warps the canvas. Without
rotation the affine map takes every tile to a rectangle, so here each rectangle of the output is
sampled once from its source and the canvas never exists.

Frames: source (pixels of a tile's image), canvas (2 x imgsz for a mosaic), output (imgsz).
Coordinates are continuous: the pixel of index i covers i to i + 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.config import AugmentConfig
from ossa.data.letterbox import FILL
from ossa.types import Sample

_MIXUP_BETA = 32.0
_MIN_SIDE = 2.0
"""Pixels of the output that a box must exceed in width and height."""
_MIN_AREA_KEPT = 0.1
_MAX_ASPECT = 100.0


class Tile(NamedTuple):
    """A source image and where its upper left corner lies on the canvas."""

    sample: Sample
    left: int
    top: int


class CanvasView(NamedTuple):
    """output = (canvas - centre) * scale + target, for both axes."""

    canvas: int
    """Side of the square canvas in pixels."""
    scale: float
    target_x: float
    """Where the canvas centre lands, in pixels of the output."""
    target_y: float
    mirrored: bool = False
    """Whether the output is mirrored left to right, after all of that."""


def training_sample(
    position: int,
    *,
    load: Callable[[int], Sample],
    num_images: int,
    imgsz: int,
    augment: AugmentConfig,
    generator: np.random.Generator,
) -> Sample:
    """Returns one augmented sample of `imgsz` x `imgsz` pixels.

    `load` returns an image of the index with its longer side of `imgsz` pixels. The other images of
    mosaic and mixup are drawn from all `num_images`, independently and with replacement.
    """

    def composed(of: int) -> tuple[list[Tile], CanvasView]:
        if generator.random() >= augment.mosaic:
            tiles, canvas = [centred_tile(load(of), imgsz)], imgsz
        else:
            members = [of, *generator.integers(0, num_images, size=3).tolist()]
            samples = [load(members[i]) for i in generator.permutation(4)]
            tiles, canvas = mosaic_tiles(samples, imgsz, generator), 2 * imgsz
        return tiles, random_view(canvas, imgsz, augment, generator=generator)

    # Everything is drawn before anything is painted, so that mirrored images are painted mirrored.
    layers, weight = [composed(position)], 1.0
    if generator.random() < augment.mixup:
        layers.append(composed(int(generator.integers(0, num_images, size=1)[0])))
        weight = generator.beta(_MIXUP_BETA, _MIXUP_BETA)
    gains = generator.uniform(-1.0, 1.0, size=3)
    gains = 1.0 + gains * (augment.hue, augment.saturation, augment.value)
    mirrored = bool(generator.random() < augment.flip)

    sample, *others = (
        render(tiles, view._replace(mirrored=mirrored), imgsz) for tiles, view in layers
    )
    for other in others:
        sample = mix(sample, other, weight=weight)
    return replace(sample, image=change_colour(sample.image, gains))


def mix(sample: Sample, other: Sample, *, weight: float) -> Sample:
    """Returns weight x sample + (1 - weight) x other, with the boxes of both.

    Source: mixup (Zhang et al., 2018), without mixing of the labels, as YOLOv5 does.
    """
    blended = cv2.addWeighted(sample.image, weight, other.image, 1.0 - weight, 0.0)
    return Sample(
        np.asarray(blended, dtype=np.uint8),
        np.concatenate((sample.boxes_xyxy, other.boxes_xyxy)),
        np.concatenate((sample.labels, other.labels)),
    )


def change_colour(image: NDArray[np.uint8], gains_hsv: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Returns the RGB image with hue, saturation and value multiplied by three gains, in 8 bit."""
    levels = np.arange(256)
    hue = (levels * gains_hsv[0] % 180).astype(np.uint8)
    saturation, value = (np.clip(levels * gain, 0, 255).astype(np.uint8) for gain in gains_hsv[1:])
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # Plane by plane: OpenCV looks up interleaved channels half as fast.
    planes = cv2.split(hsv)
    for plane, table in zip(planes, (hue, saturation, value), strict=True):
        cv2.LUT(plane, table, dst=plane)
    return np.asarray(cv2.cvtColor(cv2.merge(planes, dst=hsv), cv2.COLOR_HSV2RGB), dtype=np.uint8)


def mosaic_tiles(
    samples: Sequence[Sample], imgsz: int, generator: np.random.Generator
) -> list[Tile]:
    """Returns four samples around a random inner corner of a canvas of 2 x `imgsz` pixels."""
    corner_x, corner_y = generator.integers(imgsz // 2, imgsz + imgsz // 2, size=2, endpoint=True)
    tiles = []
    for place, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left = int(corner_x) - (width if place in (0, 2) else 0)
        top = int(corner_y) - (height if place in (0, 1) else 0)
        tiles.append(Tile(sample, left, top))
    return tiles


def centred_tile(sample: Sample, imgsz: int) -> Tile:
    """Returns one sample in the middle of a canvas of `imgsz` pixels."""
    height, width = sample.image.shape[:2]
    return Tile(sample, (imgsz - width) // 2, (imgsz - height) // 2)


def random_view(
    canvas: int, imgsz: int, augment: AugmentConfig, *, generator: np.random.Generator
) -> CanvasView:
    """Returns a random scale about the canvas centre and a random place for that centre."""
    scale = generator.uniform(1.0 - augment.scale, 1.0 + augment.scale)
    target_x, target_y = imgsz * generator.uniform(
        0.5 - augment.translate, 0.5 + augment.translate, size=2
    )
    return CanvasView(canvas, scale, target_x, target_y)


def render(tiles: Sequence[Tile], view: CanvasView, imgsz: int) -> Sample:
    """Returns the output of `imgsz` x `imgsz` pixels with the boxes that remain visible.

    A box remains when it is wider and taller than 2 px, keeps more than a tenth of its scaled
    area, and is not longer than 100 times its breadth.
    """
    image = np.full((imgsz, imgsz, 3), FILL, dtype=np.uint8)
    for tile in tiles:
        _paint(image, tile, view)
    boxes, keep = _project_boxes(tiles, view, imgsz)
    labels = np.concatenate([tile.sample.labels for tile in tiles])
    return Sample(image, boxes[keep], labels[keep])


def _paint(image: NDArray[np.uint8], tile: Tile, view: CanvasView) -> None:
    """Samples the tile into the rectangle of `image` (the output under construction) it covers."""
    height, width = tile.sample.image.shape[:2]
    columns = _covered(tile.left, width, view.target_x, view=view, imgsz=image.shape[1])
    rows = _covered(tile.top, height, view.target_y, view=view, imgsz=image.shape[0])
    if columns.stop <= columns.start or rows.stop <= rows.start:
        return
    centre = view.canvas / 2
    # Output pixel i of the rectangle has its middle at start + i + 0.5.
    shift_x = (columns.start + 0.5 - view.target_x) / view.scale + centre - tile.left - 0.5
    shift_y = (rows.start + 0.5 - view.target_y) / view.scale + centre - tile.top - 0.5
    step_x, size_wh = 1 / view.scale, (columns.stop - columns.start, rows.stop - rows.start)
    if view.mirrored:  # the last pixel of the rectangle comes first
        shift_x, step_x = shift_x + (size_wh[0] - 1) * step_x, -step_x
        columns = slice(image.shape[1] - columns.stop, image.shape[1] - columns.start)
    # OpenCV warps four channels more than twice as fast as three, to the same values. What lies
    # outside of what is seen is not read, so it is not filled.
    rgba = np.empty((height, width, 4), dtype=np.uint8)
    seen = (_sampled(shift_y, 1 / view.scale, size_wh[1]), _sampled(shift_x, step_x, size_wh[0]))
    cv2.cvtColor(tile.sample.image[seen], cv2.COLOR_RGB2RGBA, dst=rgba[seen])
    warped = cv2.warpAffine(
        rgba,
        np.array([[step_x, 0, shift_x], [0, 1 / view.scale, shift_y]]),
        size_wh,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=image[rows, columns])


def _covered(origin: int, length: int, target: float, *, view: CanvasView, imgsz: int) -> slice:
    """Returns the output pixels whose middle lies on the tile (along one axis) and the canvas."""
    centre = view.canvas / 2
    first = (max(origin, 0) - centre) * view.scale + target
    last = (min(origin + length, view.canvas) - centre) * view.scale + target
    return slice(max(int(np.ceil(first - 0.5)), 0), min(int(np.ceil(last - 0.5)), imgsz))


def _sampled(shift: float, step: float, count: int) -> slice:
    """Returns the source pixels (along one axis) between which output pixels are interpolated."""
    first, last = sorted((shift, shift + (count - 1) * step))
    return slice(max(int(first) - 2, 0), max(int(last) + 4, 0))


def _project_boxes(
    tiles: Sequence[Tile], view: CanvasView, imgsz: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns the tiles' boxes (n, 4) in the output, clipped to it, and which remain (n,)."""
    moved = [
        tile.sample.boxes_xyxy + np.array([tile.left, tile.top] * 2, dtype=np.float32)
        for tile in tiles
    ]
    on_canvas = np.clip(np.concatenate(moved), 0, view.canvas)
    target = np.array([view.target_x, view.target_y] * 2, dtype=np.float32)
    whole = (on_canvas - np.float32(view.canvas / 2)) * np.float32(view.scale) + target
    boxes = np.clip(whole, 0, imgsz)
    whole_wh = whole[:, 2:] - whole[:, :2]
    sizes_wh = boxes[:, 2:] - boxes[:, :2]
    aspect = sizes_wh.max(axis=1, initial=0) / np.maximum(sizes_wh.min(axis=1, initial=1e9), 1e-9)
    keep = (
        (sizes_wh > _MIN_SIDE).all(axis=1)
        & (sizes_wh.prod(axis=1) > _MIN_AREA_KEPT * whole_wh.prod(axis=1))
        & (aspect < _MAX_ASPECT)
    )
    if view.mirrored:
        boxes[:, [0, 2]] = imgsz - boxes[:, [2, 0]]
    return boxes, keep
