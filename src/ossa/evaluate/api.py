"""Scoring a weights file from Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ossa.config import build_config
from ossa.data.api import read_data
from ossa.data.index import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate.metrics import Metrics
from ossa.evaluate.run import evaluate
from ossa.models.detector import Detector
from ossa.models.weights import Checkpoint, detector_from, read_checkpoint


def evaluate_detector(
    weights: Path | str,
    data: Path | str,
    split: str = "val",
    *,
    imgsz: int | None = None,
    settings: Mapping[str, Any] | None = None,
    batch: int = 16,
    device: torch.device | str = "cpu",
    workers: int = 0,
    strict: bool = False,
) -> Metrics:
    """Returns COCO's metrics, and more, of a detector on a split of a data set.

    Args:
        weights: a checkpoint of ours, or an official `yolov5*.pt`.
        data: a data.yaml, or the folder that holds one; its classes must be the detector's.
        split: 'train', 'val' or 'test'.
        imgsz: side of the square network input in pixels; that of the training if not given.
        settings: of the configuration's section `evaluate`, such as {'nms_iou': 0.65}.
        batch: images in one forward; decides speed, not results.
        device: 'cpu', 'cuda', 'cuda:1', ...
        workers: processes that load images.
        strict: stop at the first fault of the data instead of leaving it out (`read_data` tells
            what was left out).

    Raises:
        CheckpointError, ConfigError, DataError, UnsupportedBackbone: naming what does not fit.
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
    ).metrics


def check_classes(
    names: tuple[str, ...], index: DatasetIndex, *, weights: Path | str, data: Path | str
) -> None:
    """Raises ConfigError unless the data set has the weights' classes in the same order."""
    if index.names != names:
        raise ConfigError(
            f"{weights} knows {len(names)} classes ({_first(names)}), {data} has "
            f"{len(index.names)} ({_first(index.names)}): they must be the same, in the same order"
        )


def detector_for_evaluation(
    checkpoint: Checkpoint, *, imgsz: int, device: torch.device | str
) -> Detector:
    """Returns the detector as training evaluates it: the same weights give the same numbers."""
    detector = detector_from(checkpoint).to(device)
    return detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
