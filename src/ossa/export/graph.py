"""What every export format shares: optional packages, the description in a file, the graph.

Dimensions: B images, L levels, A anchors, H W cells, K classes, N detections.
"""

import copy
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, cast

import torch
from pydantic import AliasChoices, Field, ValidationError, model_validator
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from ossa import __version__
from ossa.config import PREDICTION_NMS_IOU
from ossa.data.letterbox import FILL
from ossa.errors import CheckpointError, ConfigError, UnsupportedBackbone, legible
from ossa.models.checkpoint import Checkpoint
from ossa.models.detector import Backbone, Detector
from ossa.models.fuse import fuse_detector
from ossa.models.predictions import AnchorPredictions, DensePredictions
from ossa.schema import Section, validated, without_kind
from ossa.types import RawPredictions

METADATA_KEY = "ossa"
"""Of ONNX's metadata_props and of OpenVINO's rt_info."""
CONFIDENCE = 0.25
"""YOLOv5's default for images, where the checkpoint has none; evaluation starts at 0.001."""
_EXTRA_OF = {"openvino": "openvino", "nncf": "openvino"}
"""Extra of ossa that brings a package; all others are in 'export'."""
_PACKAGES_OF = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}
_PLACES = ("Exception from", "Check '", "FrontEnd API failed")
_SCHEMA = 2
_MOST_CHARACTERS = 4_000_000
"""Of a description; that of 10,000 classes with long names has a tenth of it."""
_LARGEST_SIDE = 16_384
"""Pixels."""
_ClassName: TypeAlias = Annotated[str, Field(min_length=1, max_length=500)]
_Text: TypeAlias = Annotated[str, Field(max_length=5000)]
_Stride: TypeAlias = Annotated[int, Field(ge=1, le=1024)]
_Side: TypeAlias = Annotated[float, Field(gt=0, le=_LARGEST_SIDE, allow_inf_nan=False)]
Format: TypeAlias = Literal["onnx", "openvino"]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]


def is_installed(package: str) -> bool:
    return find_spec(package) is not None


def can_run(runtime: str) -> bool:
    """Returns whether all is installed that converts a detector for a runtime and runs it."""
    return all(map(is_installed, _PACKAGES_OF.get(runtime, ())))


def require(package: str, *, purpose: str) -> Any:
    """Returns the imported package, which from now on reports to nobody.

    Raises:
        ConfigError: it is not installed; with the line that installs it.
    """
    if not is_installed(package):
        raise ConfigError(
            f"{purpose} needs the package {package}",
            advice=f'install it: pip install "ossa[{_EXTRA_OF.get(package, "export")}]"',
        )
    # OpenVINO and NNCF report every conversion to Google Analytics by a package that they can do
    # without; it has no other switch that leaves the user's home folder as it is.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module(package)


@cache
def openvino_core() -> Any:
    """Returns the one `openvino.Core` of this process.

    A Core gives the thread a stack for signals, and puts the former one back when it goes, although
    that may be of a Core that has gone before: the next signal, be it Ctrl-C or the end of a child,
    then ends the process (OpenVINO 2026.4). So there is one, which stays.
    """
    core = require("openvino", purpose="OpenVINO").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # it is the device that brings the stack
    return core


def first_line(problem: BaseException) -> str:
    """Returns the line of another package's error that says most.

    It is the innermost error's first line that is not a place in OpenVINO's source, unless a later
    one names an operation that cannot be converted.
    """
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = [line.strip(" -") for line in str(problem).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_PLACES)]
    named = [line for line in lines if line.startswith("No conversion rule found")]
    return (named or lines or [type(problem).__name__])[0]


