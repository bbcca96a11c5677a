"""What the executors decide, without a cluster."""

import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ossa.errors import ConfigError
from ossa.study.config import ExecutorConfig
from ossa.study.executors import (
    DONE,
    FAILED,
    STOPPED,
    Job,
    check_device,
    cluster_job,
    create_executor,
    require_package,
)
from ossa.study.executors import slurm as slurm_module
from ossa.study.executors.ray import check_room
from ossa.study.executors.slurm import Queue, SlurmTask, job_parameters, job_states

RUN = "resnet18-seed0"


@pytest.mark.parametrize(("package", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_a_missing_package_is_an_error_with_the_line_that_installs_it(package: str, extra: str):
    told = f"executor {extra} needs the package {package}, found none: pip install 'ossa[{extra}]'"
    with pytest.raises(ConfigError) as raised:
        require_package(package, extra=extra, find=lambda _: None)
    assert str(raised.value) == told


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(slurm_module, "require_package", lambda *_, **__: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs Slurm's command sbatch, found none"):
        create_executor(ExecutorConfig(kind="slurm"))


def test_a_device_is_not_named_where_the_cluster_chooses_it():
    check_device(ExecutorConfig(kind="ray", device="cpu"))
    check_device(ExecutorConfig(kind="ray", gpus=1))
    with pytest.raises(ConfigError, match=r"expected none with ray, found 'cuda': .* \(here 0\)"):
        check_device(ExecutorConfig(kind="ray", device="cuda"))
    with pytest.raises(ConfigError, match=r"expected none with slurm, found 'cpu': .* \(here 1\)"):
        check_device(ExecutorConfig(kind="slurm", device="cpu", gpus=1))


def test_a_run_without_gpus_computes_on_as_many_threads_as_it_was_given_processors(tmp_path: Path):
    job = cluster_job(Job(tmp_path, "a-seed0"), ExecutorConfig(kind="ray", cpus=3))
    assert (job.device, job.workers, job.threads) == ("cpu", 0, 3)


def test_a_run_with_a_gpu_sees_it_as_the_first_and_loads_with_four_workers(tmp_path: Path):
    config = ExecutorConfig(kind="slurm", cpus=8, gpus=1, threads=2)
    job = cluster_job(Job(tmp_path, "a-seed0"), config)
    assert (job.device, job.workers, job.threads) == ("cuda:0", 4, 2)
    assert job.log == tmp_path / "runs" / "a-seed0" / "worker.log"


def test_a_run_is_told_where_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    for config in (ExecutorConfig(kind="slurm"), ExecutorConfig(kind="slurm", cache="disk")):
        cluster_job(Job(tmp_path, "a-seed0"), config).start()
    assert [command[command.index("--cache") + 1] for command in started] == ["auto", "disk"]


@pytest.mark.parametrize("exit_code", [STOPPED, -signal.SIGTERM, -signal.SIGKILL])
def test_a_run_that_was_ended_from_outside_is_resumed_so_many_times(tmp_path: Path, exit_code: int):
    first = Job(tmp_path, RUN)
    second = first.next_job(exit_code, max_resumes=2)
    assert second is not None
    third = second.next_job(exit_code, max_resumes=2)
    assert third is not None
    assert third.next_job(exit_code, max_resumes=2) is None
    log = first.log.read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in log] == [
        "resumed, 1 of at most 2 times",
        "resumed, 2 of at most 2 times",
    ]


@pytest.mark.parametrize("exit_code", [DONE, FAILED, 2, -signal.SIGSEGV])
def test_a_run_that_ended_by_itself_is_not_resumed(tmp_path: Path, exit_code: int):
    assert Job(tmp_path, RUN).next_job(exit_code, max_resumes=2) is None


def test_ray_is_not_asked_for_more_than_any_node_has():
    nodes = [{"CPU": 16.0}, {"CPU": 4.0, "GPU": 2.0}]
    check_room(ExecutorConfig(cpus=16), nodes)
    check_room(ExecutorConfig(cpus=4, gpus=2), nodes)
    with pytest.raises(ConfigError, match=r"8 processors and 1 GPUs, .* have 16/0, 4/2: ask for"):
        check_room(ExecutorConfig(cpus=8, gpus=1), nodes)


def test_an_address_where_no_ray_listens_is_an_error_at_once():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        executor = create_executor(ExecutorConfig(kind="ray", address=address))
        with pytest.raises(ConfigError, match=f"expected a Ray cluster at {address}, found none"):
            executor.execute([Job(Path("unused"), "a-seed0")], on_end=lambda *_: None)


def test_the_machines_that_wait_for_a_run_do_not_import_torch():
    modules = "ossa.study.executors.ray, ossa.study.executors.slurm"
    program = f"import {modules}, sys; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert answer.stdout.strip() == b"False"


def test_what_slurm_is_asked_for():
    config = ExecutorConfig(cpus=8, gpus=1, partition="a100", minutes=600, jobs=3)
    parameters = job_parameters(config)
    assert parameters["time"] == 600
    assert parameters["cpus_per_task"] == 8
    assert parameters["gpus_per_node"] == 1
    assert parameters["partition"] == "a100"
    assert parameters["array_parallelism"] == 3
    assert parameters["additional_parameters"] == {"requeue": True}
    for key in ("gpus_per_node", "partition", "array_parallelism"):
        assert key not in job_parameters(ExecutorConfig())


def queue_says(monkeypatch: pytest.MonkeyPatch, output: str, exit_code: int = 0) -> None:
    answer = subprocess.CompletedProcess([], exit_code, stdout=output)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)


def test_the_queue_is_read_by_the_ids_of_its_jobs(monkeypatch: pytest.MonkeyPatch):
    queue_says(monkeypatch, "12_0 RUNNING\n12_1 PENDING\n13 COMPLETED\n")
    assert job_states() == {"12_0": "RUNNING", "12_1": "PENDING", "13": "COMPLETED"}


def test_a_controller_that_does_not_answer_says_nothing_of_the_jobs(
    monkeypatch: pytest.MonkeyPatch,
):
    queue_says(monkeypatch, "", exit_code=1)
    assert job_states() is None


def test_a_job_that_starts_when_the_study_was_stopped_stops_at_once(tmp_path: Path):
    (tmp_path / "stop").touch()
    task = SlurmTask(Job(tmp_path, RUN), tmp_path / "stop")
    assert pickle.loads(pickle.dumps(task))() == -signal.SIGTERM
    assert not (tmp_path / "runs").exists()


@dataclass(frozen=True)
class Paths:
    result_pickle: Path


@dataclass(frozen=True)
class SubmittedJob:
    """A job as submitit knows it."""

    job_id: str
    paths: Paths

    def result(self) -> int:
        return int(self.paths.result_pickle.read_text())


class Submitter:
    """Numbers the jobs of an array 1_0, 1_1, of the next 2_0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays = 0

    def submit_array(self, computed: list[SlurmTask]) -> list[SubmittedJob]:
        self.arrays += 1
        ids = [f"{self.arrays}_{number}" for number in range(len(computed))]
        return [SubmittedJob(job_id, Paths(self.folder / job_id)) for job_id in ids]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """One job, 1_0, of a run that is resumed once."""
    queue = Queue(Submitter(tmp_path), tmp_path / "stop", requeues=1)
    queue.submit([Job(tmp_path, RUN)])
    return queue


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"])
def test_a_job_that_slurm_will_start_again_is_not_over_whatever_it_left(
    queue: Queue, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "1_0").write_text("3")
    queue_says(monkeypatch, f"1_0 {state}\n")
    assert queue.ended() == []
    assert list(queue.jobs) == ["1_0"]


@pytest.mark.parametrize("said", ["1_0 COMPLETED\n", ""])
def test_a_job_that_is_over_or_forgotten_tells_the_exit_code_of_its_run(
    queue: Queue, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "1_0").write_text("1")
    queue_says(monkeypatch, said)
    assert queue.ended() == [(RUN, FAILED)]
    assert queue.jobs == {}


def test_a_job_that_was_lost_is_submitted_again_as_often_as_runs_are_resumed(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
):
    queue_says(monkeypatch, "1_0 NODE_FAIL\n2_0 NODE_FAIL\n")
    # Its result may appear late: it is looked for three times more.
    assert [queue.ended() for _ in range(4)] == [[], [], [], []]
    assert list(queue.jobs) == ["2_0"]
    assert [queue.ended() for _ in range(4)] == [[], [], [], [(RUN, -signal.SIGKILL)]]


def test_a_run_that_stopped_without_being_requeued_is_submitted_again(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "1_0").write_text("3")
    queue_says(monkeypatch, "1_0 COMPLETED\n2_0 PENDING\n")
    assert queue.ended() == []
    assert list(queue.jobs) == ["2_0"]


def test_a_job_that_its_user_cancelled_is_left_as_it_is(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
):
    queue_says(monkeypatch, "1_0 CANCELLED\n")
    assert [queue.ended() for _ in range(4)] == [[], [], [], [(RUN, STOPPED)]]


def test_a_job_without_enough_memory_is_not_submitted_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
):
    queue_says(monkeypatch, "1_0 OUT_OF_MEMORY\n")
    assert [queue.ended() for _ in range(4)][-1] == [(RUN, -signal.SIGKILL)]
    assert queue.jobs == {}


def test_a_controller_that_is_restarted_ends_no_run(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "1_0").write_text("0")
    queue_says(monkeypatch, "", exit_code=1)
    assert queue.ended() == []
    assert list(queue.jobs) == ["1_0"]
