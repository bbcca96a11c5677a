"""Settings of the process: keep freed memory, and wait for other threads without spinning."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt` in glibc's malloc.h, https://man7.org/linux/man-pages/man3/mallopt.3.html."""
_MMAP_BYTES = 2**30
_KEPT_BYTES = 2**31 - 1
"""The largest value of `mallopt`, which takes an int."""


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


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user said otherwise.

    By default they spin: beside any other program that computes, the waiting threads keep the
    working ones from the processors, and training is tens of times slower
    (benchmarks/contention.py). The setting acts on libraries that are loaded later, so call it
    before torch is imported, and on the processes that this one starts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
