"""What the executors of clusters share: how a run is started there, and when it is resumed."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from ossa.errors import ConfigError
from ossa.study.config import ExecutorConfig
from ossa.study.executors import Task
from ossa.study.executors.remote import Launch
from ossa.study.folder import RUNS_FOLDER, WORKER_LOG
from ossa.study.worker import STOPPED

LOST = -signal.SIGKILL
"""The exit code of a run of which nothing was heard again."""
BROKEN = os.EX_SOFTWARE
"""The exit code of a run whose process could not be started."""
_ENDED_FROM_OUTSIDE = (STOPPED, -signal.SIGTERM, LOST)
_WORKERS_ON_GPU = 4


def require_package(package: str, *, extra: str, find: Callable[[str], object] = find_spec) -> None:
    """Raises ConfigError, with the line that installs it, where a package is missing."""
    if find(package) is None:
        raise ConfigError(
            f"executor {extra} needs the package {package}, found none: pip install 'ossa[{extra}]'"
        )


def check_device(config: ExecutorConfig) -> None:
    """Raises ConfigError where a device is named, which on a cluster is the scheduler's choice."""
    if config.device not in (None, "cpu") or (config.device == "cpu" and config.gpus):
        raise ConfigError(
            f"executor.device: expected none with {config.kind}, found {config.device!r}: say with "
            f"executor.gpus how many GPUs a run asks for (here {config.gpus})"
        )


def launch_on_cluster(task: Task, config: ExecutorConfig) -> Launch:
    """Returns how a run is started on a machine of which it was given processors and GPUs."""
    workers = _WORKERS_ON_GPU if config.gpus else 0
    return Launch(
        task,
        log=task.study / RUNS_FOLDER / task.run / WORKER_LOG,
        # A cluster shows a run no GPUs but its own, and they are numbered from 0.
        device="cuda:0" if config.gpus else "cpu",
        workers=config.workers if config.workers is not None else workers,
        threads=config.threads or config.cpus,
        cache=config.cache,
    )


@dataclass(frozen=True)
class Attempt:
    """A run, and how often it was resumed after something had ended its process."""

    launch: Launch
    resumed: int = 0

    def after(self, exit_code: int, *, at_most: int) -> "Attempt | None":
        """Returns the next attempt, or None where the run has ended for good.

        Args:
            exit_code: of the process; below 0 the number of a signal.
            at_most: how often a run is resumed.
        """
        if exit_code not in _ENDED_FROM_OUTSIDE or self.resumed >= at_most:
            return None
        following = Attempt(self.launch, self.resumed + 1)
        self.launch.note(
            "ended from outside, as when a machine is lost: resumed, "
            f"{following.resumed} of at most {at_most} times"
        )
        return following
