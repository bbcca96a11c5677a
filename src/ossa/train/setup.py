"""From a configuration to everything that a training needs before its first batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn
from torch.optim import Optimizer

from ossa.config import ModelConfig, RunConfig, refuse_window
from ossa.data.anchors import best_possible_recall, fit_anchors
from ossa.data.annotations import DatasetIndex, IndexReport, select_images
from ossa.data.cache import CachePlace, PixelCache, open_pixels
from ossa.data.cache_files import content_fingerprint
from ossa.data.description import read_description
from ossa.data.issue_kinds import IssueKind
from ossa.data.reading import drop_corrupt_images, labels_sentence, read_index, training_faults
from ossa.errors import CheckpointError, ConfigError, DataError
from ossa.files import sha256_of
from ossa.models.backbones.pretrained import read_backbone_weights
from ossa.models.checkpoint import read_checkpoint, start_from
from ossa.models.complexity import count_cost
from ossa.models.detector import Detector, build_detector
from ossa.models.loss import DetectionLoss
from ossa.train.callbacks import Callback
from ossa.train.diagnostics import tell_batches
from ossa.train.distributed import SINGLE_PROCESS, DistributedContext
from ossa.train.optim import (
    EMA,
    FrozenPart,
    backbone_network,
    build_optimizer,
    freeze,
    learning_rate_scales,
    tell_frozen,
    undecayed_parameters,
)

_ISSUES_SHOWN = 5
_LOW_RECALL = 0.98
"""YOLOv5 fits anchors of its own below it."""


@dataclass(frozen=True)
class Parts:
    """What the loop turns. The detector, optimiser and average change as it runs."""

    train_index: DatasetIndex
    val_index: DatasetIndex
    train_pixels: PixelCache | None
    """Of the images of the index; None where they are decoded whenever they are needed."""
    val_pixels: PixelCache | None
    detector: Detector
    frozen: FrozenPart
    average: EMA[Detector]
    optimizer: Optimizer
    loss: DetectionLoss
    initial_weights: dict[str, Any]
    cost: dict[str, int]
    data_fingerprint: str
    image_fingerprint: str


def prepare(
    config: RunConfig,
    *,
    device: torch.device,
    callback: Callback,
    strict: bool = False,
    allow_unlabeled: bool = False,
    cache: CachePlace = "none",
    processes: DistributedContext = SINGLE_PROCESS,
) -> Parts:
    """Reads the data, builds the detector and loads its initial weights.

    `allow_unlabeled`: more than half of the training images may be without a label.

    Raises:
        ConfigError, DataError, UnsupportedBackbone, CheckpointError: naming what does not fit.
    """
    refuse_window(config.augment)
    train, val = read_training_data(
        config, callback=callback, strict=strict, allow_unlabeled=allow_unlabeled, cache=cache
    )
    train_index, val_index = train.index, val.index
    _refuse_what_the_data_ignore(config, train_index, processes)
    torch.manual_seed(config.seed)
    detector, initial_weights = _initial_detector(
        config, num_classes=len(train_index.names), callback=callback
    )
    cost = count_cost(detector, config.train.imgsz).flat(("params", "flops", "macs"))
    detector.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.train.sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(detector)  # in place
    frozen = freeze(detector, config.train.freeze)
    tell_batches(detector, config, len(train_index), frozen, callback=callback, processes=processes)
    tell_frozen(detector, config, callback=callback)
    _tell_recall(detector, train_index, config, callback=callback)
    return Parts(
        train_index=train_index,
        val_index=val_index,
        train_pixels=train.pixels,
        val_pixels=val.pixels,
        detector=detector,
        frozen=frozen,
        average=EMA(
            detector,
            decay=config.train.ema_decay,
            ramp=config.train.ema_ramp,
            frozen=frozen.tensor_names,
        ),
        optimizer=build_optimizer(
            detector,
            config.train,
            lr_scales=learning_rate_scales(detector, config),
            undecayed=undecayed_parameters(detector, config.model),
        ),
        loss=DetectionLoss(
            config.loss,
            num_classes=len(train_index.names),
            num_levels=len(config.model.strides),
            imgsz=config.train.imgsz,
        ),
        initial_weights=initial_weights,
        cost=cost,
        data_fingerprint=f"{train_index.fingerprint()}-{val_index.fingerprint()}",
        image_fingerprint=processes.on_main(
            lambda: f"{content_fingerprint(train_index)}-{content_fingerprint(val_index)}"
        ),
    )


def read_training_data(
    config: RunConfig,
    *,
    callback: Callback,
    strict: bool = False,
    allow_unlabeled: bool = False,
    cache: CachePlace = "none",
) -> tuple["Split", "Split"]:
    """Returns train and val, of which every image can be decoded; tells what they lack.

    Raises:
        ConfigError, DataError: as `read_trainable`, or too little of the data can be decoded.
    """
    reports = read_trainable(config, strict=strict, allow_unlabeled=allow_unlabeled)
    callback.note(labels_sentence(reports))
    train, val = (
        read_split(config, split, callback=callback, strict=strict, cache=cache, report=report)
        for split, report in reports.items()
    )
    # Without the images that cannot be decoded there may be no box left.
    left = {"train": train.report, "val": val.report}
    _refuse_untrainable(config, left, allow_unlabeled=True)
    return train, val


def read_trainable(
    config: RunConfig, *, strict: bool = False, allow_unlabeled: bool = False
) -> dict[str, IndexReport]:
    """Returns what was read of 'train' and 'val', of which no image is decoded yet.

    Raises:
        ConfigError, DataError: files that are missing, or that `training_faults` has an objection.
    """
    _refuse_untrainable(config, {}, allow_unlabeled=allow_unlabeled)
    description = read_description(config.data)
    reports = {split: read_index(description, split, strict=strict) for split in ("train", "val")}
    _refuse_untrainable(config, reports, allow_unlabeled=allow_unlabeled)
    return reports


def _refuse_untrainable(
    config: RunConfig, reports: Mapping[str, IndexReport], *, allow_unlabeled: bool
) -> None:
    """Raises DataError of the first of the `training_faults` that is not allowed."""
    description = read_description(config.data)
    for fault in training_faults(description, reports, imgsz=config.train.imgsz):
        if not (allow_unlabeled and fault.kind is IssueKind.TRAINING_UNLABELLED):
            raise DataError(f"{fault.location()}: {fault.detail}.")


def _fraction(index: DatasetIndex, fraction: float) -> DatasetIndex:
    """Returns the index of so many of the images, the same for every model and seed."""
    if fraction == 1:
        return index
    chosen = np.zeros(len(index), dtype=np.bool_)
    count = max(round(fraction * len(index)), 1)
    chosen[np.random.default_rng(0).permutation(len(index))[:count]] = True
    return select_images(index, chosen)


def _refuse_what_the_data_ignore(
    config: RunConfig, index: DatasetIndex, processes: DistributedContext
) -> None:
    """Raises ConfigError for settings that these data or processes give nothing to act on."""
    if config.loss.label_smoothing and len(index.names) == 1:
        raise ConfigError(
            f"loss.label_smoothing acts on the class loss, and {config.data} has one class, which "
            "needs none: leave it out"
        )
    if len(index) < processes.world_size:
        raise ConfigError(
            f"expected an image at least for each of {processes.world_size} processes, found "
            f"{len(index)} in the training split of {config.data}"
        )
    if not config.train.sync_batchnorm:
        return
    if processes.world_size == 1 or not torch.cuda.is_available():
        raise ConfigError(
            "train.sync_batchnorm needs several processes with a GPU each: start with torchrun, or "
            "leave it out"
        )
    last = len(index) % config.train.batch
    if 0 < last < processes.world_size:
        raise ConfigError(
            f"train.sync_batchnorm: the last batch of an epoch has {last} of {len(index)} images, "
            f"fewer than the {processes.world_size} processes: take another batch size"
        )


def with_fitted_anchors(config: RunConfig) -> RunConfig:
    """Returns the configuration with anchors fitted to its training split at its image size.

    Whoever resumes the run or uses its weights finds them there, three for each stride. The
    training reads and decodes the same images again, and tells what is wrong with them.

    Raises:
        ConfigError, DataError: no training split, or too few boxes of different sizes.
    """
    index = training_index(config, callback=Callback(), strict=False)
    anchors_wh = fit_anchors(
        index, num_levels=len(config.model.strides), imgsz=config.train.imgsz, seed=config.seed
    )
    # By the schema, so that the configuration is the same as when it is read from a file.
    model = ModelConfig.model_validate(
        {**config.model.model_dump(), "anchors_wh": anchors_wh.tolist()}
    )
    return config.model_copy(update={"model": model})


def training_index(config: RunConfig, *, callback: Callback, strict: bool) -> DatasetIndex:
    """Returns the images that train: those that can be decoded, and of these the fraction."""
    return read_split(config, "train", callback=callback, strict=strict).index


@dataclass(frozen=True)
class Split:
    """Images with their truths, and their pixels where these are kept."""

    report: IndexReport
    pixels: PixelCache | None

    @property
    def index(self) -> DatasetIndex:
        return self.report.index


def read_split(
    config: RunConfig,
    split: str,
    *,
    callback: Callback,
    strict: bool = False,
    cache: CachePlace = "none",
    report: IndexReport | None = None,
) -> Split:
    """Returns the images of a split that can be decoded; of 'train' the fraction that trains.

    A cache has all images of the split, whatever the fraction. `report`: the split as
    `read_trainable` returns it, which is then not read again.
    """
    description = read_description(config.data)
    report = report or read_index(description, split, strict=strict)
    pixels = open_pixels(
        report.index,
        cache,
        description=description,
        split=split,
        imgsz=config.train.imgsz,
        reduced=split == "train",
        listener=callback,
        strict=strict,
    )
    known = None if pixels is None else pixels.faults()
    report = drop_corrupt_images(report, strict=strict, known=known)
    # What is told of the data.yaml comes with each split.
    for note in report.notes[0 if split == "train" else len(description.notes) :]:
        callback.note(note)
    for issue in report.issues[:_ISSUES_SHOWN]:
        callback.note(str(issue))
    if len(report.issues) > _ISSUES_SHOWN:
        callback.note(
            f"{len(report.issues) - _ISSUES_SHOWN} more issues in the {split} split: "
            "--strict stops at the first"
        )
    index = _fraction(report.index, config.train.fraction) if split == "train" else report.index
    return Split(replace(report, index=index), None if pixels is None else pixels.of(index))


def _initial_detector(
    config: RunConfig, *, num_classes: int, callback: Callback
) -> tuple[Detector, dict[str, Any]]:
    """Returns the detector with its initial weights, and what the record says of these."""
    model = config.model
    detector = build_detector(model, num_classes=num_classes, imgsz=config.train.imgsz)
    if model.weights is not None:
        checkpoint = read_checkpoint(model.weights)
        anchors_wh = detector.head.get_buffer("anchors_wh").clone()
        adapted = start_from(detector, checkpoint)
        if model.anchors_wh is not None:  # asked for, so they win over those of the checkpoint
            detector.head.get_buffer("anchors_wh").copy_(anchors_wh)
        loaded = len(checkpoint.tensors) - len(adapted.left_out)
        callback.note(
            f"started from {loaded} of {len(checkpoint.tensors)} tensors of {model.weights}"
            + (" (other classes: the head starts anew)" if adapted.left_out else "")
        )
        if adapted.resampled:
            callback.note(
                f"position embedding resampled from images of {checkpoint.imgsz} px to those of "
                f"{config.train.imgsz} px"
            )
        return detector, checkpoint.origin
    _check_weights_arrived(detector, config, num_classes=num_classes)
    return detector, _backbone_origin(model)


def _check_weights_arrived(detector: Detector, config: RunConfig, *, num_classes: int) -> None:
    """Raises CheckpointError where the backbone is as drawn at random although weights were asked.

    Compares with the same detector built from the same seed without weights.
    """
    if not config.model.pretrained and config.model.backbone_weights is None:
        return
    nothing = {"pretrained": False, "backbone_weights": None}
    torch.manual_seed(config.seed)
    random = build_detector(
        config.model.model_copy(update=nothing), num_classes=num_classes, imgsz=config.train.imgsz
    )
    _, network = backbone_network(detector)
    drawn = dict(backbone_network(random)[1].named_parameters())
    kernels = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    same = [name for name, kernel in kernels.items() if torch.equal(kernel, drawn[name])]
    if len(same) > len(kernels) / 2:
        raise CheckpointError(
            f"{config.model.name} was to start from pretrained weights, but {len(same)} of its "
            f"{len(kernels)} kernels are as they were drawn at random, such as {same[0]}: give "
            "other weights, or none"
        )


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


def _tell_recall(
    detector: Detector, index: DatasetIndex, config: RunConfig, *, callback: Callback
) -> None:
    """Tells how many of the training boxes the anchors can answer for, and whether that is few."""
    recall = best_possible_recall(
        index,
        detector.head.get_buffer("anchors_wh").cpu().numpy(),
        imgsz=config.train.imgsz,
        ratio=config.loss.anchor_ratio,
    )
    few = f"; under {_LOW_RECALL} --fit-anchors may help" if recall < _LOW_RECALL else ""
    callback.note(f"best possible recall of the anchors: {recall:.4f}{few}")
