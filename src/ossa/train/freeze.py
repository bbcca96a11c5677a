"""Freezing: parts of a detector that a training leaves as they are, to the last bit."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ossa.config import RunConfig
from ossa.errors import ConfigError, suggestion
from ossa.models.detector import Detector
from ossa.train.events import Watcher
from ossa.train.optim import backbone_network


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
            hint = suggestion(name, known) or f" There are {', '.join(_children(detector))}."
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


def _children(detector: nn.Module) -> list[str]:
    return [name for name, module in detector.named_children() if module.state_dict()]


def tell_frozen(detector: Detector, config: RunConfig, *, watcher: Watcher) -> None:
    """Tells how much is frozen, and of that what no weights were loaded into."""
    if not config.train.freeze:
        return
    parameters = dict(detector.named_parameters())
    frozen = {name: value.numel() for name, value in parameters.items() if not value.requires_grad}
    total = sum(value.numel() for value in parameters.values())
    watcher.note(f"frozen: {sum(frozen.values()):,} of {total:,} parameters")
    if config.model.weights is not None:
        return
    pretrained = config.model.pretrained or config.model.backbone_weights is not None
    network, _ = backbone_network(detector)
    random = [name for name in frozen if not (pretrained and name.startswith(network + "."))]
    if random:
        watcher.note(
            f"{sum(frozen[name] for name in random):,} of them stay as they were drawn at random, "
            f"such as {random[0]}"
        )
