"""Executor for Slurm (https://slurm.schedmd.com), by submitit: `pip install 'ossa[slurm]'`.

A study is a job array with one job per run. A job that is pre-empted, requeued or near its time
limit saves, returns to the queue and resumes from its last checkpoint on any machine, as all
machines have the study's folder under the same path. submitit's files are in its `slurm/`.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.errors import ConfigError
from ossa.study.executors import (
    BROKEN,
    LOST,
    STOPPED,
    Job,
    OnEnd,
    check_device,
    cluster_job,
    require_package,
)

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

    from ossa.study.config import ExecutorConfig

SLURM_FOLDER = "slurm"
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
_POLL_SECONDS = 5.0  # every poll is a request to the controller of the whole cluster
_STOP_POLL_SECONDS, _WATCH_SECONDS = 1.0, 0.5
_SAVING_SECONDS = 90  # between the warning and the time limit
_LATE_POLLS = 3  # a file may take seconds to appear on a shared file system
_TIME_LIMITS = 1000  # a run may use as many jobs as it needs
_OVER = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }
)
_FOR_GOOD = ("CANCELLED", "OUT_OF_MEMORY")


class SlurmExecutor:
    """Submits every run and waits until all have ended."""

    def __init__(self, config: "ExecutorConfig") -> None:
        require_package("submitit", extra="slurm")
        check_device(config)
        for command in _COMMANDS:
            if shutil.which(command) is None:
                raise ConfigError(
                    f"executor slurm needs Slurm's command {command}, found none: start the study "
                    "on a machine from which jobs are submitted"
                )
        self._config = config

    def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
        if not jobs:
            return
        from submitit import SlurmExecutor as Submitter

        folder = jobs[0].study / SLURM_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        stop_file = folder / f"stop-{uuid.uuid4().hex}"
        submitter = Submitter(folder, max_num_timeout=_TIME_LIMITS)
        submitter.update_parameters(**job_parameters(self._config))
        queue = Queue(submitter, stop_file, requeues=self._config.requeues)
        try:
            queue.submit([cluster_job(job, self._config) for job in jobs])
            while queue.jobs:
                time.sleep(_POLL_SECONDS)
                for run, exit_code in queue.ended():
                    on_end(run, exit_code)
        except BaseException:
            queue.stop()
            raise
        finally:
            stop_file.unlink(missing_ok=True)


class SlurmTask:
    """The callable of a Slurm job, which submitit pickles, calls and asks to checkpoint."""

    def __init__(self, job: Job, stop_file: Path) -> None:
        self._job = job
        self._stop_file = stop_file
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Trains a run and returns the exit code of its process.

        A stop file asks it to stop, as a Slurm signal would also reach the processes that load
        images.
        """
        if self._stop_file.exists():
            return -signal.SIGTERM
        _remove_earlier_result()
        # Slurm sends its warning to all processes of a job, but only this one may handle it. The
        # started process inherits the blocked signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        process = self._process = self._job.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        asked = False
        while process.poll() is None:
            if not asked and self._stop_file.exists():
                process.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(_WATCH_SECONDS)
        return process.returncode

    def checkpoint(self) -> "DelayedSubmission":
        """Lets the run save, and returns the task for the next start of the job."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            # submitit calls this in a signal handler, where Popen may hold its lock.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(SlurmTask(self._job, self._stop_file))


def _remove_earlier_result() -> None:
    """Removes the result of a requeued job, so that a lost job is noticed."""
    from submitit import JobEnvironment

    JobEnvironment().paths.result_pickle.unlink(missing_ok=True)


class Queue:
    """The unfinished Slurm jobs of a study."""

    def __init__(self, submitter: Any, stop_file: Path, *, requeues: int) -> None:
        self._submitter = submitter
        self._stop_file = stop_file
        self._requeues = requeues
        self.jobs: dict[str, tuple[Any, Job]] = {}
        """submitit's job and ours by Slurm job id."""
        self._late: dict[str, int] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submits an array of jobs.

        Raises:
            ConfigError: Slurm rejects it.
        """
        from submitit.core.utils import FailedJobError

        tasks = [SlurmTask(job, self._stop_file) for job in jobs]
        try:
            submitted = self._submitter.submit_array(tasks)
        except (FailedJobError, subprocess.CalledProcessError) as refused:
            reason = " ".join(str(refused).split())
            raise ConfigError(f"executor: Slurm rejected the jobs of the study: {reason}") from None
        pairs = zip(submitted, jobs, strict=True)
        self.jobs |= {submission.job_id: (submission, job) for submission, job in pairs}

    def ended(self) -> list[tuple[str, int]]:
        """Returns names and exit codes of runs that have ended; resubmits runs to be resumed."""
        states = job_states()
        if states is None:
            return []
        ended: list[tuple[str, int]] = []
        for job_id, (submitted, job) in list(self.jobs.items()):
            state = states.get(job_id)
            if not _is_over(state):
                continue
            exit_code = self._exit_code(submitted, job)
            if exit_code is None:
                continue
            del self.jobs[job_id]
            max_resumes = 0 if state in _FOR_GOOD else self._requeues
            following = job.next_job(exit_code, max_resumes=max_resumes)
            if following is not None:
                self.submit([following])
            elif state == "CANCELLED" and exit_code < 0:
                ended.append((job.run, STOPPED))  # cancelled, not failed
            else:
                ended.append((job.run, exit_code))
        return ended

    def _exit_code(self, submitted: Any, job: Job) -> int | None:
        """Returns the exit code of a run whose job has ended, None if it may still appear."""
        from submitit.core.utils import UncompletedJobError

        if not submitted.paths.result_pickle.exists():
            late = self._late[submitted.job_id] = self._late.get(submitted.job_id, 0) + 1
            return LOST if late > _LATE_POLLS else None
        try:
            return submitted.result()
        except UncompletedJobError as failure:
            job.write_log(f"the job could not start the run: {failure}")
            return BROKEN

    def stop(self) -> None:
        """Asks all runs to save and stop, and waits; a second Ctrl-C cancels their jobs."""
        self._stop_file.touch()
        ids = list(self.jobs)
        if not ids:
            return
        try:
            subprocess.run(["scancel", "--state=PENDING", *ids], check=False, capture_output=True)
            while (states := job_states()) is None or not all(
                _is_over(states.get(job_id)) for job_id in ids
            ):
                time.sleep(_STOP_POLL_SECONDS)
        except KeyboardInterrupt:
            subprocess.run(["scancel", *ids], check=False, capture_output=True)


def _is_over(state: str | None) -> bool:
    # Slurm removes a job from its list some minutes after its end.
    return state is None or state in _OVER


def job_parameters(config: "ExecutorConfig") -> dict[str, Any]:
    """Returns the parameters of submitit for the requested resources."""
    parameters: dict[str, Any] = {
        "job_name": "ossa",
        "time": config.minutes,
        "cpus_per_task": config.cpus,
        "signal_delay_s": _SAVING_SECONDS,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True},
        # Since Slurm 22.05 a step does not inherit the processors of its job.
        "srun_args": [f"--cpus-per-task={config.cpus}"],
    }
    if config.jobs is not None:
        parameters["array_parallelism"] = config.jobs
    if config.gpus:
        parameters["gpus_per_node"] = config.gpus
    if config.partition is not None:
        parameters["partition"] = config.partition
    return parameters


def job_states() -> Mapping[str, str] | None:
    """Returns the states of the user's jobs by id, None if the controller does not answer."""
    question = ["squeue", "--me", "--all", "--array", "--states=all", "--noheader"]
    answer = subprocess.run(
        [*question, "--format=%i %T"], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        return None
    return dict(line.split() for line in answer.stdout.splitlines())
