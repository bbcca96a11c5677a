"""Running a detector over a split and scoring what it found."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ossa.config import EvaluateConfig
from ossa.data.batches.dataset import LetterboxedDataset
from ossa.data.batches.loader import evaluation_loader
from ossa.data.caching.pixels import PixelCache
from ossa.data.index import DatasetIndex
from ossa.evaluate.metrics import Metrics, evaluate_detections
from ossa.models.loss import DetectionLoss, LossTerms
from ossa.models.postprocess import check_not_nan, detect
from ossa.types import Detections


@dataclass(frozen=True)
class Evaluation:
    """What a detector found in a split, and how good that is."""

    metrics: Metrics
    detections: dict[int, Detections]
    """By image id, in pixels of the original images."""
    losses: dict[str, float] | None
    """box, objectness, classes: means over images; None where no loss was given."""
    seconds: float
    """Of loading, network, suppression and scoring together."""


Found = tuple[dict[int, Detections], dict[str, float]]
"""Detections by image id, and sums over images of the losses, of one process."""


def _only_here(found: Found) -> list[Found]:
    return [found]


@torch.no_grad()
def evaluate(
    detector: nn.Module,
    index: DatasetIndex,
    *,
    pixels: PixelCache | None = None,
    imgsz: int,
    config: EvaluateConfig,
    batch: int = 16,
    device: torch.device | str = "cpu",
    workers: int = 0,
    loss: DetectionLoss | None = None,
    on_images: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
    gather: Callable[[Found], list[Found]] = _only_here,
) -> Evaluation:
    """Scores a detector on every image of a split, letterboxed to a square of `imgsz` pixels.

    The detector is in evaluation mode during the call and in its former mode after it.

    Args:
        detector: maps images to `RawPredictions`.
        index: the split.
        pixels: of its images, decoded before; None to decode them now.
        imgsz: side of the network input in pixels.
        config: confidence, suppression and limits.
        batch: images in one forward; decides speed, not results.
        device: where the detector's weights lie.
        workers: processes that load images.
        loss: computed on the same predictions, where given.
        on_images: called with the number of images done and their total.
        share: rank and count of the processes that share the split, each image in one of them.
        gather: returns what every process found to every process.

    Raises:
        CheckpointError: the network returns NaN, and no loss is given, which would show it.
    """
    started = time.perf_counter()
    dataset = LetterboxedDataset(index, imgsz=imgsz, pixels=pixels)
    loader = evaluation_loader(dataset, batch=batch, workers=workers, share=share)
    was_training = detector.training
    detector.eval()
    found: dict[int, Detections] = {}
    sums = dict.fromkeys(LossTerms._fields, 0.0)
    for images in loader:
        on_device = images.to(device)
        raw = detector(on_device.images)
        if loss is None:  # whoever gives one looks at what it becomes
            check_not_nan(raw)
        found.update(zip(images.image_ids, detect(raw, images.letterboxes, config), strict=True))
        if loss is not None:
            for name, value in loss(raw, on_device)._asdict().items():
                sums[name] += value.item() * len(images.image_ids)
        if on_images is not None:
            on_images(min(len(found) * share[1], len(index)), len(index))
    detector.train(was_training)
    parts = gather((found, sums))
    merged = {image: detections for part, _ in parts for image, detections in part.items()}
    found = {int(image): merged[image] for image in index.image_ids}
    sums = {name: sum(part[name] for _, part in parts) for name in sums}
    return Evaluation(
        metrics=evaluate_detections(index, found),
        detections=found,
        losses=None if loss is None else {name: s / len(index) for name, s in sums.items()},
        seconds=time.perf_counter() - started,
    )
