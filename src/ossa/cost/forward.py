"""What one forward needs beside FLOPs: activations, memory, and operations that no FLOP counts.

Seen on the meta device, where every operation runs on shapes only.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
class Uncounted:
    """An operation that computes and has no FLOPs in the count."""

    operation: str
    """As PyTorch names it, in place or not."""
    calls: int
    elements: int
    """Numbers that all calls together put out."""


@dataclass(frozen=True)
class Forward:
    """One forward of one image in float32, by part; what lies in no part is under ''."""

    activations: Mapping[str, int]
    """Numbers that the counted operations put out (as in RegNet: Radosavovic et al., 2020)."""
    peak_bytes: Mapping[str, int]
    """The most bytes held by tensors while the part runs: all weights and buffers, the image, and
    every intermediate result from the operation that makes it to its last reader, as PyTorch runs
    the network without gradients, operation by operation. Work space inside an operation and what
    the allocator keeps are not in it; attention is written out in full, as without a fused kernel.
    """
    uncounted: tuple[Uncounted, ...]
    """Most elements first."""


def run_on_meta(
    network: nn.Module,
    images: Tensor,
    *,
    parts: Mapping[str, Iterable[nn.Module]],
    counted: Iterable[Any],
) -> Forward:
    """Returns what a forward needs.

    Args:
        network: on the meta device, in evaluation mode, this caller's alone: it receives hooks.
        images: what it takes, on the meta device.
        parts: modules whose operations belong to a part; the innermost counts.
        counted: the operations (aten packets) that have FLOPs.
    """
    meter = _Meter(counted)
    for name, modules in parts.items():
        for module in modules:
            module.register_forward_pre_hook(partial(meter.enter, name))
            module.register_forward_hook(meter.leave)
    for tensor in (*network.parameters(), *network.buffers(), images):
        meter.hold(tensor)
    with torch.no_grad(), meter:
        network(images)
    return Forward(
        activations=dict(meter.activations),
        peak_bytes=dict(meter.peak_bytes),
        uncounted=tuple(
            Uncounted(operation, meter.calls[operation], elements)
            for operation, elements in meter.elements.most_common()
        ),
    )


class _Meter(TorchDispatchMode):
    """Watches every operation of a forward and the life of every tensor in it."""

    def __init__(self, counted: Iterable[Any]) -> None:
        super().__init__()
        self.activations: Counter[str] = Counter()
        self.peak_bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()
        self._counted = frozenset(counted)
        self._parts = [""]
        self._live_bytes = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def enter(self, part: str, module: nn.Module, inputs: Any) -> None:
        self._parts.append(part)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._parts.pop()

    def hold(self, tensor: Tensor) -> None:
        """Counts the tensor's memory, once for all its views, until the last of them is gone."""
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
        outputs = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        part = self._parts[-1]
        for tensor in tensors:
            self.hold(tensor)
        self.peak_bytes[part] = max(self.peak_bytes[part], self._live_bytes)
        name = func.overloadpacket.__name__.removesuffix("_")
        # The first output is the result; others are indices or statistics.
        if func.overloadpacket in self._counted:
            self.activations[part] += tensors[0].numel()
        elif tensors and not func.is_view and name not in _WITHOUT_ARITHMETIC:
            self.calls[name] += 1
            self.elements[name] += tensors[0].numel()
        return outputs
