"""Runs a detector over a split and scores its detections."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ossa.config import EvaluateConfig, Tiles, build_config
from ossa.data.annotations import DatasetIndex
from ossa.data.cache import PixelCache
from ossa.data.dataset import LetterboxedDataset
from ossa.data.loader import evaluation_loader
from ossa.data.reading import read_data
from ossa.data.tiles import InWindow, in_window, join_windows
from ossa.errors import ConfigError
from ossa.evaluate.metrics import Metrics, evaluate_detections
from ossa.models.checkpoint import Checkpoint, detector_from, read_checkpoint
from ossa.models.detector import Detector
from ossa.models.head import Criterion
from ossa.models.postprocess import check_not_nan, non_max_suppression
from ossa.types import Detections, RawPredictions


@dataclass(frozen=True)
class Evaluation:
    """The detections of a detector in a split, and their metrics."""

    metrics: Metrics
    detections: dict[int, Detections]
    """By image id, in pixels of the original images."""
    losses: dict[str, float] | None
    """The terms of the loss: means over images; None where no loss was given."""
    seconds: float
    """Of loading, network, NMS and scoring together."""


class OtherReading(nn.Module):
    """A detector whose predictions are read in one of the head's `other_readings`."""

    def __init__(self, detector: nn.Module, read: Callable[[Any], RawPredictions]) -> None:
        super().__init__()
        self.detector = detector
        self._read = read

    def forward(self, images: Tensor) -> RawPredictions:
        return self._read(self.detector(images))


Found = tuple[dict[int, list[InWindow]], dict[str, float]]
"""Detections in windows by image id, and sums over images of the losses, of one process."""


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
    loss: Criterion | None = None,
    on_images: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
    gather: Callable[[Found], list[Found]] = lambda found: [found],
    tiles: Tiles | None = None,
) -> Evaluation:
    """Scores a detector on every image of a split, letterboxed to a square of `imgsz` pixels.

    With tiles an image larger than one is seen in windows, and what was found in them is joined
    before it is scored (`ossa.data.tiles`).

    The detector is in evaluation mode during the call and in its former mode after it.

    Args:
        detector: maps images to `RawPredictions`.
        index: the split.
        pixels: of its images, decoded before; None to decode them now.
        imgsz: side of the network input in pixels.
        config: confidence, NMS and limits.
        batch: images, or windows, in one forward; decides speed, not results.
        device: where the detector's weights lie.
        workers: processes that load images.
        loss: computed on the same predictions, where given.
        on_images: called with the number of images done and their total.
        share: rank and number of the processes that share the split; each window is in one.
        gather: returns the detections and losses of every process to every process.
        tiles: their side and overlap, or None to see every image whole.

    Raises:
        CheckpointError: the network returns NaN, and no loss is given that would show it.
    """
    started = time.perf_counter()
    dataset = LetterboxedDataset(index, imgsz=imgsz, pixels=pixels, tiles=tiles)
    loader = evaluation_loader(dataset, batch=batch, workers=workers, share=share)
    was_training = detector.training
    detector.eval()
    found: dict[int, list[InWindow]] = {}
    sums = dict.fromkeys(() if loss is None else loss.names, 0.0)
    for images in loader:
        on_device = images.to(device)
        raw = detector(on_device.images)
        if loss is None:  # a training checks its loss instead
            check_not_nan(raw)
        by_window = non_max_suppression(raw, images.letterboxes, config)
        for image, placed, one in zip(images.image_ids, images.letterboxes, by_window, strict=True):
            shown = in_window(one, placed, images.images.shape[-2:])
            found.setdefault(image, []).append(shown)
        if loss is not None:
            for name, value in loss(raw, on_device)._asdict().items():
                sums[name] += value.item() * len(images.image_ids)
        if on_images is not None:
            on_images(min(len(found) * share[1], len(index)), len(index))
    detector.train(was_training)
    parts = gather((found, sums))
    detections = _of_images(index, [part for part, _ in parts], config.max_detections)
    sums = {name: sum(part[name] for _, part in parts) for name in sums}
    return Evaluation(
        metrics=evaluate_detections(index, detections),
        detections=detections,
        losses=None if loss is None else {name: s / len(dataset) for name, s in sums.items()},
        seconds=time.perf_counter() - started,
    )


