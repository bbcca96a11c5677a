"""How this process takes memory and processors: kept once allocated, left alone while it waits."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt` in glibc's malloc.h, https://man7.org/linux/man-pages/man3/mallopt.3.html."""
_FROM_THE_HEAP = 2**30
_KEPT = 2**31 - 1
"""Bytes; the largest that `mallopt`, which takes an int, can be told."""


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory that was freed, up to 2 GiB, for what is allocated next.

    As it comes, it gives every large array back to the system at once, and the system clears each
    page of the next one: on a CPU up to a third of the time of a network in PyTorch, whose features
    are some megabytes a layer (benchmarks/train.py). The memory of the process then stays near its
    peak, and so does that of processes forked from it; nothing is computed otherwise.

    Returns whether the allocator is one that can be told so: glibc's, on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    kept = library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    return bool(kept and library.mallopt(_M_MMAP_THRESHOLD, _FROM_THE_HEAP))


def wait_passively() -> None:
    """Lets OpenMP's threads sleep while they wait for each other, unless the user said otherwise.

    As they come, they spin: beside any other program that computes, those that wait keep those that
    work from the processors, and a training is tens of times slower (benchmarks/contention.py). It
    acts on libraries that are loaded later, so it is called before torch is imported, and on the
    processes that this one starts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
