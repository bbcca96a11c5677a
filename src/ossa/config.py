"""The configuration of a run: schema, strict loading, resolved dump and hash."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from ossa.backbone_args import MAX_IMGSZ, BackboneArgs, Numbers3, PositiveNumbers3
from ossa.errors import ConfigError, legible, suggestion
from ossa.safe_yaml import parse_yaml

_SHOWN = 120
"""Characters of a value or a message that an error shows."""
_DEEPEST = 10
"""Sections within sections that a setting may name."""
Settings = TypeVar("Settings", bound=BaseModel)
_LARGEST_INTEGER = 2**63 - 1


class Section(BaseModel):
    """Settings that belong together; a key that is not among them is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _refuse_huge_integers(cls, value: Any) -> Any:
        """What torch and NumPy count by has 64 bits."""
        if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
            raise ValueError(f"expected an integer of at most {_LARGEST_INTEGER}")
        return value


_AnchorsOfLevel = Annotated[tuple[tuple[float, float], ...], Field(max_length=64, fail_fast=True)]
_Anchors = Annotated[tuple[_AnchorsOfLevel, ...], Field(max_length=8, fail_fast=True)]


class ModelConfig(Section):
    """Which detector is built and from which weights it starts."""

    name: Annotated[str, Field(max_length=200, pattern=r"^\w[\w.+-]*$")]
    """A preset (yolov5n to yolov5x), cspdarknet_n to _x, or any timm architecture; never an
    address or a path."""
    neck: Literal["own", "n", "s", "m", "l", "x"] = "s"
    """Scale of YOLOv5's neck; `own` for presets."""
    context: Literal["none", "sppf"] = "none"
    """`sppf` puts YOLOv5's pooling pyramid behind the coarsest lateral of the neck."""
    strides: tuple[PositiveInt, ...] = Field(
        default=(8, 16, 32), min_length=1, max_length=8, fail_fast=True
    )
    anchors_wh: _Anchors | None = None
    """Per level, in pixels of the network input; None for YOLOv5's."""
    pretrained: bool = False
    """Take timm's weights for the backbone (from the hub or its cache)."""
    backbone_weights: str | None = None
    """A safetensors file in timm's key names."""
    backbone_mean: Numbers3 | None = None
    backbone_std: PositiveNumbers3 | None = None
    backbone_args: BackboneArgs | None = None
    """Arguments of timm's constructor; the file's metadata where not given."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """timm's drop_path_rate, over that of `backbone_args`; None for the model's own."""
    weights: str | None = None
    """A whole detector: our checkpoint or an official yolov5*.pt."""


class TrainConfig(Section):
    """Optimisation. The defaults are YOLOv5's, but for `schedule_lag` and `warmup_limit`."""

    epochs: int = Field(default=300, ge=1, le=1_000_000)
    imgsz: int = Field(default=640, ge=32, le=MAX_IMGSZ)
    """Side of the square network input in pixels; a multiple of the largest stride."""
    batch: int = Field(default=16, ge=1, le=65_536)
    nominal_batch: int = Field(default=64, ge=1)
    """Gradients are accumulated until about so many images were seen."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the network under autocast; weights, losses and optimiser stay fp32."""
    compile: bool = False
    """torch.compile for network and losses."""
    deterministic: bool = False
    """On a GPU: kernels that give the same bits every time, slower. The CPU's always do."""
    sync_batchnorm: bool = False
    """Statistics of batch norms over all processes; needs GPUs."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Of the training images, drawn alike for every run."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What follows a loss or gradient that is not finite; a run skips 20 times at most."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.937, ge=0, lt=1)
    """Nesterov momentum of sgd; the first beta of adamw."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Per nominal batch, on weights only (not on norms, not on biases)."""
    schedule: Literal["linear", "cosine", "one-cycle"] = "linear"
    final_lr_fraction: float = Field(default=0.01, gt=0, le=1)
    """Learning rate that the schedule falls to, as a fraction of `lr`."""
    schedule_lag: bool = False
    """Every epoch that begins after the warm-up has the learning rate of the epoch before it, as
    in YOLOv5, whose scheduler is one epoch behind."""
    peak_lr: float | None = Field(default=None, gt=0)
    """one-cycle only: what the learning rate rises to, from `lr`."""
    peak_at: float = Field(default=0.3, gt=0, lt=1)
    """one-cycle only: the fraction of the training at which it is there."""
    warmup_epochs: float = Field(default=3.0, ge=0)
    warmup_min_batches: int = Field(default=100, ge=0)
    warmup_limit: float | None = Field(default=0.1, gt=0, le=1)
    """Largest fraction of the training that the warm-up takes; None for no limit, as in YOLOv5."""
    warmup_momentum: float = Field(default=0.8, ge=0, lt=1)
    warmup_bias_lr: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    """Largest global norm of the gradients."""
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    ema_ramp: float = Field(default=2000.0, gt=0)
    """Updates over which the decay of the average grows to `ema_decay`."""
    patience: int = Field(default=100, ge=1)
    """Epochs without a better AP after which training stops."""
    freeze: tuple[str, ...] = ()
    """Modules that stay as they are with all that is in them: `backbone`, `neck.laterals`, ..."""
    backbone_lr_scale: float = Field(default=1.0, gt=0)
    """Learning rate of the backbone as a multiple of that of neck and head."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """The same from each layer of the backbone to the one before it, on top; 1 for none."""


class LossConfig(Section):
    """Gains as YOLOv5 states them: for 3 levels, 80 classes and 640 px; rescaled to the run."""

    box: float = Field(default=0.05, ge=0)
    objectness: float = Field(default=1.0, ge=0)
    classes: float = Field(default=0.5, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    anchor_ratio: float = Field(default=4.0, gt=1)
    """A truth belongs to an anchor when neither side differs by more than this factor."""


class AugmentConfig(Section):
    """How training images are changed. Probabilities and fractions of the image side."""

    mosaic: float = Field(default=1.0, ge=0, le=1)
    plain_epochs: int = Field(default=0, ge=0)
    """The last epochs of a training, without mosaic and mixup."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    translate: float = Field(default=0.1, ge=0, le=0.5)
    scale: float = Field(default=0.5, ge=0, lt=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    hue: float = Field(default=0.015, ge=0, le=1)
    saturation: float = Field(default=0.7, ge=0, le=1)
    value: float = Field(default=0.4, ge=0, le=1)
    window: PositiveInt | None = None
    """Of earlier versions' runs alone, which drew the other images of mosaic and mixup from so many
    images before; kept so that they are read, and are not taken for runs of today."""

    @model_serializer(mode="wrap")
    def _without_window(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        settings = dump(self)
        if settings.get("window") is None:
            settings.pop("window", None)
        return settings


class EvaluateConfig(Section):
    """How raw predictions become detections."""

    confidence: float = Field(default=0.001, ge=0, lt=1)
    nms_iou: float = Field(default=0.6, gt=0, le=1)
    max_detections: int = Field(default=300, ge=1)
    max_candidates: int = Field(default=30_000, ge=1)
    """The best boxes of an image that enter non-maximum suppression."""


class RunConfig(Section):
    """Everything that decides what a run computes."""

    model: ModelConfig
    data: str
    """A data.yaml, or the folder that holds one."""
    recipe: str = "yolov5-low"
    seed: int = Field(default=0, ge=0)
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

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


def validated(schema: type[Settings], settings: Mapping[str, Any], *, where: str) -> Settings:
    """Returns the settings as the schema has them.

    Raises:
        ConfigError: naming the first key that is misspelt, missing or out of range.
    """
    try:
        return schema.model_validate(settings)
    except ValidationError as problems:
        raise ConfigError(f"{where}: {first_problem(problems, schema)}") from None


def _refuse_what_would_be_ignored(config: RunConfig, where: str) -> None:
    """Raises ConfigError for a setting that contradicts another and would not be heard."""
    train, augment, model = config.train, config.augment, config.model
    one_cycle, peak_lr = train.schedule == "one-cycle", train.peak_lr
    no_partners = not augment.mosaic and not augment.mixup
    weights = model.pretrained or model.backbone_weights is not None
    faults = {
        "the schedule one-cycle needs train.peak_lr above train.lr, from which it starts": one_cycle
        and (peak_lr is None or peak_lr <= train.lr),
        "the schedule one-cycle has a rise of its own, which train.warmup_epochs would replace; "
        "set them to 0": one_cycle and train.warmup_epochs > 0,
        "train.schedule_lag delays the schedules linear and cosine; with one-cycle set it to "
        "false": one_cycle and train.schedule_lag,
        "train.peak_lr acts with the schedule one-cycle only": not one_cycle
        and peak_lr is not None,
        "augment.plain_epochs must be fewer than train.epochs": augment.plain_epochs
        >= train.epochs,
        "augment.plain_epochs leaves out mosaic and mixup, which are both 0": no_partners
        and augment.plain_epochs > 0,
        "model.pretrained and model.backbone_weights both bring the backbone's weights; leave one "
        "of them out": model.pretrained and model.backbone_weights is not None,
        "model.weights brings a whole detector, over the backbone's weights that model.pretrained "
        "or model.backbone_weights bring; leave one of them out": weights
        and model.weights is not None,
    }
    for fault, found in faults.items():
        if found:
            raise ConfigError(f"{where}: {fault}")


def first_problem(problems: ValidationError, schema: type[Any]) -> str:
    """Returns which key is wrong, in which way, and the beginning of what was found there."""
    problem = problems.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = legible(".".join(path))
    if problem["type"] == "extra_forbidden":
        known = _known_keys(schema, path[:-1])
        return f"there is no setting '{key}'.{suggestion(path[-1][:_SHOWN], known)}"
    message = legible(problem["msg"], _SHOWN)
    return f"{key}: {message[0].lower()}{message[1:]}, found {shown(problem['input'])}"


def shown(value: Any) -> str:
    """Returns how a value is written, a long one shortened."""
    try:
        return legible(repr(value), _SHOWN)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return f"a {type(value).__name__} that is too large to be shown"


def _known_keys(schema: Any, path: list[str]) -> list[str]:
    """Returns the keys that the section at `path` may have."""
    for part in path:
        schema = schema.model_fields[part].annotation
    if schema in (BackboneArgs, BackboneArgs | None):
        return list(BackboneArgs.__annotations__)
    return list(schema.model_fields)
