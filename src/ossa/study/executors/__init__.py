"""Where the runs of a study are computed: on this machine, on a Ray cluster or by Slurm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the machines of a cluster need no more of this package than `Task`
    from ossa.study.config import ExecutorConfig

Ended = Callable[[str, int], None]
"""Is told the name of a run and the exit code of its process; below 0 the number of a signal."""


@dataclass(frozen=True)
class Task:
    """A run that is to be brought to its end, wherever it stands."""

    study: Path
    """Folder of the study, which every machine sees under this path."""
    run: str

    def command(self, python: str) -> list[str]:
        """Returns the command line of the run's process, without its device."""
        return [python, "-m", "ossa.study.worker", str(self.study), self.run]


class Executor(Protocol):
    """Brings runs to their end."""

    def execute(self, tasks: Sequence[Task], *, ended: Ended) -> None:
        """Returns when all runs have ended, well or badly.

        Args:
            tasks: in the order in which they should begin.
            ended: is told of every run as soon as its process has ended for good.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once every run has saved where it is.
        """
        ...


_MODULES: Mapping[str, tuple[str, str]] = {
    "local": ("ossa.study.executors.local", "LocalExecutor"),
    "ray": ("ossa.study.executors.ray", "RayExecutor"),
    "slurm": ("ossa.study.executors.slurm", "SlurmExecutor"),
}


def create_executor(config: "ExecutorConfig") -> Executor:
    """Returns the executor of that kind.

    Raises:
        ConfigError: its package or its machines are not there.
    """
    module, name = _MODULES[config.kind]
    return getattr(import_module(module), name)(config)
