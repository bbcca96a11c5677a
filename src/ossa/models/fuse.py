"""Fuse a network for inference: the same function in fewer operations.

Training needs branches and norms that evaluation does not: parallel convolutions add up to one
(RepVGG, MobileOne, RepViT, FastViT), and a batch norm behind a convolution scales its weights.
"""

import copy
from collections import Counter
from functools import partial
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d, Conv2dSame  # pyright: ignore[reportPrivateImportUsage]
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ossa.models.complexity import meta_image, on_meta
from ossa.models.detector import Detector

NetworkT = TypeVar("NetworkT", bound=nn.Module)

_TRACED_IMGSZ = 640
# These and no subclasses: one that standardizes its weights, say, computes them in each forward.
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fuse_detector(detector: Detector) -> Detector:
    """Return a copy in evaluation mode in which all branches and norms are fused that can be.

    It maps images to the same `RawPredictions` up to rounding and cannot be trained any further.
    Works in float32 on any device; on the meta device it has the shapes and no numbers.
    """
    side = getattr(detector.backbone, "only_imgsz", None) or _TRACED_IMGSZ
    return fuse_network(detector, meta_image(side))


def fuse_network(network: NetworkT, images: Tensor) -> NetworkT:
    """Return the fused copy of any network that takes images of this shape and type.

    Parallel branches are added up by timm's own methods. Then every batch norm that reads the
    output of a convolution, if nothing else reads it, goes into the convolution's weights. What
    reads an output is seen in a forward on the meta device, not guessed from names or order.
    """
    network = copy.deepcopy(network).eval()
    # timm puts the new convolutions on the default device.
    with torch.no_grad(), next(network.parameters()).device:
        reparameterize_model(network, inplace=True)
        for conv_name, norm_name in _foldable(on_meta(network), images.to("meta")):
            _fold(network, conv_name, norm_name)
    return network.eval().requires_grad_(False)


def _foldable(shadow: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions, each with the norm that alone reads its output."""
    trace = _Trace()
    for name, module in shadow.named_modules():
        if _is_foldable_convolution(module):
            module.register_forward_hook(partial(trace.wrote, name))
        elif _is_foldable_norm(module):
            module.register_forward_pre_hook(partial(trace.will_read, name))
    with trace:
        outputs = shadow(images)
    trace.count_reads(outputs)
    # Both are called once, and the output is read once.
    return [
        (conv, norm)
        for tensor_id, (_, conv) in trace.written.items()
        if (norm := trace.norm_of.get(tensor_id)) is not None
        and trace.reads[tensor_id] == trace.calls[conv] == trace.calls[norm] == 1
    ]


class _Trace(TorchDispatchMode):
    """Sees in one forward which operations read the outputs of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[int, tuple[Tensor, str]] = {}
        """By id, which stays unique since the tensor is kept: an output and its convolution."""
        self.norm_of: dict[int, str] = {}
        self.reads: Counter[int] = Counter()
        self.calls: Counter[str] = Counter()

    def wrote(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.written[id(output)] = output, name
        self.calls[name] += 1

    def will_read(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in self.written:
            self.norm_of[id(inputs[0])] = name
        self.calls[name] += 1

    def count_reads(self, values: Any) -> None:
        """Count a read of every tensor anywhere in `values`."""
        self.reads.update(id(leaf) for leaf in tree_leaves(values) if id(leaf) in self.written)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count_reads((args, kwargs))
        return func(*args, **(kwargs or {}))


def _is_foldable_convolution(module: nn.Module) -> bool:
    if isinstance(module, nn.ConvTranspose2d) and module.groups != 1:
        return False  # whose weights are laid out in another way
    # A hook before the forward may set the weights.
    return type(module) in _CONVOLUTIONS and not module._forward_pre_hooks


def _is_foldable_norm(module: nn.Module) -> bool:
    # A hook hands the norm's input or output to something else, such as a feature extractor.
    hooked = module._forward_hooks or module._forward_pre_hooks
    return type(module) in _NORMS and not hooked and module.running_mean is not None


def _fold(network: nn.Module, conv_name: str, norm_name: str) -> None:
    """Move the norm into the weights of the convolution; its activation, if any, stays."""
    conv: Any = network.get_submodule(conv_name)
    norm: Any = network.get_submodule(norm_name)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=isinstance(conv, nn.ConvTranspose2d),
    )
    is_norm_only = type(norm) is nn.BatchNorm2d
    rest = nn.Identity() if is_norm_only else nn.Sequential(norm.drop, norm.act)
    network.set_submodule(norm_name, rest)
