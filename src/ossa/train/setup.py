"""From a configuration to everything that a training needs before its first batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch.optim import Optimizer

from ossa.config import ModelConfig, RunConfig
from ossa.data.check import keep_decodable
from ossa.data.description import read_description
from ossa.data.index import DatasetIndex
from ossa.data.reading import read_index
from ossa.errors import DataError
from ossa.files import sha256_of
from ossa.models.backbones.timm import read_backbone_weights
from ossa.models.build import build_detector
from ossa.models.count import count_cost
from ossa.models.detector import Detector
from ossa.models.loss import DetectionLoss
from ossa.models.weights import read_checkpoint, start_from
from ossa.train.ema import ModelAverage
from ossa.train.events import Watcher
from ossa.train.optim import build_optimizer

_PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class Parts:
    """What the loop turns. The detector, optimiser and average change as it runs."""

    train_index: DatasetIndex
    val_index: DatasetIndex
    detector: Detector
    average: ModelAverage[Detector]
    optimizer: Optimizer
    loss: DetectionLoss
    initial_weights: dict[str, Any]
    cost: dict[str, int]
    data_fingerprint: str


def prepare(
    config: RunConfig, *, device: torch.device, watcher: Watcher, strict: bool = False
) -> Parts:
    """Reads the data, builds the detector and loads its initial weights.

    Raises:
        ConfigError, DataError, UnsupportedBackbone, CheckpointError: naming what does not fit.
    """
    train_index = _read_split(config, "train", watcher=watcher, strict=strict)
    val_index = _read_split(config, "val", watcher=watcher, strict=strict)
    if not len(train_index.labels):
        raise DataError(
            f"the training split of {config.data} has {len(train_index)} images and no usable box"
        )
    torch.manual_seed(config.seed)
    detector, initial_weights = _initial_detector(
        config, num_classes=len(train_index.names), watcher=watcher
    )
    cost = count_cost(detector, config.train.imgsz).flat()
    detector.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Parts(
        train_index=train_index,
        val_index=val_index,
        detector=detector,
        average=ModelAverage(detector, decay=config.train.ema_decay, ramp=config.train.ema_ramp),
        optimizer=build_optimizer(detector, config.train),
        loss=DetectionLoss(
            config.loss,
            num_classes=len(train_index.names),
            num_levels=len(config.model.strides),
            imgsz=config.train.imgsz,
        ),
        initial_weights=initial_weights,
        cost=cost,
        data_fingerprint=f"{train_index.fingerprint()}-{val_index.fingerprint()}",
    )


def _read_split(config: RunConfig, split: str, *, watcher: Watcher, strict: bool) -> DatasetIndex:
    report = read_index(read_description(config.data), split, strict=strict)
    report = keep_decodable(report, strict=strict)
    for problem in report.problems[:_PROBLEMS_SHOWN]:
        watcher.note(str(problem))
    if len(report.problems) > _PROBLEMS_SHOWN:
        watcher.note(
            f"{len(report.problems) - _PROBLEMS_SHOWN} more problems in the {split} split: "
            "--strict stops at the first"
        )
    return report.index


def _initial_detector(
    config: RunConfig, *, num_classes: int, watcher: Watcher
) -> tuple[Detector, dict[str, Any]]:
    """Returns the detector with its initial weights, and what the record says of these."""
    model = config.model
    detector = build_detector(model, num_classes=num_classes, imgsz=config.train.imgsz)
    if model.weights is not None:
        checkpoint = read_checkpoint(model.weights)
        left_out = start_from(detector, checkpoint)
        loaded = len(checkpoint.tensors) - len(left_out)
        watcher.note(
            f"started from {loaded} of {len(checkpoint.tensors)} tensors of {model.weights}"
            + (" (other classes: the head starts anew)" if left_out else "")
        )
        return detector, checkpoint.origin
    return detector, _backbone_origin(model)


def _backbone_origin(model: ModelConfig) -> dict[str, Any]:
    """Returns file or tag, sha256, pretraining data and licence of the backbone's weights."""
    if model.backbone_weights is not None:
        _, metadata = read_backbone_weights(
            model.backbone_weights,
            mean=model.backbone_mean,
            std=model.backbone_std,
            build_args=model.backbone_args,
        )
        return {
            "file": str(Path(model.backbone_weights)),
            "sha256": sha256_of(model.backbone_weights),
            "pretraining": metadata.get("pretraining"),
            "licence": metadata.get("license"),
        }
    pretrained = timm.get_pretrained_cfg(model.name) if model.pretrained else None
    if pretrained is None:
        return {"file": None, "sha256": None, "pretraining": None, "licence": None}
    return {
        "file": f"{pretrained.architecture}.{pretrained.tag}",
        "sha256": None,
        "pretraining": pretrained.tag,
        "licence": pretrained.license,
    }
