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
    """What rounding alone does, as such a fraction: the change of the deployed form's outputs when
    each of its numbers moves to a neighbour in float32. Deep networks with random weights, and
    norms of a small deviation folded into large weights, make much of little."""


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
        folded = deployed_network(network, images)
        found = _numbers(folded(images))
        _move_to_neighbours(folded)
        moved = _numbers(folded(images))
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    return FormDifference(
        absolute=difference,
        relative=difference / largest,
        rounding=(moved - found).abs().max().item() / largest,
    )


def _move_to_neighbours(network: nn.Module) -> None:
    """Replaces each parameter by the next number above or below it, drawn at random."""
    for parameter in network.parameters():
        upwards = torch.rand_like(parameter) < 0.5
        parameter.copy_(torch.nextafter(parameter, torch.where(upwards, torch.inf, -torch.inf)))


def _numbers(outputs: object) -> Tensor:
    """Returns all numbers that the network computed in one row."""
    computed = outputs.logits if isinstance(outputs, RawPredictions) else outputs
    tensors = [leaf for leaf in tree_leaves(computed) if isinstance(leaf, Tensor)]
    return torch.cat([tensor.flatten() for tensor in tensors])
