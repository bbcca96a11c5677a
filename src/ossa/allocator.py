"""Memory that networks on the CPU use again and again stays with the process."""

import ctypes
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
