"""CSPDarknet, the backbone of YOLOv5 v6/v7, in its five scales."""

from typing import NamedTuple

from torch import Tensor, nn

from ossa.models.blocks import C3, SPPF, ConvNormAct, InputNormalization
from ossa.types import Level

_STAGE_CHANNELS = (128, 256, 512, 1024)
_STAGE_REPEATS = (3, 6, 9, 3)
_STEM_CHANNELS = 64


class Scale(NamedTuple):
    """How a YOLOv5 network grows from its base."""

    depth: float
    """Multiple of the base's repeats."""
    width: float
    """Multiple of the base's channels."""

    def channels(self, base: int) -> int:
        """Returns the width of a layer, rounded up to a multiple of 8 as YOLOv5 does."""
        return -int(-base * self.width // 8) * 8

    def repeats(self, base: int) -> int:
        return max(round(base * self.depth), 1)


SCALES = {
    "n": Scale(depth=0.33, width=0.25),
    "s": Scale(depth=0.33, width=0.50),
    "m": Scale(depth=0.67, width=0.75),
    "l": Scale(depth=1.00, width=1.00),
    "x": Scale(depth=1.33, width=1.25),
}


class CSPDarknet(nn.Module):
    """Maps uint8 images (B, 3, H, W) to features at strides 8, 16 and 32.

    Without mean and deviation of the input: YOLOv5 sees pixel / 255.
    """

    def __init__(
        self,
        scale: Scale,
        *,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        widths = [scale.channels(base) for base in _STAGE_CHANNELS]
        self.normalize = InputNormalization(mean, std)
        self.stem = ConvNormAct(3, scale.channels(_STEM_CHANNELS), kernel=6, stride=2, padding=2)
        self.stages = nn.ModuleList()
        before = scale.channels(_STEM_CHANNELS)
        for width, repeats in zip(widths, _STAGE_REPEATS, strict=True):
            downsample = ConvNormAct(before, width, kernel=3, stride=2)
            blocks = C3(width, width, depth=scale.repeats(repeats), residual=True)
            self.stages.append(nn.Sequential(downsample, blocks))
            before = width
        self.context = SPPF(widths[-1])
        self.levels = (Level(8, widths[1]), Level(16, widths[2]), Level(32, widths[3]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.stem(self.normalize(images))
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps[1], maps[2], self.context(maps[3])
