"""Whether an exported file says what PyTorch says: on the same real images, detection by detection.

Dimensions: B images, N and M detections of one image, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from ossa.config import EvaluateConfig
from ossa.data.batches.dataset import LetterboxedDataset
from ossa.data.batches.loader import evaluation_loader
from ossa.data.check import take_images
from ossa.data.index import DatasetIndex
from ossa.errors import DataError
from ossa.evaluate.metrics import evaluate_detections
from ossa.export.description import ExportDescription
from ossa.export.runtimes import ExportedRuntime, SuppressedRuntime, TorchRuntime
from ossa.models.postprocess import detect
from ossa.types import Batch, Detections

SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-3, 0.1
"""Of an export in fp32, whose arithmetic differs from PyTorch's in its order only."""
_SAME_OBJECT_IOU = 0.5
_MOST_BATCH = 8
"""Images compared together, where the file leaves it open."""


@dataclass(frozen=True)
class Comparison:
    """How far an exported file is from PyTorch on some images."""

    images: int
    largest_score_difference: float
    """Of one object. What only one of the two reports, from the confidence c on, counts with its
    score - c: at least so much its score must differ."""
    largest_box_difference_px: float
    """Of any side of a box that both report, in pixels of the original image."""
    detections: int
    """That PyTorch reports."""
    unmatched: int
    """Detections that only one of the two reports."""
    ap_before: float
    """COCO's AP50-95 of PyTorch in fp32."""
    ap_after: float
    settings: dict[str, Any] = field(default_factory=dict)
    """At which the AP was taken, and the confidence from which detections were compared."""

    @property
    def ap_drop(self) -> float:
        return self.ap_before - self.ap_after

    def flat(self) -> dict[str, Any]:
        return {**asdict(self), "ap_drop": self.ap_drop}