def _of_images(
    index: DatasetIndex, parts: Sequence[Mapping[int, list[InWindow]]], max_detections: int
) -> dict[int, Detections]:
    """Returns the detections of every image, joined over its windows in all processes."""
    detections = {}
    for image, size_wh in zip(index.image_ids.tolist(), index.sizes_wh.tolist(), strict=True):
        windows = [one for part in parts for one in part.get(image, [])]
        windows.sort(key=lambda one: one.area_xyxy[[1, 0]].tolist())
        detections[image] = join_windows(windows, size_wh=size_wh, max_detections=max_detections)
    return detections


def evaluate_detector(
    weights: Path | str,
    data: Path | str,
    split: str = "val",
    *,
    imgsz: int | None = None,
    tiles: Tiles | None = None,
    settings: Mapping[str, Any] | None = None,
    batch: int = 16,
    device: torch.device | str = "cpu",
    workers: int = 0,
    strict: bool = False,
) -> Metrics:
    """Returns COCO's metrics, and more, of a detector on a split of a data set.

    Args:
        weights: a checkpoint of ours, or an official `yolov5*.pt`.
        data: a data.yaml, or the folder of a data set; its classes must be the detector's.
        split: 'train', 'val' or 'test'.
        imgsz: side of the square network input in pixels; that of the training if not given.
        tiles: their side and overlap; those of the training if not given.
        settings: of the configuration's section `evaluate`, such as {'nms_iou': 0.65}.
        batch: images in one forward; decides speed, not results.
        device: 'cpu', 'cuda', 'cuda:1', ...
        workers: processes that load images.
        strict: stop at the first fault of the data instead of leaving it out (`read_data` reports
            what was left out).

    Raises:
        CheckpointError, ConfigError, DataError, UnsupportedBackbone: naming what does not fit.

    Examples:
        >>> import ossa
        >>> metrics = ossa.evaluate_detector("best.safetensors", "scenes")
        >>> metrics.num_images, metrics.num_detections > 0
        (2, True)
    """
    checkpoint = read_checkpoint(weights)
    config = build_config(
        {
            "model": checkpoint.model.model_dump(),
            "data": str(data),
            "train": {"imgsz": imgsz or checkpoint.imgsz},
            "evaluate": settings or {},
        }
    )
    index = read_data(data, split, strict=strict).index
    check_classes(checkpoint.names, index, weights=weights, data=data)
    return evaluate(
        detector_for_evaluation(checkpoint, imgsz=config.train.imgsz, device=device),
        index,
        imgsz=config.train.imgsz,
        config=config.evaluate,
        batch=batch,
        device=device,
        workers=workers,
        tiles=tiles or checkpoint.tiles,
    ).metrics


def check_classes(
    names: tuple[str, ...], index: DatasetIndex, *, weights: Path | str, data: Path | str
) -> None:
    """Raises ConfigError unless the data set has the weights' classes in the same order."""
    if index.names != names:
        ours, theirs = (
            ", ".join(one[:3]) + ", ..." * (len(one) > 3) for one in (names, index.names)
        )
        raise ConfigError(
            f"{weights} has {len(names)} classes ({ours}), {data} has {len(index.names)} "
            f"({theirs}): they must be the same, in the same order"
        )


def detector_for_evaluation(
    checkpoint: Checkpoint, *, imgsz: int, device: torch.device | str
) -> Detector:
    """Returns the detector in the memory format of training: the same weights, the same metrics."""
    detector = detector_from(checkpoint).to(device)
    return detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
