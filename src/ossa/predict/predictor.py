"""A trained detector, ready for pictures.

Dimensions: H W pixels, K classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from ossa.config import EvaluateConfig, check_imgsz
from ossa.data.letterbox import letterbox, letterbox_rectangular
from ossa.errors import ConfigError, suggestion
from ossa.export.backends import (
    AnyRuntime,
    ExportedRuntime,
    SuppressedRuntime,
    TorchRuntime,
    find,
)
from ossa.export.graph import CONFIDENCE, Precision, Suppression, takes_rectangles, usual_confidence
from ossa.export.open import RuntimeName, is_exported, open_exported
from ossa.export.select import runtime_for_checkpoint, side_of_input
from ossa.models.checkpoint import read_checkpoint
from ossa.models.detector import Backbone, Detector
from ossa.predict.results import Picture, PictureDetections, pixels_of
from ossa.types import Detections, Letterbox
from ossa.viz.draw import draw_boxes

NMS_IOU = 0.45
"""YOLOv5's habit for pictures; evaluation suppresses at 0.6."""
MAX_DETECTIONS = 300

Pictures: TypeAlias = (
    list[str] | tuple[str, ...] | Sequence[Path] | Sequence[NDArray[np.uint8]] | list[Picture]
)


def load(
    path: Path | str,
    device: torch.device | str = "cpu",
    imgsz: int | None = None,
    *,
    runtime: RuntimeName | None = None,
    precision: Precision | None = None,
    on_conversion: Callable[[str], object] = lambda sentence: None,
) -> "Predictor":
    """Returns a predictor with the weights of a file.

    Args:
        path: a checkpoint of ours, an official `yolov5*.pt` (read without running its code), or
            what `ossa export` wrote: an .onnx, or an OpenVINO .xml or its folder.
        device: 'cpu', 'cuda', 'cuda:1', ...
        imgsz: longer side of the network input in pixels; that of the training if not given.
        runtime: 'torch', 'onnxruntime', 'openvino', or 'auto' for the fastest of those installed.
            If not given, 'torch' for a checkpoint and 'auto' for an exported file.
        precision: of the computation; that of the file if not given. Nothing but fp32 is as exact
            as the training's own evaluation.
        on_conversion: given a sentence before a checkpoint is converted for `runtime`, which takes
            seconds and is done once.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or unsafe.
        ConfigError: `imgsz` is no multiple of the largest stride, there is no such device, or the
            runtime is not installed or does not run this file.
        UnsupportedBackbone: the backbone cannot take images of `imgsz`.
    """
    if runtime is not None and runtime not in get_args(RuntimeName):
        known = get_args(RuntimeName)
        raise ConfigError(
            f"expected a runtime of {', '.join(known)}, found {runtime!r}."
            f"{suggestion(str(runtime), known)}"
        )
    if is_exported(path):
        exported = open_exported(path, runtime=runtime or "auto", precision=precision)
        return _of_file(exported, device=device, imgsz=imgsz)
    checkpoint = read_checkpoint(path)
    imgsz = checkpoint.imgsz if imgsz is None else imgsz
    check_imgsz(imgsz, stride=max(checkpoint.model.strides))
    return Predictor(
        runtime_for_checkpoint(
            checkpoint,
            imgsz=imgsz,
            device=device,
            runtime=runtime or "torch",
            precision=precision,
            on_conversion=on_conversion,
        ),
        names=checkpoint.names,
        imgsz=imgsz,
        origin=checkpoint.origin,
        confidence=usual_confidence(checkpoint),
    )


