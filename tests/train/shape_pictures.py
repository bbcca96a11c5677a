"""A folder of pictures for the tests of pretraining, drawn in a moment and learned in seconds."""

from pathlib import Path

import cv2
import numpy as np

SHAPES = ("circle", "square", "stroke")


def write_shapes(root: Path, *, train: int = 32, val: int = 10) -> Path:
    """Writes so many pictures of each shape, 48 x 48 px, as root/SPLIT/SHAPE/N.png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for shape in SHAPES:
            folder = root / split / shape
            folder.mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(folder / f"{number}.png"), _picture(shape, rng))
    return root


def _picture(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Returns a uint8 (48, 48, 3) picture of a bright ring, square or diagonal stroke on noise."""
    picture = rng.integers(0, 40, (48, 48, 3)).astype(np.uint8)
    x, y = rng.integers(18, 30, 2).tolist()
    half = int(rng.integers(10, 16))
    colour = rng.integers(140, 255, 3).tolist()
    if shape == "circle":
        return cv2.circle(picture, (x, y), half, colour, 2)
    if shape == "square":
        return cv2.rectangle(picture, (x - half, y - half), (x + half, y + half), colour, -1)
    return cv2.line(picture, (x - half, y - half), (x + half, y + half), colour, 3)
