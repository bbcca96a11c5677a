"""Calibration: scenes worked out by hand, and random problems against hotcoco's."""

import json

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, found
from hotcoco.metrics import calibration_error

from ossa.errors import ConfigError
from ossa.evaluate.analysis import calibration
from ossa.evaluate.matching import match

FAR = (80.0, 60.0, 90.0, 70.0)


def test_half_of_the_sure_and_none_of_the_unsure_are_true():
    index = an_index([[(0, SQUARE)]])
    rows = found((0.875, 0, SQUARE), (0.875, 0, ELSEWHERE), (0.25, 0, FAR))
    told = calibration(match(index, {1: rows}), bins=4)
    # (2 x |0.5 - 0.875| + 1 x |0 - 0.25|) / 3
    assert told.error == pytest.approx(1 / 3)
    assert [one.count for one in told.bins] == [0, 1, 0, 2]
    assert [one.precision for one in told.bins] == [None, 0, None, 0.5]
    assert [one.mean_score for one in told.bins] == [None, 0.25, None, 0.875]
    assert [(one.lower, one.upper) for one in told.bins][1:3] == [(0.25, 0.5), (0.5, 0.75)]
    assert json.loads(json.dumps(told.as_dict()))["bins"][3]["count"] == 2


def test_scores_at_the_edges_open_their_bin_and_one_belongs_to_the_last():
    index = an_index([[(0, SQUARE)]])
    told = calibration(match(index, {1: found((1.0, 0, SQUARE), (0.7, 0, FAR), (0.0, 0, FAR))}))
    assert float(np.float32(0.7)) < 0.7
    assert [one.count for one in told.bins] == [1, 0, 0, 0, 0, 0, 0, 1, 0, 1]


def test_a_second_detection_is_false_and_one_of_a_crowd_does_not_count():
    index = an_index([[(0, SQUARE), (0, ELSEWHERE)]], crowd=np.array([False, True]))
    rows = found((0.75, 0, SQUARE), (0.75, 0, SQUARE), (0.75, 0, ELSEWHERE))
    told = calibration(match(index, {1: rows}), bins=1)
    assert (told.bins[0].count, told.bins[0].precision, told.error) == (2, 0.5, 0.25)


def test_detections_below_the_confidence_do_not_count():
    index = an_index([[(0, SQUARE)]])
    matches = match(index, {1: found((0.7, 0, SQUARE), (0.6995, 0, FAR))})
    told = calibration(matches, confidence=0.7)
    assert (told.confidence, told.error) == (0.7, pytest.approx(0.3))
    assert sum(one.count for one in told.bins) == 1


def test_without_detections_there_is_no_error():
    told = calibration(match(an_index([[(0, SQUARE)]]), {}))
    assert told.error is None
    assert len(told.bins) == 10


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_the_error_is_that_of_hotcoco(seed: int):
    matches = match(*a_problem(seed))
    counts = ~matches.ignored[:, 0]
    # Theirs divides in float64, where 0.29 x 100 is below 29: away from all edges both agree.
    matches.scores[:] = np.floor(matches.scores * 100) / 100 + 0.005
    expected, _ = calibration_error(matches.scores[counts], matches.hits[counts, 0], 20)
    assert calibration(matches, bins=20).error == pytest.approx(expected)
    assert expected > 0.1


def test_no_bins_are_refused():
    with pytest.raises(ConfigError, match="at least one bin of scores, found 0"):
        calibration(match(an_index([]), {}), bins=0)
