"""Experiment trackers: a run's settings, metrics and pictures in Comet, TensorBoard or W&B.

    from ossa.train.trackers import CometTracker, tracked

    with tracked([CometTracker(project="bones")]) as callback:
        ossa.train_detector(data="bccd", model="resnet18", folder="runs/a", callback=callback)

A tracker is a class with the six methods of `Tracker`; nothing else needs to know of it.
"""

from collections.abc import Callable, Iterable, Mapping

from ossa.errors import ConfigError, suggestion
from ossa.train.trackers.callback import Tracker, TrackerCallback, tracked
from ossa.train.trackers.comet import CometTracker
from ossa.train.trackers.tensorboard import TensorBoardTracker
from ossa.train.trackers.wandb import WandbTracker

__all__ = [
    "CometTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackerCallback",
    "WandbTracker",
    "create_trackers",
    "tracked",
]

_FOR_PROJECT: Mapping[str, Callable[[str | None], Tracker]] = {
    CometTracker.name: lambda project: CometTracker(project=project),
    TensorBoardTracker.name: lambda _: TensorBoardTracker(),
    WandbTracker.name: lambda project: WandbTracker(project=project),
}


def create_trackers(names: Iterable[str], *, project: str | None = None) -> list[Tracker]:
    """Returns one tracker for each different name, in their order.

    Args:
        names: of comet, tensorboard and wandb.
        project: of the trackers that have projects; None for what their environment says.

    Raises:
        ConfigError: a name is misspelt, or the package of a tracker is not installed.
    """
    trackers = []
    for name in dict.fromkeys(names):
        if name not in _FOR_PROJECT:
            hint = suggestion(name, _FOR_PROJECT) or f" There are {', '.join(_FOR_PROJECT)}."
            raise ConfigError(f"no tracker named {name!r}.{hint}")
        trackers.append(_FOR_PROJECT[name](project))
    return trackers
