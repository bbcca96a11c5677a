"""Runs as processes of this machine: one a GPU, or a few on the CPU with the threads divided."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from ossa.errors import ConfigError
from ossa.study.config import ExecutorConfig
from ossa.study.executors import Ended, Task
from ossa.study.executors.remote import Launch
from ossa.study.folder import RUNS_FOLDER, WORKER_LOG

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Job:
    """A process and what it occupies."""

    task: Task
    process: subprocess.Popen[bytes]
    device: str


class LocalExecutor:
    """Starts a process a run; the next begins where one has ended."""

    def __init__(self, config: ExecutorConfig) -> None:
        devices = _devices(config.device)
        jobs = config.jobs or len(devices)
        self._slots = [devices[number % len(devices)] for number in range(jobs)]
        processors = len(os.sched_getaffinity(0))
        self._threads = config.threads or max(1, processors // jobs)
        on_gpu = devices[0] != "cpu"
        # On the CPU the network itself leaves no processor idle.
        self._workers = config.workers if config.workers is not None else (4 if on_gpu else 0)

    def execute(self, tasks: Sequence[Task], *, ended: Ended) -> None:
        waiting, free = list(tasks), list(self._slots)
        running: list[_Job] = []
        try:
            while waiting or running:
                while waiting and free:
                    running.append(self._start(waiting.pop(0), free.pop(0)))
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    free.append(job.device)
                    ended(job.task.run, job.process.returncode)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(running)
            raise

    def _start(self, task: Task, device: str) -> _Job:
        log = task.study / RUNS_FOLDER / task.run / WORKER_LOG
        launch = Launch(task, log, device, workers=self._workers, threads=self._threads)
        return _Job(task, launch.start(), device)


def _stop(jobs: Sequence[_Job]) -> None:
    """Asks all processes to save and stop, and waits; a second Ctrl-C ends them at once."""
    for job in jobs:
        with suppress(ProcessLookupError):
            job.process.send_signal(signal.SIGTERM)
    try:
        for job in jobs:
            job.process.wait()
    except KeyboardInterrupt:
        for job in jobs:
            job.process.kill()
            job.process.wait()


def _devices(wanted: str | None) -> list[str]:
    """Returns the devices among which runs are divided.

    Raises:
        ConfigError: this machine has no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return [f"cuda:{number}" for number in range(gpus)] or ["cpu"]
    if wanted == "cpu":
        return ["cpu"]
    numbers = ["0" if name == "cuda" else name.removeprefix("cuda:") for name in wanted.split(",")]
    for number in numbers:
        if not number.strip().isdecimal() or int(number) >= gpus:
            raise ConfigError(
                f"executor.device: expected cpu or numbers of this machine's {gpus} GPUs such as "
                f"'0,1', found {wanted!r}"
            )
    return [f"cuda:{int(number)}" for number in numbers]
