"""A detector of a few convolutions, so that a conversion takes a moment, and pictures for it."""

import numpy as np
import torch
from torch import Tensor, nn

from ossa.models.blocks import ConvNormAct, InputNormalization
from ossa.models.dense_head import DenseHead
from ossa.models.detector import Detector
from ossa.models.head import AnchorHead
from ossa.types import Level

NAMES = ("cat", "dog", "fire truck")


class SmallBackbone(nn.Module):
    """Two strided convolutions a level; strides 8 and 16."""

    levels = (Level(8, 8), Level(16, 8))

    def __init__(self) -> None:
        super().__init__()
        self.normalize = InputNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.fine = nn.Sequential(
            ConvNormAct(3, 8, kernel=4, stride=4, padding=0), ConvNormAct(8, 8, kernel=3, stride=2)
        )
        self.coarse = ConvNormAct(8, 8, kernel=3, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.fine(self.normalize(images))
        return fine, self.coarse(fine)


def small_dense_detector(*, end_to_end: bool) -> Detector:
    """Returns the same with the dense head, of both branches where it is end to end."""
    torch.manual_seed(0)
    backbone = SmallBackbone()
    head = DenseHead(backbone.levels, num_classes=len(NAMES), end_to_end=end_to_end)
    with torch.no_grad():
        for name, conv in head.named_modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                conv.weight.mul_(8.0)
                if ".classes." in name:
                    conv.bias.zero_()
    return Detector(backbone, nn.Identity(), head).eval()


def small_detector() -> Detector:
    """Returns a random detector of three classes that is sure of something."""
    torch.manual_seed(0)
    backbone = SmallBackbone()
    head = AnchorHead(backbone.levels, num_classes=len(NAMES))
    with torch.no_grad():
        for conv in head.predict:
            conv.weight.mul_(8.0)  # type: ignore[operator]
            conv.bias.zero_()  # type: ignore[operator]
    return Detector(backbone, nn.Identity(), head).eval()


def noise(count: int, side_hw: tuple[int, int] = (64, 64)) -> Tensor:
    """Returns uint8 (count, 3, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, *side_hw), dtype=torch.uint8, generator=generator)


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
