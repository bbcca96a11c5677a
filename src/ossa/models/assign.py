"""Which predictions answer for which truths: YOLOv5's match by shape, and by the nearest cells.

Dimensions: N truths of the batch, A anchors, P positives of a level, H W cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ossa.boxes import xyxy_to_cxcywh
from ossa.types import Batch, RawPredictions


@dataclass(frozen=True)
class LevelAssignment:
    """The P positives of one level. Lengths are in cells of that level."""

    image_index: Tensor
    """int64 (P,) position in the batch."""
    anchor_index: Tensor
    """int64 (P,) in 0..A-1."""
    rows: Tensor
    """int64 (P,) of the cell that answers."""
    columns: Tensor
    centres_xy: Tensor
    """float32 (P, 2) of the truth relative to the cell's corner, within (-0.5, 1.5)."""
    sizes_wh: Tensor
    """float32 (P, 2) of the truth."""
    anchors_wh: Tensor
    """float32 (P, 2) of the anchor that answers."""
    labels: Tensor
    """int64 (P,)."""


def assign(batch: Batch, raw: RawPredictions, *, ratio: float) -> tuple[LevelAssignment, ...]:
    """Returns the positives of every level.

    A truth is a positive of an anchor when neither its width nor its height differs from the
    anchor's by the factor `ratio` or more. Three cells answer for it: the one that holds its
    centre, and the nearer horizontal and the nearer vertical neighbour, where these exist.
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
    """Returns one level's positives; anchors (A, 2) and boxes (N, 4) in cells of that level."""
    factors = boxes_cxcywh[:, None, 2:] / anchors_wh[None]  # (N, A, 2)
    fits = torch.maximum(factors, 1 / factors).amax(dim=2) < ratio  # (N, A)
    truth, anchor = fits.nonzero(as_tuple=True)
    centres = boxes_cxcywh[truth, :2]
    cells = centres.floor()
    limits = centres.new_tensor([map_hw[1], map_hw[0]])  # columns, rows

    towards = torch.sign(centres - cells - 0.5)  # -1 left or up, +1 right or down, 0 in the middle
    beside = cells + towards
    exists = (towards != 0) & (beside >= 0) & (beside < limits)  # (P', 2)
    horizontal, vertical = exists.unbind(dim=1)

    answering = torch.cat(
        (
            cells,
            torch.stack((beside[:, 0], cells[:, 1]), dim=1)[horizontal],
            torch.stack((cells[:, 0], beside[:, 1]), dim=1)[vertical],
        )
    )
    source = torch.arange(len(truth), device=truth.device)
    source = torch.cat((source, source[horizontal], source[vertical]))
    truth, anchor = truth[source], anchor[source]
    # A centre on the far edge of the image would fall into a cell that does not exist.
    answering = torch.minimum(answering, limits - 1)
    columns, rows = answering.long().unbind(dim=1)
    return LevelAssignment(
        image_index=batch.image_index[truth],
        anchor_index=anchor,
        rows=rows,
        columns=columns,
        centres_xy=boxes_cxcywh[truth, :2] - answering,
        sizes_wh=boxes_cxcywh[truth, 2:],
        anchors_wh=anchors_wh[anchor],
        labels=batch.labels[truth],
    )
