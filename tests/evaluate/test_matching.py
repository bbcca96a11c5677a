"""The matching against pycocotools', detection by detection and threshold by threshold."""

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, by_pycocotools, found

from ossa.evaluate import matching as groups
from ossa.evaluate.matching import match


@pytest.mark.parametrize("seed", range(12))
def test_every_match_is_that_of_pycocotools(seed: int):
    index, detections = a_problem(seed)
    ours = match(index, detections)
    compared = 0
    for cell in by_pycocotools(index, detections).evalImgs:
        if cell is None or cell["aRng"] != [0, 1e10]:
            continue
        position = index.image_ids.tolist().index(cell["image_id"])
        label = index.category_ids.tolist().index(cell["category_id"])
        mine = np.flatnonzero((ours.images == position) & (ours.labels == label))
        np.testing.assert_allclose(ours.scores[mine], cell["dtScores"], atol=1e-7)
        # Their annotation ids are counted from 1 in the order of the index; 0 is nobody.
        np.testing.assert_array_equal(ours.matched_gt[mine].T + 1, cell["dtMatches"])
        np.testing.assert_array_equal(ours.ignored[mine].T, cell["dtIgnore"])
        compared += len(mine)
    assert compared == len(ours.scores)


def test_the_columns_come_class_by_class_the_best_first():
    index = an_index([[(0, SQUARE)], [(1, SQUARE)]])
    matches = match(
        index,
        {1: found((0.5, 1, SQUARE), (0.4, 0, SQUARE)), 2: found((0.9, 1, ELSEWHERE))},
    )
    assert matches.labels.tolist() == [0, 1, 1]
    assert matches.scores.tolist() == pytest.approx([0.4, 0.9, 0.5])
    assert matches.images.tolist() == [0, 1, 0]
    assert matches.matched_gt[:, 0].tolist() == [0, -1, -1]
    assert matches.hits[:, 0].tolist() == [True, False, False]


def test_without_detections_there_are_no_rows():
    matches = match(an_index([[(0, SQUARE)]]), {})
    assert matches.matched_gt.shape == (0, 10)
    assert matches.gt_scored.tolist() == [True]


def test_blocks_of_pairs_match_as_all_at_once(monkeypatch: pytest.MonkeyPatch):
    index, detections = a_problem(3)
    at_once = match(index, detections)
    monkeypatch.setattr(groups, "_AT_ONCE", 50)
    in_blocks = match(index, detections)
    assert (at_once.matched_gt >= 0).sum() > 20
    np.testing.assert_array_equal(in_blocks.matched_gt, at_once.matched_gt)
    np.testing.assert_array_equal(in_blocks.ignored, at_once.ignored)
