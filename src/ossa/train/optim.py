"""The optimizer and what belongs to it: parameter groups, the step, freezing and the EMA."""

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Generic, TypeVar

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.errors import ConfigError, suggestion
from ossa.models.backbones.timm import TimmBackbone
from ossa.train.distributed import SINGLE_PROCESS, DistributedContext
from ossa.train.schedule import Hyperparameters, full_accumulation

Network = TypeVar("Network", bound=nn.Module)
_ADAM_BETA2 = 0.999


class EMA(Generic[Network]):
    """An exponential moving average of a network's weights and buffers, which evaluation uses.

    It is counted in optimizer steps. The decay grows as decay x (1 - exp(-updates / ramp)), so that
    early averages follow quickly.

    Examples:
        >>> import ossa, torch
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> ema = ossa.EMA(network, decay=0.5, ramp=1e-9)
        >>> torch.nn.init.constant_(ema.network.weight, 0.0)[0, 0].item()
        0.0
        >>> with torch.no_grad():
        ...     _ = network.weight.fill_(1.0)
        >>> ema.update(network)
        >>> ema.network.weight.item()
        0.5
    """

    def __init__(
        self, network: Network, *, decay: float, ramp: float, frozen: Collection[str] = ()
    ) -> None:
        """`frozen`: keys of the state dict that never change and are not touched."""
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.frozen = frozen
        self.updates = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Moves the average towards the network; integer buffers are copied."""
        self.updates += 1
        decay = self.decay * (1.0 - math.exp(-self.updates / self.ramp))
        averages, values = [], []
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            if name in self.frozen:  # -0.0 averaged with itself would become 0.0
                continue
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, values, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]


def build_optimizer(
    detector: nn.Module,
    config: TrainConfig,
    *,
    lr_scales: Mapping[str, float] | None = None,
    undecayed: Collection[str] = (),
) -> Optimizer:
    """Returns the optimizer with groups 'weights' (decayed), 'norms' and 'biases' (not decayed).

    Every parameter of one dimension or none that is no bias counts as a norm's (so do layer
    scales). For sgd the decay is multiplied by batch x accumulate / nominal batch, as YOLOv5 does.

    Args:
        detector: parameters that take no gradient are left out.
        config: of the training.
        lr_scales: for parameters by name, the multiple of the learning rate at which they learn;
            1 for all others. Each multiple has three groups of its own.
        undecayed: names of more parameters that count as a norm's (`undecayed_parameters`).
    """
    lr_scales = lr_scales or {}
    decay = config.weight_decay
    if config.optimizer == "sgd":
        decay *= config.batch * full_accumulation(config) / config.nominal_batch
    groups = {
        (kind, lr_scale): {
            "name": kind,
            "params": [],
            "weight_decay": decay if kind == "weights" else 0.0,
            "lr_scale": lr_scale,
        }
        for lr_scale in sorted({1.0, *lr_scales.values()})
        for kind in ("weights", "norms", "biases")
    }
    for name, parameter in learning_parameters(detector):
        kind = "norms" if parameter.ndim <= 1 or name in undecayed else "weights"
        kind = "biases" if name.endswith("bias") else kind
        groups[kind, lr_scales.get(name, 1.0)]["params"].append(parameter)
    if config.optimizer == "adamw":
        betas = (config.momentum, _ADAM_BETA2)
        return AdamW(list(groups.values()), lr=config.lr, betas=betas, fused=True)
    return SGD(
        list(groups.values()),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=True,
    )


def learning_rate_scales(detector: nn.Module, config: RunConfig) -> dict[str, float]:
    """Returns, for parameters of the backbone by name, the multiple of the learning rate.

    `train.backbone_lr_scale`, times `train.layer_decay` once for each layer from the neck down to
    the parameter's own: the deepest layer of the backbone has one factor, the one before it two.
    The layers are timm's (`group_matcher`). What stands around timm's network (the pyramid of a
    plain transformer) has no pretrained weights, and learns like the neck.

    Raises:
        ConfigError: one of the two is set and has nothing to act on.
    """
    train = config.train
    if train.backbone_lr_scale == 1 and train.layer_decay == 1:
        return {}
    prefix, network = backbone_network(detector)
    learning = [name for name, _ in learning_parameters(network)]
    if not learning:
        raise ConfigError(
            "train.backbone_lr_scale and train.layer_decay act on the backbone, which is frozen: "
            "leave them or train.freeze out"
        )
    layers = (
        dict.fromkeys(learning, 0) if train.layer_decay == 1 else _layers(network, config.model)
    )
    top = max(layers.values()) + 1
    return {
        f"{prefix}.{name}": train.backbone_lr_scale * train.layer_decay ** (top - layers[name])
        for name in learning
    }


def undecayed_parameters(detector: nn.Module, model: ModelConfig) -> frozenset[str]:
    """Returns the parameters of the backbone, by name, that timm's model wants not to decay.

    These are embeddings of positions, class tokens and tables of relative positions, as its
    `no_weight_decay` names them, with `*` for any part of a name.
    """
    whole = _whole_model(model)
    if not hasattr(whole, "no_weight_decay"):
        return frozenset()
    patterns = whole.no_weight_decay()
    prefix, network = backbone_network(detector)
    names = _names_in_features(whole, network)
    return frozenset(
        f"{prefix}.{own}"
        for own, name in names.items()
        if any(fnmatch(name, pattern) for pattern in patterns)
    )


def learning_parameters(detector: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Returns the parameters that take a gradient, by name."""
    return [(name, p) for name, p in detector.named_parameters() if p.requires_grad]


