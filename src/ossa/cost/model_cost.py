"""The cost of a model as it is trained and as it is deployed, and whether both compute the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from ossa.errors import ConfigError, UnsupportedBackbone, suggestion
from ossa.models.backbones.timm import first_line, known_architectures
from ossa.models.blocks import InputNormalization
from ossa.models.complexity import (
    CONVOLUTIONS_AND_LINEAR,
    NetworkCost,
    count_cost,
    measure_on_meta,
    meta_image,
    on_meta,
)
from ossa.models.detector import create_detector
from ossa.models.fuse import fuse_network

_COMPARED_IMGSZ = 128
_MAX_COMPARED_PARAMS = 1_000_000_000


@dataclass(frozen=True)
class FusionError:
    """How far the outputs of the fused network are from those of the network as it was trained.

    Computed in float32 on the CPU, with random weights.
    """

    absolute: float
    """The largest difference between two numbers that should be equal."""
    relative: float
    """The same as a fraction of the largest of these numbers."""
    rounding: float
    """What rounding alone does, as such a fraction: the change of the fused network's outputs when
    each of its parameters moves to a neighbour in float32. Deep networks with random weights, and
    norms of a small deviation folded into large weights, amplify it."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model as it is trained and with branches and norms fused, as it is deployed."""

    model: str
    imgsz: int
    """Side of the square input in pixels."""
    training: NetworkCost
    fused: NetworkCost
    difference: FusionError | None
    """None if the outputs were not computed."""

    def row(self) -> dict[str, Any]:
        """Return flat keys; those of the fused network end in '_deployed'."""
        difference = self.difference
        return {
            "model": self.model,
            "imgsz": self.imgsz,
            **self.training.flat(),
            **{f"{key}_deployed": value for key, value in self.fused.flat().items()},
            "difference": None if difference is None else difference.absolute,
            "difference_relative": None if difference is None else difference.relative,
            "difference_by_rounding": None if difference is None else difference.rounding,
            "uncounted": [vars(operation) for operation in self.training.uncounted],
            "uncounted_deployed": [vars(operation) for operation in self.fused.uncounted],
        }


def cost_detector(
    name: str,
    *,
    num_classes: int,
    neck: str = "s",
    neck_type: str = "pafpn",
    head: str = "anchor",
    imgsz: int = 640,
    equal_conditions: bool = False,
    compare: bool = True,
) -> ModelCost:
    """Return the cost of a detector; arguments and errors are those of `create_detector`.

    With `compare`, the outputs of both forms are computed, with random weights, on images of
    128 x 128 pixels where the model takes them; not beyond 1e9 parameters.
    """

    def build(side: int) -> nn.Module:
        return create_detector(
            name,
            num_classes=num_classes,
            neck=neck,
            neck_type=neck_type,
            head=head,
            imgsz=side,
            equal_conditions=equal_conditions,
        )

    return _cost_model(name, build, count_cost, imgsz=imgsz, compare=compare)


def cost_classifier(
    name: str, *, num_classes: int, imgsz: int = 224, compare: bool = True
) -> ModelCost:
    """Return the cost of timm's `name` as a classifier.

    Only convolutions and linear layers count, as in the tables of the papers on convolutional
    networks; the matrix products of attention are among the uncounted operations. `compare`: as in
    `cost_detector`.

    Raises:
        ConfigError: timm has no such model.
        UnsupportedBackbone: it cannot take images of this size.
    """

    def count(network: nn.Module, side: int) -> NetworkCost:
        shadow, image = on_meta(network), meta_image(side)
        return measure_on_meta(shadow, image, counted=CONVOLUTIONS_AND_LINEAR)

    build = partial(_create_classifier, name, num_classes)
    return _cost_model(name, build, count, imgsz=imgsz, compare=compare)


def compare_fused(build: Callable[[], nn.Module], *, imgsz: int) -> FusionError:
    """Return the difference between a network with random weights and its fused form.

    A fresh norm has mean 0, deviation 1 and factor 1, with which a wrong fusion may well be right.
    So factors and shifts are drawn, and the statistics are those of two random images.

    `build` returns the network, on the CPU, which takes uint8 images (B, 3, imgsz, imgsz).
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build()
        images = torch.randint(0, 256, (2, 3, imgsz, imgsz), dtype=torch.uint8)
        for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
            norm.momentum = 1.0
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
        network.train()(images)
        expected = _flat_outputs(network.eval()(images))
        fused = fuse_network(network, images)
        found = _flat_outputs(fused(images))
        for parameter in fused.parameters():
            upwards = torch.rand_like(parameter) < 0.5
            parameter.copy_(torch.nextafter(parameter, torch.where(upwards, torch.inf, -torch.inf)))
        moved = _flat_outputs(fused(images))
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    return FusionError(
        absolute=difference,
        relative=difference / largest,
        rounding=(moved - found).abs().max().item() / largest,
    )


def _flat_outputs(outputs: Any) -> Tensor:
    """Return all numbers that the network computed in one row."""
    computed = getattr(outputs, "logits", outputs)
    return torch.cat([tensor.flatten() for tensor in tree_leaves(computed)])


def _create_classifier(name: str, num_classes: int, imgsz: int) -> nn.Module:
    """Return timm's model behind the conversion of uint8 (B, 3, imgsz, imgsz) to 0..1."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        hint = suggestion(architecture, known_architectures())
        raise ConfigError(f"timm has no classifier named {architecture!r}.{hint}")
    reasons = []
    # Transformers are built for one size of image.
    attempts: tuple[dict[str, Any], ...] = ({}, {"img_size": imgsz})
    for arguments in attempts:
        try:
            with torch.device("meta"), torch.no_grad():
                shadow = timm.create_model(name, num_classes=num_classes, **arguments).eval()
                shadow(torch.zeros(1, 3, imgsz, imgsz))
        except Exception as problem:  # a thousand models fail in as many ways
            reasons.append(first_line(problem))
            continue
        network = timm.create_model(name, num_classes=num_classes, **arguments)
        return nn.Sequential(InputNormalization((0.0,) * 3, (1.0,) * 3), network)
    raise UnsupportedBackbone(f"{name} cannot classify {imgsz} x {imgsz} pixels: {reasons[0]}")


def _cost_model(
    name: str,
    build: Callable[[int], nn.Module],
    count: Callable[[Any, int], NetworkCost],
    *,
    imgsz: int,
    compare: bool,
) -> ModelCost:
    """Return the cost of the model that `build` makes for images of a given side."""
    with torch.device("meta"):
        network = build(imgsz).eval()
    training = count(network, imgsz)
    difference = None
    if compare and training.total.params <= _MAX_COMPARED_PARAMS:
        try:
            difference = compare_fused(partial(build, _COMPARED_IMGSZ), imgsz=_COMPARED_IMGSZ)
        except UnsupportedBackbone:
            difference = compare_fused(partial(build, imgsz), imgsz=imgsz)
    fused = count(fuse_network(network, meta_image(imgsz)), imgsz)
    return ModelCost(name, imgsz, training, fused, difference)