class Predictor:
    """Finds objects in pictures. Nothing in it changes, so that threads may share one.

    An image is brought to `imgsz` pixels on its longer side, and the shorter side padded with
    grey to the next multiple of the largest stride, as YOLOv5 does. Backbones that were built for
    one image size, or whose windows do not divide every rectangle, get squares instead, and so do
    exported files of one size: `rectangular` tells which.
    """

    def __init__(
        self,
        detector: Detector | AnyRuntime,
        *,
        names: Sequence[str],
        imgsz: int,
        device: torch.device | str = "cpu",
        origin: Mapping[str, Any] | None = None,
        confidence: float = CONFIDENCE,
    ) -> None:
        """Args:
            detector: is moved to `device` and set to evaluation mode; or what runs one already,
                on its own device.
            names: K class names.
            imgsz: longer side of the network input in pixels.
            device: 'cpu', 'cuda', 'cuda:1', ...
            origin: file, sha256, pretraining and licence of the weights, where known.
            confidence: 0..1, from which `predict` reports detections unless it is told another.

        Raises:
            ConfigError: `imgsz` is no multiple of the largest stride, or there is no such device.
        """
        if isinstance(detector, nn.Module):
            detector = TorchRuntime(detector, device=device)
        self.runtime: AnyRuntime = detector
        self.stride = _largest_stride(detector)
        check_imgsz(imgsz, stride=self.stride)
        self.rectangular = _gets_rectangles(detector, imgsz=imgsz, stride=self.stride)
        self.device = detector.device
        self.names = tuple(names)
        self.imgsz = imgsz
        self.origin = dict(origin or {})
        self.confidence = confidence
        inside = getattr(detector, "suppression", None)
        self.nms_iou: float = NMS_IOU if inside is None else inside.nms_iou

    @property
    def detector(self) -> Detector:
        """The network in PyTorch.

        Raises:
            ConfigError: an exported file is run, which holds none.
        """
        if isinstance(self.runtime, TorchRuntime):
            return self.runtime.detector
        raise ConfigError(f"{self.runtime.name} runs this detector, not PyTorch: load a checkpoint")

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
        nms_iou: float | None = ...,
        classes: Sequence[str | int] | str | int | None = ...,
        max_detections: int = ...,
        batch: int = ...,
    ) -> PictureDetections: ...

    @overload
    def predict(
        self,
        source: Pictures,
        *,
        confidence: float | None = ...,
        nms_iou: float | None = ...,
        classes: Sequence[str | int] | str | int | None = ...,
        max_detections: int = ...,
        batch: int = ...,
    ) -> list[PictureDetections]: ...

    def predict(
        self,
        source: Picture | Pictures,
        *,
        confidence: float | None = None,
        nms_iou: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch: int = 1,
    ) -> PictureDetections | list[PictureDetections]:
        """Returns what is found in a picture, or a list of it for a list of pictures.

        The detections know their picture: they `draw()` and `crop()` it, and state themselves
        with `to_coco()` and `to_dataframe()`. Unlike in evaluation, which follows COCO, a box has
        one class: its best.

        Args:
            source: an image file, an array uint8 (H, W, 3) RGB, or what NumPy makes one of (a
                picture of Pillow in mode RGB), or a list of these.
            confidence: 0..1; detections with a lower score are left out. If not given, that of
                the best F1 on val, which the training left in the checkpoint; 0.25 without one.
            nms_iou: of two boxes of one class that overlap more than this the better stays. If
                not given, 0.45, or what a file with NMS in its graph was told.
            classes: names or labels of the only classes to look for, or one of these.
            max_detections: the most per picture.
            batch: pictures of a list that are in memory together; those that the network sees in
                one size go through it at once.

        Raises:
            DataError: a picture cannot be read, or an array is none.
            ConfigError: a value out of range, one that a file with NMS in its graph cannot
                follow, or an unknown class.
        """
        settings = _settings(
            self.confidence if confidence is None else confidence,
            self.nms_iou if nms_iou is None else nms_iou,
            max_detections,
        )
        if isinstance(self.runtime, SuppressedRuntime):
            _check_within(settings, self.runtime.suppression)
        wanted = torch.zeros(len(self.names), dtype=torch.bool)
        wanted[self.labels_of(classes)] = True
        if isinstance(source, str | Path | np.ndarray) or not isinstance(source, Iterable):
            return self._predict_together([source], settings, wanted)[0]
        if batch < 1:
            raise ConfigError(f"expected a batch of at least 1 picture, found {batch}")
        pictures, found = iter(source), []
        while together := list(islice(pictures, batch)):
            found += self._predict_together(together, settings, wanted)
        return found

    def labels_of(self, classes: Sequence[str | int] | str | int | None) -> list[int]:
        """Returns the labels of classes, or of one, given by name or label; of all for None.

        Raises:
            ConfigError: there is no such class.
        """
        if classes is None:
            return list(range(len(self.names)))
        if isinstance(classes, str | int):
            classes = [classes]
        return [_label_of(one, self.names) for one in classes]

    def draw(self, picture: Picture, detections: Detections) -> NDArray[np.uint8]:
        """Returns a copy of the picture (H, W, 3) RGB with boxes, class names and scores."""
        return draw_boxes(
            pixels_of(picture),
            detections.boxes_xyxy,
            detections.labels,
            names=self.names,
            scores=detections.scores,
        )

    @torch.inference_mode()
    def _predict_together(
        self, pictures: Sequence[Picture], settings: EvaluateConfig, wanted: Tensor
    ) -> list[PictureDetections]:
        placed = [self._placed(pixels_of(picture)) for picture in pictures]
        of_shapes: dict[tuple[int, ...], list[int]] = {}
        for position, (canvas, _) in enumerate(placed):
            of_shapes.setdefault(canvas.shape, []).append(position)
        found: dict[int, Detections] = {}
        for positions in of_shapes.values():
            canvases, placements = zip(*(placed[position] for position in positions), strict=True)
            images = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).to(self.device)
            answers = find(self.runtime, images, placements, settings, wanted=wanted)
            found |= zip(positions, answers, strict=True)
        return [
            PictureDetections(**vars(found[position]), picture=picture, names=self.names)
            for position, picture in enumerate(pictures)
        ]

    def _placed(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Letterbox]:
        """Returns the network's input (H, W, 3), and where the image stands in it."""
        if self.rectangular:
            return letterbox_rectangular(image, self.imgsz, stride=self.stride)
        return letterbox(image, self.imgsz)


