"""YOLOv5's three losses.

Dimensions: L levels, B images, A anchors, H W cells, P positives of a level, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torchvision.ops import complete_box_iou_loss

from ossa.boxes import cxcywh_to_xyxy
from ossa.config import LossConfig
from ossa.errors import ConfigError
from ossa.models.assign import LevelAssignment, assign
from ossa.types import Batch, RawPredictions

_OBJECTNESS_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
"""Weight of each level's objectness, fine to coarse, by number of levels.

The three are YOLOv5's. The four, for strides 4 to 32, are our choice: the finest level has most of
the cells and next to no objects.
"""
_REFERENCE_LEVELS, _REFERENCE_CLASSES, _REFERENCE_IMGSZ = 3, 80, 640
_SMALLEST_SIDE = 1e-6
"""In cells; torchvision's CIoU is not a number for boxes without width or height."""


class LossTerms(NamedTuple):
    """The three weighted losses of a batch, each a mean (independent of the batch size)."""

    box: Tensor
    objectness: Tensor
    classes: Tensor

    def total(self) -> Tensor:
        """Returns their sum; the step's loss is this times the number of images."""
        return self.box + self.objectness + self.classes


class DetectionLoss:
    """Compares raw predictions with the truths of a batch.

    Source: the losses of YOLOv5 v6/v7 with one difference: where two positives meet in a cell,
    the objectness target is the larger CIoU, which does not depend on the order of writing.
    """

    def __init__(
        self, config: LossConfig, *, num_classes: int, num_levels: int, imgsz: int
    ) -> None:
        if num_levels not in _OBJECTNESS_BALANCE:
            raise ConfigError(
                f"the objectness loss is balanced for {sorted(_OBJECTNESS_BALANCE)} levels, "
                f"found {num_levels}"
            )
        per_level = _REFERENCE_LEVELS / num_levels
        self.box_gain = config.box * per_level
        self.objectness_gain = config.objectness * (imgsz / _REFERENCE_IMGSZ) ** 2 * per_level
        self.classes_gain = config.classes * num_classes / _REFERENCE_CLASSES * per_level
        self.balance = _OBJECTNESS_BALANCE[num_levels]
        self.smoothing = config.label_smoothing
        self.anchor_ratio = config.anchor_ratio
        self.num_classes = num_classes

    def __call__(self, raw: RawPredictions, batch: Batch) -> LossTerms:
        assignment = assign(batch, raw, ratio=self.anchor_ratio)
        zero = raw.logits[0].new_zeros(())
        box, objectness, classes = zero, zero, zero
        for logits, positives, weight in zip(raw.logits, assignment, self.balance, strict=True):
            answers = logits[
                positives.image_index, positives.anchor_index, positives.rows, positives.columns
            ]  # (P, 5 + K)
            overlap = _ciou(answers[:, :4], positives)
            count = max(len(overlap), 1)
            box = box + (1.0 - overlap).sum() / count
            targets = _objectness_targets(logits, positives, overlap)
            cells = binary_cross_entropy_with_logits(logits[..., 4], targets)
            objectness = objectness + weight * cells
            if self.num_classes > 1:
                classes = classes + self._class_loss(answers[:, 5:], positives.labels) / count
        return LossTerms(
            box=self.box_gain * box,
            objectness=self.objectness_gain * objectness,
            classes=self.classes_gain * classes,
        )

    def _class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the sum over positives of the mean over classes, for logits (P, K)."""
        certain = one_hot(labels, self.num_classes).to(logits.dtype)
        targets = certain * (1.0 - self.smoothing) + 0.5 * self.smoothing
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return losses / self.num_classes


def decode_boxes_in_cells(logits: Tensor, anchors_wh: Tensor) -> Tensor:
    """Returns cxcywh (..., 4) in cells, relative to the corner of the cell that answers.

    Args:
        logits: (..., 4) raw x, y, w, h.
        anchors_wh: (..., 2) in the same unit.
    """
    fractions = logits.sigmoid()
    centres = 2.0 * fractions[..., :2] - 0.5
    sizes = (2.0 * fractions[..., 2:]) ** 2 * anchors_wh
    return torch.cat((centres, sizes), dim=-1)


def _ciou(box_logits: Tensor, positives: LevelAssignment) -> Tensor:
    """Returns the complete IoU (P,) of each answer with its truth."""
    predicted = decode_boxes_in_cells(box_logits.float(), positives.anchors_wh)
    truths = torch.cat((positives.centres_xy, positives.sizes_wh), dim=1)
    pair: Sequence[Tensor] = [
        cxcywh_to_xyxy(torch.cat((b[:, :2], b[:, 2:].clamp(min=_SMALLEST_SIDE)), dim=1))
        for b in (predicted, truths)
    ]
    return 1.0 - complete_box_iou_loss(pair[0], pair[1], reduction="none")


def _objectness_targets(logits: Tensor, positives: LevelAssignment, overlap: Tensor) -> Tensor:
    """Returns (B, A, H, W): the CIoU of the positive that answers there, 0 elsewhere."""
    batch, anchors, height, width, _ = logits.shape
    flat_index = (
        (positives.image_index * anchors + positives.anchor_index) * height + positives.rows
    ) * width + positives.columns
    targets = torch.zeros(batch * anchors * height * width, device=logits.device)
    targets.scatter_reduce_(0, flat_index, overlap.detach().clamp(min=0), reduce="amax")
    return targets.view(batch, anchors, height, width).to(logits.dtype)
