"""Assignment by task alignment, and the losses of the dense head.

Every shape follows from the number of ground-truth boxes and of points, so that nothing waits for
the device and all can be compiled.

Dimensions: B images, L levels, P points of all levels, N boxes of the batch, M candidates of a box,
K classes, R bins of a distance.

Sources: TOOD (Feng et al., 2021) for the assignment, Generalized Focal Loss (Li et al., 2020) for
the distances, YOLOv10 (Wang et al., 2024) for the one-to-one branch.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus
from torchvision.ops import complete_box_iou_loss

from ossa.config import LossConfig
from ossa.models.predictions import DensePredictions, decode_distances
from ossa.types import Batch

_SMALLEST_SIDE = 1e-3
"""In cells; torchvision's CIoU is not a number for boxes without width or height."""
_SMALLEST_IOU = 1e-12
"""Below it a prediction is as good as one that does not touch the box."""


class DenseLossTerms(NamedTuple):
    """The weighted losses of a batch, each a mean, and how many boxes train nothing."""

    box: Tensor
    classes: Tensor
    dfl: Tensor
    """Distribution focal loss of the distances."""
    unassigned: Tensor
    """The fraction of the boxes without a positive, which is no loss."""

    def total(self) -> Tensor:
        """Return the sum of the losses; that of a step is this times the number of images."""
        return self.box + self.classes + self.dfl


