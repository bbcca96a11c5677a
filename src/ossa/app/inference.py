"""The detectors of the page.

A network runs once per image; thresholds are applied to its output, again and again.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ossa.config import PREDICTION_NMS_IOU, EvaluateConfig
from ossa.errors import ConfigError
from ossa.export.backends import NMSRuntime
from ossa.export.select import RuntimeName, is_exported
from ossa.models.postprocess import Candidates, check_not_nan, find_candidates, run_nms
from ossa.predict.predictor import MAX_DETECTIONS, Predictor, load
from ossa.types import Detections, Letterbox

LOWEST_CONFIDENCE: Final = 0.01
"""Boxes with a lower score are not kept: the lower end of the slider."""
_MOST_CANDIDATES: Final = 2000
"""Per image, 28 bytes each: more than 300 detections ever need."""


@dataclass(frozen=True)
class Settings:
    """The controls of the page, as a visitor has set them."""

    models: tuple[str, ...]
    """Titles."""
    confidence: float
    nms_iou: float = PREDICTION_NMS_IOU
    classes: tuple[str, ...] = ()
    """Names of the only classes to show; empty for all."""
    frame: int = 1
    """Of a video, from 1."""

    @classmethod
    def of(cls, models: list[str], *values: Any) -> "Settings":
        """Returns the settings of gradio's values; an emptied number field is None."""
        confidence, nms_iou, classes, frame = values
        return cls(
            tuple(models),
            confidence=min(max(float(confidence or 0), LOWEST_CONFIDENCE), 0.99),
            nms_iou=min(max(float(nms_iou or PREDICTION_NMS_IOU), 0.01), 1.0),
            classes=tuple(classes),
            frame=int(frame or 1),
        )


@dataclass(frozen=True)
class Inference:
    """The output of a model for one image, before any threshold."""

    candidates: Candidates
    letterbox: Letterbox
    names: tuple[str, ...]
    has_nms: bool
    """NMS in the graph has already been applied."""
    milliseconds: tuple[float, ...]
    """To prepare the image, run the network, and decode its output."""

    def detections(self, settings: Settings) -> Detections:
        """Returns the detections of `ossa predict` with these settings; no network runs."""
        enough = self.candidates.scores > np.float32(settings.confidence)
        if settings.classes:
            wanted = [name in settings.classes for name in self.names]
            enough &= np.array(wanted, np.bool_)[self.candidates.labels]
        nms_iou = 1.0 if self.has_nms else settings.nms_iou
        config = EvaluateConfig(nms_iou=nms_iou, max_detections=MAX_DETECTIONS)
        return run_nms(self.candidates.take(enough), self.letterbox, config)


@dataclass(frozen=True)
class PageModel:
    """A detector with its title on the page."""

    title: str
    predictor: Predictor

    @property
    def about(self) -> str:
        """One line: classes, input size, runtime, licence."""
        runtime, count = self.predictor.runtime, len(self.predictor.names)
        parts = [
            f"{count} class{'' if count == 1 else 'es'}",
            f"{self.predictor.imgsz} px",
            f"{runtime.name} {runtime.precision}",
            self.predictor.licence or "licence unknown",
        ]
        if isinstance(runtime, NMSRuntime):
            parts.append(f"NMS in the file at {runtime.nms.nms_iou:g}")
        return " · ".join(parts)

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Runs the network on an image (H, W, 3) RGB.

        Raises:
            CheckpointError: the network returns NaN.
        """
        predictor, runtime = self.predictor, self.predictor.runtime
        clock = [time.perf_counter()]
        canvas, letterbox = predictor.prepare(image)
        images = torch.from_numpy(canvas).permute(2, 0, 1)[None].to(predictor.device)
        clock.append(time.perf_counter())
        with torch.inference_mode():
            output: Any = runtime(images)
            if predictor.device.type == "cuda":
                torch.cuda.synchronize(predictor.device)
            clock.append(time.perf_counter())
            if isinstance(runtime, NMSRuntime):
                columns = (output.boxes_xyxy, output.scores, output.labels)
                columns = (column.cpu().numpy() for column in columns)
                candidates = Candidates(*columns, runtime.description.needs_nms)
            else:
                check_not_nan(output)
                wanted = torch.ones(len(predictor.names), dtype=torch.bool)
                candidates = find_candidates(output, LOWEST_CONFIDENCE, wanted=wanted)[0]
        if len(candidates.scores) > _MOST_CANDIDATES:  # in their order, which breaks ties
            best = (-candidates.scores).argsort(kind="stable")[:_MOST_CANDIDATES]
            candidates = candidates.take(np.sort(best))
        clock.append(time.perf_counter())
        return Inference(
            candidates,
            letterbox,
            predictor.names,
            has_nms=isinstance(runtime, NMSRuntime),
            milliseconds=tuple((1000 * np.diff(clock)).tolist()),
        )


def load_models(
    weights: Sequence[Path],
    *,
    device: str = "cpu",
    imgsz: int | None = None,
    runtime: RuntimeName | None = None,
) -> list[PageModel]:
    """Returns the detectors of files, each with a title of its own.

    Args:
        weights: checkpoints and exported files, each once.
        device: of the checkpoints; exported files run on the CPU.
        imgsz: longer side of the network input in pixels; by default that of each file.
        runtime: as of `ossa.load`.

    Raises:
        CheckpointError, ConfigError, UnsupportedBackbone: as `ossa.load`.
    """
    if len(set(weights)) < len(weights):
        twice = next(file for file in weights if weights.count(file) > 1)
        raise ConfigError(expected="each --weights once", found=f"{twice} twice")
    return [
        PageModel(title, load(file, "cpu" if is_exported(file) else device, imgsz, runtime=runtime))
        for title, file in zip(model_titles(weights), weights, strict=True)
    ]


def model_titles(weights: Sequence[Path]) -> list[str]:
    """Returns a short title for each file: its name, or for best, last and model its folder.

    `runs/yolov5n/best.safetensors` is yolov5n; titles that are still equal get more of the path.
    """

    def title(file: Path, depth: int) -> str:
        parts = list(file.absolute().with_suffix("").parts)
        if parts[-1] in ("best", "last", "model") and len(parts) > 2 and depth == 1:
            return parts[-2]
        return "/".join(parts[-depth:])

    for depth in range(1, 1 + max(len(file.absolute().parts) for file in weights)):
        titles = [title(file, depth) for file in weights]
        if len(set(titles)) == len(titles):
            return titles
    return [str(file) for file in weights]


def class_names(models: Collection[PageModel]) -> list[str]:
    """Returns the names of the classes of all models, each once, in their order."""
    return list(dict.fromkeys(name for model in models for name in model.predictor.names))
