"""Whether an exported file says what PyTorch says: on the same real images, detection by detection.

Dimensions: B images, N and M detections of one image, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from ossa.config import EvaluateConfig
from ossa.data.annotations import DatasetIndex, select_images
from ossa.data.dataset import LetterboxedDataset
from ossa.data.decode import decode_image
from ossa.data.letterbox import letterbox_rectangular
from ossa.data.loader import evaluation_loader
from ossa.errors import DataError
from ossa.evaluate.metrics import evaluate_detections
from ossa.export.backends import ExportedRuntime, NMSRuntime, TorchRuntime
from ossa.export.graph import ExportDescription
from ossa.models.postprocess import check_not_nan, find_candidates, non_max_suppression
from ossa.types import Batch, Detections

SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-3, 0.1
"""Of an export in fp32, whose arithmetic differs from PyTorch's in its order only."""
_SAME_OBJECT_IOU = 0.5
_MARGIN = 0.05
"""Below the confidence, where PyTorch's candidates are still looked at."""
_MOST_BATCH = 8
"""Images compared together, where the file leaves it open."""


@dataclass(frozen=True)
class Comparison:
    """How far an exported file is from PyTorch on some images."""

    images: int
    largest_score_difference: float
    """Of one object; what only one of the two reports counts as `gap_between` says."""
    largest_box_difference_px: float
    """Of any side of a box that both report, in pixels of the original image."""
    detections: int
    """That PyTorch reports."""
    unmatched: int
    """Detections that only one of the two reports."""
    agreement: float
    """IoUs of the pairs, over their number and half of `unmatched` (panoptic quality); 1 where
    neither reports anything."""
    ap_before: float
    """COCO's AP50-95 of PyTorch in fp32."""
    ap_after: float
    squares: dict[str, float] | None = None
    """How far the file, which sees squares, is from PyTorch on rectangles, which `ossa predict`
    gives a checkpoint: images, score, box_px, unmatched, detections. None where both see the same.
    """
    settings: dict[str, Any] = field(default_factory=dict)
    """At which the AP was taken, and the confidence from which detections were compared."""

    @property
    def ap_drop(self) -> float:
        return self.ap_before - self.ap_after

    def flat(self) -> dict[str, Any]:
        return {**asdict(self), "ap_drop": self.ap_drop}


def compare(
    reference: TorchRuntime,
    exported: ExportedRuntime | NMSRuntime,
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
    exact = about.precision == "fp32"
    rectangles = _Rectangles.of(reference, about, index)
    gaps: list[Gap] = []
    before: dict[int, Detections] = {}
    after: dict[int, Detections] = {}
    for batch in loader:
        pairs = _found(reference, exported, batch, with_candidates=exact)
        gaps += [
            gap_between(*pair, settings=_showing(about), candidates=candidates)
            for pair, candidates in zip(pairs.pictures, pairs.candidates, strict=True)
        ]
        if rectangles is not None:
            rectangles.add(batch.image_ids, [ours for _, ours in pairs.pictures])
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
        agreement=_agreement(gaps),
        ap_before=_ap(index, before),
        ap_after=_ap(index, after),
        squares=None if rectangles is None else rectangles.difference(),
        settings={
            **_scoring(about).model_dump(),
            "compared_from_confidence": about.confidence,
            "best_class_only": about.nms is not None,
        },
    )


def _agreement(gaps: Sequence["Gap"]) -> float:
    """Returns the panoptic quality of one side against the other (Kirillov et al. 2019)."""
    reported = sum(gap.paired + gap.unmatched / 2 for gap in gaps)
    return sum(gap.overlap for gap in gaps) / reported if reported else 1.0


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
    return select_images(index, chosen)


@dataclass(frozen=True)
class _Pairs:
    """Of each image what PyTorch found and what the export found."""

    pictures: list[tuple[Detections, Detections]]
    """As `ossa predict` shows them."""
    scored: list[tuple[Detections, Detections]]
    """As the AP is counted."""
    candidates: list[Detections | None]
    """What PyTorch's NMS chose from, where wanted."""