class Points(NamedTuple):
    """The centres of the cells of all levels, fine to coarse."""

    centres_xy: Tensor
    """float32 (P, 2) in pixels of the network input."""
    strides: Tensor
    """float32 (P,) pixels per cell."""
    finest_stride: int
    finest_hw: tuple[int, int]
    """Rows and columns of the finest level, whose points come first."""

    @classmethod
    def of(cls, raw: DensePredictions) -> "Points":
        """Return the points of predictions (B, A, H, W, ...) of each level."""
        centres, strides = [], []
        for logits, stride in zip(raw.logits, raw.strides, strict=True):
            height, width = logits.shape[2:4]
            rows, columns = (
                (torch.arange(n, device=logits.device, dtype=torch.float32) + 0.5) * stride
                for n in (height, width)
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centres.append(torch.stack((x, y), dim=-1).flatten(0, 1))
            strides.append(torch.full_like(x, float(stride)).flatten())
        finest_hw = (raw.logits[0].shape[2], raw.logits[0].shape[3])
        return cls(torch.cat(centres), torch.cat(strides), raw.strides[0], finest_hw)


class TaskAlignment(NamedTuple):
    """The M candidates of each box, and which of them are its positives."""

    point_index: Tensor
    """int64 (N, M) in 0..P-1."""
    positive: Tensor
    """bool (N, M): whether the point is assigned to the box. The others are to be left out."""
    target: Tensor
    """float32 (N, M) soft target of the point for the class of the box; 0 where not positive."""


@torch.no_grad()
def assign_by_alignment(
    batch: Batch,
    class_logits: Tensor,
    boxes_xyxy: Tensor,
    points: Points,
    *,
    alpha: float,
    beta: float,
    topk: int,
) -> TaskAlignment:
    """Return the points with the largest alignment t = score^alpha x IoU^beta for each box.

    Candidates are the points inside the box; where there is none, that of the finest level's cell
    that holds the box's centre. A point that several boxes want goes to the one with the larger
    IoU. The target is t over the largest t of the box, times its largest IoU.

    Args:
        batch: N boxes.
        class_logits: float32 (B, P, K).
        boxes_xyxy: float32 (B, P, 4) predicted, in pixels of the network input.
        points: P.
        alpha, beta: exponents of score and IoU.
        topk: positives of a box, at most.
    """
    scores = logsigmoid(class_logits[batch.image_index, :, batch.labels])  # (N, P)
    ious = _pairwise_iou(batch, boxes_xyxy)
    # In logarithms: IoUs to the sixth power would leave the range of float32.
    alignment = alpha * scores + beta * ious.clamp(min=_SMALLEST_IOU).log()
    alignment = alignment.masked_fill(~_candidates(batch, points), -torch.inf)
    best, point_index = alignment.topk(min(topk, alignment.shape[1]), dim=1)
    best_ious = ious.gather(1, point_index)
    positive = _resolved(
        batch.image_index[:, None] * len(points.strides) + point_index,
        best_ious,
        best > -torch.inf,
        places=class_logits.shape[0] * class_logits.shape[1],
    )
    best = best.masked_fill(~positive, -torch.inf)
    largest = best.amax(dim=1, keepdim=True).clamp(min=torch.finfo(best.dtype).min)
    largest_iou = (best_ious * positive).amax(dim=1, keepdim=True)
    return TaskAlignment(point_index, positive, (best - largest).exp() * largest_iou)


def _pairwise_iou(batch: Batch, boxes_xyxy: Tensor) -> Tensor:
    """Return the IoU (N, P) of each box with all predictions (B, P, 4) of its image."""
    x0, y0, x1, y1 = (column[batch.image_index] for column in boxes_xyxy.unbind(dim=2))
    gt_x0, gt_y0, gt_x1, gt_y1 = batch.boxes_xyxy[:, :, None].unbind(dim=1)
    width = (torch.minimum(x1, gt_x1) - torch.maximum(x0, gt_x0)).clamp(min=0)
    height = (torch.minimum(y1, gt_y1) - torch.maximum(y0, gt_y0)).clamp(min=0)
    overlap = width * height
    areas = (x1 - x0) * (y1 - y0) + (gt_x1 - gt_x0) * (gt_y1 - gt_y0)
    return overlap / (areas - overlap).clamp(min=_SMALLEST_IOU)


def _candidates(batch: Batch, points: Points) -> Tensor:
    """Return bool (N, P): the points inside each box, or else the nearest of the finest level."""
    x, y = points.centres_xy.unbind(dim=1)
    x0, y0, x1, y1 = batch.boxes_xyxy[:, :, None].unbind(dim=1)
    inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    columns, rows = (
        ((start + end) / (2 * points.finest_stride)).floor().clamp(0, cells - 1)
        for start, end, cells in ((x0, x1, points.finest_hw[1]), (y0, y1, points.finest_hw[0]))
    )
    nearest = (rows * points.finest_hw[1] + columns).long()  # (N, 1)
    is_nearest = torch.arange(len(x), device=x.device) == nearest
    return inside | (is_nearest & ~inside.any(dim=1, keepdim=True))


def _resolved(keys: Tensor, ious: Tensor, wanted: Tensor, *, places: int) -> Tensor:
    """Return which wanted points (N, M) stay: each for the box with the larger IoU alone.

    Args:
        keys: int64 (N, M) position of the point among the `places` of the batch.
        ious: (N, M) of prediction and box.
        wanted: bool (N, M).
        places: B x P.
    """
    values = ious.masked_fill(~wanted, -1.0)
    largest = values.new_full((places,), -1.0)
    largest = largest.scatter_reduce(0, keys.flatten(), values.flatten(), reduce="amax")
    wanted = wanted & (values == largest[keys])
    # Of equal ones the first box.
    boxes = torch.arange(len(keys), device=keys.device)[:, None].expand_as(keys)
    owners = boxes.masked_fill(~wanted, len(keys)).flatten()
    first = keys.new_full((places,), len(keys))
    first = first.scatter_reduce(0, keys.flatten(), owners, reduce="amin")
    return wanted & (boxes == first[keys])


class TaskAlignedLoss:
    """Compares the predictions of a dense head with the ground truth of a batch."""

    names = DenseLossTerms._fields

    def __init__(self, config: LossConfig, *, reg_max: int, end_to_end: bool) -> None:
        self.config = config
        self.reg_max = reg_max
        # A one-to-one branch has the same exponents and one positive per box.
        self.topk = (config.dense_topk, 1) if end_to_end else (config.dense_topk,)
        self.all_reduce: Callable[[Tensor], Tensor] = lambda sums: sums

    def with_all_reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> "TaskAlignedLoss":
        """Return the same loss for ranks that share every batch.

        The sums that the terms are divided by are added up over all ranks by `all_reduce`, so that
        the terms of all ranks add up to the terms of the whole batch.
        """
        shared = copy.copy(self)
        shared.all_reduce = all_reduce
        return shared

    def without_images(self, device: torch.device) -> DenseLossTerms:
        """Return zero losses for a rank without images, which still joins the all-reduce."""
        zero = torch.zeros((), device=device)
        self.all_reduce(zero.new_zeros(1 + len(self.topk)))
        return DenseLossTerms(zero, zero, zero, zero)

    def positives(self, raw: DensePredictions, batch: Batch) -> list[int]:
        """Return the number of positives of each level, of the first branch."""
        points = Points.of(raw)
        logits = _flat_logits(raw, branch=0)
        found = self._assign(logits, batch, points, topk=self.topk[0])
        strides = points.strides[found.point_index[found.positive]].tolist()
        return [strides.count(stride) for stride in raw.strides]

    def __call__(self, raw: DensePredictions, batch: Batch) -> DenseLossTerms:
        points = Points.of(raw)
        branches = [_flat_logits(raw, branch=branch) for branch in range(len(self.topk))]
        found = [
            self._assign(logits, batch, points, topk=topk)
            for logits, topk in zip(branches, self.topk, strict=True)
        ]
        boxes = branches[0].new_tensor(len(batch.labels))
        sums = torch.stack([boxes, *(assignment.target.sum() for assignment in found)])
        all_boxes, *targets = self.all_reduce(sums).clamp(min=1).unbind()
        zero = boxes.new_zeros(())
        box, classes, dfl = zero, zero, zero
        for logits, assignment, target in zip(branches, found, targets, strict=True):
            losses = self._losses(logits, assignment, batch, points)
            box, classes, dfl = (
                sofar + loss / target
                for sofar, loss in zip((box, classes, dfl), losses, strict=True)
            )
        lost = (~found[0].positive.any(dim=1)).sum()
        config = self.config
        return DenseLossTerms(
            box=config.dense_box * box,
            classes=config.dense_classes * classes,
            dfl=config.dense_dfl * dfl,
            unassigned=lost / all_boxes,
        )

    def _assign(self, logits: Tensor, batch: Batch, points: Points, *, topk: int) -> TaskAlignment:
        logits = logits.detach()
        distances = decode_distances(logits[..., : 4 * self.reg_max], self.reg_max)
        distances = distances * points.strides[:, None]
        corners = (points.centres_xy - distances[..., :2], points.centres_xy + distances[..., 2:])
        return assign_by_alignment(
            batch,
            logits[..., 4 * self.reg_max :],
            torch.cat(corners, dim=-1),
            points,
            alpha=self.config.dense_alpha,
            beta=self.config.dense_beta,
            topk=topk,
        )

    def _losses(
        self, logits: Tensor, found: TaskAlignment, batch: Batch, points: Points
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of box, class and distribution focal loss for logits (B, P, 4 R + K)."""
        bins = 4 * self.reg_max
        image_index = batch.image_index[:, None].expand_as(found.point_index).flatten()
        labels = batch.labels[:, None].expand_as(found.point_index).flatten()
        point_index, target = found.point_index.flatten(), found.target.flatten()
        answers = logits[image_index, point_index]  # (N M, 4 R + K)
        # Binary cross entropy of all points and classes, of which only positives have targets.
        of_label = answers.gather(1, bins + labels[:, None])[:, 0]
        classes = softplus(logits[..., bins:]).sum() - (target * of_label).sum()

        centres, strides = points.centres_xy[point_index], points.strides[point_index]
        gt_xyxy = batch.boxes_xyxy.repeat_interleave(found.point_index.shape[1], dim=0)
        gt = (gt_xyxy - centres.repeat(1, 2)) / strides[:, None]  # from the point, in cells
        distances = decode_distances(answers[:, :bins], self.reg_max)
        predicted = torch.cat((-distances[:, :2], distances[:, 2:]), dim=1)
        ciou_loss = complete_box_iou_loss(_with_area(predicted), _with_area(gt), reduction="none")
        box = (target * ciou_loss).sum()
        if self.reg_max == 1:
            return box, classes, box.new_zeros(())
        gt_distances = torch.cat((-gt[:, :2], gt[:, 2:]), dim=1)
        dfl = _distribution_focal_loss(answers[:, :bins], gt_distances, self.reg_max)
        return box, classes, (target * dfl).sum()


def _flat_logits(raw: DensePredictions, *, branch: int) -> Tensor:
    """Return (B, P, 4 R + K) of all levels, in float32 at least."""
    flat = torch.cat([level[:, branch].flatten(1, 2) for level in raw.logits], dim=1)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _with_area(boxes_xyxy: Tensor) -> Tensor:
    starts, ends = boxes_xyxy.split(2, dim=1)
    return torch.cat((starts, torch.maximum(ends, starts + _SMALLEST_SIDE)), dim=1)


def _distribution_focal_loss(logits: Tensor, distances: Tensor, reg_max: int) -> Tensor:
    """Return the mean over the sides (C,) for logits (C, 4 R) and distances (C, 4) in cells."""
    distances = distances.clamp(0, reg_max - 1 - 0.01)
    left = distances.floor()
    to_right = distances - left
    log_probabilities = logits.unflatten(-1, (4, reg_max)).log_softmax(dim=-1)
    at_left, at_right = (
        log_probabilities.gather(2, (left.long() + step)[..., None])[..., 0] for step in (0, 1)
    )
    return -((1 - to_right) * at_left + to_right * at_right).mean(dim=1)
