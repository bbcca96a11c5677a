"""The same study on a real Ray cluster of two nodes, one of which is lost in the middle."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
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

# Ray's own switch for clusters that stay on the loopback device; it is read at the import.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
pytest.importorskip("ray", reason="no ray: pip install 'ossa[ray]'")

pytestmark = pytest.mark.cluster

_LITTLE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def local(place: Path) -> StudyFolder:
    """The study as this machine computes it, without any disturbance."""
    study = begin_study(place / "local")
    execute(study, kind="local", jobs=2)
    return study


@contextmanager
def two_nodes() -> Iterator[tuple[str, Any]]:
    """Starts two nodes of one processor each; yields the cluster's address and the second one."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A node is taken for lost after five seconds instead of half a minute.
        soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 10}
        head = {**_LITTLE, "include_dashboard": False, "_system_config": soon}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            second = cluster.add_node(**_LITTLE)
            yield str(cluster.address), second
        finally:
            cluster.shutdown()


def family_of(ancestor: int) -> dict[int, str]:
    """Returns the command lines of a process and of all that descend from it, by their ids."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(process.name)] = int(
                (process / "stat").read_text().rpartition(")")[2].split()[1]
            )
            commands[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    family = {ancestor}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {process: commands.get(process, "") for process in family}


def processes_of(node: Any) -> dict[int, str]:
    """Returns all processes of a node: Ray's own, its workers, and the runs that they started."""
    roots = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return {process: command for root in roots for process, command in family_of(root).items()}


def test_when_a_node_dies_its_run_ends_on_the_other_with_the_same_bits(
    place: Path, local: StudyFolder
):
    study = begin_study(place / "lost")
    lost: list[str] = []

    with two_nodes() as (address, second):

        def lose_the_second_node() -> None:
            wait_for(lambda: in_the_middle(study, FIRST, SECOND))
            processes = processes_of(second)
            for process in processes:  # all at once, as without power
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            commands = [line for line in processes.values() if "ossa.study.worker" in line]
            lost.extend(run for run in (FIRST, SECOND) if any(run in line for line in commands))

        with meanwhile(lose_the_second_node):
            execute(study, kind="ray", address=address)

    assert len(lost) == 1  # each node had one processor and so one run
    assert states_of(study) == {FIRST: "done", SECOND: "done"}
    for run in (FIRST, SECOND):
        assert ("resumed, 1 of at most 5 times" in said(study, run)) == (run in lost)
        assert said(study, run).count(", 0 epochs done") == 1
        assert results_of(study, run) == results_of(local, run)


def test_ctrl_c_saves_every_run_and_the_next_start_ends_with_the_same_bits(
    place: Path, local: StudyFolder
):
    study = begin_study(place / "stopped")

    def press_ctrl_c() -> None:
        wait_for(lambda: in_the_middle(study, FIRST, SECOND))
        os.kill(os.getpid(), signal.SIGINT)

    with two_nodes() as (address, _):
        with meanwhile(press_ctrl_c), pytest.raises(KeyboardInterrupt):
            execute(study, kind="ray", address=address)
        assert states_of(study) == {FIRST: "interrupted", SECOND: "interrupted"}
        execute(study, kind="ray", address=address)
    assert states_of(study) == {FIRST: "done", SECOND: "done"}
    for run in (FIRST, SECOND):
        assert said(study, run).count("training ") == 2
        assert said(study, run).count(", 0 epochs done") == 1
        assert results_of(study, run) == results_of(local, run)
