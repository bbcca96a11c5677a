"""Executors of the runs of a study: on this machine, on a Ray cluster or by Slurm.

This module, `ray` and `slurm` do not import torch, so that the processes that wait for a run on the
machines of a cluster stay small. Only the process of the run imports it.
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
from ossa.machine import short_wait

if TYPE_CHECKING:
    from ossa.study.config import ExecutorConfig

RUNS_FOLDER, WORKER_LOG = "runs", "worker.log"
DONE, FAILED, STOPPED = 0, 1, 3
"""Exit codes of a run's process; a STOPPED run has saved everything."""
LOST = -9
"""Exit code of a run whose machine was lost: that of SIGKILL."""
BROKEN = 70
"""Exit code of a run whose process could not be started: EX_SOFTWARE of sysexits.h."""
_ENDED_FROM_OUTSIDE = (STOPPED, -signal.SIGTERM, LOST)
_WORKERS_ON_GPU = 4

OnEnd = Callable[[str, int], None]
"""Called with the name of a run and the exit code of its process; negative for a signal."""


@dataclass(frozen=True)
class Job:
    """A job that trains one run, resuming it from its last checkpoint."""

    study: Path
    """Folder of the study, under the same path on every machine."""
    run: str
    device: str = "cpu"
    workers: int = 0
    """Number of processes that load images."""
    threads: int = 1
    cache: str = "auto"
    """Where decoded images are cached."""
    resumes: int = 0
    """How often the run was resumed after its process was stopped from outside."""

    @property
    def log(self) -> Path:
        """The file that collects the output of the process."""
        return self.study / RUNS_FOLDER / self.run / WORKER_LOG

    def arguments(self) -> list[str]:
        """Returns the arguments of `ossa.study.worker`."""
        options = {"device": self.device, "workers": self.workers, "cache": self.cache}
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        return [str(self.study), self.run, *flags]

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts the process, which stops when this process has ended."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        command = [sys.executable, "-m", "ossa.study.worker", *self.arguments()]
        with open_to_append(self.log) as log:
            return subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **short_wait(), **threads},
                # Ctrl-C in the terminal must reach only the study, which stops its runs.
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
    """Trains runs until they have ended."""

    def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
        """Returns when all runs have ended, successfully or not.

        Args:
            jobs: jobs in the order of their start; the executor chooses the device.
            on_end: called for every run when its process has ended and will not be restarted.

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
        ConfigError: the package or the cluster is missing.
    """
    module, name = _EXECUTORS[config.kind]
    return getattr(import_module(module), name)(config)


def require_package(package: str, *, extra: str, find: Callable[[str], object] = find_spec) -> None:
    """Raises ConfigError with the installation command if a package is missing."""
    if find(package) is None:
        raise ConfigError(
            f"executor {extra} needs the package {package}, found none: pip install 'ossa[{extra}]'"
        )


def check_device(config: "ExecutorConfig") -> None:
    """Raises ConfigError if a device is set, as the scheduler of a cluster chooses it."""
    if config.device not in (None, "cpu") or (config.device == "cpu" and config.gpus):
        raise ConfigError(
            f"executor.device: expected none with {config.kind}, found {config.device!r}: set "
            f"executor.gpus to the number of GPUs per run (here {config.gpus})"
        )


def cluster_job(job: Job, config: "ExecutorConfig") -> Job:
    """Returns the job with the resources that the cluster assigns to it."""
    workers = _WORKERS_ON_GPU if config.gpus else 0
    return replace(
        job,
        # Only the assigned GPUs are visible to a run, numbered from 0.
        device="cuda:0" if config.gpus else "cpu",
        workers=config.workers if config.workers is not None else workers,
        threads=config.threads or config.cpus,
        cache=config.cache,
    )
