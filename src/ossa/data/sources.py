"""The files that an index was read from, as they were: whether they still are is soon asked."""

import os
import time
from array import array
from collections.abc import Iterable
from os import PathLike
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SETTLED_NS: Final = 2_000_000_000
"""A file changed twice within one tick of its file system's clock (2 s for FAT) keeps its time."""
_ABSENT: Final = (-1, -1, -1)


class SourceLog:
    """The files and folders that a reading depends on, absent ones included.

    Each is added before it is read, so that a change during the reading shows afterwards.
    A folder stands for its list of names, not for what its files hold.
    """

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._stamps = array("q")
        self._settled = True

    def add(self, path: str | PathLike[str]) -> None:
        """Notes the size and times of a file or folder, or that there is none."""
        stamp = stamp_of(os.fspath(path))
        self._paths.append(os.fspath(path))
        self._stamps.extend(stamp)
        self._settled = self._settled and is_settled(stamp)

    @property
    def settled(self) -> bool:
        """Whether every file was old enough when added that a later change must show."""
        return self._settled

    @property
    def paths(self) -> list[str]:
        return self._paths

    @property
    def stamps(self) -> NDArray[np.int64]:
        """(number of paths, 3) size, time of change and of inode change in nanoseconds."""
        return np.frombuffer(self._stamps, np.int64).reshape(-1, 3)


def unchanged(paths: Iterable[str], stamps: NDArray[np.int64]) -> bool:
    """Returns whether all files are as their stamps say, up to the first that is not."""
    return all(
        stamp_of(path) == tuple(stamp) for path, stamp in zip(paths, stamps.tolist(), strict=True)
    )


def is_settled(stamp: tuple[int, int, int]) -> bool:
    """Returns whether a file of this stamp is so old that a later change of it must show."""
    return max(stamp[1:]) < time.time_ns() - _SETTLED_NS


def stamp_of(path: str) -> tuple[int, int, int]:
    """Returns size, time of change and of inode change (nanoseconds); -1 where there is no file."""
    # The time of inode change, too: unlike that of change, no tool sets it back.
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path can have such characters
        return _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
