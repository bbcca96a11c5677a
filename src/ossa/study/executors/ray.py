"""Executor for a Ray cluster (https://docs.ray.io): `pip install 'ossa[ray]'`.

Ray schedules each run on a machine with the requested processors and GPUs, where a task starts the
process of the run and waits for it. A run whose machine is lost is resumed on another one from its
last checkpoint, as all machines have the study's folder under the same path.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ossa.errors import ConfigError
from ossa.study.executors import (
    BROKEN,
    LOST,
    Job,
    OnEnd,
    check_device,
    cluster_job,
    require_package,
)

if TYPE_CHECKING:
    from ossa.study.config import ExecutorConfig

_POLL_SECONDS, _WATCH_SECONDS = 0.2, 0.5
_REACH_SECONDS = 10.0
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum; runs exchange files, not objects


class RayExecutor:
    """Submits every run to Ray, which runs as many at a time as fit on the cluster."""

    def __init__(self, config: "ExecutorConfig") -> None:
        require_package("ray", extra="ray")
        check_device(config)
        self._config = config

    def execute(self, jobs: Sequence[Job], *, on_end: OnEnd) -> None:
        if not jobs:
            return
        import ray

        _connect(self._config.address)
        try:
            check_room(self._config, [node["Resources"] for node in ray.nodes() if node["Alive"]])
            self._run_all([cluster_job(job, self._config) for job in jobs], on_end)
        finally:
            ray.shutdown()

    def _run_all(self, waiting: list[Job], on_end: OnEnd) -> None:
        import ray

        config = self._config
        # Ray's own retries would not appear in the log of a run.
        options = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=0)
        remote_job = options(run_job)
        at_once = config.jobs or len(waiting)
        running: dict[Any, Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[remote_job.remote(job)] = job
                over, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
                for reference in over:
                    job = running.pop(reference)
                    exit_code = _exit_code(reference, job)
                    following = job.next_job(exit_code, max_resumes=config.requeues)
                    if following is None:
                        on_end(job.run, exit_code)
                    else:
                        waiting.insert(0, following)
        except BaseException:
            _stop(list(running))
            raise


def run_job(job: Job) -> int:
    """Trains a run on a machine of the cluster and returns the exit code of its process.

    Ray raises KeyboardInterrupt when a task is cancelled; the process then saves and stops.
    """
    process = job.start()
    try:
        while process.poll() is None:
            time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return process.returncode


def _connect(address: str | None) -> None:
    """Connects to a cluster, or starts a local one for the lifetime of this process.

    Raises:
        ConfigError: there is no cluster, or it has another version of Ray or Python.
    """
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return
    try:
        _reach(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as problem:
        reason = " ".join(str(problem).split())
        raise ConfigError(
            f"executor.address: expected a Ray cluster at {address}, found none that is usable "
            f"({reason}); start one with 'ray start', or remove it to start Ray on this machine"
        ) from None


def _reach(address: str) -> None:
    """Raises OSError if nothing listens at an address, as Ray would retry for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


def check_room(config: "ExecutorConfig", nodes: Sequence[dict[str, float]]) -> None:
    """Raises ConfigError if no node has the resources of a run, as it would wait forever."""
    for node in nodes:
        if node.get("CPU", 0) >= config.cpus and node.get("GPU", 0) >= config.gpus:
            return
    sizes = ", ".join(f"{node.get('CPU', 0):g}/{node.get('GPU', 0):g}" for node in nodes)
    raise ConfigError(
        f"executor: a run asks for {config.cpus} processors and {config.gpus} GPUs, and the nodes "
        f"of the Ray cluster have {sizes}: ask for less, or start a larger node"
    )


def _exit_code(reference: Any, job: Job) -> int:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as failure:
        job.write_log(f"the machine could not start the run: {failure}")
        return BROKEN
    except RayError:  # the process or the node was lost, or is unreachable
        return LOST


def _stop(references: list[Any]) -> None:
    """Asks all runs to save and stop, and waits; a second Ctrl-C ends the wait."""
    import ray

    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references))
