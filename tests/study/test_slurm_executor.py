"""The same study under a real Slurm: jobs are requeued, pre-empted and stopped in the middle."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import missing_programs, slurm_cluster
from small_study import (
    FIRST,
    SECOND,
    begin_study,
    execute,
    in_the_middle,
    meanwhile,
    results_of,
    said,
    states_of,
    wait_for,
)

from ossa.study.folder import StudyFolder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"no {', '.join(missing_programs())}: apt-get install slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def local(place: Path) -> StudyFolder:
    """The study as this machine computes it, without any disturbance."""
    study = begin_study(place / "local")
    execute(study, kind="local", jobs=2)
    return study


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        slurm_cluster(tmp_path_factory.mktemp("slurm")) as configuration,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SLURM_CONF", str(configuration))
        yield


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def jobs_of_array() -> list[str]:
    """Returns the ids of the jobs that are not over: 3_0, 3_1."""
    return sorted(slurm("squeue", "--me", "--array", "--noheader", "--format=%i").split())


def test_a_requeued_run_and_a_warned_run_end_with_the_same_bits(place: Path, local: StudyFolder):
    study = begin_study(place / "requeued")

    def disturb() -> None:
        wait_for(lambda: in_the_middle(study, FIRST, SECOND))
        first, second = jobs_of_array()
        slurm("scontrol", "requeue", first)
        # As Slurm does by itself 90 seconds before the time limit.
        slurm("scancel", "--signal=USR2", second)

    with meanwhile(disturb):
        execute(study, kind="slurm")
    assert states_of(study) == {FIRST: "done", SECOND: "done"}
    for run in (FIRST, SECOND):
        assert said(study, run).count("training ") == 2
        assert said(study, run).count(", 0 epochs done") == 1
        assert results_of(study, run) == results_of(local, run)


def test_stopped_by_ctrl_c_and_later_preempted_it_ends_with_the_same_bits(
    place: Path, local: StudyFolder
):
    study = begin_study(place / "preempted")

    def press_ctrl_c() -> None:
        wait_for(lambda: in_the_middle(study, FIRST, SECOND))
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(press_ctrl_c), pytest.raises(KeyboardInterrupt):
        execute(study, kind="slurm")
    assert states_of(study) == {FIRST: "interrupted", SECOND: "interrupted"}
    assert jobs_of_array() == []
    assert list((study.path / "slurm").glob("stop-*")) == []
    before = {run: said(study, run) for run in (FIRST, SECOND)}

    def take_both_processors() -> None:
        for run in (FIRST, SECOND):
            wait_for(lambda run=run: "\nepoch" in said(study, run).removeprefix(before[run]))
        slurm("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=:")

    with meanwhile(take_both_processors):
        execute(study, kind="slurm")
    assert states_of(study) == {FIRST: "done", SECOND: "done"}
    for run in (FIRST, SECOND):
        assert results_of(study, run) == results_of(local, run)
