"""Training samples from the images of an index. All randomness comes from the generator given."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.config import AugmentConfig
from ossa.data.mosaic import (
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
    num_images: int,
    imgsz: int,
    augment: AugmentConfig,
    generator: np.random.Generator,
) -> Sample:
    """Returns one augmented sample of `imgsz` x `imgsz` pixels.

    Args:
        position: of the image in the index.
        load: gives an image of the index with its longer side of `imgsz` pixels.
        num_images: of the index; the other images of mosaic and mixup are drawn from all of them,
            independently and with replacement.
        imgsz: side of the result.
        augment: probabilities and ranges.
        generator: source of all randomness of this sample.
    """

    def composed(of: int) -> tuple[list[Tile], CanvasView]:
        if generator.random() >= augment.mosaic:
            tiles, canvas = [centred_tile(load(of), imgsz)], imgsz
        else:
            members = [of, *generator.integers(0, num_images, size=3).tolist()]
            samples = [load(members[i]) for i in generator.permutation(4)]
            tiles, canvas = mosaic_tiles(samples, imgsz, generator), 2 * imgsz
        return tiles, random_view(canvas, imgsz, augment, generator=generator)

    # All is drawn before anything is painted, so that what is mirrored is painted so.
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
