"""Surfaces of generated scenes, and the clutter that must not be detected."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_SUBPIXEL_BITS = 4


def painted(texture: NDArray[np.float64], tones: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (H, W, 3): the first tone where `texture` is 0, the second where it is 1."""
    first, second = tones
    return first + texture[..., None] * (second - first)


def random_texture(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Returns (side, side) in 0..1: octaves of noise, blotches, a gradient or stripes."""
    kind = generator.integers(4)
    if kind == 0:
        octaves = [_noise(generator, side, cells) / cells for cells in (3, 6, 12, 24)]
        return np.sum(octaves, axis=0) / sum(1 / cells for cells in (3, 6, 12, 24))
    grain = 0.15 * _noise(generator, side, max(2, side // 3))
    if kind == 1:
        return 0.85 * (_noise(generator, side, 6) > 0.5) + grain
    angle = generator.uniform(0, 2 * math.pi)
    across = np.arange(side) / side
    ramp = across * math.cos(angle) + across[:, None] * math.sin(angle)
    if kind == 2:
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    else:
        ramp = np.abs((ramp * generator.uniform(3, 12)) % 2 - 1)
    return 0.85 * ramp + grain


def _noise(generator: np.random.Generator, side: int, cells: int) -> NDArray[np.float64]:
    """Returns (side, side) in 0..1: random values on a grid of cells, linear in between."""
    grid = generator.integers(0, 256, (cells + 1, cells + 1), dtype=np.uint8)
    # The exact variant gives the same bytes on every processor.
    fine = cv2.resize(grid, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
    return fine.astype(np.float64) / 255


def distracted(generator: np.random.Generator, canvas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the picture (H, W, 3) with soft blobs, bent lines and specks in it."""
    side = len(canvas)
    across = np.arange(side)
    blobs = np.zeros((side, side))
    for x, y, radius, strength in generator.uniform(0, 1, (int(generator.integers(0, 4)), 4)):
        distances = (across - x * side) ** 2 + ((across - y * side) ** 2)[:, None]
        reach = (0.04 + 0.12 * radius) * side
        blobs += 100 * (strength - 0.5) * np.maximum(1 - distances / reach**2, 0)
    canvas = np.clip(canvas + blobs[..., None], 0, 255)
    for _ in range(int(generator.integers(1, 5))):
        knots = (generator.uniform(0, 1, 2) + generator.uniform(-0.3, 0.3, (3, 2))) * side
        colour = generator.uniform(0, 255, 3).tolist()
        width = int(generator.integers(1, max(2, side // 64) + 1))
        line = np.rint(knots * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(canvas, [line], False, colour, width, cv2.LINE_8, _SUBPIXEL_BITS)
    reach = max(1, side // 80)
    for _ in range(int(generator.integers(0, 7))):
        x, y = (int(value) for value in generator.integers(0, side, 2))
        colour = generator.uniform(0, 255, 3)
        canvas[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = colour
    return canvas
