"""The assignment of predictions to ground truth: YOLOv5's match by shape and by nearest cells.

Every shape follows from the number of ground-truth boxes alone, so that nothing waits for the
device and all can be compiled: each box has one candidate for each anchor and each of three cells,
and `positive` says which of them are assigned to it.

Dimensions: N boxes of the batch, A anchors, C = N x A x 3 candidates of a level, H W cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ossa.boxes import xyxy_to_cxcywh
from ossa.models.predictions import AnchorPredictions
from ossa.types import Batch


@dataclass(frozen=True)
class LevelAssignment:
    """The C candidates of one level, and which of them are positives. Lengths are in cells."""

    positive: Tensor
    """bool (C,): whether the candidate is assigned to its box. The others are to be left out."""
    image_index: Tensor
    """int64 (C,) position in the batch."""
    anchor_index: Tensor
    """int64 (C,) in 0..A-1."""
    rows: Tensor
    """int64 (C,) of the cell, within the map for every candidate."""
    columns: Tensor
    centres_xy: Tensor
    """float32 (C, 2) of the box relative to the cell's corner, of positives in (-0.5, 1.5)."""
    sizes_wh: Tensor
    """float32 (C, 2) of the box."""
    anchors_wh: Tensor
    """float32 (C, 2) of the anchor."""
    labels: Tensor
    """int64 (C,)."""


def assign(batch: Batch, raw: AnchorPredictions, *, ratio: float) -> tuple[LevelAssignment, ...]:
    """Return the candidates of every level.

    A box matches an anchor when neither its width nor its height differs from the anchor's by the
    factor `ratio` or more. It is assigned to three cells: the one that holds its centre, and the
    nearer horizontal and the nearer vertical neighbour, where these exist.
    """
    return tuple(
        _assign_level(
            batch,
            anchors_wh=raw.anchors_wh[level] / stride,
            boxes_cxcywh=xyxy_to_cxcywh(batch.boxes_xyxy) / stride,
            map_hw=(logits.shape[2], logits.shape[3]),
            ratio=ratio,
        )
        for level, (logits, stride) in enumerate(zip(raw.logits, raw.strides, strict=True))
    )


def _assign_level(
    batch: Batch,
    *,
    anchors_wh: Tensor,
    boxes_cxcywh: Tensor,
    map_hw: tuple[int, int],
    ratio: float,
) -> LevelAssignment:
    """Return one level's candidates; anchors (A, 2) and boxes (N, 4) in cells of that level."""
    centres, sizes = boxes_cxcywh.split(2, dim=1)
    factors = sizes[:, None] / anchors_wh[None]  # (N, A, 2)
    fits = torch.maximum(factors, 1 / factors).amax(dim=2) < ratio  # (N, A)
    cells, exists = _nearest_cells(centres, map_hw)  # (N, 3, 2), (N, 3)

    num_boxes, num_anchors = fits.shape
    positive = fits[:, :, None] & exists[:, None, :]  # (N, A, 3)

    def by_candidate(values: Tensor) -> Tensor:
        """Return values (N, ...) of boxes repeated for each of their candidates, (C, ...)."""
        return values.repeat_interleave(num_anchors * 3, dim=0)

    anchors = torch.arange(num_anchors, device=centres.device)
    anchor_index = anchors.repeat_interleave(3).repeat(num_boxes)
    candidate_cells = cells[:, None].expand(-1, num_anchors, -1, -1).reshape(-1, 2)
    columns, rows = candidate_cells.long().unbind(dim=1)
    return LevelAssignment(
        positive=positive.flatten(),
        image_index=by_candidate(batch.image_index),
        anchor_index=anchor_index,
        rows=rows,
        columns=columns,
        centres_xy=by_candidate(centres) - candidate_cells,
        sizes_wh=by_candidate(sizes),
        anchors_wh=anchors_wh[anchor_index],
        labels=by_candidate(batch.labels),
    )


def _nearest_cells(centres: Tensor, map_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return three cells per centre (N, 3, 2) as column and row, and which of them exist, (N, 3).

    The one that holds the centre, the nearer to its left or right, the nearer above or below.
    """
    height, width = map_hw
    cells = centres.floor()
    towards = torch.sign(centres - cells - 0.5)  # -1 left or up, +1 right or down, 0 in the middle
    columns, rows = (cells + towards).unbind(dim=1)
    horizontal = (towards[:, 0] != 0) & (columns >= 0) & (columns < width)
    vertical = (towards[:, 1] != 0) & (rows >= 0) & (rows < height)
    beside = torch.stack((columns, cells[:, 1]), dim=1)
    above_or_below = torch.stack((cells[:, 0], rows), dim=1)
    nearest = torch.stack((cells, beside, above_or_below), dim=1)
    # A centre on the far edge of the image would fall into a cell that does not exist.
    within = torch.stack(
        (nearest[..., 0].clamp(0, width - 1), nearest[..., 1].clamp(0, height - 1)), dim=-1
    )
    exists = torch.stack((torch.ones_like(horizontal), horizontal, vertical), dim=1)
    return within, exists
