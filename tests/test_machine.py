"""Memory that is used again stays with the process; limits of a container count."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ossa import machine
from ossa.machine import count_processors, free_memory, others_busy, short_wait, use_threads_well

SIZE = 40_000_000
"""Bytes: above the largest array that glibc by itself ever keeps, 32 MiB."""
PAGES_OF_TEN_ARRAYS = """
import resource, sys
from ossa.machine import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("another allocator")
size = int(sys.argv[2])
bytes([1]) * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytes([1]) * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Returns how often the system had to give the process a page."""
    command = [sys.executable, "-c", PAGES_OF_TEN_ARRAYS, how, str(SIZE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "another allocator" in ended.stderr:
        pytest.skip("not glibc")
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_ten_arrays_take_the_memory_of_the_first() -> None:
    assert faults("as it comes") > 5 * max(faults("kept"), 1)


def write_files(folder: Path, files: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    """Writes what Linux says of a machine of 5 MB and 8 processors, and of a control group."""
    files = {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "proc/self/cgroup": "0::/job/step\n",
        **files,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    patch.setattr(machine, "_PROC", folder / "proc")
    patch.setattr(machine, "_CGROUPS", folder / "groups")
    patch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


def test_a_control_group_limits_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "groups/job/memory.max": "3000000\n",
        "groups/job/memory.current": "2500000\n",
        "groups/job/memory.stat": "anon 1\ninactive_file 100000\nactive_file 20000\n",
        "groups/job/step/memory.max": "max\n",
    }
    write_files(tmp_path, files, monkeypatch)
    assert free_memory() == 3_000_000 - 2_500_000 + 120_000
    (tmp_path / "groups/job/memory.max").write_text("max\n")
    assert free_memory() == 5000 * 1024


@pytest.mark.parametrize(
    ("of_job", "of_step", "processors"),
    [
        ("max 100000", "max 100000", 8),
        ("150000 100000", "max 100000", 2),  # one and a half
        ("400000 100000", "50000 100000", 1),
        ("1600000 100000", "no numbers", 8),
    ],
)
def test_no_more_threads_than_the_control_group_grants_processors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_job: str,
    of_step: str,
    processors: int,
) -> None:
    files = {"groups/job/cpu.max": of_job, "groups/job/step/cpu.max": of_step}
    write_files(tmp_path, files, monkeypatch)
    assert count_processors() == processors
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)
    use_threads_well()
    granted = {"OMP_NUM_THREADS": str(processors)} if processors < 8 else {}
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "4000"}
    assert environment == waiting | granted


@pytest.mark.parametrize(("name", "spins"), [("Intel(R) Xeon(R)", "1000"), ("AMD EPYC", "4000")])
def test_threads_spin_about_as_long_on_every_processor(
    monkeypatch: pytest.MonkeyPatch, name: str, spins: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("ossa.machine.cpu_name", lambda: name)
    assert short_wait()["GOMP_SPINCOUNT"] == spins


@pytest.mark.parametrize("policy", ["PASSIVE", "ACTIVE"])
def test_how_threads_wait_is_as_the_user_set_it(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr("os.environ", dict(environment))
    use_threads_well()
    assert os.environ == environment


@pytest.mark.parametrize(("idle", "said"), [(100, "None"), (60, "(1.2 of 2 processors are free)")])
def test_other_programs_that_compute_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, idle: int, said: str
) -> None:
    stat = tmp_path / "stat"
    others = "cpu 9 0 9 9 0 0 0 0 0 0\ncpu2 0 0 0 {} 0 0 0 0 0 0\n"  # may not be used, and idle
    ours = "cpu0 {0} 0 50 {1} 0 0 0 0 0 0\ncpu1 {0} 0 50 800 {2} 0 0 0 0 0\n"
    stat.write_text(others.format(100) + ours.format(50, 800, 0))
    later = others.format(200) + ours.format(150 - idle, 800 + idle, idle)
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "count_processors", lambda: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: stat.write_text(later))
    assert said in str(others_busy())


def test_a_system_without_proc_has_processors_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert (count_processors(), free_memory()) == (6, 4 * 2**30)