def compare(
    reference: TorchRuntime,
    exported: ExportedRuntime | SuppressedRuntime,
    index: DatasetIndex,
    *,
    on_images: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Runs both on every image of an index and returns how they differ.

    Detections are those of `ossa predict` at the description's confidence, and the AP is that of
    `ossa val`; with NMS in the graph both are at the graph's own settings.

    Args:
        reference: the network in PyTorch, fp32.
        exported: the file.
        index: images with truths.
        on_images: called with the number of images done and their total.

    Raises:
        DataError: no image has a truth.
    """
    about = exported.description
    loader = evaluation_loader(
        LetterboxedDataset(index, imgsz=about.imgsz),
        batch=about.batch or min(_MOST_BATCH, len(index)),
        workers=0,
    )
    gaps: list[_Gap] = []
    before: dict[int, Detections] = {}
    after: dict[int, Detections] = {}
    for batch in loader:
        pairs = _found(reference, exported, batch)
        gaps += [gap_between(*pair, confidence=about.confidence) for pair in pairs.pictures]
        for image_id, (theirs, ours) in zip(batch.image_ids, pairs.scored, strict=True):
            before[image_id], after[image_id] = theirs, ours
        if on_images is not None:
            on_images(len(after), len(index))
    return Comparison(
        images=len(index),
        largest_score_difference=max(gap.score for gap in gaps),
        largest_box_difference_px=max(gap.box_px for gap in gaps),
        detections=sum(gap.detections for gap in gaps),
        unmatched=sum(gap.unmatched for gap in gaps),
        ap_before=_ap(index, before),
        ap_after=_ap(index, after),
        settings={
            **_scoring(about).model_dump(),
            "compared_from_confidence": about.confidence,
            "best_class_only": about.suppression is not None,
        },
    )


def _ap(index: DatasetIndex, detections: Mapping[int, Detections]) -> float:
    ap = evaluate_detections(index, detections).ap
    if ap is None:
        raise DataError(
            f"expected objects in the images of {index.root} that are compared, found none: name "
            "a split with annotations"
        )
    return ap


def some_images(index: DatasetIndex, count: int) -> DatasetIndex:
    """Returns at most `count` images, spread evenly over the index."""
    if len(index) <= count:
        return index
    chosen = np.zeros(len(index), dtype=np.bool_)
    chosen[np.linspace(0, len(index) - 1, count).round().astype(np.int64)] = True
    return take_images(index, chosen)


@dataclass(frozen=True)
class _Pairs:
    """Of each image what PyTorch found and what the export found."""

    pictures: list[tuple[Detections, Detections]]
    """As `ossa predict` shows them."""
    scored: list[tuple[Detections, Detections]]
    """As the AP is counted."""


def _found(
    reference: TorchRuntime, exported: ExportedRuntime | SuppressedRuntime, batch: Batch
) -> _Pairs:
    about = exported.description
    every_class = torch.ones(len(about.names), dtype=torch.bool)
    theirs, shown = reference(batch.images), _showing(about)
    pictures_before = detect(theirs, batch.letterboxes, shown, wanted=every_class)
    if isinstance(exported, SuppressedRuntime):
        ours = exported.detections(batch.images, batch.letterboxes, shown, wanted=every_class)
        pairs = list(zip(pictures_before, ours, strict=True))
        return _Pairs(pairs, pairs)
    logits = exported(batch.images)
    pictures_after = detect(logits, batch.letterboxes, shown, wanted=every_class)
    scored_before = detect(theirs, batch.letterboxes, _scoring(about))
    scored_after = detect(logits, batch.letterboxes, _scoring(about))
    return _Pairs(
        list(zip(pictures_before, pictures_after, strict=True)),
        list(zip(scored_before, scored_after, strict=True)),
    )


def _showing(about: ExportDescription) -> EvaluateConfig:
    if about.suppression is not None:
        return EvaluateConfig(**about.suppression.model_dump())
    return EvaluateConfig(confidence=about.confidence, nms_iou=0.45)


def _scoring(about: ExportDescription) -> EvaluateConfig:
    return EvaluateConfig() if about.suppression is None else _showing(about)


@dataclass(frozen=True)
class _Gap:
    """How far two lists of detections of one image are apart."""

    score: float
    box_px: float
    detections: int
    unmatched: int


def gap_between(theirs: Detections, ours: Detections, *, confidence: float) -> _Gap:
    """Returns how far `ours` (M) is from `theirs` (N), two findings in one image.

    Best first, each of theirs is paired with the free one of ours of its class that overlaps it
    most, by an IoU of a half at least.
    """
    partner = _partners(theirs, ours)
    paired = partner >= 0
    left = np.setdiff1d(np.arange(len(ours)), partner[paired])
    alone = np.concatenate((theirs.scores[~paired], ours.scores[left]))
    mine = partner[paired]
    scores = np.abs(theirs.scores[paired] - ours.scores[mine])
    boxes = np.abs(theirs.boxes_xyxy[paired] - ours.boxes_xyxy[mine])
    return _Gap(
        score=float(np.concatenate((scores, alone - confidence)).max(initial=0.0)),
        box_px=float(boxes.max(initial=0.0)),
        detections=len(theirs),
        unmatched=len(alone),
    )


def _partners(theirs: Detections, ours: Detections) -> NDArray[np.int64]:
    """Returns (N,) the position in `ours` of what each of `theirs` became, -1 for nothing."""
    partner = np.full(len(theirs), -1)
    if not len(ours):
        return partner
    overlaps = box_iou(torch.from_numpy(theirs.boxes_xyxy), torch.from_numpy(ours.boxes_xyxy))
    overlaps = overlaps.numpy() * (theirs.labels[:, None] == ours.labels)
    for position, row in enumerate(overlaps):
        best = int(row.argmax())
        if row[best] >= _SAME_OBJECT_IOU:
            partner[position] = best
            overlaps[:, best] = 0.0
    return partner
