"""Detectors whose answers are known, side by side, and pictures for them.

All of it is in pixels of a picture of 64 x 64, which is also the size of the network's input.
"""

from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ossa.app.inference import PageModel
from ossa.models.detector import Detector
from ossa.models.predictions import AnchorPredictions
from ossa.predict.predictor import Predictor
from ossa.types import Level

NAMES = ("cat", "dog", "bird")
SIDE = 64


class Box(NamedTuple):
    """A box 16 wide and 8 high, around the middle of a cell of 8 x 8 pixels."""

    row: int
    column: int
    label: int
    probability: float
    """Of there being an object, and of its class: the score is its square."""


class KnownDetector(nn.Module):
    """Finds the same boxes in every picture, and counts how often it was asked."""

    def __init__(self, boxes: list[Box], num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.levels = (Level(8, 1),)  # type: ignore[assignment]
        self.boxes = boxes
        self.num_classes = num_classes
        self.runs = 0

    def forward(self, images: Tensor) -> AnchorPredictions:
        self.runs += bool(images.any())  # a predictor first tries black images of other shapes
        batch, _, height, width = images.shape
        logits = torch.full((batch, 1, height // 8, width // 8, 5 + self.num_classes), -20.0)
        for row, column, label, probability in self.boxes:
            logit = float(torch.tensor(probability, dtype=torch.float64).logit())
            logits[:, 0, row, column, :4] = 0  # in the middle of the cell, of the anchor's size
            logits[:, 0, row, column, [4, 5 + label]] = logit
        return AnchorPredictions((logits,), torch.tensor([[[16.0, 8.0]]]), (8,))


def known_model(title: str, boxes: list[Box], names: tuple[str, ...] = NAMES) -> PageModel:
    detector = KnownDetector(boxes, len(names))
    return PageModel(title, Predictor(cast(Detector, detector), names=names, imgsz=SIDE))


def runs_of(model: PageModel) -> int:
    """Returns how many pictures the network has seen."""
    return cast(KnownDetector, model.predictor.detector).runs


DOG = Box(1, 2, label=1, probability=0.9)
"""From (12, 8) to (28, 16), score 0.81."""
NEAR_DOG = Box(1, 3, label=1, probability=0.8)
"""From (20, 8) to (36, 16), score 0.64: with DOG it shares 8 x 8 of 24 x 8 pixels, IoU 1/3."""
CAT = Box(5, 5, label=0, probability=0.7)
"""From (36, 40) to (52, 48), score 0.49."""
BIRD = Box(6, 2, label=2, probability=0.5)
"""From (12, 48) to (28, 56), score 0.25."""


def first_model() -> PageModel:
    return known_model("first", [DOG, NEAR_DOG, BIRD])


def second_model() -> PageModel:
    return known_model("second", [DOG, CAT])


def write_picture(file: Path, size_wh: tuple[int, int] = (SIDE, SIDE), grey: int = 120) -> Path:
    image = np.full((size_wh[1], size_wh[0], 3), grey, np.uint8)
    file.write_bytes(cv2.imencode(file.suffix, image)[1].tobytes())
    return file


def write_video(file: Path, num_frames: int, *, rate: float = 10) -> Path:
    """Writes an .avi whose frame i has the grey value 40 + i."""
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(file), codec, rate, (SIDE, SIDE))
    for number in range(num_frames):
        writer.write(np.full((SIDE, SIDE, 3), 40 + number, np.uint8))
    writer.release()
    return file
