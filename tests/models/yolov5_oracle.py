"""YOLOv5's assignment, losses and decoding as plain Python loops over its formulas.

Slow and without tensors on purpose: nothing here is shared with the code under test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Truth:
    """A box (xyxy, pixels of the network input) of an image of the batch."""

    image: int
    label: int
    box_xyxy: Box


@dataclass(frozen=True, order=True)
class Positive:
    """A cell that answers for a truth; lengths in cells."""

    image: int
    anchor: int
    row: int
    column: int
    label: int
    centre: tuple[float, float]
    """Of the truth, relative to the corner of the cell."""
    size: tuple[float, float]


def positives_of_level(
    truths: Sequence[Truth],
    anchors_wh: Sequence[tuple[float, float]],
    *,
    stride: int,
    map_hw: tuple[int, int],
    ratio: float = 4.0,
) -> list[Positive]:
    """Returns who answers for which truth, sorted; anchors in pixels."""
    found = []
    for truth in truths:
        x0, y0, x1, y1 = truth.box_xyxy
        w, h = x1 - x0, y1 - y0
        x, y = (x0 + x1) / 2 / stride, (y0 + y1) / 2 / stride
        for number, (anchor_w, anchor_h) in enumerate(anchors_wh):
            if w == 0 or h == 0:
                continue
            if max(w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h) >= ratio:
                continue
            for row, column in _answering_cells(x, y, map_hw):
                found.append(
                    Positive(
                        image=truth.image,
                        anchor=number,
                        row=row,
                        column=column,
                        label=truth.label,
                        centre=(x - column, y - row),
                        size=(w / stride, h / stride),
                    )
                )
    return sorted(found)


def _answering_cells(x: float, y: float, map_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns (row, column) of the cell of a centre, and of its nearer neighbours."""
    row, column = math.floor(y), math.floor(x)
    cells = [(row, column)]
    if x - column < 0.5:
        cells.append((row, column - 1))
    if x - column > 0.5:
        cells.append((row, column + 1))
    if y - row < 0.5:
        cells.append((row - 1, column))
    if y - row > 0.5:
        cells.append((row + 1, column))
    return [(r, c) for r, c in cells if 0 <= r < map_hw[0] and 0 <= c < map_hw[1]]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def binary_cross_entropy(logit: float, target: float) -> float:
    probability = sigmoid(logit)
    return -target * math.log(probability) - (1 - target) * math.log(1 - probability)


def decoded_box(
    logits: Sequence[float], anchor_wh: tuple[float, float], *, row: int, column: int, stride: int
) -> Box:
    """Returns xyxy in pixels of the network input; the anchor is in pixels too."""
    x = (2 * sigmoid(logits[0]) - 0.5 + column) * stride
    y = (2 * sigmoid(logits[1]) - 0.5 + row) * stride
    w = (2 * sigmoid(logits[2])) ** 2 * anchor_wh[0]
    h = (2 * sigmoid(logits[3])) ** 2 * anchor_wh[1]
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def iou(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return intersection / (sum(areas) - intersection)


def ciou(predicted: Box, truth: Box) -> float:
    """Returns IoU - distance^2 / diagonal^2 - alpha v (Zheng et al., 2020, equations 7 to 11)."""
    overlap = iou(predicted, truth)
    hull_w = max(predicted[2], truth[2]) - min(predicted[0], truth[0])
    hull_h = max(predicted[3], truth[3]) - min(predicted[1], truth[1])
    apart_x = (predicted[0] + predicted[2] - truth[0] - truth[2]) / 2
    apart_y = (predicted[1] + predicted[3] - truth[1] - truth[3]) / 2
    angles = [math.atan((b[2] - b[0]) / (b[3] - b[1])) for b in (truth, predicted)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    alpha = v / (1 - overlap + v) if v else 0.0
    return overlap - (apart_x**2 + apart_y**2) / (hull_w**2 + hull_h**2) - alpha * v