def _found(
    reference: TorchRuntime,
    exported: ExportedRuntime | NMSRuntime,
    batch: Batch,
    *,
    with_candidates: bool,
) -> _Pairs:
    about = exported.description
    every_class = torch.ones(len(about.names), dtype=torch.bool)
    theirs, shown = reference(batch.images), _showing(about)
    check_not_nan(theirs)
    pictures_before = non_max_suppression(theirs, batch.letterboxes, shown, wanted=every_class)
    candidates: list[Detections | None] = [None] * len(pictures_before)
    if with_candidates:
        of_images = find_candidates(theirs, max(shown.confidence - _MARGIN, 0.0))
        candidates = [
            Detections(letterbox.boxes_to_image(one.boxes_xyxy), one.scores, one.labels)
            for one, letterbox in zip(of_images, batch.letterboxes, strict=True)
        ]
    if isinstance(exported, NMSRuntime):
        ours = exported.detections(batch.images, batch.letterboxes, shown, wanted=every_class)
        pairs = list(zip(pictures_before, ours, strict=True))
        return _Pairs(pairs, pairs, candidates)
    logits = exported(batch.images)
    pictures_after = non_max_suppression(logits, batch.letterboxes, shown, wanted=every_class)
    scored_before = non_max_suppression(theirs, batch.letterboxes, _scoring(about))
    scored_after = non_max_suppression(logits, batch.letterboxes, _scoring(about))
    return _Pairs(
        list(zip(pictures_before, pictures_after, strict=True)),
        list(zip(scored_before, scored_after, strict=True)),
        candidates,
    )


class _Rectangles:
    """PyTorch on rectangles, beside a file that sees squares."""

    def __init__(
        self, reference: TorchRuntime, about: ExportDescription, index: DatasetIndex
    ) -> None:
        self._reference, self._about = reference, about
        self._paths = {
            image_id: index.image_path(position)
            for position, image_id in enumerate(index.image_ids.tolist())
            if index.sizes_wh[position, 0] != index.sizes_wh[position, 1]
        }
        self._gaps: list[Gap] = []

    @classmethod
    def of(
        cls, reference: TorchRuntime, about: ExportDescription, index: DatasetIndex
    ) -> Self | None:
        """Returns None where a checkpoint sees what the file sees."""
        same = about.rectangular or about.only_squares
        found = cls(reference, about, index)
        return None if same or not found._paths else found

    def add(self, image_ids: Sequence[int], ours: Sequence[Detections]) -> None:
        about, shown = self._about, _showing(self._about)
        every_class = torch.ones(len(about.names), dtype=torch.bool)
        for image_id, found in zip(image_ids, ours, strict=True):
            if image_id not in self._paths:
                continue
            canvas, place = letterbox_rectangular(
                decode_image(self._paths[image_id]), about.imgsz, stride=max(about.strides)
            )
            pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None]
            (theirs,) = non_max_suppression(
                self._reference(pixels), [place], shown, wanted=every_class
            )
            self._gaps.append(gap_between(theirs, found, settings=shown))

    def difference(self) -> dict[str, float]:
        return {
            "images": len(self._gaps),
            "score": max(gap.score for gap in self._gaps),
            "box_px": max(gap.box_px for gap in self._gaps),
            "unmatched": sum(gap.unmatched for gap in self._gaps),
            "detections": sum(gap.detections for gap in self._gaps),
        }


def _showing(about: ExportDescription) -> EvaluateConfig:
    if about.nms is not None:
        return EvaluateConfig(**about.nms.model_dump())
    return EvaluateConfig(confidence=about.confidence, nms_iou=0.45)


def _scoring(about: ExportDescription) -> EvaluateConfig:
    return EvaluateConfig() if about.nms is None else _showing(about)


@dataclass(frozen=True)
class Gap:
    """How far two lists of detections of one image are apart."""

    score: float
    box_px: float
    detections: int
    unmatched: int
    paired: int
    overlap: float
    """Sum of the IoUs of the pairs."""


