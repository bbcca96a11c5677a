"""What travels inside an exported file, so that nothing else is needed to use it."""

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError

from ossa import __version__
from ossa.config import Section
from ossa.data.letterbox import FILL
from ossa.errors import CheckpointError, legible

SCHEMA = 1
METADATA_KEY = "ossa"
"""Of ONNX's metadata_props and of OpenVINO's rt_info."""
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


class Suppression(Section):
    """What the NMS inside a graph was told; a graph without it leaves this to its reader."""

    confidence: float = Field(default=0.25, ge=0, lt=1)
    nms_iou: float = Field(default=0.45, gt=0, le=1)
    max_detections: int = Field(default=300, ge=1, le=100_000)


class ExportDescription(Section):
    """How an exported file is fed and how its answers are read.

    The graph takes uint8 (B, 3, H, W) RGB and does scaling, mean and deviation itself. Without
    `suppression` it returns for every level the logits (B, H_l, W_l, A, 5 + K): x, y, w, h,
    objectness, classes. With it, the N detections of all images, in no promised order: boxes
    float32 (N, 4) xyxy in pixels of the network input, scores (N,), labels int64 (N,), image_index
    int64 (N,); of each image and class at most `max_detections`, of which a reader keeps the best
    `max_detections` of an image.
    """

    schema_number: Literal[1] = SCHEMA
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
    anchors_wh: tuple[tuple[tuple[_Side, _Side], ...], ...] = Field(min_length=1, max_length=8)
    """Per level, in pixels of the network input."""
    precision: Precision = "fp32"
    suppression: Suppression | None = None
    confidence: float = Field(default=0.25, ge=0, lt=1)
    """From which detections are reported unless a reader is told another."""
    fill: int = Field(default=FILL, ge=0, le=255)
    """Grey value of the letterbox; the image is in its middle."""
    layout: Literal["uint8 NCHW RGB"] = "uint8 NCHW RGB"
    normalisation: Literal["in the graph"] = "in the graph"
    origin: dict[_Text, _Text | int | float | bool | None] = Field(
        default_factory=dict, max_length=50
    )
    """File, sha256, pretraining and licence of the weights, where known."""

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"))


def read_description(text: object, *, where: str) -> ExportDescription:
    """Returns the description that a file carries, every field checked.

    Raises:
        CheckpointError: there is none, it is of another schema, or it contradicts itself.
    """
    if not isinstance(text, str) or not text or len(text) > _MOST_CHARACTERS:
        raise CheckpointError(
            f"{where} carries no description by ossa: it was written by another program; export "
            "the checkpoint with ossa export"
        )
    try:
        content = json.loads(text)
        number = content.get("schema_number") if isinstance(content, dict) else None
        if isinstance(number, int) and number > SCHEMA:
            raise CheckpointError(
                f"{where} is an export of schema {number}, this version reads {SCHEMA}: update ossa"
            )
        description = ExportDescription.model_validate(content)
    except ValidationError as problems:
        first = problems.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{where} carries a damaged description ({legible(key)}: {legible(first['msg'])}): "
            "export it again"
        ) from None
    except (ValueError, RecursionError) as problem:
        raise CheckpointError(
            f"{where} carries a damaged description ({legible(str(problem))}): export it again"
        ) from None
    _check_levels(description, where)
    return description


def _check_levels(description: ExportDescription, where: str) -> None:
    levels, stride = len(description.strides), max(description.strides)
    anchors = {len(level) for level in description.anchors_wh}
    faults = {
        f"{levels} strides but anchors of {len(description.anchors_wh)} levels": levels
        != len(description.anchors_wh),
        "levels with different numbers of anchors, or none": len(anchors) != 1 or 0 in anchors,
        f"imgsz {description.imgsz}, no multiple of stride {stride}": description.imgsz % stride,
    }
    for fault, found in faults.items():
        if found:
            raise CheckpointError(f"{where} carries a damaged description ({fault})")
