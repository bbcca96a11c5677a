"""The configuration of a run: schema, strict loading, resolved dump and hash."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from ossa.backbone_args import MAX_IMGSZ
from ossa.errors import ConfigError, legible
from ossa.model_config import ModelConfig as ModelConfig
from ossa.safe_yaml import parse_yaml
from ossa.schema import Section, validated

CONDITIONS_VERSION = 2
"""Of what the runs of a study share. Version 1 had laterals only where the channels do not fit, the
SPPF of CSPDarknet, and a neck and head that were drawn after each backbone."""
_DEEPEST = 10
"""Sections within sections that a setting may name."""


TileSide = Annotated[int, Field(ge=32, le=65_536)]
Overlap = Annotated[float, Field(ge=0, le=0.9)]


class Tiles(Section):
    """Into which windows images are cut."""

    side: TileSide
    """In pixels of the image: so many fill the network input."""
    overlap: Overlap = 0.2
    """Of two neighbours in evaluation and prediction, as a fraction of their side."""

    def __str__(self) -> str:
        return f"tiles of {self.side} px with an overlap of {self.overlap:g}"


class TrainConfig(Section):
    """Optimisation. The defaults are YOLOv5's, but for `schedule_lag` and `warmup_limit`."""

    epochs: int = Field(default=300, ge=1, le=1_000_000, description="Number of epochs.")
    imgsz: int = Field(
        default=640,
        ge=32,
        le=MAX_IMGSZ,
        description="Side of the square input in pixels, a multiple of the largest stride.",
    )
    tiles: TileSide | None = Field(
        default=None,
        description="See images larger than this in windows of so many pixels of the image: one at "
        "random per image and epoch, all of them in evaluation.",
    )
    overlap: Overlap = Field(
        default=0.2, description="Fraction of a window that neighbours share in evaluation."
    )
    batch: int = Field(
        default=16, ge=1, le=65_536, description="Images per batch, over all processes."
    )
    nominal_batch: int = Field(
        default=64, ge=1, description="Images over which gradients are accumulated."
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16 runs the network under autocast; weights and losses stay fp32.",
    )
    compile: bool = Field(default=False, description="torch.compile the network and losses.")
    deterministic: bool = Field(
        default=False, description="Use deterministic kernels on a GPU, which are slower."
    )
    sync_batchnorm: bool = Field(
        default=False, description="Synchronise batch norm statistics over all GPUs (torchrun)."
    )
    fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Fraction of the training images to use, the same images in every run.",
    )
    on_nan: Literal["stop", "skip"] = Field(
        default="stop",
        description="Stop at losses or gradients that are not finite, or skip up to 20 batches.",
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd or adamw; the learning rate stays the recipe's."
    )
    lr: float = Field(default=0.01, gt=0, description="Learning rate.")
    momentum: float = Field(
        default=0.937, ge=0, lt=1, description="Nesterov momentum of sgd; first beta of adamw."
    )
    weight_decay: float = Field(
        default=5e-4,
        ge=0,
        description="Weight decay per nominal batch, on weights only (not on norms or biases).",
    )
    schedule: Literal["linear", "cosine", "one-cycle"] = Field(
        default="linear", description="How the learning rate changes over the training."
    )
    final_lr_fraction: float = Field(
        default=0.01, gt=0, le=1, description="Final learning rate, as a fraction of lr."
    )
    schedule_lag: bool = Field(
        default=False,
        description="After the warm-up, use the learning rate of the epoch before, as YOLOv5 does.",
    )
    peak_lr: float | None = Field(
        default=None, gt=0, description="one-cycle only: the highest learning rate."
    )
    peak_at: float = Field(
        default=0.3, gt=0, lt=1, description="one-cycle only: where the peak is, as a fraction."
    )
    warmup_epochs: float = Field(default=3.0, ge=0, description="Length of the warm-up in epochs.")
    warmup_min_batches: int = Field(
        default=100, ge=0, description="Shortest warm-up in batches, unless there is none."
    )
    warmup_limit: float | None = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Longest warm-up, as a fraction of the training; null for no limit.",
    )
    warmup_momentum: float = Field(
        default=0.8, ge=0, lt=1, description="Momentum at the start of the warm-up."
    )
    warmup_bias_lr: float = Field(
        default=0.1, ge=0, description="Learning rate of the biases at the start of the warm-up."
    )
    clip_norm: float = Field(default=10.0, gt=0, description="Largest global gradient norm.")
    ema_decay: float = Field(default=0.9999, ge=0, lt=1, description="Decay of the EMA of weights.")
    ema_ramp: float = Field(
        default=2000.0, gt=0, description="Optimiser steps over which the EMA's decay grows."
    )
    evaluate_every: int = Field(
        default=1, ge=1, description="Evaluate after every so many epochs, and after the last."
    )
    patience: int = Field(
        default=100, ge=1, description="Stop after this many epochs without a better AP."
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="Modules to freeze, with their batch norms: backbone, neck.laterals, ...",
    )
    backbone_lr_scale: float = Field(
        default=1.0, gt=0, description="Learning rate of the backbone as a multiple of lr."
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Learning rate of each backbone layer as a multiple of the next layer's.",
    )

    @property
    def windows(self) -> Tiles | None:
        """Tiles and overlap, or None where images are seen whole."""
        return None if self.tiles is None else Tiles(side=self.tiles, overlap=self.overlap)