def gap_between(
    theirs: Detections,
    ours: Detections,
    *,
    settings: EvaluateConfig,
    candidates: Detections | None = None,
) -> Gap:
    """Returns how far `ours` (M) is from `theirs` (N), two findings in one image.

    Best first, each of theirs is paired with the free one of ours of its class that overlaps it
    most, by an IoU of a half at least. What only one side reports counts with what its score
    exceeds that by which it may be absent from the other side: the confidence, the lowest score of
    a full list, and the score of the overlapping detection that suppressed it.

    Args:
        theirs: by PyTorch.
        ours: by the export.
        settings: confidence, NMS and limits of both.
        candidates: what PyTorch's NMS chose from. Where given, scores and boxes of ours are
            compared with the nearest of these: of two almost equal scores, either may win the NMS.
    """
    partner, ious = _partners(theirs, ours)
    paired = partner >= 0
    left = np.setdiff1d(np.arange(len(ours)), partner[paired])
    before, after = _at(theirs, paired), _at(ours, partner[paired])
    lone = [(_at(theirs, ~paired), ours), (_at(ours, left), theirs)]
    if candidates is not None:
        nearest, _ = _partners(ours, candidates, exclusive=False)
        before, after = _at(candidates, nearest[nearest >= 0]), _at(ours, nearest >= 0)
        lone[1] = (_at(ours, nearest < 0), theirs)
    excess = [mine.scores - _reasons(mine, others, settings) for mine, others in lone]
    scores = np.abs(before.scores - after.scores)
    boxes = np.abs(before.boxes_xyxy - after.boxes_xyxy)
    return Gap(
        score=float(np.concatenate((scores, *excess)).max(initial=0.0)),
        box_px=float(boxes.max(initial=0.0)),
        detections=len(theirs),
        unmatched=int((~paired).sum()) + len(left),
        paired=int(paired.sum()),
        overlap=float(ious.sum()),
    )


def _at(found: Detections, which: NDArray[Any]) -> Detections:
    return Detections(found.boxes_xyxy[which], found.scores[which], found.labels[which])


def _reasons(
    lone: Detections, others: Detections, settings: EvaluateConfig
) -> NDArray[np.floating]:
    """Returns (N,) the highest score with which each may be absent from the other side."""
    reasons = np.full(len(lone), settings.confidence, np.float32)
    if len(others) >= settings.max_detections:
        reasons = np.maximum(reasons, others.scores.min())
    if len(others):
        overlaps = _overlaps(lone, others)
        rivals = np.where(overlaps > settings.nms_iou, others.scores, 0.0)
        reasons = np.maximum(reasons, rivals.max(axis=1, initial=0.0))
    return reasons


def _overlaps(theirs: Detections, ours: Detections) -> NDArray[np.float32]:
    """Returns (N, M) IoUs, 0 for two classes."""
    overlaps = box_iou(torch.from_numpy(theirs.boxes_xyxy), torch.from_numpy(ours.boxes_xyxy))
    return overlaps.numpy() * (theirs.labels[:, None] == ours.labels)


def _partners(
    theirs: Detections, ours: Detections, *, exclusive: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns (N,) the position in `ours` of what each of `theirs` became, or -1, and their IoU.

    Args:
        theirs, ours: of one image.
        exclusive: whether each of `ours` is the partner of one only.
    """
    partner, ious = np.full(len(theirs), -1), np.zeros(len(theirs), np.float32)
    for label in np.unique(theirs.labels):
        rows, columns = (np.flatnonzero(one.labels == label) for one in (theirs, ours))
        if not len(columns):
            continue
        overlaps = _overlaps(_at(theirs, rows), _at(ours, columns))
        for position, row in zip(rows, overlaps, strict=True):
            # Clipped to the image, several candidates may have one box: the score tells them apart.
            apart = 0.0 if exclusive else np.abs(ours.scores[columns] - theirs.scores[position])
            best = int((row - apart).argmax())
            if row[best] >= _SAME_OBJECT_IOU:
                partner[position], ious[position] = columns[best], row[best]
                if exclusive:
                    overlaps[:, best] = 0.0
    return partner, ious
