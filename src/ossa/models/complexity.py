"""The cost of a network, measured in one forward on the meta device, where nothing is computed.

One multiply-add is one MAC and two FLOPs. Convolutions and matrix products have FLOPs; norms,
activations, pooling and resizing do not (as in YOLOv5's own figures) and are listed as uncounted.
"""

import copy
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ossa.models.detector import Detector

NetworkT = TypeVar("NetworkT", bound=nn.Module)

PARTS = ("backbone", "lateral", "neck", "head")
"""Of every detector: the laterals bring the backbone's channels to the neck's."""
FIGURES = ("params", "flops", "macs", "activations", "peak_bytes")

_aten = torch.ops.aten
ALL_COUNTED: Set[Any] = frozenset(flop_registry)
"""The operations that have FLOPs: convolutions, matrix products, attention."""
CONVOLUTIONS_AND_LINEAR: Set[Any] = frozenset(
    {_aten.convolution, _aten._convolution, _aten.mm, _aten.addmm}
)
"""What convolutions and linear layers become; the matrix products of attention are batched."""
_WITHOUT_ARITHMETIC = frozenset(
    {
        *("arange", "empty", "empty_like", "empty_strided", "fill", "full", "full_like"),
        *("new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like"),
        *("scalar_tensor", "zero", "zeros", "zeros_like", "lift_fresh"),
        *("_to_copy", "_unsafe_view", "cat", "clone", "copy", "detach", "flip", "stack"),
        *("gather", "index", "index_select", "repeat", "roll"),
        *("constant_pad_nd", "reflection_pad2d", "replication_pad2d"),
        *("im2col", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
    }
)
"""Operations that only make, move or pad numbers, beside those that only view them."""


@dataclass(frozen=True)
class Cost:
    """The cost of a network or a part of it for one image, in float32."""

    params: int
    flops: int
    activations: int
    """Numbers that the counted operations put out (as in RegNet: Radosavovic et al., 2020)."""
    peak_bytes: int
    """The most bytes held by tensors while the part runs: all weights and buffers, the image, and
    every intermediate result from the operation that makes it to its last reader, as PyTorch runs
    the network without gradients, operation by operation. Work space inside an operation and what
    the allocator keeps are not in it; attention is written out in full, as without a fused kernel.
    """

    @property
    def macs(self) -> int:
        return self.flops // 2


@dataclass(frozen=True)
class UncountedOperation:
    """An operation that computes and has no FLOPs in the count."""

    operation: str
    """As PyTorch names it, in place or not."""
    calls: int
    elements: int
    """Numbers that all calls together put out."""


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network, in total and by part."""

    total: Cost
    parts: Mapping[str, Cost]
    """Those of a detector are `PARTS`; parameters, FLOPs and activations add up to the total, whose
    peak is that of the part in which most is held."""
    uncounted: tuple[UncountedOperation, ...]
    """Most elements first."""

    def flat(self, figures: Iterable[str] = FIGURES) -> dict[str, int]:
        """Return figures in total and by part, with flat keys such as 'flops_neck'."""
        costs = [("", self.total), *((f"_{name}", part) for name, part in self.parts.items())]
        figures = tuple(figures)
        return {f"{key}{end}": getattr(cost, key) for end, cost in costs for key in figures}


def count_cost(detector: Detector, imgsz: int) -> NetworkCost:
    """Return the cost of a detector for one image of `imgsz` x `imgsz` pixels.

    The detector may lie on any device; it is copied to the meta device. Branches of a head that
    only training needs are left out.
    """
    shadow = on_meta(detector)
    shadow.head.switch_to_deploy()
    laterals: Any = getattr(shadow.neck, "laterals", ())  # a neck may have none
    parts = {
        "backbone": [shadow.backbone],
        "lateral": list(laterals),
        "neck": [shadow.neck],
        "head": [shadow.head],
    }
    return measure_on_meta(shadow, meta_image(imgsz), parts=parts)


def measure_on_meta(
    network: nn.Module,
    images: Tensor,
    *,
    parts: Mapping[str, Iterable[nn.Module]] | None = None,
    counted: Set[Any] = ALL_COUNTED,
) -> NetworkCost:
    """Return the cost of any network.

    Args:
        network: on the meta device, in evaluation mode, this caller's alone: it receives hooks.
        images: its input, on the meta device.
        parts: modules whose operations and parameters belong to a part; the innermost counts.
        counted: the operations (aten packets) that have FLOPs.
    """
    meter = _Meter(counted)
    parts = {name: list(modules) for name, modules in (parts or {}).items()}
    for name, modules in parts.items():
        for module in modules:
            module.register_forward_pre_hook(partial(meter.enter, name))
            module.register_forward_hook(meter.leave)
    for tensor in (*network.parameters(), *network.buffers(), images):
        meter.hold(tensor)
    with torch.no_grad(), meter:
        network(images)
    owners: dict[nn.Parameter, str] = {}
    for name, modules in (*parts.items(), ("", [network])):
        for module in modules:
            # A parameter of nested parts belongs to the one that was named first.
            owners = {**dict.fromkeys(module.parameters(), name), **owners}
    params: Counter[str] = Counter()
    for parameter, name in owners.items():
        params[name] += parameter.numel()
    costs = {
        name: Cost(params[name], meter.flops[name], meter.activations[name], meter.peak_bytes[name])
        for name in (*parts, "")
    }
    rest = costs.pop("")
    everything = (*costs.values(), rest)
    return NetworkCost(
        total=Cost(
            params=sum(params.values()),
            flops=sum(cost.flops for cost in everything),
            activations=sum(cost.activations for cost in everything),
            peak_bytes=max(cost.peak_bytes for cost in everything),
        ),
        parts=costs,
        uncounted=tuple(
            UncountedOperation(operation, meter.calls[operation], elements)
            for operation, elements in meter.elements.most_common()
        ),
    )


def meta_image(imgsz: int) -> Tensor:
    """Return a uint8 image (1, 3, imgsz, imgsz) on the meta device."""
    return torch.empty(1, 3, imgsz, imgsz, dtype=torch.uint8, device="meta")


def on_meta(network: NetworkT) -> NetworkT:
    """Return a copy in evaluation mode without any numbers in it: on the meta device."""
    # Copying to the meta device tensor by tensor never doubles the memory.
    memo = {id(t): t.to("meta") for t in (*network.parameters(), *network.buffers())}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(memo[id(parameter)], requires_grad=False)
    return copy.deepcopy(network, memo).eval()


class _Meter(TorchDispatchMode):
    """Sees every operation of a forward and the life of every tensor in it."""

    def __init__(self, counted: Set[Any]) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.activations: Counter[str] = Counter()
        self.peak_bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()
        self._counted = counted
        self._parts = [""]
        self._live_bytes = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def enter(self, part: str, module: nn.Module, inputs: Any) -> None:
        self._parts.append(part)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._parts.pop()

    def hold(self, tensor: Tensor) -> None:
        """Count the tensor's memory, once for all its views, until the last of them is gone."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def forget(_: Any) -> None:
            del self._alive[key]
            self._live_bytes -= size

        self._alive[key] = weakref.ref(storage, forget)
        self._live_bytes += size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        part = self._parts[-1]
        for tensor in tensors:
            self.hold(tensor)
        self.peak_bytes[part] = max(self.peak_bytes[part], self._live_bytes)
        packet = func.overloadpacket
        name = packet.__name__.removesuffix("_")
        # The first output is the result; others are indices or statistics.
        if packet in self._counted:
            self.flops[part] += flop_registry[packet](*args, **kwargs, out_val=outputs)
            self.activations[part] += tensors[0].numel()
        elif tensors and not func.is_view and name not in _WITHOUT_ARITHMETIC:
            self.calls[name] += 1
            self.elements[name] += tensors[0].numel()
        return outputs
