"""Parameters, FLOPs and MACs of a detector, by part, counted on the meta device.

One multiply-add is one MAC and two FLOPs. Convolutions and matrix products count; norms,
activations, pooling and resizing do not (as in YOLOv5's own figures).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ossa.models.detector import Detector


@dataclass(frozen=True)
class PartCost:
    """What one part of a detector costs for one image."""

    params: int
    flops: int

    @property
    def macs(self) -> int:
        return self.flops // 2


@dataclass(frozen=True)
class DetectorCost:
    """The parts add up to `total`."""

    imgsz: int
    """Side of the square input in pixels."""
    backbone: PartCost
    lateral: PartCost
    neck: PartCost
    """Without the laterals."""
    head: PartCost

    @property
    def total(self) -> PartCost:
        parts = (self.backbone, self.lateral, self.neck, self.head)
        return PartCost(sum(p.params for p in parts), sum(p.flops for p in parts))

    def flat(self) -> dict[str, int]:
        """Returns params, flops and macs in total and by part, as flat keys."""
        row = {"params": self.total.params, "flops": self.total.flops, "macs": self.total.macs}
        for name in ("backbone", "lateral", "neck", "head"):
            part: PartCost = getattr(self, name)
            row |= {f"params_{name}": part.params, f"flops_{name}": part.flops}
        return row


def count_cost(detector: Detector, imgsz: int) -> DetectorCost:
    """Returns the cost of one image of `imgsz` x `imgsz` pixels.

    The detector may lie on any device; it is copied to the meta device, where nothing is computed.
    """
    shadow = _on_meta(detector)
    with torch.no_grad():
        images = torch.zeros(1, 3, imgsz, imgsz, dtype=torch.uint8, device="meta")
        features, backbone_flops = _counted(lambda: shadow.backbone(images))
        laterals: Any = shadow.neck.laterals
        _, lateral_flops = _counted(
            lambda: [lateral(x) for lateral, x in zip(laterals, features, strict=True)]
        )
        fused, neck_flops = _counted(lambda: shadow.neck(features))
        _, head_flops = _counted(lambda: shadow.head(fused))
    lateral_params = _parameters(laterals)
    return DetectorCost(
        imgsz=imgsz,
        backbone=PartCost(_parameters(shadow.backbone), backbone_flops),
        lateral=PartCost(lateral_params, lateral_flops),
        neck=PartCost(_parameters(shadow.neck) - lateral_params, neck_flops - lateral_flops),
        head=PartCost(_parameters(shadow.head), head_flops),
    )


def _on_meta(detector: Detector) -> Detector:
    """Returns a copy in evaluation mode without any numbers in it."""
    # Copying to the meta device tensor by tensor never doubles the memory.
    memo = {id(t): t.to("meta") for t in (*detector.parameters(), *detector.buffers())}
    for parameter in detector.parameters():
        memo[id(parameter)] = nn.Parameter(memo[id(parameter)], requires_grad=False)
    return copy.deepcopy(detector, memo).eval()


def _counted(compute: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = compute()
    return result, counter.get_total_flops()


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
