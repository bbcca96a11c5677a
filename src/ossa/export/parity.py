"""Whether an exported file agrees with PyTorch: on the same real images, detection by detection.

Dimensions: B images, N and M detections in one image, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from ossa.config import PREDICTION_NMS_IOU, EvaluateConfig
from ossa.data.annotations import DatasetIndex, select_images
from ossa.data.dataset import LetterboxedDataset
from ossa.data.decode import decode_image
from ossa.data.letterbox import letterbox_rectangular
from ossa.data.loader import evaluation_loader
from ossa.errors import DataError
from ossa.evaluate.metrics import evaluate_detections
from ossa.export.backends import ExportedRuntime, NMSRuntime, TorchRuntime, find
from ossa.export.graph import ExportDescription
from ossa.models.postprocess import check_not_nan, find_candidates, non_max_suppression
from ossa.types import Detections

SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-3, 0.1
"""Of an export in fp32, whose arithmetic differs from PyTorch's in its order only."""
_SAME_OBJECT_IOU = 0.5
_MARGIN = 0.05
"""Below the confidence, where PyTorch's candidates are still looked at."""
_MOST_BATCH = 8
"""Images compared together, where the file leaves it open."""


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from PyTorch on some images."""

    images: int
    largest_score_difference: float
    """Of one object; what only one of the two reports counts as `gap_between` defines."""
    largest_box_difference_px: float
    """Of any side of a box that both report, in pixels of the original image."""
    detections: int
    """That PyTorch reports."""
    unmatched: int
    """Detections that only one of the two reports."""
    agreement: float
    """IoUs of the pairs, over their number and half of `unmatched` (panoptic quality, Kirillov et
    al. 2019); 1 where neither reports anything."""
    ap_before: float
    """COCO's AP50-95 of PyTorch in fp32."""
    ap_after: float
    squares: dict[str, float] | None = None
    """How far the file, which gets squares, is from PyTorch on rectangles, which `ossa predict`
    gives a checkpoint: images, score, box_px, unmatched, detections. None where both get the same.
    """
    settings: dict[str, Any] = field(default_factory=dict)
    """At which the AP was taken, and the confidence from which detections were compared."""

    @property
    def ap_drop(self) -> float:
        return self.ap_before - self.ap_after

    def flat(self) -> dict[str, Any]:
        return {**asdict(self), "ap_drop": self.ap_drop}


def compare_with_pytorch(
    reference: TorchRuntime,
    exported: ExportedRuntime | NMSRuntime,
    index: DatasetIndex,
    *,
    on_images: Callable[[int, int], None] | None = None,
) -> Parity:
    """Runs both on every image of an index and returns how they differ.

    Detections are those of `ossa predict` at the description's confidence, and the AP is computed
    as `ossa val` does; with NMS in the graph both are at the graph's own settings.

    Args:
        reference: the network in PyTorch, fp32.
        exported: the file.
        index: images with ground truth.
        on_images: called with the number of images done and their total.

    Raises:
        DataError: no image has ground truth.
    """
    about = exported.description
    shown = EvaluateConfig(confidence=about.confidence, nms_iou=PREDICTION_NMS_IOU)
    scored = EvaluateConfig()
    if about.nms is not None:
        shown = scored = EvaluateConfig(**about.nms.model_dump())
    gaps, ours = [], {}
    before, after = {}, {}
    for image_id, one in _detect_with_both(reference, exported, index, shown, scored):
        gaps.append(gap_between(one.theirs, one.ours, settings=shown, candidates=one.candidates))
        ours[image_id] = one.ours
        before[image_id], after[image_id] = one.theirs_scored, one.ours_scored
        if on_images is not None:
            on_images(len(after), len(index))
    rectangles = _gaps_to_rectangles(reference, about, index, shown=shown, ours=ours)
    total, pairs = _total(gaps), sum(gap.paired + gap.unmatched / 2 for gap in gaps)
    return Parity(
        images=len(index),
        largest_score_difference=total["score"],
        largest_box_difference_px=total["box_px"],
        detections=int(total["detections"]),
        unmatched=int(total["unmatched"]),
        agreement=sum(gap.overlap for gap in gaps) / pairs if pairs else 1.0,
        ap_before=_ap(index, before),
        ap_after=_ap(index, after),
        squares=_total(rectangles) if rectangles else None,
        settings={
            **scored.model_dump(),
            "compared_from_confidence": about.confidence,
            "best_class_only": about.nms is not None,
        },
    )


