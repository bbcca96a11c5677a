"""Memory that processes share by opening each other's files, and how much of it is free.

A file of `memfd_create` has no folder: its memory is free as soon as the last process has ended
that had it open, also by SIGKILL. Other processes of the same user find it in /proc by its name.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from ossa.files import open_regular

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def new_memory_file(name: str) -> BinaryIO:
    """Returns an empty file in memory that is open for writing.

    Raises:
        OSError: this system has no such files.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "only Linux has files in memory that processes share")
    return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb")


def seal(file: BinaryIO) -> None:
    """Makes a file in memory what it is for good: only then do others find it."""
    file.flush()
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def open_memory_files(name: str) -> Iterator[BinaryIO]:
    """Yields the sealed files of a name that any process of this user has, opened for reading."""
    for link in _open_files():
        with suppress(OSError):  # closed meanwhile, or of a process that may not be looked into
            if os.readlink(link) != f"/memfd:{name} (deleted)":
                continue
            file = open_regular(link)
            # Root sees those of everybody, who may have written anything.
            is_own = os.fstat(file.fileno()).st_uid == os.geteuid()
            if is_own and fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                yield file
            else:
                file.close()


def _open_files() -> Iterator[Path]:
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            yield from (process / "fd").iterdir()


def free_memory() -> int:
    """Returns the bytes of memory that this process may still take, of the machine or its group.

    What the system keeps of files, and would give up, counts as free.
    """
    meminfo = (_PROC / "meminfo").read_text()
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return min([1024 * int(available.split()[1]), *_free_of_groups()])


def _free_of_groups() -> Iterator[int]:
    """Yields what each control group of this process that has a limit leaves (cgroups v2 or v1)."""
    try:
        entries = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for entry in entries:
        _, controllers, own = entry.split(":", 2)
        if not controllers:
            mount, most, taken = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount = _CGROUPS / "memory"
            most, taken = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = mount / own.strip("/")
        # In a container the group's own files may lie at the top.
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError, KeyError):  # no limit is called max
                limit, used = (int((group / name).read_text()) for name in (most, taken))
                stat = dict(line.split() for line in (group / "memory.stat").open())
                yield limit - used + int(stat["inactive_file"]) + int(stat["active_file"])
