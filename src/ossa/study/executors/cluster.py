"""What a machine does for a run: start its process, wait for it, tell it to save.

Only the process itself imports torch: what waits for it in a cluster is kept small.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ossa.errors import ConfigError
from ossa.study.config import ExecutorConfig
from ossa.study.executors import Task
from ossa.study.folder import RUNS_FOLDER, WORKER_LOG
from ossa.study.worker import STOPPED

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Launch:
    """A run and what it may use of a machine."""

    task: Task
    log: Path
    """To which what the process says is added."""
    device: str
    workers: int
    """Processes that load images."""
    threads: int
    cache: str
    """Where images are kept decoded."""

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts the run's process, which stops once this process is gone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        place = ["--device", self.device, "--workers", str(self.workers), "--cache", self.cache]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.task.command(sys.executable), *place, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    "OMP_WAIT_POLICY": "PASSIVE",
                    **os.environ,
                    "OMP_NUM_THREADS": str(self.threads),
                },
                # Ctrl-C at the terminal is for the study, which stops its runs one by one.
                start_new_session=True,
            )

    def note(self, sentence: str) -> None:
        """Adds a line to what the run's process said."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(sentence + "\n")


def run_in_ray_task(launch: Launch) -> int:
    """Brings a run to its end and returns the exit code of its process.

    Ray turns the cancellation of a task into KeyboardInterrupt: the process saves and stops.
    """
    process = launch.start()
    try:
        while process.poll() is None:
            time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return process.returncode


class SlurmJob:
    """What a job computes: submitit pickles it, calls it, and tells it to save."""

    def __init__(self, launch: Launch, stop_file: Path) -> None:
        self._launch = launch
        self._stop_file = stop_file
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Brings a run to its end and returns the exit code of its process.

        A file asks it to stop: a signal of Slurm's would go to the processes that load images, too.
        """
        if self._stop_file.exists():
            return -signal.SIGTERM
        _forget_earlier_result()
        # Slurm's warning goes to all processes of a job and is for this one. A signal that is
        # blocked here stays so in the process that is started.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        process = self._process = self._launch.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        asked = False
        while process.poll() is None:
            if not asked and self._stop_file.exists():
                process.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(_WATCH_SECONDS)
        return process.returncode

    def checkpoint(self) -> "DelayedSubmission":
        """Lets the run save, and returns what is computed when the job starts again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            # submitit calls this within a signal handler, and Popen may hold its lock.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SlurmJob(self._launch, self._stop_file))


def _forget_earlier_result() -> None:
    """Removes what this job left when it was requeued, or nothing would tell that it was lost."""
    from submitit import JobEnvironment

    JobEnvironment().paths.result_pickle.unlink(missing_ok=True)


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
