"""Parameters, FLOPs and MACs of a detector, by part, counted on the meta device.

One multiply-add is one MAC and two FLOPs. Convolutions and matrix products count; norms,
activations, pooling and resizing do not (as in YOLOv5's own figures): `ossa.cost` lists them.
"""

import copy
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ossa.models.detector import Detector

NetworkT = TypeVar("NetworkT", bound=nn.Module)

PARTS = ("backbone", "lateral", "neck", "head")
"""Of which every detector consists: the laterals bring the backbone's channels to the neck's."""

_aten = torch.ops.aten
ALL_COUNTED: Set[Any] = frozenset(flop_registry)
"""The operations whose FLOPs are counted: convolutions, matrix products, attention."""
CONVOLUTIONS_AND_LINEAR: Set[Any] = frozenset(
    {_aten.convolution, _aten._convolution, _aten.mm, _aten.addmm}
)
"""What convolutions and linear layers become; the products of attention are batched."""


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
        parts: list[PartCost] = [getattr(self, name) for name in PARTS]
        return PartCost(sum(p.params for p in parts), sum(p.flops for p in parts))

    def flat(self) -> dict[str, int]:
        """Returns params, flops and macs in total and by part, as flat keys."""
        row = {"params": self.total.params, "flops": self.total.flops, "macs": self.total.macs}
        for name in PARTS:
            part: PartCost = getattr(self, name)
            row |= {f"params_{name}": part.params, f"flops_{name}": part.flops}
            row[f"macs_{name}"] = part.macs
        return row


def count_cost(detector: Detector, imgsz: int) -> DetectorCost:
    """Returns the cost of one image of `imgsz` x `imgsz` pixels.

    The detector may lie on any device; it is copied to the meta device, where nothing is computed.
    """
    shadow = on_meta(detector)
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


def count_network(network: nn.Module, images: Tensor, *, operations: Set[Any]) -> PartCost:
    """Returns the cost of any network for these images, counting only some `operations`.

    Args:
        network: on any device.
        images: what it takes, on the meta device.
        operations: of `ALL_COUNTED`.
    """
    shadow = on_meta(network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(images)
    by_operation = counter.get_flop_counts().get("Global", {})
    flops = sum(flops for operation, flops in by_operation.items() if operation in operations)
    return PartCost(_parameters(network), flops)


def on_meta(network: NetworkT) -> NetworkT:
    """Returns a copy in evaluation mode without any numbers in it: on the meta device."""
    # Copying to the meta device tensor by tensor never doubles the memory.
    memo = {id(t): t.to("meta") for t in (*network.parameters(), *network.buffers())}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(memo[id(parameter)], requires_grad=False)
    return copy.deepcopy(network, memo).eval()


def _counted(compute: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = compute()
    return result, counter.get_total_flops()


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
