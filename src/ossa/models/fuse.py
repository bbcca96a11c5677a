"""The form in which a detector is used: the same function in fewer operations.

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

from ossa.models.complexity import on_meta
from ossa.models.detector import Detector

NetworkT = TypeVar("NetworkT", bound=nn.Module)

_TRACED_IMGSZ = 640
# These and no subclasses: what standardizes its weights, say, computes them anew in each forward.
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def deployed(detector: Detector) -> Detector:
    """Returns a copy in evaluation mode in which all is folded that can be.

    It maps images to the same `RawPredictions` up to rounding and cannot be trained any further.
    Works in float32 on any device; on the meta device it has the shapes and no numbers.
    """
    side = getattr(detector.backbone, "only_imgsz", None) or _TRACED_IMGSZ
    return deployed_network(detector, torch.empty(1, 3, side, side, dtype=torch.uint8))


def deployed_network(network: NetworkT, images: Tensor) -> NetworkT:
    """Returns of any network that takes images of this shape and type what `deployed` returns.

    Parallel branches are added up by timm's own methods. Then every batch norm that reads the
    output of a convolution, if nothing else reads it, goes into the convolution's weights. Who
    reads what is seen in a forward on the meta device, not guessed from names or order.
    """
    network = copy.deepcopy(network).eval()
    # timm puts the new convolutions on the default device.
    with torch.no_grad(), next(network.parameters()).device:
        reparameterize_model(network, inplace=True)
        for conv_name, norm_name in _foldable(on_meta(network), images.to("meta")):
            _fold(network, conv_name, norm_name)
    return network.eval().requires_grad_(False)


def _foldable(shadow: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Returns the names of convolutions, each with the norm that alone reads its output."""
    trace = _Trace()
    for name, module in shadow.named_modules():
        if _is_foldable_convolution(module):
            module.register_forward_hook(partial(trace.wrote, name))
        elif _is_foldable_norm(module):
            module.register_forward_pre_hook(partial(trace.will_read, name))
    with trace:
        outputs = shadow(images)
    trace.count_reads(outputs)
    return trace.pairs()


class _Trace(TorchDispatchMode):
    """Sees in one forward which operations read the outputs of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[int, tuple[Tensor, str]] = {}
        """By id, which stays unique since the tensor is kept: an output and its convolution."""
        self._norm_of: dict[int, str] = {}
        self._reads: Counter[int] = Counter()
        self._calls: Counter[str] = Counter()

    def wrote(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._written[id(output)] = output, name
        self._calls[name] += 1

    def will_read(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in self._written:
            self._norm_of[id(inputs[0])] = name
        self._calls[name] += 1

    def count_reads(self, values: Any) -> None:
        """Counts a read of every tensor anywhere in `values`."""
        self._reads.update(id(leaf) for leaf in tree_leaves(values) if id(leaf) in self._written)

    def pairs(self) -> list[tuple[str, str]]:
        """Returns convolution and norm wherever both work once and only for each other."""
        return [
            (conv, norm)
            for tensor_id, (_, conv) in self._written.items()
            if (norm := self._norm_of.get(tensor_id)) is not None
            and self._reads[tensor_id] == self._calls[conv] == self._calls[norm] == 1
        ]

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
    # A hook hands the norm's input or output to someone else, such as a feature extractor.
    hooked = module._forward_hooks or module._forward_pre_hooks
    return type(module) in _NORMS and not hooked and module.running_mean is not None


def _fold(network: nn.Module, conv_name: str, norm_name: str) -> None:
    """Moves the norm into the weights of the convolution; its activation, if any, stays."""
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
