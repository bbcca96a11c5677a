"""From raw predictions to detections: decoding and non-maximum suppression.

Dimensions: B images, A anchors, H W cells, C candidates, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ossa.boxes import cxcywh_to_xyxy
from ossa.config import EvaluateConfig
from ossa.models.loss import decode_boxes_in_cells
from ossa.types import Detections, Letterbox, RawPredictions


class _Candidates(NamedTuple):
    image_index: Tensor
    """int64 (C,)."""
    boxes_xyxy: Tensor
    """(C, 4) in pixels of the network input."""
    objectness: Tensor
    """(C,) in 0..1."""
    class_scores: Tensor
    """(C, K) in 0..1."""


@torch.no_grad()
def detect(
    raw: RawPredictions, letterboxes: Sequence[Letterbox], config: EvaluateConfig
) -> list[Detections]:
    """Returns the detections of each of the B images, in pixels of the original image.

    A box counts once for every class whose score (objectness times class) is above the
    confidence; suppression happens within a class. No time limit, and nothing is dropped but
    what `config` says.
    """
    candidates = _collect(raw, config.confidence)
    found = []
    for image, letterbox in enumerate(letterboxes):
        mine = candidates.image_index == image
        found.append(
            _suppress(
                candidates.boxes_xyxy[mine],
                candidates.class_scores[mine] * candidates.objectness[mine, None],
                letterbox=letterbox,
                config=config,
            )
        )
    return found


def _collect(raw: RawPredictions, confidence: float) -> _Candidates:
    """Returns the decoded predictions of all images whose objectness is above the confidence."""
    parts = []
    for logits, anchors_wh, stride in zip(raw.logits, raw.anchors_wh, raw.strides, strict=True):
        where = (logits[..., 4].float().sigmoid() > confidence).nonzero(as_tuple=True)
        image_index, anchor_index, rows, columns = where
        answers = logits[where].float()
        boxes_cxcywh = decode_boxes_in_cells(answers[:, :4], anchors_wh[anchor_index] / stride)
        corners = torch.stack((columns, rows), dim=1)
        boxes_cxcywh = torch.cat((boxes_cxcywh[:, :2] + corners, boxes_cxcywh[:, 2:]), dim=1)
        parts.append(
            _Candidates(
                image_index,
                cxcywh_to_xyxy(boxes_cxcywh * stride),
                answers[:, 4].sigmoid(),
                answers[:, 5:].sigmoid(),
            )
        )
    return _Candidates(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _suppress(
    boxes_xyxy: Tensor, scores: Tensor, *, letterbox: Letterbox, config: EvaluateConfig
) -> Detections:
    """Returns one image's detections from boxes (C, 4) of the network input and scores (C, K)."""
    box_index, labels = (scores > config.confidence).nonzero(as_tuple=True)
    flat_scores = scores[box_index, labels]
    if len(flat_scores) > config.max_candidates:
        flat_scores, best = flat_scores.topk(config.max_candidates)
        box_index, labels = box_index[best], labels[best]
    boxes = boxes_xyxy[box_index]
    keep = batched_nms(boxes, flat_scores, labels, config.nms_iou)[: config.max_detections]
    return Detections(
        boxes_xyxy=letterbox.boxes_to_image(boxes[keep].cpu().numpy().astype(np.float32)),
        scores=flat_scores[keep].cpu().numpy().astype(np.float32),
        labels=labels[keep].cpu().numpy().astype(np.int64),
    )