def backbone_network(detector: nn.Module) -> tuple[str, nn.Module]:
    """Returns timm's network in the backbone, or else the whole backbone, and its name."""
    for name, module in detector.named_modules():
        if isinstance(module, TimmBackbone):
            return f"{name}.network", module.network
    return "backbone", detector.get_submodule("backbone")


def set_hyperparameters(optimizer: Optimizer, settings: Hyperparameters) -> None:
    """Sets learning rate and momentum (the first beta of AdamW) of every group."""
    for group in optimizer.param_groups:
        lr = settings.bias_lr if group["name"] == "biases" else settings.lr
        group["lr"] = lr * group["lr_scale"]
        if "betas" in group:
            group["betas"] = (settings.momentum, group["betas"][1])
        else:
            group["momentum"] = settings.momentum


def optimizer_step(
    detector: nn.Module,
    optimizer: Optimizer,
    ema: EMA[Any],
    config: TrainConfig,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Tensor:
    """Takes a step with the gradients of all ranks, and returns their norm before clipping.

    Where the norm is not finite the weights stay as they are. Nothing waits for the device, except
    with `on_nan: skip`.
    """
    parameters = dict(learning_parameters(detector))
    distributed.sum_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters.values(), config.clip_norm)
    # torch's fused optimizers read this flag on the device, and leave the step out.
    optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    if config.on_nan == "stop" or norm.isfinite():
        optimizer.step()
        ema.update(detector)
    optimizer.zero_grad(set_to_none=True)
    return norm


def _layers(network: nn.Module, model: ModelConfig) -> dict[str, int]:
    """Returns the layer of every parameter of timm's network, from 0 at the image.

    Raises:
        ConfigError: no model of timm, or one that does not say how its parameters are layered.
    """
    whole = _whole_model(model)
    found: Any = {}
    if hasattr(whole, "group_matcher"):
        found = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    names = {} if whole is None else _names_in_features(whole, network)
    layers = {own: found[name] for own, name in names.items() if name in found}
    if set(layers) != {name for name, _ in network.named_parameters()}:
        raise ConfigError(
            f"train.layer_decay: the parameters of {model.name} are not grouped in layers; leave "
            "it out, and use train.backbone_lr_scale for the backbone as a whole"
        )
    return layers


def _whole_model(model: ModelConfig) -> Any:
    """Returns timm's model, without memory for its weights; None where it is none of timm's.

    A network of feature maps does not know what the model says of its parameters: timm moves the
    modules of a model into it under other names.
    """
    if not timm.is_model(model.name):
        return None
    with torch.device("meta"):
        return timm.create_model(model.name, **(model.backbone_args or {}))


def _names_in_features(whole: nn.Module, network: nn.Module) -> dict[str, str]:
    """Returns the name in timm's whole model of each parameter of its network of feature maps.

    FeatureListNet makes one level of sequences flat, FeatureGetterNet and FeatureHookNet put the
    model into themselves.
    """
    own, names = dict(network.named_parameters()), {}
    for name, _ in whole.named_parameters():
        candidates = (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
        names |= {candidate: name for candidate in candidates if candidate in own}
    return names


@dataclass(frozen=True)
class FrozenPart:
    """What does not change while the rest of a detector learns."""

    modules: tuple[nn.Module, ...] = ()
    tensor_names: frozenset[str] = frozenset()
    """Keys of the detector's state dict: parameters and buffers (statistics of batch norms)."""


def freeze(detector: nn.Module, module_names: Sequence[str]) -> FrozenPart:
    """Takes the parameters of these modules out of the training, and returns what is now frozen.

    Args:
        detector: changed: the gradients of the modules' parameters stop.
        module_names: as `named_modules` has them, such as 'backbone'; each stands for all in it.

    Raises:
        ConfigError: there is no such module, it holds nothing, or nothing is left to train.
    """
    # A module without parameters and buffers is none that could be frozen.
    known = [name for name, module in detector.named_modules() if name and module.state_dict()]
    for name in module_names:
        if name not in known:
            children = [child for child, module in detector.named_children() if module.state_dict()]
            hint = suggestion(name, known) or f" There are {', '.join(children)}."
            raise ConfigError(f"train.freeze: there is no module named {name!r}.{hint}")
    modules = tuple(detector.get_submodule(name) for name in module_names)
    for module in modules:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in detector.parameters()):
        raise ConfigError(
            f"train.freeze: expected a part that is left to train, found {list(module_names)}, "
            "which is all"
        )
    inside = tuple(f"{name}." for name in module_names)
    return FrozenPart(
        modules, frozenset(key for key in detector.state_dict() if key.startswith(inside))
    )


def set_training(detector: nn.Module, frozen: FrozenPart) -> None:
    """Sets a detector to train, all but its frozen part.

    In evaluation mode a batch norm uses its statistics without moving them, and nothing is
    dropped at random.
    """
    detector.train()
    for module in frozen.modules:
        module.eval()


def frozen_notes(detector: nn.Module, config: RunConfig) -> list[str]:
    """Returns how many parameters are frozen, and how many of these have no loaded weights."""
    if not config.train.freeze:
        return []
    sizes = {name: value.numel() for name, value in detector.named_parameters()}
    learning = {name for name, _ in learning_parameters(detector)}
    frozen = {name: size for name, size in sizes.items() if name not in learning}
    notes = [f"frozen: {sum(frozen.values()):,} of {sum(sizes.values()):,} parameters"]
    model = config.model
    if model.weights is not None:
        return notes
    pretrained = model.pretrained or model.backbone_weights is not None
    network, _ = backbone_network(detector)
    random = [name for name in frozen if not (pretrained and name.startswith(network + "."))]
    if random:
        count = sum(frozen[name] for name in random)
        notes.append(f"{count:,} of them stay as they were drawn at random, such as {random[0]}")
    return notes
