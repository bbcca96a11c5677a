"""What every head does, and the anchor head of YOLOv5: one 1x1 convolution per level."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ossa.config import LossConfig
from ossa.errors import ConfigError
from ossa.models.loss import DetectionLoss
from ossa.models.predictions import AnchorPredictions
from ossa.types import Batch, Level, RawPredictions

YOLOV5_ANCHORS_WH = {
    8: ((10, 13), (16, 30), (33, 23)),
    16: ((30, 61), (62, 45), (59, 119)),
    32: ((116, 90), (156, 198), (373, 326)),
}
"""Width and height in pixels of the network input, by stride. YOLOv5's authors fitted them to COCO.
"""
_PRIOR_OBJECTS, _PRIOR_IMGSZ = 8, 640
"""Objects expected in an image of that side in pixels: the prior of the objectness bias."""
_PRIOR_CLASS_SUM = 0.6
"""Sum of the class probabilities at the start, as in YOLOv5."""


def default_anchors_wh(strides: Sequence[int]) -> Tensor:
    """Return YOLOv5's anchors (L, A, 2) in pixels of the network input.

    Raises:
        ConfigError: a stride for which YOLOv5 has none.
    """
    unknown = [stride for stride in strides if stride not in YOLOV5_ANCHORS_WH]
    if unknown:
        raise ConfigError(
            f"YOLOv5 has anchors for strides {sorted(YOLOV5_ANCHORS_WH)}, found {unknown}: "
            "fit anchors to the data with --fit-anchors, or give model.anchors_wh"
        )
    return torch.tensor([YOLOV5_ANCHORS_WH[stride] for stride in strides], dtype=torch.float32)


class Terms(Protocol):
    """The weighted losses of a batch and what else is logged of it: a named tuple."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def _asdict(self) -> dict[str, Tensor]: ...

    def total(self) -> Tensor:
        """Return the sum of the losses; that of a step is this times the number of images."""
        ...


class Criterion(Protocol):
    """Compares a head's predictions with the ground truth of a batch."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the terms, as the log has them."""
        ...

    def __call__(self, raw: Any, batch: Batch) -> Terms: ...

    def with_all_reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> Self:
        """Return the same for ranks that share every batch, whose terms add up to the whole's."""
        ...

    def without_images(self, device: torch.device) -> Terms:
        """Return the zero terms of a rank without images, which still joins the all-reduce."""
        ...

    def positives(self, raw: Any, batch: Batch) -> list[int]:
        """Return the number of predictions of each level that are assigned to a box."""
        ...


class Head(nn.Module, ABC):
    """Maps L features (B, C_l, H_l, W_l) to `RawPredictions`; owns assignment, loss and decoding.

    Examples:
        >>> from ossa import AnchorHead, DenseHead
        >>> from ossa.models.head import Head
        >>> issubclass(AnchorHead, Head), issubclass(DenseHead, Head)
        (True, True)
    """

    strides: tuple[int, ...]
    """Of the levels, in pixels of the network input per cell."""
    num_classes: int

    @abstractmethod
    def cells(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the logits (B, H_l, W_l, A, C) of each level, as exported graphs do."""

    @abstractmethod
    def read(self, logits: tuple[Tensor, ...]) -> RawPredictions:
        """Return the predictions of which these are the logits (B, A, H_l, W_l, C)."""

    @abstractmethod
    def criterion(self, config: LossConfig, *, imgsz: int) -> Criterion:
        """Return the loss, for square images of `imgsz` pixels."""

    @abstractmethod
    def start_from_priors(self) -> None:
        """Bring prior probabilities into freshly drawn biases, as RetinaNet and YOLOv5 do."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Return what an `ExportDescription` says of the logits, beside strides and classes."""

    def switch_to_deploy(self) -> None:
        """Remove in place what only training needs. `timm` calls methods of this name."""

    def other_readings(self) -> Mapping[str, Callable[[Any], RawPredictions]]:
        """Return, by name, what makes other predictions of those that inference takes."""
        return {}

    def forward(self, features: Sequence[Tensor]) -> RawPredictions:
        return self.read(tuple(level.permute(0, 3, 1, 2, 4) for level in self.cells(features)))


class AnchorHead(Head):
    """Predicts, for each anchor of each cell, a box, an objectness score and K class scores.

    Examples:
        >>> import torch
        >>> from ossa import AnchorHead, Level
        >>> head = AnchorHead((Level(8, 64), Level(16, 128)), num_classes=3)
        >>> raw = head((torch.zeros(1, 64, 8, 8), torch.zeros(1, 128, 4, 4)))
        >>> [tuple(logits.shape) for logits in raw.logits]
        [(1, 3, 8, 8, 8), (1, 3, 4, 4, 8)]
    """

    anchors_wh: Tensor

    def __init__(
        self,
        neck_levels: Sequence[Level],
        *,
        num_classes: int,
        anchors_wh: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.strides = tuple(level.stride for level in neck_levels)
        self.num_classes = num_classes
        if anchors_wh is None:
            anchors_wh = default_anchors_wh(self.strides)
        self.register_buffer("anchors_wh", anchors_wh)
        self.num_anchors = anchors_wh.shape[1]
        outputs = self.num_anchors * (5 + num_classes)
        self.predict = nn.ModuleList(
            nn.Conv2d(level.channels, outputs, kernel_size=1) for level in neck_levels
        )
        self.start_from_priors()

    @torch.no_grad()
    def start_from_priors(self) -> None:
        """Add prior probabilities to freshly drawn biases, as RetinaNet and YOLOv5 do."""
        for conv, stride in zip(self.predict, self.strides, strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            bias = conv.bias.view(self.num_anchors, -1)
            bias[:, 4] += math.log(_PRIOR_OBJECTS / (_PRIOR_IMGSZ / stride) ** 2)
            bias[:, 5:] += math.log(_PRIOR_CLASS_SUM / (self.num_classes - 0.99999))

    def cells(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        answers = (self.num_anchors, 5 + self.num_classes)
        return tuple(
            conv(maps).permute(0, 2, 3, 1).unflatten(3, answers)
            for conv, maps in zip(self.predict, features, strict=True)
        )

    def read(self, logits: tuple[Tensor, ...]) -> AnchorPredictions:
        return AnchorPredictions(logits, self.anchors_wh, self.strides)

    def criterion(self, config: LossConfig, *, imgsz: int) -> DetectionLoss:
        levels = len(self.strides)
        return DetectionLoss(config, num_classes=self.num_classes, num_levels=levels, imgsz=imgsz)

    def description(self) -> dict[str, Any]:
        return {"anchors_wh": self.anchors_wh.tolist()}
