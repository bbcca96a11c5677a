"""Data types shared by the whole package, with their shapes and units.

Dimensions: B images, N boxes, K classes, L levels, A anchors, H W pixels or cells.
Boxes are xyxy in absolute pixels everywhere; each field says of which image.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Level(NamedTuple):
    """Stride and channels of a feature map.

    Examples:
        >>> from ossa import Level
        >>> Level(stride=8, channels=128)
        Level(stride=8, channels=128)
    """

    stride: int
    """Input pixels per cell."""
    channels: int


class Letterbox(NamedTuple):
    """How an image was placed in the network's input: x_network = x_image * scale_x + pad_left.

    Examples:
        >>> import numpy as np
        >>> from ossa.types import Letterbox
        >>> placed = Letterbox(0.5, 0.5, pad_left=0, pad_top=80, width=1280, height=960)
        >>> placed.boxes_to_network(np.array([[100, 0, 200, 960]], np.float32)).tolist()
        [[50.0, 80.0, 100.0, 560.0]]
    """

    scale_x: float
    scale_y: float
    pad_left: int
    pad_top: int
    width: int
    """Width of the original image in pixels."""
    height: int

    def boxes_to_network(self, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes (N, 4), given in pixels of the image, in pixels of the network input."""
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)
        shift = np.array([self.pad_left, self.pad_top] * 2, dtype=np.float32)
        return boxes_xyxy * scale + shift

    def boxes_to_image(self, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes (N, 4) of the network input in pixels of the image, clipped to it."""
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)
        shift = np.array([self.pad_left, self.pad_top] * 2, dtype=np.float32)
        limit = np.array([self.width, self.height] * 2, dtype=np.float32)
        return np.clip((boxes_xyxy - shift) / scale, 0.0, limit)


@dataclass(frozen=True)
class Sample:
    """One image with the ground truth used in training, without crowd and difficult boxes.

    Examples:
        >>> import numpy as np
        >>> from ossa.types import Sample
        >>> sample = Sample(
        ...     image=np.zeros((480, 640, 3), np.uint8),
        ...     boxes_xyxy=np.array([[10, 20, 110, 220]], np.float32),
        ...     labels=np.array([0]),
        ... )
        >>> sample.boxes_xyxy.shape
        (1, 4)
    """

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    boxes_xyxy: NDArray[np.float32]
    """(N, 4) in pixels of `image`."""
    labels: NDArray[np.int64]
    """(N,) in 0..K-1."""


@dataclass(frozen=True)
class Batch:
    """Images of one size with their ground truth, ready for the device.

    Examples:
        >>> import torch
        >>> from ossa.types import Batch
        >>> batch = Batch(
        ...     images=torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        ...     boxes_xyxy=torch.tensor([[8.0, 8.0, 24.0, 40.0]]),
        ...     labels=torch.tensor([0]),
        ...     image_index=torch.tensor([1]),  # the box is in the second image
        ...     image_ids=(7, 8),
        ...     letterboxes=(),
        ... )
        >>> batch.to("cpu").images.shape
        torch.Size([2, 3, 64, 64])
    """

    images: Tensor
    """uint8 (B, 3, H, W) RGB."""
    boxes_xyxy: Tensor
    """float32 (N, 4) in pixels of the network input."""
    labels: Tensor
    """int64 (N,) in 0..K-1."""
    image_index: Tensor
    """int64 (N,): to which of the B images each box belongs."""
    image_ids: tuple[int, ...]
    """B ids of the data set's index."""
    letterboxes: tuple[Letterbox, ...]
    """B placements; empty for augmented batches, whose boxes cannot be mapped back."""

    def to(self, device: Any) -> "Batch":
        """Return the same batch with its tensors on `device` (asynchronously where pinned)."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the same batch in page-locked memory; torch's loader calls it by this name."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            images=change(self.images),
            boxes_xyxy=change(self.boxes_xyxy),
            labels=change(self.labels),
            image_index=change(self.image_index),
        )


class RawPredictions(Protocol):
    """What a head returns, the same in training and evaluation; every head has its own type.

    Examples:
        >>> import torch
        >>> from ossa import create_detector
        >>> raw = create_detector("yolov5n", num_classes=3)(torch.zeros(1, 3, 64, 64).byte())
        >>> raw.strides, tuple(raw.logits[0].shape)
        ((8, 16, 32), (1, 3, 8, 8, 8))
    """

    @property
    def logits(self) -> tuple[Tensor, ...]:
        """L tensors (B, A, H_l, W_l, C), before any sigmoid."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """L strides in pixels of the network input per cell."""
        ...

    @property
    def needs_nms(self) -> bool:
        """Whether several boxes may be of one object."""
        ...

    def possible_boxes(self, confidence: float) -> list[tuple[Tensor, ...]]:
        """Return the boxes that may be above a confidence: for each level, B tensors (P, 5 + K).

        They are on the CPU: xyxy in pixels of the network input, logits of objectness (infinite
        for a head without) and classes; in the order of row, column and anchor.
        """
        ...


LOSSES = ("box", "objectness", "classes", "dfl")
"""What logs name the losses of heads: each head has some of them."""


def sum_of_losses(terms: Mapping[str, Any], prefix: str = "") -> float:
    """Return the sum of those `LOSSES` that a mapping has, as keys behind a prefix.

    Examples:
        >>> from ossa.types import sum_of_losses
        >>> sum_of_losses({"train_box": 1.0, "train_dfl": 0.5, "ap": 0.3}, "train_")
        1.5
    """
    return sum(terms[f"{prefix}{name}"] for name in LOSSES if f"{prefix}{name}" in terms)


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Examples:
        >>> import numpy as np
        >>> from ossa import Detections
        >>> boxes_xyxy = np.array([[10, 20, 110, 220], [0, 0, 50, 50]], np.float32)
        >>> found = Detections(boxes_xyxy, np.array([0.9, 0.2]), np.array([0, 1]))
        >>> len(found.above(0.5)), found.boxes_xywh[0].tolist()
        (1, [10.0, 20.0, 100.0, 200.0])
        >>> found[found.labels == 1].scores.tolist(), [len(one) for one in found]
        ([0.2], [1, 1])
    """

    boxes_xyxy: NDArray[np.floating]
    """(N, 4) in pixels of the original image; float32 from a detector, float64 from a file."""
    scores: NDArray[np.floating]
    """(N,) in 0..1, descending; float32 from a detector, float64 from a file."""
    labels: NDArray[np.int64]
    """(N,) in 0..K-1."""
    stated_xywh: NDArray[np.float64] | None = field(default=None, kw_only=True)
    """(N, 4) the boxes as a results file states them, where they come from one."""

    @classmethod
    def empty(cls) -> Self:
        """Return the detections of an image in which there are none."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def boxes_xywh(self) -> NDArray[np.float64]:
        """(N, 4) left, top, width, height; as in the results file, to avoid rounding."""
        if self.stated_xywh is not None:
            return self.stated_xywh
        starts, ends = np.split(self.boxes_xyxy.astype(np.float64), 2, axis=1)
        return np.concatenate((starts, ends - starts), axis=1)

    def above(self, confidence: float) -> Self:
        """Return the detections whose score is at least `confidence`.

        Both are compared in float32, so that saving to a file and reading it changes nothing.
        """
        return self[self.scores.astype(np.float32) >= np.float32(confidence)]

    def __getitem__(
        self, chosen: int | slice | Sequence[int] | NDArray[np.bool_] | NDArray[np.integer]
    ) -> Self:
        """Return those at a position, in a slice, in a list of positions, or of a mask (N,)."""
        rows = np.arange(len(self))[chosen].reshape(-1)
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            stated_xywh=None if self.stated_xywh is None else self.stated_xywh[rows],
        )

    def __iter__(self) -> Iterator[Self]:
        """Yield each detection on its own, best first."""
        return (self[position] for position in range(len(self)))


@dataclass(frozen=True)
class Record:
    """One finished or failed run: everything that a comparison needs.

    Written once as JSON, when the run is done or has failed. `schema` is the version of the
    layout; `ossa.train.run_folder` reads every older one.

    Examples:
        >>> import ossa
        >>> from pathlib import Path
        >>> record = ossa.read_record(Path("study/runs/resnet10t-seed0"))
        >>> record.seed, record.status, record.reason
        (0, 'done', None)
    """

    schema: int
    model: str
    status: str
    """'done', 'failed', or 'stopped' (Ctrl-C), which is returned but not written."""
    reason: str | None
    """Why it failed, in one sentence; None otherwise."""
    config: dict[str, Any]
    """The resolved configuration."""
    config_hash: str
    seed: int
    initial_weights: dict[str, Any]
    """tag or file, sha256, pretraining data, licence; all null when from scratch."""
    cost: dict[str, Any]
    """Parameters, FLOPs and MACs of backbone, neck, head and in total, at the run's image size."""
    metrics: dict[str, Any]
    """'last' and 'best': flat metrics of `ossa.evaluate` on the evaluation split."""
    times: dict[str, float]
    """Seconds: train (without evaluation), evaluate."""
    environment: dict[str, str]
    data_fingerprint: str
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of what lies beside the record: epoch log, compressed detections on val, weights."""
    image_fingerprint: str | None = None
    """sha256 over the image files of each split, joined by '-'; None in records before schema 3."""
    digest: str | None = None
    """sha256 of all the rest, which shows an edited number; None in records before schema 4."""
