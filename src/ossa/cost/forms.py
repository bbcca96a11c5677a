"""Whether the deployed form of a network computes what the training form computes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from ossa.models.deploy import deployed_network
from ossa.types import RawPredictions


@dataclass(frozen=True)
class FormDifference:
    """How far apart the outputs of the two forms are, in float32 on the CPU."""

    absolute: float
    """The largest difference between two numbers that should be equal."""
    relative: float
    """The same as a fraction of the largest of these numbers."""
    rounding: float
    """What rounding alone does, as such a fraction: the difference between the training form in
    two memory layouts, which add up in another order. Deep networks with random weights make
    much of little."""


def compare_forms(build: Callable[[], nn.Module], *, imgsz: int) -> FormDifference:
    """Returns the difference between the two forms of a network with random weights.

    A fresh norm has mean 0, deviation 1 and factor 1, with which a wrong folding may well be
    right. So factors and shifts are drawn, and the statistics are those of two random images.

    Args:
        build: returns the network, on the CPU, which takes uint8 images (B, 3, imgsz, imgsz).
        imgsz: side of the images in pixels.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build()
        images = torch.randint(0, 256, (2, 3, imgsz, imgsz), dtype=torch.uint8)
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
        network.train()(images)
        expected = _numbers(network.eval()(images))
        found = _numbers(deployed_network(network, images)(images))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        reordered = _numbers(network(images.to(memory_format=torch.channels_last)))
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    return FormDifference(
        absolute=difference,
        relative=difference / largest,
        rounding=(reordered - expected).abs().max().item() / largest,
    )


def _numbers(outputs: object) -> Tensor:
    """Returns all numbers that the network computed in one row."""
    computed = outputs.logits if isinstance(outputs, RawPredictions) else outputs
    tensors = [leaf for leaf in tree_leaves(computed) if isinstance(leaf, Tensor)]
    return torch.cat([tensor.flatten() for tensor in tensors])
