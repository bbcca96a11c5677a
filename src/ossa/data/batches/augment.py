"""Training samples from the images of an index. All randomness comes from the generator given."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.config import AugmentConfig
from ossa.data.batches.mosaic import (
    CanvasView,
    Tile,
    centred_tile,
    mosaic_tiles,
    random_view,
    render,
)
from ossa.types import Sample

_MIXUP_BETA = 32.0


def training_sample(
    position: int,
    *,
    load: Callable[[int], Sample],
    partners: Sequence[int],
    imgsz: int,
    augment: AugmentConfig,
    generator: np.random.Generator,
    out: NDArray[np.uint8] | None = None,
) -> Sample:
    """Returns one augmented sample of `imgsz` x `imgsz` pixels.

    Args:
        position: of the image in the index.
        load: gives an image of the index with its longer side of `imgsz` pixels.
        partners: positions from which those of mosaic and mixup are drawn, with replacement.
        imgsz: side of the result.
        augment: probabilities and ranges.
        generator: source of all randomness of this sample.
        out: where the image (imgsz, imgsz, 3) is painted; a new array where there is none.
    """

    def partner_positions(count: int) -> list[int]:
        return [partners[i] for i in generator.integers(0, len(partners), size=count)]

    def composed(of: int) -> tuple[list[Tile], CanvasView]:
        if generator.random() >= augment.mosaic:
            tiles, canvas = [centred_tile(load(of), imgsz)], imgsz
        else:
            members = [of, *partner_positions(3)]
            samples = [load(members[i]) for i in generator.permutation(4)]
            tiles, canvas = mosaic_tiles(samples, imgsz, generator), 2 * imgsz
        return tiles, random_view(canvas, imgsz, augment, generator=generator)

    # All is drawn before anything is painted, so that what is mirrored is painted so.
    layers, weight = [composed(position)], 1.0
    if generator.random() < augment.mixup:
        layers.append(composed(*partner_positions(1)))
        weight = generator.beta(_MIXUP_BETA, _MIXUP_BETA)
    gains = generator.uniform(-1.0, 1.0, size=3)
    gains = 1.0 + gains * (augment.hue, augment.saturation, augment.value)
    mirrored = bool(generator.random() < augment.flip)

    sample, *others = (
        render(tiles, view._replace(mirrored=mirrored), imgsz, out=None if place else out)
        for place, (tiles, view) in enumerate(layers)
    )
    for other in others:
        sample = mix(sample, other, weight=weight, out=out)
    change_colour(sample.image, gains, out=sample.image)
    return sample


def mix(
    sample: Sample, other: Sample, *, weight: float, out: NDArray[np.uint8] | None = None
) -> Sample:
    """Returns weight x sample + (1 - weight) x other, with the boxes of both.

    The image is painted into `out`, where there is one; it may be that of either sample.

    Source: mixup (Zhang et al., 2018), without mixing of the labels, as YOLOv5 does.
    """
    blended = cv2.addWeighted(sample.image, weight, other.image, 1.0 - weight, 0.0, dst=out)
    return Sample(
        np.asarray(blended, dtype=np.uint8),
        np.concatenate((sample.boxes_xyxy, other.boxes_xyxy)),
        np.concatenate((sample.labels, other.labels)),
    )


def change_colour(
    image: NDArray[np.uint8],
    gains_hsv: NDArray[np.float64],
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Returns the RGB image with hue, saturation and value multiplied by three gains, in 8 bit.

    It is painted into `out`, where there is one, which may be the image itself.
    """
    levels = np.arange(256)
    hue = (levels * gains_hsv[0] % 180).astype(np.uint8)
    saturation, value = (np.clip(levels * gain, 0, 255).astype(np.uint8) for gain in gains_hsv[1:])
    tables = np.stack((hue, saturation, value), axis=-1)[None]  # (1, 256, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.LUT(hsv, tables, dst=hsv)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out), dtype=np.uint8)