def _of_file(
    exported: ExportedRuntime | SuppressedRuntime, *, device: torch.device | str, imgsz: int | None
) -> Predictor:
    """Returns the predictor of an exported file, which knows everything itself."""
    about = exported.description
    return Predictor(
        exported,
        names=about.names,
        imgsz=side_of_input(exported, imgsz, device=device),
        origin=about.origin,
        confidence=about.confidence,
    )


def _largest_stride(runtime: AnyRuntime) -> int:
    if isinstance(runtime, TorchRuntime):
        return max(level.stride for level in cast(Backbone, runtime.detector.backbone).levels)
    return max(cast(ExportedRuntime, runtime).description.strides)


def _gets_rectangles(runtime: AnyRuntime, *, imgsz: int, stride: int) -> bool:
    if isinstance(runtime, TorchRuntime):
        return takes_rectangles(runtime.detector, imgsz=imgsz, stride=stride)
    return cast(ExportedRuntime, runtime).description.rectangular


def _check_within(settings: EvaluateConfig, inside: Suppression) -> None:
    """Raises ConfigError for settings that the graph's own NMS has decided otherwise."""
    faults = {
        f"leaves out scores below {inside.confidence:g}, found a confidence of "
        f"{settings.confidence:g}": settings.confidence < inside.confidence,
        f"suppresses at IoU {inside.nms_iou:g}, found {settings.nms_iou:g}": settings.nms_iou
        != inside.nms_iou,
    }
    for fault, found in faults.items():
        if found:
            raise ConfigError(f"the NMS in this file {fault}: export it again with other settings")


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
