"""A trained detector, ready for pictures.

Dimensions: B images (always one here), A anchors, H W cells, K classes.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from ossa.config import EvaluateConfig
from ossa.data.decode import decode_image
from ossa.data.letterbox import letterbox, letterbox_rectangular
from ossa.errors import ConfigError, DataError, UnsupportedBackbone, suggestion
from ossa.models.detector import Backbone, Detector
from ossa.models.postprocess import detect
from ossa.models.weights import detector_from, read_checkpoint
from ossa.report.drawing import draw_boxes
from ossa.types import Detections, RawPredictions

CONFIDENCE = 0.25
"""YOLOv5's habit for pictures, where the checkpoint knows no better; evaluation starts at 0.001."""
NMS_IOU = 0.45
"""As above; evaluation suppresses at 0.6."""
MAX_DETECTIONS = 300

Picture: TypeAlias = str | Path | NDArray[np.uint8]
"""An image file, or pixels (H, W, 3) RGB."""
Pictures: TypeAlias = (
    list[str] | tuple[str, ...] | Sequence[Path] | Sequence[NDArray[np.uint8]] | list[Picture]
)


def load(
    path: Path | str, device: torch.device | str = "cpu", imgsz: int | None = None
) -> "Predictor":
    """Returns a predictor with the weights of a file.

    Args:
        path: a checkpoint of ours, or an official `yolov5*.pt` (read without running its code).
        device: 'cpu', 'cuda', 'cuda:1', ...
        imgsz: longer side of the network input in pixels; that of the training if not given.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or unsafe.
        ConfigError: `imgsz` is no multiple of the largest stride, or there is no such device.
        UnsupportedBackbone: the backbone cannot take images of `imgsz`.
    """
    checkpoint = read_checkpoint(path)
    imgsz = checkpoint.imgsz if imgsz is None else imgsz
    _check_imgsz(imgsz, stride=max(checkpoint.model.strides))
    detector = detector_from(checkpoint)
    best = checkpoint.best_confidence
    return Predictor(
        detector,
        names=checkpoint.names,
        imgsz=imgsz,
        device=device,
        origin=checkpoint.origin,
        # At 1, if that should have been best, nothing would be found: scores are to be above it.
        confidence=CONFIDENCE if best is None or best >= 1 else best,
    )


