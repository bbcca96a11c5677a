"""The images that a run trains on and is evaluated on: read, checked and decodable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ossa.config import ModelConfig, RunConfig
from ossa.data.anchors import fit_anchors
from ossa.data.annotations import DatasetIndex, IndexReport, select_images
from ossa.data.cache import CachePlace, PixelCache, open_pixels
from ossa.data.dataset import TrainingDataset
from ossa.data.description import read_description
from ossa.data.issues import IssueKind
from ossa.data.reading import (
    drop_corrupt_images,
    labels_sentence,
    read_index,
    shared_sentences,
    training_faults,
)
from ossa.errors import DataError
from ossa.models.detector import check_name
from ossa.train.callbacks import Callback

_ISSUES_SHOWN = 5


@dataclass(frozen=True)
class Split:
    """Images with their ground truth, and their pixels where these are cached."""

    report: IndexReport
    pixels: PixelCache | None

    @property
    def index(self) -> DatasetIndex:
        return self.report.index


def read_trainable(
    config: RunConfig, *, strict: bool = False, allow_unlabeled: bool = False
) -> dict[str, IndexReport]:
    """Returns what was read of 'train' and 'val', of which no image is decoded yet.

    Raises:
        ConfigError, DataError: files are missing, or there are `training_faults`.
    """
    _raise_training_fault(config, {}, allow_unlabeled=allow_unlabeled)
    description = read_description(config.data)
    reports = {split: read_index(description, split, strict=strict) for split in ("train", "val")}
    _raise_training_fault(config, reports, allow_unlabeled=allow_unlabeled)
    return reports


def read_training_data(
    config: RunConfig,
    *,
    callback: Callback,
    strict: bool = False,
    allow_unlabeled: bool = False,
    cache: CachePlace = "none",
) -> tuple[Split, Split]:
    """Returns train and val, of which every image can be decoded, and reports what they lack.

    Raises:
        ConfigError, DataError: as `read_trainable`, or too little of the data can be decoded.
    """
    reports = read_trainable(config, strict=strict, allow_unlabeled=allow_unlabeled)
    for note in (labels_sentence(reports), *shared_sentences(reports)):
        callback.note(note)
    train, val = (
        read_split(config, split, callback=callback, strict=strict, cache=cache, report=report)
        for split, report in reports.items()
    )
    # Without the images that cannot be decoded there may be no box left.
    _raise_training_fault(config, {"train": train.report, "val": val.report}, allow_unlabeled=True)
    return train, val


def read_split(
    config: RunConfig,
    split: str,
    *,
    callback: Callback,
    strict: bool = False,
    cache: CachePlace = "none",
    report: IndexReport | None = None,
) -> Split:
    """Returns the images of a split that can be decoded; of 'train' only `train.fraction`.

    `report`: the split as `read_trainable` returns it, which is then not read again.
    """
    description = read_description(config.data)
    report = report or read_index(description, split, strict=strict)
    pixels = open_pixels(
        report.index,
        cache,
        description=description,
        split=split,
        imgsz=config.train.imgsz,
        tiles=config.train.windows,
        reduced=split == "train",
        callback=callback,
        strict=strict,
    )
    known = None if pixels is None else pixels.faults()
    report = drop_corrupt_images(report, strict=strict, known=known)
    # The notes on the data.yaml come with each split.
    for note in report.notes[0 if split == "train" else len(description.notes) :]:
        callback.note(note)
    for issue in report.issues[:_ISSUES_SHOWN]:
        callback.note(str(issue))
    if len(report.issues) > _ISSUES_SHOWN:
        callback.note(
            f"and more issues in the {split} split: {len(report.issues) - _ISSUES_SHOWN}; --strict "
            "stops at the first"
        )
    index = _fraction(report.index, config.train.fraction) if split == "train" else report.index
    return Split(replace(report, index=index), None if pixels is None else pixels.of(index))


def training_dataset(
    config: RunConfig, index: DatasetIndex, pixels: PixelCache | None = None
) -> TrainingDataset:
    """Returns the training images with the augmentation of the run."""
    plain = config.augment.plain_epochs
    return TrainingDataset(
        index,
        imgsz=config.train.imgsz,
        tiles=config.train.windows,
        augment=config.augment,
        seed=config.seed,
        plain_from_epoch=config.train.epochs - plain if plain else None,
        pixels=pixels,
    )


def with_fitted_anchors(config: RunConfig) -> RunConfig:
    """Returns the configuration with anchors fitted to its training split at its image size.

    There are three for each stride.

    Raises:
        ConfigError, DataError: no training split, or too few boxes of different sizes.
    """
    check_name(config.model.name)
    index = read_split(config, "train", callback=Callback()).index
    anchors_wh = fit_anchors(
        index,
        num_levels=len(config.model.strides),
        imgsz=config.train.imgsz,
        seed=config.seed,
        tiles=config.train.windows,
    )
    # By the schema, so that the configuration is the same as when it is read from a file.
    model = ModelConfig.model_validate(
        {**config.model.model_dump(), "anchors_wh": anchors_wh.tolist()}
    )
    return config.model_copy(update={"model": model})


def _raise_training_fault(
    config: RunConfig, reports: Mapping[str, IndexReport], *, allow_unlabeled: bool
) -> None:
    """Raises DataError of the first of the `training_faults` that is not allowed."""
    description = read_description(config.data)
    seen: Any = {"imgsz": config.train.imgsz, "tiles": config.train.windows}
    for fault in training_faults(description, reports, **seen):
        if not (allow_unlabeled and fault.kind is IssueKind.TRAINING_UNLABELLED):
            raise DataError(f"{fault.location()}: {fault.detail}.")


def _fraction(index: DatasetIndex, fraction: float) -> DatasetIndex:
    """Returns a fraction of the images, the same for every model and seed."""
    if fraction == 1:
        return index
    chosen = np.zeros(len(index), dtype=np.bool_)
    count = max(round(fraction * len(index)), 1)
    chosen[np.random.default_rng(0).permutation(len(index))[:count]] = True
    return select_images(index, chosen)
