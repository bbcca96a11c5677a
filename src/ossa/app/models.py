"""Detectors on the page: looking at a picture once, and answering for any threshold afterwards.

Dimensions: H W pixels, C candidates, K classes.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ossa.config import EvaluateConfig
from ossa.data.letterbox import letterbox, letterbox_rectangular
from ossa.errors import ConfigError
from ossa.export.backends import Suppressed, SuppressedRuntime
from ossa.export.open import RuntimeName, is_exported
from ossa.models.postprocess import Candidates, find_candidates, suppress
from ossa.predict.predictor import MAX_DETECTIONS, Predictor, load
from ossa.types import Detections, Letterbox, RawPredictions

LOWEST_CONFIDENCE: Final = 0.01
"""Boxes with a lower score are not kept, so that no slider goes below it."""
_MOST_CANDIDATES: Final = 2000
"""The best of a picture that are kept, 28 bytes each: more than 300 detections ever need."""


@dataclass(frozen=True)
class Thresholds:
    """What a visitor has set."""

    confidence: float
    nms_iou: float
    classes: frozenset[str] | None = None
    """Names of the only classes to show; None for all."""


@dataclass(frozen=True)
class Seen:
    """What a detector made of one picture, before any threshold."""

    candidates: Candidates
    placement: Letterbox
    names: tuple[str, ...]
    """K class names."""
    is_suppressed: bool
    """By NMS in the graph: the overlap has been decided."""
    milliseconds: dict[str, float]
    """By stage: preparing the picture, the network, and decoding its answers."""

    def detections(self, thresholds: Thresholds) -> Detections:
        """Returns what `ossa predict` would find under these thresholds; no network runs."""
        enough = self.candidates.scores > np.float32(thresholds.confidence)
        if thresholds.classes is not None:
            wanted = [name in thresholds.classes for name in self.names]
            enough &= np.array(wanted, np.bool_)[self.candidates.labels]
        config = EvaluateConfig(
            nms_iou=1.0 if self.is_suppressed else thresholds.nms_iou,
            max_detections=MAX_DETECTIONS,
        )
        return suppress(self.candidates.take(enough), self.placement, config)


@dataclass(frozen=True)
class PageModel:
    """A detector under the name that the page gives it."""

    title: str
    predictor: Predictor

    @property
    def about(self) -> str:
        """A line on what it is: classes, size of its input, what runs it, licence."""
        runtime = self.predictor.runtime
        count = len(self.predictor.names)
        parts = [
            f"{count} class{'' if count == 1 else 'es'}",
            f"{self.predictor.imgsz} px",
            f"{runtime.name} {runtime.precision}",
            self.predictor.licence or "licence unknown",
        ]
        if isinstance(runtime, SuppressedRuntime):
            parts.append(f"NMS in the file at {runtime.suppression.nms_iou:g}")
        return " · ".join(parts)

    def look(self, image: NDArray[np.uint8]) -> Seen:
        """Returns what the network says of a picture (H, W, 3) RGB."""
        predictor, runtime = self.predictor, self.predictor.runtime
        clock = [time.perf_counter()]
        if predictor.rectangular:
            canvas, placement = letterbox_rectangular(
                image, predictor.imgsz, stride=predictor.stride
            )
        else:
            canvas, placement = letterbox(image, predictor.imgsz)
        images = torch.from_numpy(canvas).permute(2, 0, 1)[None].to(predictor.device)
        clock.append(time.perf_counter())
        with torch.inference_mode():
            answer = runtime(images)
            if predictor.device.type == "cuda":
                torch.cuda.synchronize(predictor.device)
            clock.append(time.perf_counter())
            candidates = _candidates(answer, num_classes=len(predictor.names))
        clock.append(time.perf_counter())
        stages = zip(("prepare", "network", "decode"), np.diff(clock).tolist(), strict=True)
        return Seen(
            _best(candidates),
            placement,
            predictor.names,
            is_suppressed=isinstance(runtime, SuppressedRuntime),
            milliseconds={stage: 1000 * seconds for stage, seconds in stages},
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
        weights: checkpoints and exported files.
        device: of the checkpoints; exported files run on the CPU.
        imgsz: longer side of the network input in pixels; each file's own if not given.
        runtime: as of `ossa.load`.

    Raises:
        CheckpointError, ConfigError, UnsupportedBackbone: as `ossa.load`.
    """
    if len(set(weights)) < len(weights):
        twice = next(file for file in weights if list(weights).count(file) > 1)
        raise ConfigError(f"--weights {twice} is given twice: a model is compared with others")
    return [
        PageModel(title, load(file, "cpu" if is_exported(file) else device, imgsz, runtime=runtime))
        for title, file in zip(titles_of(weights), weights, strict=True)
    ]


def titles_of(weights: Sequence[Path]) -> list[str]:
    """Returns a short name for each file: its own, or, where that says little, its folder's too.

    `runs/yolov5n/best.safetensors` is yolov5n; names that are still alike get more of the path.
    """
    for depth in range(1, 1 + max(len(file.absolute().parts) for file in weights)):
        titles = [_title(file, depth) for file in weights]
        if len(set(titles)) == len(titles):
            return titles
    return [str(file) for file in weights]


def class_names(models: Collection[PageModel]) -> list[str]:
    """Returns the names of all classes that any of the models knows, in their order, once each."""
    return list(dict.fromkeys(name for model in models for name in model.predictor.names))


def _title(file: Path, depth: int) -> str:
    parts = list(file.absolute().with_suffix("").parts)
    if parts[-1] in ("best", "last", "model") and len(parts) > 2 and depth == 1:
        return parts[-2]
    return "/".join(parts[-depth:])


def _candidates(answer: RawPredictions | Suppressed, *, num_classes: int) -> Candidates:
    """Returns the candidates of the one picture that a network has answered."""
    if isinstance(answer, RawPredictions):
        of_best_class = torch.ones(num_classes, dtype=torch.bool)
        return find_candidates(answer, LOWEST_CONFIDENCE, wanted=of_best_class)[0]
    columns = (answer.boxes_xyxy, answer.scores, answer.labels)
    return Candidates(*(column.cpu().numpy() for column in columns))


def _best(candidates: Candidates) -> Candidates:
    """Returns the best candidates in the order in which they came, which decides between equals."""
    if len(candidates.scores) <= _MOST_CANDIDATES:
        return candidates
    best = (-candidates.scores).argsort(kind="stable")[:_MOST_CANDIDATES]
    return candidates.take(np.sort(best))
