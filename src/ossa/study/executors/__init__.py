"""Where the runs of a study are computed: on this machine, on a Ray cluster or by Slurm.

Nothing here, in `ray` or in `slurm` imports torch: only the process of a run does, so that what
waits for it on the machines of a cluster stays small.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ossa.errors import ConfigError
from ossa.files import open_to_append

if TYPE_CHECKING:
    from ossa.study.config import ExecutorConfig

RUNS_FOLDER, WORKER_LOG = "runs", "worker.log"
DONE, FAILED, STOPPED = 0, 1, 3
"""Exit codes of a run's process; STOPPED has saved everything."""
LOST = -signal.SIGKILL
"""Exit code of a run whose machine was never heard of again."""
BROKEN = os.EX_SOFTWARE
"""Exit code of a run whose process could not be started."""
_ENDED_FROM_OUTSIDE = (STOPPED, -signal.SIGTERM, LOST)
_WORKERS_ON_GPU = 4

OnEnd = Callable[[str, int], None]
"""Called with the name of a run and the exit code of its process; below 0 it is a signal."""


@dataclass(frozen=True)
class Job:
    """The process of one run, which trains on from wherever the run stands."""

    study: Path
    """Folder of the study, which every machine sees under this path."""
    run: str
    device: str = "cpu"
    workers: int = 0
    """Processes that load images."""
    threads: int = 1
    cache: str = "auto"
    """Where decoded images are kept."""
    resumes: int = 0
    """How often the run was resumed after its process was ended from outside."""

    @property
    def log(self) -> Path:
        """The file that collects the output of the process."""
        return self.study / RUNS_FOLDER / self.run / WORKER_LOG

    def arguments(self, *, parent: int) -> list[str]:
        """Returns the arguments of `ossa.study.worker`, which stops when `parent` is gone."""
        options = {"device": self.device, "workers": self.workers, "cache": self.cache}
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        return [str(self.study), self.run, *flags, "--parent", str(parent)]

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts the process, which stops when this process is gone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        with open_to_append(self.log) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "ossa.study.worker", *self.arguments(parent=os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **threads},
                # Ctrl-C at the terminal is for the study, which stops its runs one by one.
                start_new_session=True,
            )

    def write_log(self, sentence: str) -> None:
        """Appends a line to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(self.log) as log:
            log.write(f"{sentence}\n".encode())

    def next_job(self, exit_code: int, *, max_resumes: int) -> "Job | None":
        """Returns the job that resumes the run, or None if the run has ended for good."""
        if exit_code not in _ENDED_FROM_OUTSIDE or self.resumes >= max_resumes:
            return None
        self.write_log(
            "ended from outside, as when a machine is lost: resumed, "
            f"{self.resumes + 1} of at most {max_resumes} times"
        )
        return replace(self, resumes=self.resumes + 1)


class Executor(Protocol):
    """Brings runs to their end."""

    def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
        """Returns when all runs have ended, well or badly.

        Args:
            jobs: in the order in which they should begin; the executor chooses the device.
            on_end: called for every run as soon as its process has ended for good.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once every run has saved its state.
        """
        ...


_EXECUTORS: Mapping[str, tuple[str, str]] = {
    "local": ("ossa.study.executors.local", "LocalExecutor"),
    "ray": ("ossa.study.executors.ray", "RayExecutor"),
    "slurm": ("ossa.study.executors.slurm", "SlurmExecutor"),
}


def create_executor(config: "ExecutorConfig") -> Executor:
    """Returns the executor of the configured kind.

    Raises:
        ConfigError: its package or its machines are missing.
    """
    module, name = _EXECUTORS[config.kind]
    return getattr(import_module(module), name)(config)


def require_package(package: str, *, extra: str, find: Callable[[str], object] = find_spec) -> None:
    """Raises ConfigError, with the line that installs it, if a package is missing."""
    if find(package) is None:
        raise ConfigError(
            f"executor {extra} needs the package {package}, found none: pip install 'ossa[{extra}]'"
        )


def check_device(config: "ExecutorConfig") -> None:
    """Raises ConfigError if a device is named, which on a cluster the scheduler chooses."""
    if config.device not in (None, "cpu") or (config.device == "cpu" and config.gpus):
        raise ConfigError(
            f"executor.device: expected none with {config.kind}, found {config.device!r}: say with "
            f"executor.gpus how many GPUs a run asks for (here {config.gpus})"
        )


def cluster_job(job: Job, config: "ExecutorConfig") -> Job:
    """Returns the job with what a cluster gives it: some processors and GPUs of one machine."""
    workers = _WORKERS_ON_GPU if config.gpus else 0
    return replace(
        job,
        # A cluster shows a run no GPUs but its own, and they are numbered from 0.
        device="cuda:0" if config.gpus else "cpu",
        workers=config.workers if config.workers is not None else workers,
        threads=config.threads or config.cpus,
        cache=config.cache,
    )
