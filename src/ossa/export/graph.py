"""The graph that every format holds: from pixels to logits, and what a file says of it.

Dimensions: B images, L levels, A anchors, H W pixels or cells, K classes.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ossa.errors import ConfigError, UnsupportedBackbone, legible
from ossa.export.description import ExportDescription, Precision, Suppression
from ossa.models.deploy import deployed
from ossa.models.detector import Backbone, Detector
from ossa.models.head import AnchorHead
from ossa.models.weights import Checkpoint

CONFIDENCE = 0.25
"""YOLOv5's habit for pictures, where the checkpoint knows no better; evaluation starts at 0.001."""


class LogitsGraph(nn.Module):
    """Maps uint8 (B, 3, H, W) RGB to the logits (B, H_l, W_l, A, 5 + K) of each level.

    The detector in its deployed form, in float32. Anchors come
    last but one, so that post-processing walks through memory in order; and since runtimes keep
    channels last, too, the answers of a convolution need not be moved at all.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = deployed(detector).cpu().float()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        network: Any = self.detector
        head: AnchorHead = network.head
        features = network.neck(network.backbone(images))
        answers = (head.num_anchors, 5 + head.num_classes)
        return tuple(
            conv(maps).permute(0, 2, 3, 1).unflatten(3, answers).contiguous().float()
            for conv, maps in zip(head.predict, features, strict=True)
        )


def describe(
    detector: Detector,
    *,
    names: Sequence[str],
    imgsz: int,
    batch: int | None,
    any_size: bool,
    precision: Precision,
    suppression: Suppression | None = None,
    confidence: float = CONFIDENCE,
    origin: dict[str, Any] | None = None,
) -> ExportDescription:
    """Returns what a file with this detector says of itself.

    Raises:
        ConfigError: any size is asked of a detector that takes squares of one size only.
    """
    head: Any = detector.head
    stride = max(head.strides)
    rectangles = takes_rectangles(detector, imgsz=imgsz, stride=stride)
    only = getattr(detector.backbone, "only_imgsz", None)
    if any_size and (only is not None or not rectangles):
        raise ConfigError(
            f"this backbone takes squares of {only or imgsz} px only, found --dynamic with the "
            "size: leave the size fixed"
        )
    about = {
        "names": tuple(names),
        "imgsz": imgsz,
        "batch": batch,
        "any_size": any_size,
        "rectangular": any_size,
        "only_squares": not rectangles,
        "strides": tuple(head.strides),
        "anchors_wh": tuple(
            tuple((float(width), float(height)) for width, height in level)
            for level in head.anchors_wh.tolist()
        ),
        "precision": precision,
        "suppression": suppression,
        "confidence": suppression.confidence if suppression else confidence,
        "origin": dict(origin or {}),
    }
    try:
        return ExportDescription.model_validate(about)
    except ValidationError as problems:
        first = problems.errors()[0]
        raise ConfigError(
            "expected a checkpoint that a file can describe, found "
            f"{legible(repr(first['input']))} as {legible('.'.join(map(str, first['loc'])))}: "
            f"{first['msg'].lower()}"
        ) from None


def usual_confidence(checkpoint: Checkpoint) -> float:
    """Returns the confidence of the best F1 in training, 0.25 where the checkpoint has none.

    At 1, if that should have been best, nothing would be found: scores are to be above it.
    """
    best = checkpoint.best_confidence
    return CONFIDENCE if best is None or best >= 1 else best


def takes_rectangles(detector: Detector, *, imgsz: int, stride: int) -> bool:
    """Returns whether the detector runs on images that are no square of `imgsz` pixels.

    Tried on the meta device with the side changed by one stride: what divides two neighbouring
    sizes divides every size, so that windows which need divisible maps fail here and not later.
    """
    shadow = copy.deepcopy(detector).eval().to("meta")
    images = torch.zeros(1, 3, imgsz, imgsz + stride, dtype=torch.uint8, device="meta")
    try:
        with torch.inference_mode():
            shadow(images)
    except (UnsupportedBackbone, RuntimeError, AssertionError, ValueError):
        return False
    return True


def strides_of(detector: Detector) -> tuple[int, ...]:
    return tuple(level.stride for level in cast(Backbone, detector.backbone).levels)