def _total(gaps: Sequence["Gap"]) -> dict[str, float]:
    return {
        "images": len(gaps),
        "score": max(gap.score for gap in gaps),
        "box_px": max(gap.box_px for gap in gaps),
        "unmatched": sum(gap.unmatched for gap in gaps),
        "detections": sum(gap.detections for gap in gaps),
    }


def _ap(index: DatasetIndex, detections: Mapping[int, Detections]) -> float:
    ap = evaluate_detections(index, detections).ap
    if ap is None:
        raise DataError(
            expected="objects in the images that are compared",
            path=index.root,
            advice="name a split with annotations",
        )
    return ap


def some_images(index: DatasetIndex, count: int) -> DatasetIndex:
    """Returns at most `count` images, spread evenly over the index."""
    if len(index) <= count:
        return index
    chosen = np.zeros(len(index), dtype=np.bool_)
    chosen[np.linspace(0, len(index) - 1, count).round().astype(np.int64)] = True
    return select_images(index, chosen)


class _Found(NamedTuple):
    """The detections of PyTorch and of the export in one image."""

    theirs: Detections
    """By PyTorch, as `ossa predict` shows them."""
    ours: Detections
    """By the export, as `ossa predict` shows them."""
    theirs_scored: Detections
    """As the AP is computed."""
    ours_scored: Detections
    candidates: Detections | None
    """What PyTorch's NMS chose from, for an export in fp32."""


def _detect_with_both(
    reference: TorchRuntime,
    exported: ExportedRuntime | NMSRuntime,
    index: DatasetIndex,
    shown: EvaluateConfig,
    scored: EvaluateConfig,
) -> Iterator[tuple[int, _Found]]:
    """Yields the id of every image and what was found in it."""
    about = exported.description
    every_class = torch.ones(len(about.names), dtype=torch.bool)
    batch = about.batch or min(_MOST_BATCH, len(index))
    dataset = LetterboxedDataset(index, imgsz=about.imgsz)
    for part in evaluation_loader(dataset, batch=batch, workers=0):
        images, places = part.images, part.letterboxes
        raw = reference(images)
        check_not_nan(raw)
        theirs = non_max_suppression(raw, places, shown, wanted=every_class)
        if isinstance(exported, NMSRuntime):
            ours = find(exported, images, places, shown, wanted=every_class)
            columns = (theirs, ours, theirs, ours)
        else:
            logits = exported(images)
            columns = (
                theirs,
                non_max_suppression(logits, places, shown, wanted=every_class),
                non_max_suppression(raw, places, scored),
                non_max_suppression(logits, places, scored),
            )
        candidates: list[Detections | None] = [None] * len(places)
        if about.precision == "fp32":
            of_images = find_candidates(raw, max(shown.confidence - _MARGIN, 0.0))
            candidates = [
                Detections(place.boxes_to_image(one.boxes_xyxy), one.scores, one.labels)
                for one, place in zip(of_images, places, strict=True)
            ]
        rows = zip(*columns, candidates, strict=True)
        yield from zip(part.image_ids, map(_Found._make, rows), strict=True)


def _gaps_to_rectangles(
    reference: TorchRuntime,
    about: ExportDescription,
    index: DatasetIndex,
    *,
    shown: EvaluateConfig,
    ours: Mapping[int, Detections],
) -> list["Gap"]:
    """Returns how far `ours` are apart from what `ossa predict` finds with the checkpoint.

    It gives a checkpoint rectangles where the file gets squares; empty where both get the same.
    """
    gaps = []
    every_class = torch.ones(len(about.names), dtype=torch.bool)
    is_square = index.sizes_wh[:, 0] == index.sizes_wh[:, 1]
    if about.rectangular or about.only_squares:
        is_square[:] = True
    for position in np.flatnonzero(~is_square).tolist():
        image = decode_image(index.image_path(position))
        canvas, place = letterbox_rectangular(image, about.imgsz, stride=max(about.strides))
        raw = reference(torch.from_numpy(canvas).permute(2, 0, 1)[None])
        (theirs,) = non_max_suppression(raw, [place], shown, wanted=every_class)
        gaps.append(gap_between(theirs, ours[int(index.image_ids[position])], settings=shown))
    return gaps


class Gap(NamedTuple):
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
        rivals = np.where(_overlaps(lone, others) > settings.nms_iou, others.scores, 0.0)
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

    Where `exclusive`, each of `ours` is the partner of one only.
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
