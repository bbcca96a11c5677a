"""Runs as processes of this machine: one a GPU, or a few on the CPU with the threads divided.

A run's process is a copy of one that has imported all that runs need, and has done nothing else
(Python's fork server): torch and timm take 8 s of a processor to import, a minute of an hour where
runs take some minutes.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

import torch

from ossa.allocator import wait_passively
from ossa.errors import ConfigError
from ossa.files import open_to_append
from ossa.study.config import ExecutorConfig
from ossa.study.executors import Ended, Task
from ossa.study.folder import RUNS_FOLDER, WORKER_LOG
from ossa.study.worker import main as train_named_run

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Job:
    """A process and what it occupies."""

    task: Task
    process: ForkServerProcess
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
        workers = config.workers if config.workers is not None else (4 if on_gpu else 0)
        self._place = ["--workers", str(workers), "--cache", config.cache]

    def execute(self, tasks: Sequence[Task], *, ended: Ended) -> None:
        waiting, free = list(tasks), list(self._slots)
        running: list[_Job] = []
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload([__name__])
        wait_passively()
        with _threads_of_new_processes(self._threads):
            forkserver.ensure_running()
        try:
            while waiting or running:
                while waiting and free:
                    task, device = waiting.pop(0), free.pop(0)
                    place = ["--device", device, *self._place]
                    process = processes.Process(target=_train, args=(task, place, self._threads))
                    process.start()
                    running.append(_Job(task, process, device))
                for job in [job for job in running if job.process.exitcode is not None]:
                    running.remove(job)
                    free.append(job.device)
                    ended(job.task.run, job.process.exitcode or 0)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(running)
            raise


@contextmanager
def _threads_of_new_processes(threads: int) -> Iterator[None]:
    """Lets libraries that read it when they are loaded compute with so many threads."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(threads)
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _train(task: Task, place: list[str], threads: int) -> None:
    """Is the process of a run, which stops once the one that it is a copy of is gone."""
    # Ctrl-C at the terminal is for the study, which stops its runs one by one.
    os.setsid()
    log = task.study / RUNS_FOLDER / task.run / WORKER_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with open_to_append(log) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    # The server may be of an earlier study in this process.
    torch.set_num_threads(threads)
    parent = ["--parent", str(os.getppid())]
    sys.exit(train_named_run([str(task.study), task.run, *place, *parent]))


def _stop(jobs: Sequence[_Job]) -> None:
    """Asks all processes to save and stop, and waits; a second Ctrl-C ends them at once."""
    for job in jobs:
        if job.process.pid is not None and job.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(job.process.pid, signal.SIGTERM)
    try:
        for job in jobs:
            job.process.join()
    except KeyboardInterrupt:
        for job in jobs:
            job.process.kill()
            job.process.join()


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
