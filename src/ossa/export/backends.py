"""What runs a detector: one protocol over PyTorch, ONNX Runtime and OpenVINO.

Dimensions: B images, L levels, A anchors, H W cells, K classes, N detections.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ossa.config import EvaluateConfig
from ossa.errors import CheckpointError, ConfigError
from ossa.export.graph import ExportDescription, NMSSettings, Precision
from ossa.models.detector import Detector
from ossa.models.postprocess import check_not_nan, non_max_suppression
from ossa.types import Detections, Letterbox, RawPredictions

Engine: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""Runs a graph: uint8 (B, 3, H, W) to its outputs, in the order of the description. Several threads
may call it at once, and what it returned never changes afterwards."""


class TorchRuntime:
    """The network itself, in PyTorch: uint8 images (B, 3, H, W) RGB to `RawPredictions`."""

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
                expected="a --precision of fp32 or bf16, which PyTorch runs",
                found=precision,
                advice="take --runtime openvino, or export the file first",
            )
        try:
            # Channels-last, as in training: the convolutions are faster so.
            self.detector = detector.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as problem:
            raise ConfigError(
                f"the device {str(device)!r} cannot be used here ({str(problem).splitlines()[0]})",
                advice="try 'cpu'",
            ) from None
        self.device = torch.device(device)
        self.precision: Precision = precision

    def __call__(self, images: Tensor) -> RawPredictions:
        in_bf16 = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16),
        ):
            return self.detector(images)


class _FileRuntime:
    """An exported file on the CPU, which threads may share."""

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
        side, stride = self.description.imgsz, max(self.description.strides)
        height, width = images.shape[-2:]
        if not self.description.any_size and (height, width) != (side, side):
            raise ConfigError(
                expected=f"{side} x {side} px, the only size of this file",
                found=f"{width} x {height}",
                advice="export with --dynamic size for any",
            )
        if height % stride or width % stride:
            raise ConfigError(
                expected=f"sides that are multiples of {stride} px", found=f"{width} x {height}"
            )
        batch = self.description.batch or len(images)
        for chunk in images.split(max(batch, 1)):
            missing = chunk.new_zeros(batch - len(chunk), *chunk.shape[1:])
            yield self._engine(torch.cat((chunk, missing)) if len(missing) else chunk), len(chunk)


class ExportedRuntime(_FileRuntime):
    """An exported file whose graph returns logits: images to `RawPredictions`."""

    def __call__(self, images: Tensor) -> RawPredictions:
        chunks = [[output[:count] for output in outputs] for outputs, count in self._run(images)]
        levels = chunks[0] if len(chunks) == 1 else list(map(torch.cat, zip(*chunks, strict=True)))
        about, (count, _, height, width) = self.description, images.shape
        expected = [(count, height // s, width // s, *about.answers) for s in about.strides]
        found = [tuple(level.shape) for level in levels]
        if found != expected or any(level.dtype != torch.float32 for level in levels):
            raise _wrong_outputs(f"logits of {expected}", found)
        # (B, H, W, A, C), as post-processing walks through them.
        return about.read(tuple(level.permute(0, 3, 1, 2, 4) for level in levels))


class NMSOutput(NamedTuple):
    """N detections in B images, in no particular order; boxes in pixels of the network input."""

    boxes_xyxy: Tensor
    scores: Tensor
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
        num_classes = len(self.description.names)
        for outputs, count in self._run(images):
            shapes = [tuple(output.shape) for output in outputs]
            n = shapes[0][0] if shapes and shapes[0] else 0
            is_right = shapes == [(n, 4), (n,), (n,), (n,)]
            if not is_right or not ((outputs[2] >= 0) & (outputs[2] < num_classes)).all():
                columns = "boxes (N, 4), scores, labels of its classes and image_index (N,)"
                raise _wrong_outputs(columns, shapes)
            real = outputs[3] < count  # not what fills up a fixed batch
            *columns, image_index = (column[real] for column in outputs)
            parts.append((*columns, image_index + before))
            before += count
        return NMSOutput(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


Runtime: TypeAlias = TorchRuntime | ExportedRuntime
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
    if not isinstance(runtime, NMSRuntime):
        raw = runtime(images)
        check_not_nan(raw)
        return non_max_suppression(raw, letterboxes, settings, wanted=wanted)
    found = runtime(images)
    keep = (found.scores > settings.confidence) & wanted[found.labels]
    boxes_xyxy, scores, labels, image_index = (column[keep].numpy() for column in found)
    detections = []
    for image, letterbox in enumerate(letterboxes):
        mine = np.flatnonzero(image_index == image)
        mine = mine[(-scores[mine]).argsort(kind="stable")][: settings.max_detections]
        boxes = letterbox.boxes_to_image(boxes_xyxy[mine])
        detections.append(Detections(boxes, scores[mine], labels[mine]))
    return detections


def _wrong_outputs(expected: str, shapes: Sequence[tuple[int, ...]]) -> CheckpointError:
    return CheckpointError(
        expected=f"{expected} from the graph, as its description says",
        found=str(shapes),
        advice="export the checkpoint again",
    )
