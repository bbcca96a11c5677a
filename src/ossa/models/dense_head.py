"""The dense head: no anchors, one to many, and one to one beside it where that is wanted."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ossa.config import LossConfig
from ossa.models.blocks import ConvNormAct
from ossa.models.dense_loss import TaskAlignedLoss
from ossa.models.head import Head
from ossa.models.predictions import DensePredictions
from ossa.types import Level

_PRIOR_OBJECTS, _PRIOR_IMGSZ = 5, 640
"""Objects expected in an image of that side in pixels: the prior of the class biases."""
_MOST_CLASS_CHANNELS = 100


class DenseHead(Head):
    """Predicts, for the centre of each cell, the distances to four sides and K class scores.

    Two branches per level, for boxes and classes, each of two 3x3 convolutions and one 1x1. A
    distance is the mean of a distribution over 0 .. `reg_max` - 1 strides. With `end_to_end` a
    second pair of branches is trained beside the first, one to one, on features that pass no
    gradient back: inference takes it alone, without NMS.

    Sources: FCOS (Tian et al., 2019), Generalized Focal Loss (Li et al., 2020), TOOD (Feng et al.,
    2021), YOLOv10 (Wang et al., 2024).

    Examples:
        >>> import torch
        >>> from ossa import DenseHead, Level
        >>> head = DenseHead((Level(8, 64), Level(16, 128)), num_classes=3, reg_max=16)
        >>> raw = head((torch.zeros(1, 64, 8, 8), torch.zeros(1, 128, 4, 4)))
        >>> [tuple(logits.shape) for logits in raw.logits]
        [(1, 1, 8, 8, 67), (1, 1, 4, 4, 67)]
    """

    def __init__(
        self,
        neck_levels: Sequence[Level],
        *,
        num_classes: int,
        reg_max: int = 16,
        end_to_end: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(level.stride for level in neck_levels)
        self.num_classes = num_classes
        self.reg_max = reg_max
        self.end_to_end = end_to_end
        how: dict[str, int] = {"num_classes": num_classes, "bins": 4 * reg_max}
        self.one_to_many = _Branches(neck_levels, **how)
        self.one_to_one = _Branches(neck_levels, **how) if end_to_end else None
        self.start_from_priors()

    @torch.no_grad()
    def start_from_priors(self) -> None:
        """Set the biases to those of a few objects in an image."""
        for branches in filter(None, (self.one_to_many, self.one_to_one)):
            for boxes, classes, stride in zip(
                branches.boxes, branches.classes, self.strides, strict=True
            ):
                expected = _PRIOR_OBJECTS / self.num_classes / (_PRIOR_IMGSZ / stride) ** 2
                nn.init.constant_(_last(boxes).bias, 1.0)
                nn.init.constant_(_last(classes).bias, math.log(expected))

    def cells(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = [self.one_to_many(features)] if self.one_to_many is not None else []
        if self.one_to_one is not None:
            maps.append(self.one_to_one([level.detach() for level in features]))
        # (B, 4 R + K, H, W) of every branch to (B, H, W, A, 4 R + K)
        cells = [[level.permute(0, 2, 3, 1).unsqueeze(3) for level in branch] for branch in maps]
        if len(cells) == 1:
            return tuple(cells[0])
        return tuple(torch.cat(level, dim=3) for level in zip(*cells, strict=True))

    def read(self, logits: tuple[Tensor, ...]) -> DensePredictions:
        return DensePredictions(logits, self.strides, self.reg_max, self.end_to_end)

    def criterion(self, config: LossConfig, *, imgsz: int) -> TaskAlignedLoss:
        return TaskAlignedLoss(config, reg_max=self.reg_max, end_to_end=self.end_to_end)

    def description(self) -> dict[str, Any]:
        dense = {"reg_max": self.reg_max, "end_to_end": self.end_to_end}
        return {"schema_number": 2, "dense": dense}

    def switch_to_deploy(self) -> None:
        if self.end_to_end:
            self.one_to_many = None

    def other_readings(self) -> Mapping[str, Callable[[Any], DensePredictions]]:
        if not self.end_to_end or self.one_to_many is None:
            return {}
        return {"one-to-many branch with NMS": DensePredictions.one_to_many}


class _Branches(nn.Module):
    """Maps L features to L maps (B, 4 R + K, H, W): distances, then classes."""

    def __init__(self, levels: Sequence[Level], *, num_classes: int, bins: int) -> None:
        super().__init__()
        finest = levels[0].channels
        box_channels = max(16, finest // 4, bins)
        class_channels = max(finest, min(num_classes, _MOST_CLASS_CHANNELS))
        self.boxes = _convolutions(levels, width=box_channels, outputs=bins)
        self.classes = _convolutions(levels, width=class_channels, outputs=num_classes)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(self.boxes, self.classes, features, strict=True)
        return [torch.cat((boxes(x), classes(x)), dim=1) for boxes, classes, x in levels]


def _convolutions(levels: Sequence[Level], *, width: int, outputs: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(
            ConvNormAct(level.channels, width, kernel=3),
            ConvNormAct(width, width, kernel=3),
            nn.Conv2d(width, outputs, kernel_size=1),
        )
        for level in levels
    )


def _last(convolutions: nn.Module) -> Any:
    assert isinstance(convolutions, nn.Sequential)
    return convolutions[-1]
