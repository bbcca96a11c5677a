"""YOLOv5's three losses.

Dimensions: L levels, B images, A anchors, H W cells, C candidates of a level, K classes.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torchvision.ops import complete_box_iou_loss

from ossa.boxes import cxcywh_to_xyxy
from ossa.config import LossConfig
from ossa.errors import ConfigError
from ossa.models.assign import LevelAssignment, assign
from ossa.models.predictions import AnchorPredictions, decode_boxes_in_cells
from ossa.types import Batch

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
        """Return their sum; the loss of a step is this times the number of images."""
        return self.box + self.objectness + self.classes


class DetectionLoss:
    """Compares raw predictions with the ground truth of a batch.

    Source: the losses of YOLOv5 v6/v7 with one difference: where two positives meet in a cell,
    the objectness target is the larger CIoU, where YOLOv5 keeps the last one written.
    """

    names = LossTerms._fields

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
        self.all_reduce: Callable[[Tensor], Tensor] = lambda counts: counts

    def with_all_reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> "DetectionLoss":
        """Return the same loss for ranks that share every batch.

        The counts that the means are divided by are summed over all ranks by `all_reduce`, so that
        the terms of all ranks add up to the terms of the whole batch.
        """
        shared = copy.copy(self)
        shared.all_reduce = all_reduce
        return shared

    def without_images(self, device: torch.device) -> LossTerms:
        """Return zero losses for a rank without images, which still joins the all-reduce."""
        zero = torch.zeros((), device=device)
        self.all_reduce(zero.new_zeros(1 + len(self.balance)))
        return LossTerms(zero, zero, zero)

    def positives(self, raw: AnchorPredictions, batch: Batch) -> list[int]:
        """Return the number of positives of each level."""
        levels = assign(batch, raw, ratio=self.anchor_ratio)
        return [int(level.positive.sum()) for level in levels]

    def __call__(self, raw: AnchorPredictions, batch: Batch) -> LossTerms:
        assignment = assign(batch, raw, ratio=self.anchor_ratio)
        images = raw.logits[0].new_tensor(raw.logits[0].shape[0], dtype=torch.float32)
        counts = torch.stack([images, *(level.positive.sum() for level in assignment)])
        all_images, *positives = self.all_reduce(counts).unbind()
        zero = images.new_zeros(())
        box, objectness, classes = zero, zero, zero
        for logits, level, weight, count in zip(
            raw.logits, assignment, self.balance, positives, strict=True
        ):
            predictions = logits[
                level.image_index, level.anchor_index, level.rows, level.columns
            ].float()  # (C, 5 + K)
            ciou = _ciou(predictions[:, :4], level)
            count = count.clamp(min=1)
            box = box + (level.positive * (1.0 - ciou)).sum() / count
            targets = _objectness_targets(logits, level, ciou)
            objectness_bce = binary_cross_entropy_with_logits(
                logits[..., 4].float(), targets, reduction="sum"
            )
            objectness = objectness + weight * objectness_bce / (
                all_images * logits[0, ..., 4].numel()
            )
            if self.num_classes > 1:
                classes = classes + self._class_loss(predictions[:, 5:], level) / count
        return LossTerms(
            box=self.box_gain * box,
            objectness=self.objectness_gain * objectness,
            classes=self.classes_gain * classes,
        )

    def _class_loss(self, logits: Tensor, level: LevelAssignment) -> Tensor:
        """Return the sum over positives of the mean over classes, for logits (C, K)."""
        one_hot_labels = one_hot(level.labels, self.num_classes).to(logits.dtype)
        targets = one_hot_labels * (1.0 - self.smoothing) + 0.5 * self.smoothing
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
        return (level.positive * losses).sum()


def _ciou(box_logits: Tensor, level: LevelAssignment) -> Tensor:
    """Return the complete IoU (C,) of each prediction with its ground truth, always finite."""
    predicted = decode_boxes_in_cells(box_logits, level.anchors_wh)
    gt_cxcywh = torch.cat((level.centres_xy, level.sizes_wh), dim=1)
    pair: Sequence[Tensor] = [
        cxcywh_to_xyxy(torch.cat((b[:, :2], b[:, 2:].clamp(min=_SMALLEST_SIDE)), dim=1))
        for b in (predicted, gt_cxcywh)
    ]
    return 1.0 - complete_box_iou_loss(pair[0], pair[1], reduction="none")


def _objectness_targets(logits: Tensor, level: LevelAssignment, ciou: Tensor) -> Tensor:
    """Return float32 (B, A, H, W): the CIoU of the positive at that cell, 0 elsewhere."""
    batch, anchors, height, width, _ = logits.shape
    flat_index = (
        (level.image_index * anchors + level.anchor_index) * height + level.rows
    ) * width + level.columns
    # Candidates that are not positives write 0.
    values = ciou.detach().clamp(min=0) * level.positive
    targets = torch.zeros(batch * anchors * height * width, device=logits.device)
    targets.scatter_reduce_(0, flat_index, values, reduce="amax")
    return targets.view(batch, anchors, height, width)
