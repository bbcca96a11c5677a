"""From raw predictions to detections: decoding and non-maximum suppression (NMS).

The result is that of the plain method: a box counts once for every class whose score (objectness
times class) is above the confidence; these candidates are sorted by score; of two of one class
that overlap by more than the limit the better stays, as by torchvision's `nms` for each class; and
the best that stay are the detections. It is only reached sooner:

- Objectness and classes are compared as logits: only candidates ever see a sigmoid.
- NMS takes the candidates best first, in chunks, and ends once there are as many detections as
  are wanted: which stay depends on better candidates alone.

Of equal scores the candidate of the finer level comes first, then that of the upper row, the left
column, the lower anchor and the lower label. No result depends on threads, on the memory format
or on the other images of the batch.

Dimensions: B images, A anchors, H W cells, P predicted boxes, C candidates, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from ossa.config import EvaluateConfig
from ossa.errors import CheckpointError
from ossa.models.predictions import MARGIN
from ossa.types import Detections, Letterbox, RawPredictions

_MIN_CHUNK = 2048
_CHUNK_PER_DETECTION = 7
"""Candidates per round of NMS, at least and for each detection wanted; what the best 300 of a
photograph need at the confidence 0.001. They decide speed, not results."""


class Candidates(NamedTuple):
    """What could be detected in one image, before NMS."""

    boxes_xyxy: NDArray[np.float32]
    """(C, 4) in pixels of the network input."""
    scores: NDArray[np.float32]
    """(C,) above the confidence."""
    labels: NDArray[np.int64]
    """(C,) in 0..K-1."""
    overlapping: bool = True
    """Whether several may be of one object, which NMS is for."""

    def take(self, which: NDArray[Any]) -> "Candidates":
        """Return some of them, by position or by a mask (C,)."""
        columns = (self.boxes_xyxy[which], self.scores[which], self.labels[which])
        return Candidates(*columns, self.overlapping)


@torch.no_grad()
def non_max_suppression(
    raw: RawPredictions,
    letterboxes: Sequence[Letterbox],
    config: EvaluateConfig,
    *,
    wanted: Tensor | None = None,
) -> list[Detections]:
    """Return the detections of each of the B images, in pixels of the original image.

    There is no time limit, and nothing is dropped but by `config`. A GPU is waited for three times
    per level, however many the images; NMS, a chain of small decisions, runs on the CPU.

    Args:
        raw: predictions for B images.
        letterboxes: B.
        config: confidence, NMS threshold and limits.
        wanted: bool (K,) on the CPU. Where given, a box counts for its best class alone, and only
            if that is wanted: other classes do not use up the detections.

    Examples:
        >>> import ossa
        >>> from ossa.config import EvaluateConfig
        >>> detector = ossa.create_detector("yolov5n", num_classes=4, imgsz=64).eval()
        >>> raw = detector(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
        >>> placement = ossa.Letterbox(1.0, 1.0, 0, 0, width=64, height=64)
        >>> found = non_max_suppression(raw, [placement], EvaluateConfig(confidence=0.9))
        >>> [len(detections) for detections in found]
        [0]
    """
    by_image = find_candidates(raw, config.confidence, wanted=wanted)
    return [
        run_nms(candidates, letterbox, config)
        for candidates, letterbox in zip(by_image, letterboxes, strict=True)
    ]


@torch.no_grad()
def find_candidates(
    raw: RawPredictions, confidence: float, *, wanted: Tensor | None = None
) -> list[Candidates]:
    """Return the candidates of each of the B images, of which `run_nms` makes its detections.

    Those above a higher confidence, or of fewer wanted classes, are among them in the same order.
    """
    return [
        _candidates(torch.cat(answers), confidence, wanted)._replace(overlapping=raw.needs_nms)
        for answers in zip(*raw.possible_boxes(confidence), strict=True)
    ]


def check_not_nan(raw: RawPredictions) -> None:
    """Raise CheckpointError where predictions are NaN: nothing would be found, without a word.

    Finite weights can overflow within the network, and so can honest ones in half precision.
    """
    if any(logits.max().isnan() for logits in raw.logits):
        raise CheckpointError(
            "expected numbers from the network, found NaN: its weights are damaged, or too large "
            "for the precision in which it runs"
        )


def run_nms(candidates: Candidates, letterbox: Letterbox, config: EvaluateConfig) -> Detections:
    """Return the detections, in pixels of the original image; `config.confidence` is not read."""
    kept = candidates.take(_best_after_nms(candidates, config))
    return Detections(letterbox.boxes_to_image(kept.boxes_xyxy), kept.scores, kept.labels)


def _candidates(answers: Tensor, confidence: float, wanted: Tensor | None) -> Candidates:
    """Return the pairs of box and class of one image whose score is above the confidence.

    Args:
        answers: (P, 5 + K) xyxy in pixels of the network input, logits of objectness and classes.
        confidence: 0..1.
        wanted: bool (K,), of which the best class of a box must be; every class counts for None.
    """
    enough = torch.logit(confidence * MARGIN / answers[:, 4].sigmoid())
    classes = answers[:, 5:]
    above_enough = classes > enough[:, None]
    if wanted is not None:
        above_enough &= (classes == classes.amax(dim=1, keepdim=True)) & wanted
    possible = above_enough.numpy()
    box_index, labels = np.divmod(np.flatnonzero(possible), possible.shape[1])
    # In double precision, rounded once: the last bit of a float32 sigmoid depends on where in the
    # array it stands, and so would the order of equal scores.
    objectness = answers[box_index, 4].double().sigmoid()
    classes = answers[box_index, 5 + labels].double().sigmoid()
    scores = (objectness * classes).float().numpy()
    above = scores > np.float32(confidence)
    boxes_xyxy = answers[:, :4].numpy()[box_index[above]]
    return Candidates(boxes_xyxy, scores[above], labels[above])


def _best_after_nms(candidates: Candidates, config: EvaluateConfig) -> NDArray[np.int64]:
    """Return the positions of the candidates that are detections, best first."""
    order = _best_first(candidates.scores)[: config.max_candidates]
    if not candidates.overlapping:
        return order[: config.max_detections]
    chunk = max(_MIN_CHUNK, _CHUNK_PER_DETECTION * config.max_detections)
    kept = order[:0]
    for start in range(0, len(order), chunk):
        # Those kept so far come first, and do not suppress each other.
        rivals = np.concatenate((kept, order[start : start + chunk]))
        kept = rivals[
            _kept_by_nms(
                candidates.boxes_xyxy[rivals], candidates.labels[rivals], nms_iou=config.nms_iou
            )
        ]
        if len(kept) >= config.max_detections:
            break
    return kept[: config.max_detections]


def _best_first(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the positions (C,) by falling score, and of equal scores by rising position.

    The bits of positive floats are ordered as the floats are. With the position behind them no two
    keys are equal, so that the fastest of numpy's sorts, which keeps no order, has one answer.
    """
    falling = np.iinfo(np.int32).max - scores.view(np.int32).astype(np.int64)
    keys = falling << 32 | np.arange(len(scores))
    keys.sort()
    return keys & 0xFFFFFFFF


def _kept_by_nms(
    boxes_xyxy: NDArray[np.float32], labels: NDArray[np.int64], *, nms_iou: float
) -> NDArray[np.bool_]:
    """Return which of the boxes (C, 4), given best first, stay after NMS of each class."""
    by_label = labels.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(labels[by_label], prepend=-1)).tolist()
    boxes = torch.from_numpy(boxes_xyxy[by_label])
    ranks = torch.arange(len(labels), 0, -1, dtype=torch.float32)
    stays = np.zeros(len(labels), dtype=np.bool_)
    for start, end in pairwise([*starts, len(labels)]):
        members = by_label[start:end]
        if end - start > 1:
            members = members[nms(boxes[start:end], ranks[start:end], nms_iou).numpy()]
        stays[members] = True
    return stays