class LossConfig(Section):
    """Gains as YOLOv5 states them: for 3 levels, 80 classes and 640 px; rescaled to the run.

    Those of the dense head act as they are.
    """

    box: float = Field(default=0.05, ge=0, description="Gain of the box loss.")
    objectness: float = Field(default=1.0, ge=0, description="Gain of the objectness loss.")
    classes: float = Field(default=0.5, ge=0, description="Gain of the class loss.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Label smoothing of the class loss."
    )
    anchor_ratio: float = Field(
        default=4.0,
        gt=1,
        description="Largest ratio between the sides of a ground-truth box and of its anchor.",
    )
    dense_box: float = Field(default=7.5, ge=0, description="Dense head: gain of the box loss.")
    dense_classes: float = Field(
        default=0.5, ge=0, description="Dense head: gain of the class loss."
    )
    dense_dfl: float = Field(
        default=1.5, ge=0, description="Dense head: gain of the distribution focal loss."
    )
    dense_alpha: float = Field(
        default=0.5, ge=0, description="Dense head: exponent of the score in the assignment."
    )
    dense_beta: float = Field(
        default=6.0, ge=0, description="Dense head: exponent of the IoU in the assignment."
    )
    dense_topk: int = Field(
        default=10, ge=1, le=1000, description="Dense head: most positives of a box."
    )


