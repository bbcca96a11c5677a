"""Rows in groups: hand-made columns."""

import numpy as np
import pytest

from ossa.evaluate import matching as groups
from ossa.evaluate.matching import blocks, ranks_within


def test_ranks_begin_anew_in_every_group():
    assert ranks_within(np.array([4, 4, 4, 0, 7, 7])).tolist() == [0, 1, 2, 0, 0, 1]
    assert ranks_within(np.array([], int)).tolist() == []


def test_blocks_hold_all_rows_once_and_few_of_what_is_made_of_them(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(groups, "_AT_ONCE", 10)
    counts = np.array([3, 0, 4, 3, 0, 12, 1, 1])
    found = list(blocks(counts))
    assert [row for start, end in found for row in range(start, end)] == list(range(8))
    assert found == [(0, 3), (3, 5), (5, 8)]
    assert [int(counts[start:end].sum()) for start, end in found] == [7, 3, 14]


def test_nothing_has_no_blocks():
    assert list(blocks(np.array([], int))) == []
    assert list(blocks(np.array([0, 0]))) == [(0, 2)]