def unreadable(program: str, problem: Exception, *, path: Path | None = None) -> CheckpointError:
    """Returns the error for a file that a runtime cannot open or run."""
    return CheckpointError(
        expected=f"an exported file that {program} can run",
        found=f"a damaged or foreign one: {first_line(problem)}",
        path=path,
        advice="fetch or export it again",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bars, warnings and logs of exporters; stdout is for results."""
    names = ("torch.onnx", "torch.utils.cpp_extension", "nncf")
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


class NMSSettings(Section):
    """Settings of the NMS inside a graph; without it, NMS is left to the reader of the file."""

    confidence: float = Field(default=CONFIDENCE, ge=0, lt=1)
    nms_iou: float = Field(default=PREDICTION_NMS_IOU, gt=0, le=1)
    max_detections: int = Field(default=300, ge=1, le=100_000)


@dataclass(frozen=True)
class ExportSettings:
    """Format and precision of an export, and how much accuracy it may lose."""

    format: Format = "onnx"
    precision: Precision = "fp32"
    imgsz: int | None = None
    """Longer side in pixels; as in the training if None."""
    batch: int | None = 1
    """None for any."""
    any_size: bool = False
    nms: NMSSettings | None = None
    """Of the NMS in the graph; None for logits."""
    max_ap_drop: float = 0.01
    """AP50-95, a fraction, that the file may lose and be called good."""
    min_agreement: float = 0.95
    """`Parity.agreement` that a file of less than fp32 must reach to be called good."""


class DenseOutputs(Section):
    """What the logits of a dense head are."""

    reg_max: int = Field(ge=1, le=64)
    """Bins of each distance."""
    end_to_end: bool
    """Whether they are those of a one-to-one branch, which need no NMS."""


class ExportDescription(Section):
    """How an exported file is fed and how its answers are read.

    The graph takes uint8 (B, 3, H, W) RGB and does scaling, mean and deviation itself. Without
    `nms` it returns for every level the logits (B, H_l, W_l, A, 5 + K): x, y, w, h,
    objectness, classes; or of a dense head (B, H_l, W_l, 1, 4 R + K): distances to left, top,
    right and bottom, each of R bins, and classes.

    With it, the N detections of all images, in no promised order: boxes float32 (N, 4) xyxy in
    pixels of the network input, scores (N,), labels int64 (N,), image_index int64 (N,); of each
    image and class at most `max_detections`, of which a reader keeps the best `max_detections` of
    an image.
    """

    schema_number: Literal[1, 2] = 1
    """2 for files of a dense head, which earlier versions cannot read."""
    ossa: str = __version__
    """Version that wrote the file."""
    names: tuple[_ClassName, ...] = Field(min_length=1, max_length=50_000)
    """K class names."""
    imgsz: int = Field(ge=1, le=_LARGEST_SIDE)
    """Longer side of the network input in pixels."""
    batch: Annotated[int, Field(ge=1, le=1024)] | None
    """Images in one run; None for any number."""
    any_size: bool
    """Whether height and width may be any multiples of the largest stride."""
    rectangular: bool
    """Whether the shorter side of an image is padded to the next stride only, not to a square."""
    only_squares: bool = False
    """Whether the network takes squares only, so that its checkpoint sees squares, too."""
    strides: tuple[_Stride, ...] = Field(min_length=1, max_length=8)
    anchors_wh: tuple[tuple[tuple[_Side, _Side], ...], ...] = Field(default=(), max_length=8)
    """Per level, in pixels of the network input; none of a dense head."""
    dense: DenseOutputs | None = None
    """Of a dense head."""
    precision: Precision = "fp32"
    nms: NMSSettings | None = Field(
        default=None,
        # The key in files that were exported before; kept so that they still load.
        validation_alias=AliasChoices("suppression", "nms"),
        serialization_alias="suppression",
    )
    confidence: float = Field(default=CONFIDENCE, ge=0, lt=1)
    """From which detections are reported by default."""
    fill: int = Field(default=FILL, ge=0, le=255)
    """Grey value of the letterbox; the image is in its middle."""
    layout: Literal["uint8 NCHW RGB"] = "uint8 NCHW RGB"
    normalisation: Literal["in the graph"] = "in the graph"
    origin: dict[_Text, _Text | int | float | bool | None] = Field(
        default_factory=dict, max_length=50
    )
    """File, sha256, pretraining and licence of the weights, where known."""

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        num_anchors = {len(level) for level in self.anchors_wh}
        if self.dense is not None:
            if self.anchors_wh:
                raise ValueError("anchors of a dense head, which has none")
            num_anchors = {1}
        elif len(self.strides) != len(self.anchors_wh):
            raise ValueError(
                f"{len(self.strides)} strides but anchors of {len(self.anchors_wh)} levels"
            )
        if len(num_anchors) != 1 or 0 in num_anchors:
            raise ValueError("levels with different numbers of anchors, or none")
        if self.imgsz % max(self.strides):
            raise ValueError(f"imgsz {self.imgsz}, no multiple of stride {max(self.strides)}")
        return self

    @property
    def needs_nms(self) -> bool:
        """Whether several of the boxes that the logits stand for may be of one object."""
        return self.dense is None or not self.dense.end_to_end

    @property
    def answers(self) -> tuple[int, int]:
        """Predictions of a cell, and logits of each."""
        if self.dense is None:
            return len(self.anchors_wh[0]), 5 + len(self.names)
        return 1, 4 * self.dense.reg_max + len(self.names)

    def read(self, logits: tuple[Tensor, ...]) -> RawPredictions:
        """Return the predictions of which these are the logits (B, A, H_l, W_l, C)."""
        if self.dense is None:
            return AnchorPredictions(logits, torch.tensor(self.anchors_wh), self.strides)
        return DensePredictions(logits, self.strides, **self.dense.model_dump())

    def to_json(self) -> str:
        excluded = {"dense"} if self.dense is None else {"anchors_wh"}
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude=excluded))


def read_description(text: object, *, path: Path | str) -> ExportDescription:
    """Returns the description that a file carries, every field checked.

    Raises:
        CheckpointError: there is none, it is of another schema, or it contradicts itself.
    """
    advice = "export the checkpoint again"
    if not isinstance(text, str) or not text or len(text) > _MOST_CHARACTERS:
        found = "none: another program wrote it"
    else:
        try:
            content = json.loads(text)
            number = content.get("schema_number") if isinstance(content, dict) else None
            if not isinstance(number, int) or number <= _SCHEMA:
                return ExportDescription.model_validate(content)
            found, advice = f"schema {number}, newer than {_SCHEMA}", "update ossa"
        except ValidationError as problems:
            first = problems.errors()[0]
            key = legible(".".join(map(str, first["loc"])))
            found = f"a damaged one ({key}: {legible(without_kind(first['msg']))})"
        except (ValueError, RecursionError) as problem:
            found = f"a damaged one ({legible(str(problem))})"
    expected = "a description by ossa in an exported file"
    raise CheckpointError(expected=expected, found=found, path=path, advice=advice)


class LogitsGraph(nn.Module):
    """Maps uint8 (B, 3, H, W) RGB to the logits (B, H_l, W_l, A, C) of each level.

    The detector in its deployed form, in float32. Anchors come last but one, so that
    post-processing walks through memory in order; and since runtimes keep channels last, too, the
    outputs of a convolution need not be moved at all.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = fuse_detector(detector).cpu().float()
        _fix_same_padding(self.detector)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        network = self.detector
        features = network.neck(network.backbone(images))
        return tuple(level.contiguous().float() for level in network.head.cells(features))


def _fix_same_padding(detector: nn.Module) -> None:
    """Gives convolutions with TensorFlow's padding the one they have where their stride divides.

    It always does, as sides of images are multiples of the largest. timm computes the padding of
    each map from its size, which an exporter with free sizes follows for hours.
    """
    for name, module in list(detector.named_modules()):
        if isinstance(module, Conv2dSame):
            conv = cast(nn.Conv2d, module)
            sides = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
            high, wide = (max(apart * (size - 1) + 1 - step, 0) for size, step, apart in sides)
            before_after = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
            conv.__class__ = nn.Conv2d  # which it is, but for the forward that pads
            detector.set_submodule(name, nn.Sequential(nn.ZeroPad2d(before_after), conv))


def describe(
    detector: Detector, checkpoint: Checkpoint | None, settings: ExportSettings
) -> ExportDescription:
    """Returns the description of a file with this detector.

    Args:
        detector: of the file.
        checkpoint: names the classes; without it they are numbers.
        settings: of the export; `imgsz` is not None where there is no checkpoint.

    Raises:
        ConfigError: any size is asked of a detector that takes squares of one size only.
    """
    head = detector.head
    imgsz = settings.imgsz or (checkpoint.imgsz if checkpoint else 0)
    rectangles = takes_rectangles(detector, imgsz=imgsz)
    only = getattr(detector.backbone, "only_imgsz", None)
    if settings.any_size and (only is not None or not rectangles):
        raise ConfigError(
            f"this backbone takes squares of {only or imgsz} px only, not --dynamic size or all",
            advice="leave the size fixed",
        )
    about = {
        "names": tuple(map(str, range(head.num_classes))),
        "imgsz": imgsz,
        "batch": settings.batch,
        "any_size": settings.any_size,
        "rectangular": settings.any_size,
        "only_squares": not rectangles,
        "strides": tuple(head.strides),
        **head.description(),
        "precision": settings.precision,
        "nms": settings.nms,
    }
    if checkpoint is not None:
        about |= {"names": checkpoint.names, "origin": checkpoint.origin}
        about["confidence"] = usual_confidence(checkpoint)
    if settings.nms is not None:
        about["confidence"] = settings.nms.confidence
    return validated(ExportDescription, about, where="the description of the file")


def usual_confidence(checkpoint: Checkpoint) -> float:
    """Returns the confidence of the best F1 in training, 0.25 where the checkpoint has none.

    At 1, if that should have been best, nothing would be found: scores are to be above it.
    """
    best = checkpoint.best_confidence
    return CONFIDENCE if best is None or best >= 1 else best


def takes_rectangles(detector: Detector, *, imgsz: int) -> bool:
    """Returns whether the detector runs on images that are no square of `imgsz` pixels.

    Tried on the meta device with the side changed by one stride: what divides two neighbouring
    sizes divides every size, so that windows which need divisible maps fail here and not later.
    """
    shadow = copy.deepcopy(detector).eval().to("meta")
    size_hw = (imgsz, imgsz + max(strides_of(detector)))
    images = torch.zeros(1, 3, *size_hw, dtype=torch.uint8, device="meta")
    try:
        with torch.inference_mode():
            shadow(images)
    except (UnsupportedBackbone, RuntimeError, AssertionError, ValueError):
        return False
    return True


def strides_of(detector: Detector) -> tuple[int, ...]:
    return tuple(level.stride for level in cast(Backbone, detector.backbone).levels)
