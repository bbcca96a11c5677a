"""Confusion matrix: hand-made images, its sums, and random problems against a plain loop."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, found
from hypothesis import given, settings
from hypothesis import strategies as st

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError, DataError
from ossa.evaluate.confusion import ConfusionMatrix, confusion_matrix
from ossa.types import Detections

CAT, DOG, BACKGROUND = 0, 1, 2
UPPER_HALF = (10.0, 10.0, 20.0, 15.0)
"""Of SQUARE: an IoU of exactly 0.5."""


def cells(matrix: ConfusionMatrix) -> dict[tuple[int, int], int]:
    """Returns the counts above 0 by (class of the truth, class of the detection)."""
    return {
        (row, column): int(matrix.counts[row, column])
        for row, column in np.argwhere(matrix.counts).tolist()
    }


# Images with known answers


def test_a_found_ground_truth_counts_on_the_diagonal_and_a_confused_one_beside_it() -> None:
    index = an_index([[(CAT, SQUARE), (DOG, ELSEWHERE)]])
    both_cats = found((0.9, CAT, SQUARE), (0.8, CAT, ELSEWHERE))
    matrix = confusion_matrix(index, {1: both_cats})
    assert matrix.names == ("cat", "dog", "background")
    assert matrix.counts.dtype == np.int64
    assert cells(matrix) == {(CAT, CAT): 1, (DOG, CAT): 1}


def test_a_missed_ground_truth_and_a_detection_of_nothing_count_with_the_background() -> None:
    matrix = confusion_matrix(an_index([[(CAT, SQUARE)]]), {1: found((0.9, DOG, ELSEWHERE))})
    assert cells(matrix) == {(CAT, BACKGROUND): 1, (BACKGROUND, DOG): 1}


def test_images_without_ground_truth_or_detections_count_too() -> None:
    index = an_index([[], [(DOG, SQUARE)], []])
    matrix = confusion_matrix(index, {1: found((0.9, CAT, SQUARE)), 3: found()})
    assert cells(matrix) == {(BACKGROUND, CAT): 1, (DOG, BACKGROUND): 1}
    assert cells(confusion_matrix(an_index([]), {})) == {}


def test_a_ground_truth_is_found_once() -> None:
    twice = found((0.9, CAT, SQUARE), (0.8, CAT, SQUARE))
    matrix = confusion_matrix(an_index([[(CAT, SQUARE)]]), {1: twice})
    assert cells(matrix) == {(CAT, CAT): 1, (BACKGROUND, CAT): 1}


def test_a_detection_finds_one_ground_truth() -> None:
    index = an_index([[(CAT, SQUARE), (DOG, SQUARE)]])
    matrix = confusion_matrix(index, {1: found((0.9, CAT, SQUARE))})
    assert cells(matrix) == {(CAT, CAT): 1, (DOG, BACKGROUND): 1}


def test_confidence_and_iou_are_reached_by_equal_values() -> None:
    index = an_index([[(CAT, SQUARE)]])
    detections = {1: found((0.25, CAT, UPPER_HALF))}
    assert cells(confusion_matrix(index, detections)) == {(CAT, CAT): 1}
    assert cells(confusion_matrix(index, detections, confidence=0.26)) == {(CAT, BACKGROUND): 1}
    missed = {(CAT, BACKGROUND): 1, (BACKGROUND, CAT): 1}
    assert cells(confusion_matrix(index, detections, iou=0.51)) == missed


def test_the_better_fit_is_of_the_ground_truth_whatever_the_scores() -> None:
    sure_but_half = found((0.9, CAT, UPPER_HALF), (0.3, DOG, SQUARE))
    matrix = confusion_matrix(an_index([[(DOG, SQUARE)]]), {1: sure_but_half})
    assert cells(matrix) == {(DOG, DOG): 1, (BACKGROUND, CAT): 1}


def test_of_one_box_for_two_classes_the_higher_score_counts() -> None:
    index = an_index([[(DOG, SQUARE)]])
    matrix = confusion_matrix(index, {1: found((0.9, CAT, SQUARE), (0.8, DOG, SQUARE))})
    assert cells(matrix) == {(DOG, CAT): 1, (BACKGROUND, DOG): 1}


def test_two_objects_in_one_place_are_confused_with_each_other_only_if_they_must() -> None:
    index = an_index([[(DOG, SQUARE), (CAT, SQUARE)]])
    matrix = confusion_matrix(index, {1: found((0.9, CAT, SQUARE), (0.8, DOG, SQUARE))})
    assert cells(matrix) == {(CAT, CAT): 1, (DOG, DOG): 1}


@pytest.mark.parametrize("crowd", [True, False])
def test_on_an_ignored_ground_truth_nothing_is_missed_and_nothing_is_false(crowd: bool) -> None:
    ignored = {"crowd": np.array([crowd]), "difficult": np.array([not crowd])}
    index = replace(an_index([[(CAT, (0, 0, 40, 40))]]), **ignored)
    # Of 100 pixels 100, 50 and 40 lie on it; whatever their class.
    inside, half, less = (10, 10, 20, 20), (35, 10, 45, 20), (36, 20, 46, 30)
    detections = {1: found((0.9, CAT, inside), (0.8, DOG, half), (0.7, DOG, less))}
    assert cells(confusion_matrix(index, detections)) == {(BACKGROUND, DOG): 1}


def test_a_detection_of_a_ground_truth_on_a_crowd_counts() -> None:
    crowd = np.array([False, True])
    index = an_index([[(CAT, SQUARE), (CAT, (0, 0, 40, 40))]], crowd=crowd)
    matrix = confusion_matrix(index, {1: found((0.9, DOG, SQUARE))})
    assert cells(matrix) == {(CAT, DOG): 1}


def test_boxes_without_area_match_nothing_and_are_no_error() -> None:
    point = (10.0, 10.0, 10.0, 10.0)
    index = an_index([[(CAT, point), (CAT, SQUARE)]], crowd=np.array([False, True]))
    matrix = confusion_matrix(index, {1: found((0.9, CAT, point))})
    assert cells(matrix) == {(CAT, BACKGROUND): 1, (BACKGROUND, CAT): 1}


# Forms


def test_fractions_are_those_of_the_row() -> None:
    counts = np.array([[3, 0, 1], [0, 0, 0], [1, 4, 0]])
    matrix = ConfusionMatrix(("cat", "dog", "background"), counts, 0.25, 0.5)
    assert matrix.normalized().tolist() == [[0.75, 0, 0.25], [0, 0, 0], [0.2, 0.8, 0]]


def test_as_a_table_names_stand_before_rows_and_above_columns() -> None:
    names = ("cat, black", "dog", "background")
    matrix = ConfusionMatrix(names, np.arange(9).reshape(3, 3), 0.25, 0.5)
    assert list(csv.reader(io.StringIO(matrix.csv()))) == [
        ["truth \\ predicted", *names],
        ["cat, black", "0", "1", "2"],
        ["dog", "3", "4", "5"],
        ["background", "6", "7", "8"],
    ]


def test_as_a_dictionary_it_is_ready_for_json() -> None:
    matrix = confusion_matrix(an_index([[(DOG, SQUARE)]]), {}, confidence=0.3, iou=0.45)
    assert json.loads(json.dumps(matrix.as_dict())) == {
        "names": ["cat", "dog", "background"],
        "matrix": [[0, 0, 0], [0, 0, 1], [0, 0, 0]],
        "confidence": 0.3,
        "iou": 0.45,
    }


# Sums and order

boxes = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(0, 8)] * 2).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)
truths = st.lists(st.tuples(st.integers(0, 2), boxes), max_size=5)
guesses = st.lists(
    st.tuples(st.integers(0, 100).map(lambda n: n / 100), st.integers(0, 2), boxes), max_size=8
).map(lambda rows: found(*sorted(rows, key=lambda row: -row[0])))
images = st.lists(st.tuples(truths, guesses), max_size=4)


def _problem(drawn: list[tuple[list, Detections]]) -> tuple[DatasetIndex, dict[int, Detections]]:
    index = an_index([truths for truths, _ in drawn], names=("a", "b", "c"))
    return index, {number: mine for number, (_, mine) in enumerate(drawn, start=1)}


@given(images, st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([0.01, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_rows_sum_to_the_ground_truth_and_columns_to_the_detections(
    drawn: list[tuple[list, Detections]], confidence: float, iou: float
) -> None:
    index, detections = _problem(drawn)
    counts = confusion_matrix(index, detections, confidence=confidence, iou=iou).counts
    labels = [label for mine in detections.values() for label in mine.above(confidence).labels]
    assert counts.min() >= 0
    assert counts[-1, -1] == 0
    assert counts[:-1].sum(axis=1).tolist() == np.bincount(index.labels, minlength=3).tolist()
    assert counts[:, :-1].sum(axis=0).tolist() == [labels.count(label) for label in range(3)]


@given(images, st.lists(st.booleans(), min_size=20, max_size=20))
@settings(max_examples=40, deadline=None)
def test_with_ignored_ground_truth_rows_sum_to_the_others_and_columns_at_most_to_the_detections(
    drawn: list[tuple[list, Detections]], ignored: list[bool]
) -> None:
    index, detections = _problem(drawn)
    crowd = np.array(ignored[: len(index.labels)], bool)
    counts = confusion_matrix(replace(index, crowd=crowd), detections, confidence=0.0).counts
    counted = np.bincount(index.labels[~crowd], minlength=3)
    assert counts[:-1].sum(axis=1).tolist() == counted.tolist()
    labels = [label for mine in detections.values() for label in mine.labels]
    assert all(counts[:, k].sum() <= labels.count(k) for k in range(3))


# Against a plain loop


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    common, areas = _common(one, other), _area(one) + _area(other)
    return common / (areas - common) if areas > common else 0.0


def _common(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _area(box: np.ndarray) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _by_a_loop(
    index: DatasetIndex, detections: dict[int, Detections], confidence: float, iou: float
) -> np.ndarray:
    """Returns the counts by looking for the best pair that is left, again and again."""
    background = len(index.names)
    counts = np.zeros((background + 1, background + 1), int)
    for position, image_id in enumerate(index.image_ids.tolist()):
        rows = range(*index.gt_rows(position).indices(len(index.labels)))
        ignored = [n for n in rows if index.crowd[n] or index.difficult[n]]
        free = [n for n in rows if n not in ignored]
        mine = detections.get(image_id)
        places = [] if mine is None else np.flatnonzero(mine.scores >= confidence).tolist()
        boxes = [] if mine is None else mine.boxes_xyxy.astype(float)
        while mine is not None:
            pairs = [
                (_iou(boxes[d], index.boxes_xyxy[t]), mine.scores[d], same, -d, -t)
                for d in places
                for t in free
                for same in [mine.labels[d] == index.labels[t]]
            ]
            pairs = [pair for pair in pairs if pair[0] >= iou]
            if not pairs:
                break
            *_, d, t = max(pairs)
            counts[index.labels[-t], mine.labels[-d]] += 1
            places.remove(-d)
            free.remove(-t)
        for t in free:
            counts[index.labels[t], background] += 1
        for d in places:
            area = _area(boxes[d])
            on = [_common(boxes[d], index.boxes_xyxy[n]) / area for n in ignored if area]
            if mine is not None and max(on, default=0) < iou:
                counts[background, mine.labels[d]] += 1
    return counts


def _a_confused_problem(seed: int) -> tuple[DatasetIndex, dict[int, Detections]]:
    """Returns a random problem in which a third of the detections have a class at random."""
    index, detections = a_problem(seed)
    rng = np.random.default_rng(seed)
    confused = {}
    for image_id, mine in detections.items():
        others = rng.integers(0, len(index.names), len(mine))
        labels = np.where(rng.random(len(mine)) < 1 / 3, others, mine.labels)
        confused[image_id] = replace(mine, labels=labels)
    return index, confused


@pytest.mark.parametrize("seed", range(12))
def test_the_matrix_is_that_of_a_plain_loop(seed: int) -> None:
    index, detections = _a_confused_problem(seed)
    expected = _by_a_loop(index, detections, 0.25, 0.5)
    np.testing.assert_array_equal(confusion_matrix(index, detections).counts, expected)


def test_the_random_problems_have_all_that_the_loop_is_for() -> None:
    problems = [_a_confused_problem(seed) for seed in range(12)]
    total = np.sum([confusion_matrix(*problem).counts for problem in problems], axis=0)
    assert np.trace(total) > 20
    assert total[:-1, -1].sum() > 20
    assert total[-1].sum() > 100
    assert total[:-1, :-1].sum() - np.trace(total) > 10
    above = sum((d.scores >= 0.25).sum() for _, mine in problems for d in mine.values())
    assert above - total[:, :-1].sum() > 20, "detections on ignored truths"


# Bad input


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.01, float("nan")])
def test_an_iou_out_of_range_is_refused(iou: float) -> None:
    with pytest.raises(ConfigError, match=r"above 0 and up to 1 for the confusions, found"):
        confusion_matrix(an_index([]), {}, iou=iou)


def test_detections_of_other_images_or_classes_are_refused() -> None:
    index = an_index([[(CAT, SQUARE)]])
    with pytest.raises(DataError, match=r"Expected image ids of the data set .* found 9"):
        confusion_matrix(index, {9: found((0.9, CAT, SQUARE))})
    with pytest.raises(DataError, match=r"Expected labels in 0\.\.1, found 2"):
        confusion_matrix(index, {1: found((0.9, 2, SQUARE))})