class Predictor:
    """Finds objects in pictures. Nothing in it changes, so that threads may share one.

    An image is brought to `imgsz` pixels on its longer side, and the shorter side padded with
    grey to the next multiple of the largest stride, as YOLOv5 does. Backbones that were built for
    one image size, or whose windows do not divide every rectangle, get squares instead:
    `rectangular` tells which.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        names: Sequence[str],
        imgsz: int,
        device: torch.device | str = "cpu",
        origin: Mapping[str, Any] | None = None,
        confidence: float = CONFIDENCE,
    ) -> None:
        """Args:
            detector: is moved to `device` and set to evaluation mode.
            names: K class names.
            imgsz: longer side of the network input in pixels.
            device: 'cpu', 'cuda', 'cuda:1', ...
            origin: file, sha256, pretraining and licence of the weights, where known.
            confidence: 0..1, from which `predict` reports detections unless it is told another.

        Raises:
            ConfigError: `imgsz` is no multiple of the largest stride, or there is no such device.
        """
        levels = cast(Backbone, detector.backbone).levels
        self.stride = max(level.stride for level in levels)
        _check_imgsz(imgsz, stride=self.stride)
        self.rectangular = _takes_rectangles(detector, imgsz=imgsz, stride=self.stride)
        self.detector = _on_device(detector.eval(), device)
        self.device = torch.device(device)
        self.names = tuple(names)
        self.imgsz = imgsz
        self.origin = dict(origin or {})
        self.confidence = confidence

    @property
    def licence(self) -> str | None:
        """The licence of the weights, where known."""
        return self.origin.get("licence")

    @overload
    def predict(
        self,
        source: Picture,
        *,
        confidence: float | None = ...,
        nms_iou: float = ...,
        classes: Sequence[str | int] | None = ...,
        max_detections: int = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        source: Pictures,
        *,
        confidence: float | None = ...,
        nms_iou: float = ...,
        classes: Sequence[str | int] | None = ...,
        max_detections: int = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        source: Picture | Pictures,
        *,
        confidence: float | None = None,
        nms_iou: float = NMS_IOU,
        classes: Sequence[str | int] | None = None,
        max_detections: int = MAX_DETECTIONS,
    ) -> Detections | list[Detections]:
        """Returns what is found in a picture, or a list of it for a list of pictures.

        Unlike in evaluation, which follows COCO, a box has one class: its best.

        Args:
            source: an image file, an array uint8 (H, W, 3) RGB, or a list of these.
            confidence: 0..1; detections with a lower score are left out. If not given, that of
                the best F1 on val, which the training left in the checkpoint; 0.25 without one.
            nms_iou: of two boxes of one class that overlap more than this the better stays.
            classes: names or labels of the only classes to look for.
            max_detections: the most per picture.

        Raises:
            DataError: a picture cannot be read, or an array is none.
            ConfigError: a value out of range, or an unknown class.
        """
        lowest = self.confidence if confidence is None else confidence
        settings = _settings(lowest, nms_iou, max_detections)
        wanted = torch.zeros(len(self.names), dtype=torch.bool, device=self.device)
        wanted[self.labels_of(classes)] = True
        if isinstance(source, str | Path | np.ndarray):
            return self._predict_one(source, settings, wanted)
        return [self._predict_one(picture, settings, wanted) for picture in source]

    def labels_of(self, classes: Sequence[str | int] | None) -> list[int]:
        """Returns the labels of classes given by name or label; of all classes for None.

        Raises:
            ConfigError: there is no such class.
        """
        if classes is None:
            return list(range(len(self.names)))
        return [_label_of(one, self.names) for one in classes]

    def draw(self, picture: Picture, detections: Detections) -> NDArray[np.uint8]:
        """Returns a copy of the picture (H, W, 3) RGB with boxes, class names and scores."""
        return draw_boxes(
            _pixels(picture),
            detections.boxes_xyxy,
            detections.labels,
            names=self.names,
            scores=detections.scores,
        )

    @torch.inference_mode()
    def _predict_one(
        self, picture: Picture, settings: EvaluateConfig, wanted: Tensor
    ) -> Detections:
        image = _pixels(picture)
        if self.rectangular:
            canvas, placement = letterbox_rectangular(image, self.imgsz, stride=self.stride)
        else:
            canvas, placement = letterbox(image, self.imgsz)
        images = torch.from_numpy(canvas).permute(2, 0, 1)[None].to(self.device)
        raw = _with_best_class_only(self.detector(images), wanted)
        return detect(raw, [placement], settings)[0]


def _with_best_class_only(raw: RawPredictions, wanted: Tensor) -> RawPredictions:
    """Returns the predictions without any class but the best of each box, if that is `wanted` (K,).

    Done before suppression, so that classes nobody asked for do not use up the detections.
    """
    logits = []
    for level in raw.logits:
        classes = level[..., 5:]
        kept = (classes == classes.amax(dim=-1, keepdim=True)) & wanted
        logits.append(torch.cat((level[..., :5], classes.masked_fill(~kept, -torch.inf)), dim=-1))
    return raw._replace(logits=tuple(logits))


def _pixels(picture: Picture) -> NDArray[np.uint8]:
    if isinstance(picture, str | Path):
        return decode_image(Path(picture))
    image = np.asarray(picture)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(
            f"expected a picture as uint8 (height, width, 3) RGB, found {image.dtype} "
            f"{image.shape}; convert it, and give several pictures as a list"
        )
    return image


def _label_of(name_or_label: str | int, names: Sequence[str]) -> int:
    if isinstance(name_or_label, str) and name_or_label in names:
        return names.index(name_or_label)
    if str(name_or_label).isdecimal() and int(name_or_label) < len(names):
        return int(name_or_label)
    raise ConfigError(
        f"expected the name of a class or its number in 0..{len(names) - 1}, found "
        f"{name_or_label!r}.{suggestion(str(name_or_label), names)}"
    )


def _settings(confidence: float, nms_iou: float, max_detections: int) -> EvaluateConfig:
    try:
        return EvaluateConfig(confidence=confidence, nms_iou=nms_iou, max_detections=max_detections)
    except ValidationError as problems:
        first = problems.errors()[0]
        raise ConfigError(
            f"{first['loc'][0]}: {first['msg'].lower()}, found {first['input']!r}"
        ) from None


def _check_imgsz(imgsz: int, *, stride: int) -> None:
    if imgsz < stride or imgsz % stride:
        below = max(imgsz // stride, 1) * stride
        raise ConfigError(
            f"imgsz must be a multiple of the largest stride, {stride}, found {imgsz}: "
            f"use {below} or {below + stride}"
        )


def _takes_rectangles(detector: Detector, *, imgsz: int, stride: int) -> bool:
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


def _on_device(detector: Detector, device: torch.device | str) -> Detector:
    try:
        # Channels-last, as in training: the convolutions are faster so.
        return detector.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(
            f"the device {str(device)!r} cannot be used here ({str(problem).splitlines()[0]}): "
            "try 'cpu'"
        ) from None
