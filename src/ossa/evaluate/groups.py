"""Rows of columns that lie together in groups: those of an image, of a class, of a detection."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 2**18


def ranks_within(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns (n,) the how-manieth of its group each row is, from 0.

    Args:
        groups: (n,) numbers from 0; rows of a group lie together.
    """
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def blocks(counts: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Yields first and last + 1 of runs of rows whose counts (n,) sum to 250,000 or a little more.

    What is made of each row as often as its count tells then fits into memory.
    """
    sums = np.cumsum(counts)
    total = int(sums[-1]) if len(sums) else 0
    inner = np.searchsorted(sums, np.arange(_AT_ONCE, total, _AT_ONCE))
    yield from pairwise(np.unique([0, *inner.tolist(), len(counts)]).tolist())
