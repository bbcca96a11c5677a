"""Executor for this machine: one process per GPU, or a few on the CPU that share its threads.

Every run is forked from a fork server that has already imported the libraries, since importing
torch and timm takes 8 s, a noticeable part of runs that take a few minutes. Windows has none: there
each run is a new process (spawn).
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from ossa.errors import ConfigError
from ossa.files import open_to_append
from ossa.machine import count_processors, use_threads_well
from ossa.study.config import ExecutorConfig
from ossa.study.executors import Job, OnEnd
from ossa.study.worker import main as train_named_run
from ossa.study.worker import stop_when

_POLL_SECONDS = 0.2


class LocalExecutor:
    """Starts one process per run, at most `jobs` at a time."""

    def __init__(self, config: ExecutorConfig) -> None:
        devices = _devices(config.device)
        jobs = config.jobs or len(devices)
        self._slots = [devices[number % len(devices)] for number in range(jobs)]
        processors = count_processors()
        self._threads = config.threads or max(1, processors // jobs)
        on_gpu = devices[0] != "cpu"
        # On the CPU, the network already keeps all processors busy.
        self._workers = config.workers if config.workers is not None else (4 if on_gpu else 0)
        self._cache = config.cache

    def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
        waiting, free = list(jobs), list(self._slots)
        running: dict[BaseProcess, Job] = {}
        processes = _process_context()
        use_threads_well()
        place = {"workers": self._workers, "threads": self._threads, "cache": self._cache}
        try:
            while waiting or running:
                while waiting and free:
                    job = replace(waiting.pop(0), device=free.pop(0), **place)
                    process = processes.Process(target=_train, args=(job,))
                    with _threads_of_new_processes(self._threads):
                        process.start()
                    running[process] = job
                ended = [process for process in running if process.exitcode is not None]
                for process in ended:
                    job = running.pop(process)
                    free.append(job.device)
                    on_end(job.run, process.exitcode or 0)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(list(running))
            raise


@contextmanager
def _threads_of_new_processes(threads: int) -> Iterator[None]:
    """Sets the number of threads for libraries that read it at import."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(threads)
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _process_context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    return processes


def _train(job: Job) -> None:
    """Trains a run in this process, which stops when that of the study has ended.

    The fork server does not tell it: it lives as long as any of its processes.
    """
    # Ctrl-C in the terminal must reach only the study, which stops its runs.
    if hasattr(os, "setsid"):
        os.setsid()
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open_to_append(job.log) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    # The fork server may have been started by an earlier study with other settings.
    torch.set_num_threads(job.threads)
    study_process = multiprocessing.parent_process()
    assert study_process is not None
    stop_when(study_process.join)
    sys.exit(train_named_run(job.arguments()))


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Asks all processes to save and stop, and waits; a second Ctrl-C kills them."""
    for process in processes:
        if process.pid is not None and process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.join()


def _devices(wanted: str | None) -> list[str]:
    """Returns the devices that runs are assigned to in turn.

    Raises:
        ConfigError: there is no such device on this machine.
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
