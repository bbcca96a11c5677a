"""Types of errors, each in a scene with its cost worked out by hand (AP50), and calibration."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, found
from hotcoco.metrics import calibration_error

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.error_analysis import ErrorKind, calibration, errors_by_kind
from ossa.evaluate.matching import match
from ossa.types import Detections

CAT, DOG = 0, 1
BESIDE = (10.0, 10.0, 14.0, 20.0)
"""On 4/10 of the square."""
NOTHING = dict.fromkeys(
    ("localisation", "classification", "duplicate", "background", "both", "missed"), 0
)


Errors = tuple[ErrorKind, ...]


def counts_of(errors: Errors) -> dict[str, int]:
    return {kind.kind: kind.count for kind in errors}


def costs_of(errors: Errors) -> dict[str, float]:
    return {kind.kind: kind.cost for kind in errors}


def errors_of(index: DatasetIndex, detections: Detections) -> Errors:
    return errors_by_kind(index, {1: detections})


def test_what_is_found_perfectly_has_no_errors():
    errors = errors_of(an_index([[(CAT, SQUARE)]]), found((0.9, CAT, SQUARE)))
    assert (counts_of(errors), costs_of(errors)) == (NOTHING, NOTHING)


def test_a_box_beside_its_ground_truth_costs_all_of_the_ap():
    errors = errors_of(an_index([[(CAT, SQUARE)]]), found((0.9, CAT, BESIDE)))
    assert counts_of(errors) == {**NOTHING, "localisation": 1}, "and the truth is not missed"
    assert costs_of(errors) == {**NOTHING, "localisation": pytest.approx(1)}


def test_a_box_of_the_wrong_class_costs_two_classes():
    # Base: no cat is found, AP 0; the dog is found behind a false one, AP 1/2. Mean 1/4.
    index = an_index([[(CAT, SQUARE), (DOG, ELSEWHERE)]])
    errors = errors_of(index, found((0.9, DOG, SQUARE), (0.8, DOG, ELSEWHERE)))
    assert counts_of(errors) == {**NOTHING, "classification": 1}
    assert costs_of(errors)["classification"] == pytest.approx(0.75)


def test_a_second_box_above_the_ground_truth_of_another_costs_precision():
    # True, duplicate, true of two: precision 1 at 51 recalls and 2/3 at 50.
    index = an_index([[(CAT, SQUARE), (CAT, ELSEWHERE)]])
    errors = errors_of(index, found((0.9, CAT, SQUARE), (0.8, CAT, SQUARE), (0.7, CAT, ELSEWHERE)))
    assert counts_of(errors) == {**NOTHING, "duplicate": 1}
    assert costs_of(errors)["duplicate"] == pytest.approx(50 / 3 / 101)


def test_a_duplicate_below_all_ground_truth_costs_nothing():
    errors = errors_of(an_index([[(CAT, SQUARE)]]), found((0.9, CAT, SQUARE), (0.8, CAT, SQUARE)))
    assert counts_of(errors) == {**NOTHING, "duplicate": 1}
    assert costs_of(errors) == NOTHING


def test_a_box_on_the_background_above_the_true_one_costs_half():
    errors = errors_of(
        an_index([[(CAT, SQUARE)]]), found((0.9, CAT, ELSEWHERE), (0.8, CAT, SQUARE))
    )
    assert counts_of(errors) == {**NOTHING, "background": 1}
    assert costs_of(errors)["background"] == pytest.approx(0.5)


def test_wrong_class_and_place_is_both_and_its_ground_truth_missed():
    # Base: cat 0, dog 1/2 behind the false dog.
    index = an_index([[(CAT, SQUARE), (DOG, ELSEWHERE)]])
    errors = errors_of(index, found((0.9, DOG, BESIDE), (0.8, DOG, ELSEWHERE)))
    assert counts_of(errors) == {**NOTHING, "both": 1, "missed": 1}
    assert costs_of(errors)["both"] == pytest.approx(0.25)


def test_a_missed_ground_truth_costs_the_recalls_that_are_not_reached():
    index = an_index([[(CAT, SQUARE), (CAT, ELSEWHERE)]])
    errors = errors_of(index, found((0.9, CAT, SQUARE)))
    assert counts_of(errors) == {**NOTHING, "missed": 1}
    assert costs_of(errors)["missed"] == pytest.approx(50 / 101)


def test_an_error_is_of_the_first_kind_that_fits():
    # Beside the cat, and exactly on a dog: localisation, not classification.
    index = an_index([[(CAT, SQUARE), (DOG, BESIDE)]])
    errors = errors_of(index, found((0.9, CAT, BESIDE)))
    assert counts_of(errors) == {**NOTHING, "localisation": 1, "missed": 1}
    # On a cat that is found and on a dog: classification, not duplicate.
    index = an_index([[(CAT, SQUARE), (DOG, (10.0, 10.0, 20.0, 19.0))]])
    errors = errors_of(index, found((0.9, CAT, SQUARE), (0.8, CAT, SQUARE)))
    assert counts_of(errors) == {**NOTHING, "classification": 1}


def test_without_ground_truth_all_is_background_and_without_detections_all_is_missed():
    errors = errors_by_kind(an_index([[]]), {1: found((0.9, CAT, SQUARE))})
    assert counts_of(errors) == {**NOTHING, "background": 1}
    errors = errors_by_kind(an_index([[(CAT, SQUARE)]]), {})
    assert counts_of(errors) == {**NOTHING, "missed": 1}


def test_no_cost_is_negative():
    for seed in range(8):
        assert all(cost >= 0 for cost in costs_of(errors_by_kind(*a_problem(seed))).values())


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
    assert json.loads(json.dumps(asdict(told)))["bins"][3]["count"] == 2


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
