"""Training samples from the images of an index. All randomness comes from the generator given."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.config import AugmentConfig
from ossa.data.mosaic import centred_tile, mosaic_tiles, random_view, render
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
        num_images: of the index; mosaic's partners are drawn from all of them, with replacement.
        imgsz: side of the result.
        augment: probabilities and ranges.
        generator: source of all randomness of this sample.
    """

    def composed(of: int) -> Sample:
        if generator.random() >= augment.mosaic:
            tiles, canvas = [centred_tile(load(of), imgsz)], imgsz
        else:
            members = [of, *generator.integers(0, num_images, size=3).tolist()]
            samples = [load(members[i]) for i in generator.permutation(4)]
            tiles, canvas = mosaic_tiles(samples, imgsz, generator), 2 * imgsz
        view = random_view(canvas, imgsz, augment, generator=generator)
        return render(tiles, view, imgsz)

    sample = composed(position)
    if generator.random() < augment.mixup:
        other = composed(int(generator.integers(0, num_images)))
        sample = mix(sample, other, weight=generator.beta(_MIXUP_BETA, _MIXUP_BETA))
    gains = generator.uniform(-1.0, 1.0, size=3)
    gains = 1.0 + gains * (augment.hue, augment.saturation, augment.value)
    sample = Sample(change_colour(sample.image, gains), sample.boxes_xyxy, sample.labels)
    return flip_horizontally(sample) if generator.random() < augment.flip else sample


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
    tables = np.stack((hue, saturation, value), axis=-1)[None]  # (1, 256, 3)
    changed = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables)
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), dtype=np.uint8)


def flip_horizontally(sample: Sample) -> Sample:
    """Returns the sample mirrored left to right."""
    width = sample.image.shape[1]
    boxes = sample.boxes_xyxy[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], dtype=np.float32)
    boxes += np.array([width, 0, width, 0], dtype=np.float32)
    mirrored = cv2.flip(sample.image, 1)  # ten times faster than a reversed view made contiguous
    return Sample(np.asarray(mirrored, dtype=np.uint8), boxes, sample.labels)