class AugmentConfig(Section):
    """How training images are augmented. Sizes are fractions of the side of the image."""

    mosaic: float = Field(default=1.0, ge=0, le=1, description="Probability of a mosaic.")
    plain_epochs: int = Field(
        default=0, ge=0, description="Last epochs that go without mosaic and mixup."
    )
    mixup: float = Field(default=0.0, ge=0, le=1, description="Probability of mixup.")
    translate: float = Field(default=0.1, ge=0, le=0.5, description="Largest translation.")
    scale: float = Field(default=0.5, ge=0, lt=1, description="Largest relative change of scale.")
    flip: float = Field(default=0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    hue: float = Field(default=0.015, ge=0, le=1, description="Largest relative change of hue.")
    saturation: float = Field(
        default=0.7, ge=0, le=1, description="Largest relative change of saturation."
    )
    value: float = Field(default=0.4, ge=0, le=1, description="Largest relative change of value.")
    window: PositiveInt | None = Field(
        default=None,
        description="Only in runs of earlier versions: the number of images before, from which "
        "the other images of mosaic and mixup were drawn.",
    )

    @model_serializer(mode="wrap")
    def _without_window(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        settings = dump(self)
        if settings.get("window") is None:
            settings.pop("window", None)
        return settings


PREDICTION_NMS_IOU = 0.45
"""IoU threshold of NMS in prediction and exported graphs, as YOLOv5 predicts."""


class EvaluateConfig(Section):
    """How raw predictions become detections; prediction has another `nms_iou` by default."""

    confidence: float = Field(default=0.001, ge=0, lt=1, description="Lowest confidence kept.")
    nms_iou: float = Field(default=0.6, gt=0, le=1, description="IoU threshold of NMS.")
    max_detections: int = Field(default=300, ge=1, description="Most detections per image.")
    max_candidates: int = Field(
        default=30_000, ge=1, description="Most boxes per image that enter NMS, the best first."
    )


class RunConfig(Section):
    """Everything that decides what a run computes.

    Examples:
        >>> from ossa.config import RunConfig
        >>> config = RunConfig(model={"name": "resnet18", "neck": "s"}, data="scenes", seed=1)
        >>> config.train.epochs, config.evaluate.nms_iou
        (300, 0.6)
    """

    model: ModelConfig = Field(description="Which detector is built.")
    data: str = Field(description="A data.yaml, or the folder of a data set.")
    recipe: str = Field(
        default="yolov5-low", description="A recipe shipped with ossa, or a YAML file."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    train: TrainConfig = Field(default=TrainConfig(), description="Optimisation.")
    loss: LossConfig = Field(default=LossConfig(), description="Gains of the losses.")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="Augmentation.")
    evaluate: EvaluateConfig = Field(default=EvaluateConfig(), description="Postprocessing.")

    def digest(self) -> str:
        """Returns the `settings_digest` of all settings."""
        return settings_digest(self.model_dump(mode="json"))


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Returns the sha256 of the canonical JSON of a run's settings but the place of the data.

    What the data are is told by their fingerprint, wherever they lie.
    """
    kept = {key: value for key, value in settings.items() if key != "data"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `under` with the values of `over` in their place, section by section."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by their dotted names, such as 'train.lr'."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        flat |= flattened(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Returns nested sections from `train.lr=0.005` and the like.

    Raises:
        ConfigError: a setting without an equals sign or a value that is not YAML.
    """
    sections: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.split(".")
        if not equals or not key or len(parts) > _DEEPEST:
            found = legible(repr(setting))
            raise ConfigError(f"expected SECTION.KEY=VALUE (such as train.lr=0.005), found {found}")
        value = parse_yaml(text, where=f"the value of {legible(key)}")
        for part in reversed(parts):
            value = {part: value}
        sections = merge(sections, value)
    return sections


def build_config(settings: Mapping[str, Any], *, where: str = "the settings") -> RunConfig:
    """Returns the checked configuration.

    Raises:
        ConfigError: naming the first key that is misspelt, missing or out of range.
    """
    config = validated(RunConfig, settings, where=where)
    check_imgsz(config.train.imgsz, stride=max(config.model.strides))
    _refuse_what_would_be_ignored(config, where)
    return config


def refuse_window(augment: AugmentConfig) -> None:
    """Raises ConfigError for a setting of earlier versions, with which nothing is trained today."""
    if augment.window is not None:
        raise ConfigError(
            f"expected no setting augment.window, found {augment.window}: it was removed, and the "
            "other images of mosaic and mixup are drawn from the whole split; leave it out, or "
            "start a new run instead of resuming this one"
        )


def check_imgsz(imgsz: int, *, stride: int) -> None:
    """Raises ConfigError unless a side is a multiple of the largest stride, and not too large."""
    if imgsz > MAX_IMGSZ:
        raise ConfigError(
            f"imgsz: expected at most {MAX_IMGSZ} pixels, found {legible(str(imgsz), 40)}"
        )
    if imgsz < stride or imgsz % stride:
        below = max(imgsz // stride, 1) * stride
        raise ConfigError(
            f"imgsz must be a multiple of the largest stride, {stride}, found {imgsz}: "
            f"use {below} or {below + stride}"
        )


def _refuse_what_would_be_ignored(config: RunConfig, where: str) -> None:
    """Raises ConfigError for a setting that contradicts another and would not be heard."""
    train, augment, model = config.train, config.augment, config.model
    one_cycle, peak_lr = train.schedule == "one-cycle", train.peak_lr
    no_partners = not augment.mosaic and not augment.mixup
    weights = model.pretrained or model.backbone_weights is not None
    anchor = model.head == "anchor"
    faults = {
        "the schedule one-cycle needs train.peak_lr above train.lr, from which it starts": one_cycle
        and (peak_lr is None or peak_lr <= train.lr),
        "the schedule one-cycle has a rise of its own, which train.warmup_epochs would replace; "
        "set them to 0": one_cycle and train.warmup_epochs > 0,
        "train.schedule_lag delays the schedules linear and cosine; with one-cycle set it to "
        "false": one_cycle and train.schedule_lag,
        "train.peak_lr acts with the schedule one-cycle only": not one_cycle
        and peak_lr is not None,
        "train.overlap acts with train.tiles only": train.tiles is None
        and train.overlap != TrainConfig.model_fields["overlap"].default,
        "augment.plain_epochs must be fewer than train.epochs": augment.plain_epochs
        >= train.epochs,
        "augment.plain_epochs leaves out mosaic and mixup, which are both 0": no_partners
        and augment.plain_epochs > 0,
        "model.pretrained and model.backbone_weights both bring the backbone's weights; leave one "
        "of them out": model.pretrained and model.backbone_weights is not None,
        "model.reg_max and model.end_to_end act with model.head dense only": anchor
        and (model.reg_max != ModelConfig.model_fields["reg_max"].default or model.end_to_end),
        "model.anchors_wh acts with model.head anchor only": not anchor
        and model.anchors_wh is not None,
        "model.weights brings a whole detector, over the backbone's weights that model.pretrained "
        "or model.backbone_weights bring; leave one of them out": weights
        and model.weights is not None,
    }
    for fault, found in faults.items():
        if found:
            raise ConfigError(f"{where}: {fault}")
