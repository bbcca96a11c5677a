"""What runs a detector: one protocol over PyTorch, ONNX Runtime and OpenVINO.

Dimensions: B images, L levels, A anchors, H W cells, K classes, N detections.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ossa.config import EvaluateConfig
from ossa.errors import CheckpointError, ConfigError, legible
from ossa.export.graph import ExportDescription, NMSSettings, Precision
from ossa.models.detector import Detector
from ossa.models.postprocess import check_not_nan, non_max_suppression
from ossa.types import Detections, Letterbox, RawPredictions

Engine: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""Runs a graph: uint8 (B, 3, H, W) to its outputs, in the order of the description. Several threads
may call it at once, and what it returned never changes afterwards."""


class Runtime(Protocol):
    """Maps uint8 images (B, 3, H, W) RGB to `RawPredictions`; threads may share it."""

    name: str
    """'torch', 'onnxruntime' or 'openvino'."""
    precision: Precision
    device: torch.device

    def __call__(self, images: Tensor) -> RawPredictions: ...


class TorchRuntime:
    """The network itself, in PyTorch."""

    name = "torch"

    def __init__(
        self,
        detector: Detector,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        """Args:
            detector: is moved to `device` and set to evaluation mode.
            device: 'cpu', 'cuda', 'cuda:1', ...
            precision: fp32 or bf16, of a copy of the weights.

        Raises:
            ConfigError: there is no such device, or PyTorch does not run this precision.
        """
        if precision not in ("fp32", "bf16"):
            raise ConfigError(
                f"PyTorch runs fp32 or bf16 here, found --precision {precision}: take --runtime "
                "openvino, or export the file first"
            )
        self.detector = _on_device(detector.eval(), device)
        self.device = torch.device(device)
        self.precision: Precision = precision

    def __call__(self, images: Tensor) -> RawPredictions:
        with torch.inference_mode(), self._autocast():
            return self.detector(images)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


class _FileRuntime:
    """An exported file on the CPU."""

    def __init__(
        self, engine: Engine, description: ExportDescription, *, name: str, precision: Precision
    ) -> None:
        self.description = description
        self.name = name
        self.precision: Precision = precision
        self.device = torch.device("cpu")
        self._engine = engine

    def _run(self, images: Tensor) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """Yields the outputs of each batch that the file takes, and how many are real images."""
        _check_size(images, self.description)
        batch = self.description.batch or len(images)
        for chunk in images.split(max(batch, 1)):
            missing = chunk.new_zeros(batch - len(chunk), *chunk.shape[1:])
            yield self._engine(torch.cat((chunk, missing)) if len(missing) else chunk), len(chunk)


class ExportedRuntime(_FileRuntime):
    """An exported file whose graph returns logits."""

    def __call__(self, images: Tensor) -> RawPredictions:
        chunks = [[output[:count] for output in outputs] for outputs, count in self._run(images)]
        levels = chunks[0] if len(chunks) == 1 else map(torch.cat, zip(*chunks, strict=True))
        levels = list(levels)
        self._check_outputs(levels, images)
        # (B, H, W, A, 5 + K), as post-processing walks through them.
        logits = tuple(level.permute(0, 3, 1, 2, 4) for level in levels)
        anchors_wh = torch.tensor(self.description.anchors_wh)
        return RawPredictions(logits, anchors_wh, self.description.strides)

    def _check_outputs(self, levels: Sequence[Tensor], images: Tensor) -> None:
        """Raises CheckpointError for outputs that differ from the file's own description."""
        about, (count, _, height, width) = self.description, images.shape
        answers = (len(about.anchors_wh[0]), 5 + len(about.names))
        expected = [(count, height // s, width // s, *answers) for s in about.strides]
        found = [tuple(level.shape) for level in levels]
        if found != expected or any(level.dtype != torch.float32 for level in levels):
            raise CheckpointError(
                f"expected logits of {expected} from the graph, as its description says, found "
                f"{legible(str(found))}: export the checkpoint again"
            )


class NMSOutput(NamedTuple):
    """The detections in B images of a graph with NMS, in no particular order."""

    boxes_xyxy: Tensor
    """(N, 4) in pixels of the network input."""
    scores: Tensor
    """(N,)."""
    labels: Tensor
    """(N,) in 0..K-1."""
    image_index: Tensor
    """(N,) in 0..B-1."""


class NMSRuntime(_FileRuntime):
    """An exported file with NMS in its graph."""

    @property
    def nms(self) -> NMSSettings:
        """Settings of the NMS in the graph."""
        assert self.description.nms is not None
        return self.description.nms

    def __call__(self, images: Tensor) -> NMSOutput:
        parts, before = [], 0
        for outputs, count in self._run(images):
            boxes_xyxy, scores, labels, image_index = self._checked(outputs)
            real = image_index < count  # not what fills up a fixed batch
            columns = (boxes_xyxy, scores, labels, image_index + before)
            parts.append([column[real] for column in columns])
            before += count
        return NMSOutput(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _checked(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Returns the outputs; raises CheckpointError where they are not those of an NMS."""
        shapes = [tuple(output.shape) for output in outputs]
        count = shapes[0][0] if shapes and shapes[0] else 0
        num_classes = len(self.description.names)
        is_right = shapes == [(count, 4), (count,), (count,), (count,)]
        if not is_right or not ((outputs[2] >= 0) & (outputs[2] < num_classes)).all():
            raise CheckpointError(
                "expected boxes (N, 4), scores, labels of its classes and image_index (N,) from "
                f"the graph, found {legible(str(shapes))}: export the checkpoint again"
            )
        return outputs

    def detections(
        self,
        images: Tensor,
        letterboxes: Sequence[Letterbox],
        settings: EvaluateConfig,
        *,
        wanted: Tensor,
    ) -> list[Detections]:
        """Returns what `find` returns."""
        found = self(images)
        keep = (found.scores > settings.confidence) & wanted[found.labels]
        boxes_xyxy, scores, labels, image_index = (column[keep].numpy() for column in found)
        detections = []
        for image, letterbox in enumerate(letterboxes):
            mine = np.flatnonzero(image_index == image)
            mine = mine[(-scores[mine]).argsort(kind="stable")][: settings.max_detections]
            boxes = letterbox.boxes_to_image(boxes_xyxy[mine])
            detections.append(Detections(boxes, scores[mine], labels[mine]))
        return detections


AnyRuntime: TypeAlias = Runtime | NMSRuntime


class RuntimeNetwork(nn.Module):
    """A runtime where a network is expected."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    def forward(self, images: Tensor) -> RawPredictions:
        return self._runtime(images)


def find(
    runtime: AnyRuntime,
    images: Tensor,
    letterboxes: Sequence[Letterbox],
    settings: EvaluateConfig,
    *,
    wanted: Tensor,
) -> list[Detections]:
    """Returns the detections in each of B images, in pixels of the original image.

    Only the best class of a box counts.

    Args:
        runtime: of any kind.
        images: uint8 (B, 3, H, W) RGB, on the runtime's device.
        letterboxes: B.
        settings: confidence, NMS and limits; of a graph with NMS the confidence is at least its
            own and the rest the same or stricter.
        wanted: bool (K,) on the CPU: the classes to be detected.
    """
    if isinstance(runtime, NMSRuntime):
        return runtime.detections(images, letterboxes, settings, wanted=wanted)
    raw = runtime(images)
    check_not_nan(raw)
    return non_max_suppression(raw, letterboxes, settings, wanted=wanted)


def _check_size(images: Tensor, description: ExportDescription) -> None:
    height, width = images.shape[-2:]
    side, stride = description.imgsz, max(description.strides)
    if not description.any_size and (height, width) != (side, side):
        raise ConfigError(
            f"this file was exported for {side} x {side} px and takes no other size, found "
            f"{width} x {height}: export with --dynamic size for any"
        )
    if height % stride or width % stride:
        raise ConfigError(
            f"expected sides that are multiples of {stride} px, found {width} x {height}"
        )


def _on_device(detector: nn.Module, device: torch.device | str) -> Detector:
    try:
        # Channels-last, as in training: the convolutions are faster so.
        return detector.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(
            f"the device {str(device)!r} cannot be used here ({str(problem).splitlines()[0]}): "
            "try 'cpu'"
        ) from None
