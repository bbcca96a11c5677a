"""What this process may use of the machine, and how it uses memory and threads."""

import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

BUILDS_DIFFER = (
    "torch and torchvision are of different builds: install both again from one index, as by pip "
    "install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt` in glibc's malloc.h, https://man7.org/linux/man-pages/man3/mallopt.3.html."""
_MMAP_BYTES = 2**30
_KEPT_BYTES = 2**31 - 1
"""The largest value of `mallopt`, which takes an int."""
_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MOST_BUSY = 0.15
"""Share of the processors that other programs may take without a word."""
_MEMORY_ASSUMED = 2**32
"""Bytes, where the system does not tell what is free."""
_SPINS_OF_INTEL, _SPINS = 1000, 4000
"""Of OpenMP's waiting threads. A spin is one `pause`, which Intel's processors since Skylake take
some four times as long for as AMD's."""


def short_wait() -> dict[str, str]:
    """Return the environment for a short wait, or nothing where the user said how threads wait.

    In it OpenMP's threads spin for about as long as waking one takes, and then sleep
    (benchmarks/contention.py).
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return {}
    spins = _SPINS_OF_INTEL if "Intel" in cpu_name() else _SPINS
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(spins)}


def keep_freed_memory() -> bool:
    """Let glibc keep up to 2 GiB of freed memory for what is allocated next.

    By default it returns every large array to the system at once, and the system clears each page
    of the next one: on a CPU up to a third of the time of a network in PyTorch, whose features
    are some megabytes per layer (benchmarks/train.py). The memory of the process then stays near
    its peak, and so does that of processes forked from it; no result changes.

    Returns whether the setting was made: with glibc, on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    kept = library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(kept and library.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))


def use_threads_well() -> None:
    """Set OpenMP's threads for a shared machine, unless the user said otherwise.

    They soon sleep while they wait for each other. By default they spin: beside any other program
    that computes, the waiting threads keep the working ones from the processors, and training is
    tens of times slower (benchmarks/contention.py). And where a cgroup grants fewer processors
    than there are, as in a container, there are no more threads than that.

    The settings act on libraries that are loaded later, so call it before torch is imported, and
    on the processes that this one starts.
    """
    os.environ |= short_wait()
    if count_processors() < _allowed_processors():
        os.environ.setdefault("OMP_NUM_THREADS", str(count_processors()))


def count_processors() -> int:
    """Return how many processors this process may keep busy: by affinity and the cgroup's quota."""
    counts = [_allowed_processors()]
    for group in _own_cgroups():
        with suppress(OSError, ValueError):  # without a limit the quota is called max
            quota, period = (group / "cpu.max").read_text().split()
            counts.append(max(1, math.ceil(int(quota) / int(period))))
    return min(counts)


def others_busy(seconds: float = 0.3) -> str | None:
    """Return a sentence if other programs leave too few processors idle for timing anything.

    It waits so many seconds, and asks Linux alone; None where nothing is known.
    """
    try:
        before = _idle_and_all_ticks()
        time.sleep(seconds)
        idle, total = (now - then for now, then in zip(_idle_and_all_ticks(), before, strict=True))
    except (OSError, AttributeError):
        return None
    allowed = count_processors()
    free = min(_allowed_processors() * idle / max(total, 1), allowed)
    if free > (1 - _MOST_BUSY) * allowed:
        return None
    return (
        f"other programs are busy ({free:.1f} of {allowed} processors are free): what is timed now "
        "is not the machine's speed"
    )


def _idle_and_all_ticks() -> tuple[int, int]:
    """Return what /proc/stat counts, since the start, for the processors this process may use."""
    lines = [line.split() for line in (_PROC / "stat").read_text().splitlines()]
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = [[int(word) for word in line[1:9]] for line in lines if line and line[0] in ours]
    return sum(one[3] + one[4] for one in ticks), sum(
        map(sum, ticks)
    )  # idle, or waiting for a disk


def free_memory() -> int:
    """Return the bytes of memory that this process may still take, of the machine or its cgroup.

    What the system keeps of files, and would give up, counts as free. 4 GiB where the system does
    not tell.
    """
    try:
        meminfo = (_PROC / "meminfo").read_text().splitlines()
    except OSError:
        return _MEMORY_ASSUMED
    available = next(line for line in meminfo if line.startswith("MemAvailable:"))
    free = [1024 * int(available.split()[1])]
    for group in _own_cgroups():
        with suppress(OSError, ValueError, KeyError):  # no limit is called max
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").open())
            cached = int(stat["inactive_file"]) + int(stat["active_file"])
            free.append(limit - used + cached)
    return min(free)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had; 0 on Windows, which has no such.

    macOS states bytes where Linux states kibibytes.
    """
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def cpu_name() -> str:
    """Return the model of the processor, such as 'AMD EPYC'."""
    with suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _allowed_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _own_cgroups() -> Iterator[Path]:
    """Yield the folders of this process's cgroup (version 2) and of those around it."""
    with suppress(OSError):
        own = (_PROC / "self" / "cgroup").read_text().rpartition("0::")[2].strip().strip("/")
        folder = _CGROUPS / own
        # In a container the group's own files may lie at the top.
        yield from (folder, *folder.parents)
