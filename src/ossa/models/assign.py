"""Which predictions answer for which truths: YOLOv5's match by shape, and by the nearest cells.

Every shape follows from the number of truths alone, so that nothing waits for the device and the
whole can be compiled: each truth has one candidate for each anchor and each of the three cells that
may answer, and `positive` says which of them do.

Dimensions: N truths of the batch, A anchors, C = N x A x 3 candidates of a level, H W cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ossa.boxes import xyxy_to_cxcywh
from ossa.types import Batch, RawPredictions


@dataclass(frozen=True)
class LevelAssignment:
    """The C candidates of one level, and which of them are positives. Lengths are in cells."""

    positive: Tensor
    """bool (C,): whether the candidate answers for its truth. The others are to be left out."""
    image_index: Tensor
    """int64 (C,) position in the batch."""
    anchor_index: Tensor
    """int64 (C,) in 0..A-1."""
    rows: Tensor
    """int64 (C,) of the cell that answers, within the map for every candidate."""
    columns: Tensor
    centres_xy: Tensor
    """float32 (C, 2) of the truth relative to the cell's corner, of positives in (-0.5, 1.5)."""
    sizes_wh: Tensor
    """float32 (C, 2) of the truth."""
    anchors_wh: Tensor
    """float32 (C, 2) of the anchor that answers."""
    labels: Tensor
    """int64 (C,)."""


def assign(batch: Batch, raw: RawPredictions, *, ratio: float) -> tuple[LevelAssignment, ...]:
    """Returns the candidates of every level with what makes them positives.

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
    """Returns one level's candidates; anchors (A, 2) and boxes (N, 4) in cells of that level."""
    centres, sizes = boxes_cxcywh.split(2, dim=1)
    factors = sizes[:, None] / anchors_wh[None]  # (N, A, 2)
    fits = torch.maximum(factors, 1 / factors).amax(dim=2) < ratio  # (N, A)
    cells, exists = _answering_cells(centres, map_hw)  # (N, 3, 2), (N, 3)

    truths, anchors = fits.shape
    positive = fits[:, :, None] & exists[:, None, :]  # (N, A, 3)

    def by_gt(values: Tensor) -> Tensor:
        """Returns values (N, ...) repeated for each of the truth's candidates, (C, ...)."""
        return values.repeat_interleave(anchors * 3, dim=0)

    anchor_index = torch.arange(anchors, device=centres.device).repeat_interleave(3).repeat(truths)
    answering = cells[:, None].expand(-1, anchors, -1, -1).reshape(-1, 2)
    columns, rows = answering.long().unbind(dim=1)
    return LevelAssignment(
        positive=positive.flatten(),
        image_index=by_gt(batch.image_index),
        anchor_index=anchor_index,
        rows=rows,
        columns=columns,
        centres_xy=by_gt(centres) - answering,
        sizes_wh=by_gt(sizes),
        anchors_wh=anchors_wh[anchor_index],
        labels=by_gt(batch.labels),
    )


def _answering_cells(centres: Tensor, map_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns the cells (N, 3, 2) as column and row of a truth, and which of them exist, (N, 3).

    The one that holds the centre, the nearer to its left or right, the nearer above or below.
    """
    height, width = map_hw
    cells = centres.floor()
    towards = torch.sign(centres - cells - 0.5)  # -1 left or up, +1 right or down, 0 in the middle
    beside = cells + towards
    columns, rows = beside.unbind(dim=1)
    horizontal = (towards[:, 0] != 0) & (columns >= 0) & (columns < width)
    vertical = (towards[:, 1] != 0) & (rows >= 0) & (rows < height)
    answering = torch.stack(
        (
            cells,
            torch.stack((columns, cells[:, 1]), dim=1),
            torch.stack((cells[:, 0], rows), dim=1),
        ),
        dim=1,
    )
    # A centre on the far edge of the image would fall into a cell that does not exist.
    within = torch.stack(
        (answering[..., 0].clamp(0, width - 1), answering[..., 1].clamp(0, height - 1)), dim=-1
    )
    exists = torch.stack((torch.ones_like(horizontal), horizontal, vertical), dim=1)
    return within, exists
