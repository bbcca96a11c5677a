"""What a machine does for a run: start its process, wait for it, tell it to save.

Only the process itself imports torch: what waits for it in a cluster is kept small.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ossa.files import open_to_append
from ossa.study.executors import Task

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
        with open_to_append(self.log) as log:
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
        with open_to_append(self.log) as log:
            log.write(f"{sentence}\n".encode())


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
