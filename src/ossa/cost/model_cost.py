"""Whether the deployed form of a network computes what the training form computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from ossa.cost.forward import Forward, Uncounted, run_on_meta
from ossa.errors import ConfigError, UnsupportedBackbone, suggestion
from ossa.models.backbones.timm import known_architectures
from ossa.models.blocks import InputNormalization
from ossa.models.complexity import (
    ALL_COUNTED,
    CONVOLUTIONS_AND_LINEAR,
    PARTS,
    PartCost,
    count_cost,
    count_network,
    on_meta,
)
from ossa.models.detector import Detector, create_detector
from ossa.models.fuse import deployed_network
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


_COMPARED_IMGSZ = 128
_MOST_COMPARED_PARAMS = 1_000_000_000


@dataclass(frozen=True)
class Figures:
    """What a network or a part of it costs for one image, in float32."""

    params: int
    flops: int
    activations: int
    peak_bytes: int

    @property
    def macs(self) -> int:
        return self.flops // 2

    def flat(self) -> dict[str, int]:
        names = ("params", "flops", "macs", "activations", "peak_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class FormCost:
    """What one form of a model costs."""

    total: Figures
    parts: Mapping[str, Figures]
    """Of a detector by `PARTS`, whose params, flops and activations add up to the total; the peak
    is that of the part in which most is held. Empty for a classifier."""
    uncounted: tuple[Uncounted, ...]

    def flat(self) -> dict[str, int]:
        """Returns every figure in total and by part, as flat keys such as 'flops_neck'."""
        row = self.total.flat()
        for name, part in self.parts.items():
            row |= {f"{figure}_{name}": value for figure, value in part.flat().items()}
        return row


@dataclass(frozen=True)
class ModelCost:
    """What a model costs in both forms."""

    model: str
    imgsz: int
    """Side of the square input in pixels."""
    training: FormCost
    deployed: FormCost
    difference: FormDifference | None
    """Between the outputs of the two forms; None if they were not computed."""

    def row(self) -> dict[str, Any]:
        """Returns flat keys; those of the deployed form end in '_deployed'."""
        difference = self.difference
        return {
            "model": self.model,
            "imgsz": self.imgsz,
            **self.training.flat(),
            **{f"{key}_deployed": value for key, value in self.deployed.flat().items()},
            "difference": None if difference is None else difference.absolute,
            "difference_relative": None if difference is None else difference.relative,
            "difference_by_rounding": None if difference is None else difference.rounding,
            "uncounted": _as_rows(self.training.uncounted),
            "uncounted_deployed": _as_rows(self.deployed.uncounted),
        }


def cost_detector(
    name: str, *, num_classes: int, neck: str = "s", imgsz: int = 640, compare: bool = True
) -> ModelCost:
    """Returns the cost of a detector.

    Args:
        name: a preset, or a backbone's name.
        num_classes: K.
        neck: scale of the neck behind a backbone.
        imgsz: side of the square input in pixels, a multiple of the largest stride.
        compare: also build it with random weights and compute both forms, on images of 128 x 128
            pixels where the model takes them; not done beyond 1e9 parameters.

    Raises:
        ConfigError, UnsupportedBackbone: as `create_detector`.
    """

    def build(side: int) -> Detector:
        return create_detector(name, num_classes=num_classes, neck=neck, imgsz=side)

    return _cost_of(name, build, cost_of_form, imgsz=imgsz, compare=compare)


def cost_classifier(
    name: str, *, num_classes: int, imgsz: int = 224, compare: bool = True
) -> ModelCost:
    """Returns the cost of timm's `name` as a classifier.

    Only convolutions and linear layers count, as in the tables of the papers on convolutional
    networks; the matrix products of attention are among the uncounted.

    Args:
        name: any timm architecture.
        num_classes: outputs.
        imgsz: side of the square input in pixels.
        compare: as in `cost_detector`.

    Raises:
        ConfigError: timm knows no such model.
        UnsupportedBackbone: it cannot take images of this size.
    """
    build = partial(create_classifier, name, num_classes)
    return _cost_of(name, build, _cost_classifier_form, imgsz=imgsz, compare=compare)


def create_classifier(name: str, num_classes: int, imgsz: int) -> nn.Module:
    """Returns timm's model behind the conversion of uint8 (B, 3, imgsz, imgsz) to 0..1.

    Raises:
        ConfigError, UnsupportedBackbone: as `cost_classifier`.
    """
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        hint = suggestion(architecture, known_architectures())
        raise ConfigError(f"timm has no classifier named {architecture!r}.{hint}")
    # Transformers are built for one size of image.
    attempts: tuple[dict[str, Any], ...] = ({}, {"img_size": imgsz})
    reason = ""
    for arguments in attempts:
        try:
            with torch.device("meta"), torch.no_grad():
                shadow = timm.create_model(name, num_classes=num_classes, **arguments).eval()
                shadow(torch.zeros(1, 3, imgsz, imgsz))
        except Exception as problem:  # a thousand models fail in as many ways
            reason = reason or str(problem).partition("\n")[0] or type(problem).__name__
            continue
        network = timm.create_model(name, num_classes=num_classes, **arguments)
        return nn.Sequential(InputNormalization((0.0,) * 3, (1.0,) * 3), network)
    raise UnsupportedBackbone(f"{name} cannot classify {imgsz} x {imgsz} pixels: {reason}")


def _cost_of(
    name: str,
    build: Callable[[int], nn.Module],
    cost_form: Callable[[Any, int], FormCost],
    *,
    imgsz: int,
    compare: bool,
) -> ModelCost:
    """Returns the cost of what `build` makes for images of a given side."""
    with torch.device("meta"):
        network = build(imgsz).eval()
    training = cost_form(network, imgsz)
    comparable = compare and training.total.params <= _MOST_COMPARED_PARAMS
    return ModelCost(
        model=name,
        imgsz=imgsz,
        training=training,
        deployed=cost_form(deployed_network(network, _images(imgsz)), imgsz),
        difference=_difference(build, imgsz) if comparable else None,
    )


def _difference(build: Callable[[int], nn.Module], imgsz: int) -> FormDifference:
    """Returns the difference at a size that takes little time, or else at `imgsz`."""
    try:
        return compare_forms(partial(build, _COMPARED_IMGSZ), imgsz=_COMPARED_IMGSZ)
    except UnsupportedBackbone:
        return compare_forms(partial(build, imgsz), imgsz=imgsz)


def cost_of_form(detector: Detector, imgsz: int) -> FormCost:
    """Returns the cost of a detector as it is built, for an image of `imgsz` x `imgsz` pixels."""
    counted = count_cost(detector, imgsz)
    shadow = on_meta(detector)
    laterals: Any = shadow.neck.laterals
    modules = {
        "backbone": [shadow.backbone],
        "lateral": laterals,
        "neck": [shadow.neck],
        "head": [shadow.head],
    }
    forward = run_on_meta(shadow, _images(imgsz), parts=modules, counted=ALL_COUNTED)
    return FormCost(
        total=_figures(counted.total, forward, PARTS),
        parts={part: _figures(getattr(counted, part), forward, (part,)) for part in PARTS},
        uncounted=forward.uncounted,
    )


def _cost_classifier_form(network: nn.Module, imgsz: int) -> FormCost:
    counted = count_network(network, _images(imgsz), operations=CONVOLUTIONS_AND_LINEAR)
    forward = run_on_meta(
        on_meta(network), _images(imgsz), parts={}, counted=CONVOLUTIONS_AND_LINEAR
    )
    return FormCost(_figures(counted, forward, ("",)), {}, forward.uncounted)


def _figures(counted: PartCost, forward: Forward, parts: tuple[str, ...]) -> Figures:
    return Figures(
        params=counted.params,
        flops=counted.flops,
        activations=sum(forward.activations.get(part, 0) for part in parts),
        # A part without operations, a lateral that is not needed, holds nothing of its own.
        peak_bytes=max(forward.peak_bytes.get(part, 0) for part in parts),
    )


def _images(imgsz: int) -> Tensor:
    return torch.empty(1, 3, imgsz, imgsz, dtype=torch.uint8, device="meta")


def _as_rows(uncounted: tuple[Uncounted, ...]) -> list[dict[str, Any]]:
    return [{"operation": u.operation, "calls": u.calls, "elements": u.elements} for u in uncounted]
