"""What each head returns, and how boxes and scores are read from it.

Dimensions: L levels, B images, A anchors or branches, H W cells, P predicted boxes, K classes, R
bins of a distance.
"""

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ossa.boxes import cxcywh_to_xyxy

MARGIN = 1 - 1e-5
"""Logits are compared with a confidence this much lower, lest rounding lose a candidate; the
comparison that decides is of scores."""

PossibleBoxes: TypeAlias = list[tuple[Tensor, ...]]
"""For each level, B tensors (P, 5 + K) on the CPU: xyxy in pixels of the network input, logits of
objectness and classes; in the order of row, column and anchor. Without objectness its logit is
infinite, so that a score is that of the class."""


class AnchorPredictions(NamedTuple):
    """What an `AnchorHead` returns.

    Examples:
        >>> import torch
        >>> from ossa.models.predictions import AnchorPredictions
        >>> raw = AnchorPredictions((torch.zeros(2, 1, 4, 4, 8),), torch.ones(1, 1, 2), (8,))
        >>> [len(boxes) for boxes in raw.possible_boxes(0.4)[0]]
        [16, 16]
    """

    logits: tuple[Tensor, ...]
    """L tensors (B, A, H_l, W_l, 5 + K): x, y, w, h, objectness, classes, before any sigmoid."""
    anchors_wh: Tensor
    """(L, A, 2) width and height in pixels of the network input."""
    strides: tuple[int, ...]
    """L strides in pixels of the network input per cell."""

    @property
    def needs_nms(self) -> bool:
        """Whether several boxes may be of one object."""
        return True

    def possible_boxes(self, confidence: float) -> PossibleBoxes:
        """Return the boxes whose objectness alone is above the confidence."""
        levels = []
        for logits, anchors_wh, stride in zip(
            self.logits, self.anchors_wh, self.strides, strict=True
        ):
            possible = logits[..., 4].float() > _logit(confidence * MARGIN)
            places, answers = _where(possible, logits)
            image_index, rows, columns, anchor_index = places
            boxes = decode_boxes_in_cells(answers[:, :4], anchors_wh[anchor_index] / stride)
            boxes[:, :2] += torch.stack((columns, rows), dim=1)
            answers[:, :4] = cxcywh_to_xyxy(boxes * stride)
            levels.append(_by_image(answers, image_index, images=len(logits)))
        return levels


class DensePredictions(NamedTuple):
    """What a `DenseHead` returns.

    Examples:
        >>> import torch
        >>> from ossa.models.predictions import DensePredictions
        >>> raw = DensePredictions((torch.ones(1, 1, 2, 2, 4 + 3),), (8,), reg_max=1)
        >>> len(raw.possible_boxes(0.5)[0][0]), len(raw.possible_boxes(0.9)[0][0])
        (4, 0)
    """

    logits: tuple[Tensor, ...]
    """L tensors (B, A, H_l, W_l, 4 R + K): distances to left, top, right and bottom, each of R
    bins, and classes. A is 1, or 2 where a one-to-one branch is trained beside the first."""
    strides: tuple[int, ...]
    """L strides in pixels of the network input per cell."""
    reg_max: int
    """R."""
    end_to_end: bool = False
    """Whether the last branch is one to one. Boxes are read from the last."""

    @property
    def needs_nms(self) -> bool:
        """Whether several boxes may be of one object."""
        return not self.end_to_end

    def one_to_many(self) -> "DensePredictions":
        """Return the predictions of the first branch, which need NMS."""
        first = tuple(level[:, :1] for level in self.logits)
        return self._replace(logits=first, end_to_end=False)

    def possible_boxes(self, confidence: float) -> PossibleBoxes:
        """Return the boxes of which a class is above the confidence."""
        levels = []
        for logits, stride in zip(self.logits, self.strides, strict=True):
            branch = logits[:, -1:]
            best = branch[..., 4 * self.reg_max :].amax(dim=-1)
            places, answers = _where(best.float() > _logit(confidence * MARGIN), branch)
            image_index, rows, columns, _ = places
            distances = decode_distances(answers[:, : 4 * self.reg_max], self.reg_max)
            points_xy = torch.stack((columns, rows), dim=1) + 0.5
            corners = (points_xy - distances[:, :2], points_xy + distances[:, 2:])
            certain = distances.new_full((len(distances), 1), math.inf)
            classes = answers[:, 4 * self.reg_max :]
            boxes = torch.cat((*(stride * corner for corner in corners), certain, classes), dim=1)
            levels.append(_by_image(boxes, image_index, images=len(logits)))
        return levels


def decode_boxes_in_cells(logits: Tensor, anchors_wh: Tensor) -> Tensor:
    """Return cxcywh (..., 4) in cells, relative to the corner of the predicting cell.

    Args:
        logits: (..., 4) raw x, y, w, h.
        anchors_wh: (..., 2) in the same unit.
    """
    fractions = logits.sigmoid()
    centres = 2.0 * fractions[..., :2] - 0.5
    sizes = (2.0 * fractions[..., 2:]) ** 2 * anchors_wh
    return torch.cat((centres, sizes), dim=-1)


def decode_distances(logits: Tensor, reg_max: int) -> Tensor:
    """Return the distances (..., 4) from a point to left, top, right, bottom, in cells.

    They are the means of softmax distributions over 0 .. R - 1, or with R = 1 softplus of a number.

    Args:
        logits: (..., 4 R).
        reg_max: R.
    """
    if reg_max == 1:
        return softplus(logits)
    bins = torch.arange(reg_max, device=logits.device, dtype=logits.dtype)
    return logits.unflatten(-1, (4, reg_max)).softmax(dim=-1) @ bins


def _where(possible: Tensor, logits: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return image, row, column and anchor (P,) of the possible (B, A, H, W), and their logits."""
    cells = logits.permute(0, 2, 3, 1, 4)  # as they lie in memory where that is channels-last
    places = possible.permute(0, 2, 3, 1).nonzero(as_tuple=True)
    image_index, rows, columns, anchor_index = places
    _, height, width, anchors, _ = cells.shape
    flat_index = ((image_index * height + rows) * width + columns) * anchors + anchor_index
    return places, cells.flatten(0, 3).index_select(0, flat_index).float()


def _by_image(answers: Tensor, image_index: Tensor, *, images: int) -> tuple[Tensor, ...]:
    counts = torch.bincount(image_index, minlength=images).tolist()
    return answers.cpu().split(counts)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
