"""Confusion matrix: hand-made images, its sums, and random problems against a plain loop."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, found

from ossa.data.annotations import DatasetIndex
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


def test_a_ground_truth_is_found_once_and_a_detection_finds_one() -> None:
    twice = found((0.9, CAT, SQUARE), (0.8, CAT, SQUARE))
    matrix = confusion_matrix(an_index([[(CAT, SQUARE)]]), {1: twice})
    assert cells(matrix) == {(CAT, CAT): 1, (BACKGROUND, CAT): 1}
    index = an_index([[(CAT, SQUARE), (DOG, SQUARE)]])
    matrix = confusion_matrix(index, {1: found((0.9, CAT, SQUARE))})
    assert cells(matrix) == {(CAT, CAT): 1, (DOG, BACKGROUND): 1}


def test_confidence_and_iou_are_reached_by_equal_values() -> None:
    index = an_index([[(CAT, SQUARE)]])
    detections = {1: found((0.25, CAT, UPPER_HALF))}
    assert cells(confusion_matrix(index, detections)) == {(CAT, CAT): 1}
    assert cells(confusion_matrix(index, detections, confidence=0.26)) == {(CAT, BACKGROUND): 1}


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


def test_as_a_dictionary_it_is_ready_for_json() -> None:
    matrix = confusion_matrix(an_index([[(DOG, SQUARE)]]), {}, confidence=0.3)
    assert json.loads(json.dumps(matrix.as_dict())) == {
        "names": ["cat", "dog", "background"],
        "matrix": [[0, 0, 0], [0, 0, 1], [0, 0, 0]],
        "confidence": 0.3,
        "iou": 0.5,
    }


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


def test_the_matrix_is_that_of_a_plain_loop() -> None:
    total = np.zeros((5, 5), int)
    for seed in range(8):
        index, detections = _a_confused_problem(seed)
        counts = confusion_matrix(index, detections).counts
        np.testing.assert_array_equal(counts, _by_a_loop(index, detections, 0.25, 0.5))
        total += counts
    assert np.trace(total) > 15
    assert total[:-1, -1].sum() > 15
    assert total[:-1, :-1].sum() - np.trace(total) > 8
