"""The anchor head of YOLOv5: one 1x1 convolution per level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ossa.errors import ConfigError
from ossa.types import Level, RawPredictions

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


class AnchorHead(nn.Module):
    """Predicts, for each anchor of each cell, a box, an objectness score and K class scores.

    Maps L features (B, C_l, H_l, W_l) to `RawPredictions`.

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

    def forward(self, features: Sequence[Tensor]) -> RawPredictions:
        logits = []
        for conv, level_features in zip(self.predict, features, strict=True):
            maps = conv(level_features)
            batch, _, height, width = maps.shape
            per_anchor = maps.view(batch, self.num_anchors, 5 + self.num_classes, height, width)
            logits.append(per_anchor.permute(0, 1, 3, 4, 2))
        return RawPredictions(tuple(logits), self.anchors_wh, self.strides)
