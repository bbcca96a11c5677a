"""The detector: a backbone, a neck and a head in a row."""

from typing import Protocol

from torch import Tensor, nn

from ossa.types import Level, RawPredictions


class Backbone(Protocol):
    """What makes a network usable as a backbone. Any `nn.Module` with these two will do."""

    levels: tuple[Level, ...]
    """Fine to coarse."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps uint8 (B, 3, H, W) RGB to one (B, C_l, H / s_l, W / s_l) a level."""
        ...


class Detector(nn.Module):
    """Maps uint8 images (B, 3, H, W) to `RawPredictions`, in training and in evaluation alike."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> RawPredictions:
        return self.head(self.neck(self.backbone(images)))
