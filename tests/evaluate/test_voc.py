"""VOC's AP: scenes worked out by hand, and random problems against a plain loop."""

from typing import Any

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, found

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.metrics import evaluate_detections
from ossa.evaluate.voc import score_as_voc
from ossa.types import Detections


def boxes_in_a_row(count: int) -> list[tuple[float, ...]]:
    return [(10.0 * n, 0.0, 10.0 * n + 5, 5.0) for n in range(count)]


def cat_scores(index: DatasetIndex, detections: dict[int, Detections]) -> tuple[float, float]:
    """Returns AP of class 0 by eleven points and by area."""
    cat = score_as_voc(index, detections).per_class[0]
    assert cat.ap_11_points is not None
    assert cat.ap_area is not None
    return cat.ap_11_points, cat.ap_area


def test_the_eleven_points_and_the_area_of_a_curve():
    # True, false, true of two truths: precision 1 up to recall 0.5, then 2/3.
    index = an_index([[(0, SQUARE)], [(0, SQUARE)]])
    detections = {1: found((0.9, 0, SQUARE), (0.8, 0, ELSEWHERE)), 2: found((0.7, 0, SQUARE))}
    expected = ((6 * 1 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2)
    assert cat_scores(index, detections) == pytest.approx(expected)


def test_precision_at_a_recall_is_the_best_from_there_on():
    # False, true, true: precision 1/2 at the first hit and 2/3 at the second.
    index = an_index([[(0, SQUARE)], [(0, SQUARE)]])
    detections = {
        1: found((0.9, 0, ELSEWHERE), (0.8, 0, SQUARE)),
        2: found((0.7, 0, SQUARE)),
    }
    assert cat_scores(index, detections) == pytest.approx((2 / 3, 2 / 3))


def test_three_of_ten_ground_truth_reach_the_recall_three_tenths():
    boxes = boxes_in_a_row(10)
    index = an_index([[(0, box) for box in boxes]])
    detections = {1: found(*((0.9, 0, box) for box in boxes[:3]))}
    assert cat_scores(index, detections) == pytest.approx((4 / 11, 0.3))


def test_a_detection_is_of_the_ground_truth_it_overlaps_most_although_that_is_taken():
    # The second box has IoU 9/11 with the first truth and 7/13 with the second.
    one, other = (0.0, 0.0, 10.0, 10.0), (4.0, 0.0, 14.0, 10.0)
    index = an_index([[(0, one), (0, other)]])
    detections = {1: found((0.9, 0, one), (0.8, 0, (1, 0, 11, 10)))}
    assert cat_scores(index, detections) == pytest.approx((6 / 11, 0.5))
    assert evaluate_detections(index, detections).ap50 == pytest.approx(1), "COCO gives it the free"


def test_of_equal_overlaps_the_first_ground_truth_is_taken():
    # IoU 0.6 with both; a difficult one would make the detection ignored.
    truths = [(0, (0.0, 0.0, 8.0, 10.0)), (0, (0.0, 0.0, 10.0, 8.0))]
    box = found((0.9, 0, (0, 0, 10, 10)))
    first_difficult = an_index([truths], difficult=np.array([True, False]))
    assert cat_scores(first_difficult, {1: box}) == (0, 0)
    second_difficult = an_index([truths], difficult=np.array([False, True]))
    assert cat_scores(second_difficult, {1: box}) == (1, 1)


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_any_number_of_detections_of_a_difficult_ground_truth_are_ignored(kind: str):
    ignored: dict[str, Any] = {kind: np.array([False, True])}
    index = an_index([[(0, SQUARE), (0, ELSEWHERE)]], **ignored)
    twice = ((0.9, 0, ELSEWHERE), (0.8, 0, ELSEWHERE))
    scores = score_as_voc(index, {1: found(*twice, (0.7, 0, SQUARE))})
    assert scores.per_class[0].num_truths == 1
    assert (scores.map_11_points, scores.map_area) == (1, 1)


def test_a_difficult_ground_truth_is_overlapped_by_iou_and_not_by_the_part_on_it():
    index = an_index([[(0, SQUARE), (0, ELSEWHERE)]], crowd=np.array([False, True]))
    inside = (52, 52, 56, 56)  # on it wholly, IoU 0.16
    detections = {1: found((0.9, 0, inside), (0.7, 0, SQUARE))}
    assert cat_scores(index, detections) == (0.5, 0.5)
    assert evaluate_detections(index, detections).ap50 == pytest.approx(1), "COCO ignores it"


def test_more_than_a_hundred_detections_of_an_image_count():
    false = [(0.9, 0, ELSEWHERE)] * 150
    index = an_index([[(0, SQUARE)]])
    assert cat_scores(index, {1: found(*false, (0.8, 0, SQUARE))}) == pytest.approx([1 / 151] * 2)


def test_boxes_of_an_index_have_the_overlap_of_the_kit_s_pixels():
    # Pixels 1 to 10 and 1 to 20 of ten rows share 10 x 10 of 200: IoU 1/2 (with + 1).
    index = an_index([[(0, (0.0, 0.0, 10.0, 10.0))]])
    assert cat_scores(index, {1: found((0.9, 0, (0, 0, 20, 10)))}) == (1, 1)
    assert cat_scores(index, {1: found((0.9, 0, (0, 0, 20.1, 10)))}) == (0, 0)


def test_of_equal_scores_the_first_image_and_then_the_first_detection_comes_first():
    index = an_index([[(0, SQUARE)], []])
    true, false = (0.5, 0, SQUARE), (0.5, 0, ELSEWHERE)
    assert cat_scores(index, {2: found(false), 1: found(true)}) == (1, 1)
    assert cat_scores(index, {1: found(false, true)}) == (0.5, 0.5)


def test_a_class_without_ground_truth_has_no_score_and_does_not_lower_the_mean():
    index = an_index([[(0, SQUARE)]])
    scores = score_as_voc(index, {1: found((0.9, 1, SQUARE), (0.8, 0, SQUARE))})
    assert [row.ap_area for row in scores.per_class] == [1, None]
    assert (scores.map_11_points, scores.map_area) == (1, 1)
    nothing = score_as_voc(an_index([[]]), {})
    assert (nothing.map_11_points, nothing.map_area) == (None, None)


def _by_a_loop(
    index: DatasetIndex, detections: dict[int, Detections], label: int
) -> tuple[float, float] | None:
    """Returns both APs of a class as the kit's text tells them, one detection after the other."""
    ignorable = index.difficult | index.crowd
    sought = int(((index.labels == label) & ~ignorable).sum())
    if not sought:
        return None
    rows = [
        (-float(mine.scores[n]), position, n)
        for position, image_id in enumerate(index.image_ids.tolist())
        if (mine := detections.get(image_id))
        for n in range(len(mine))
        if mine.labels[n] == label
    ]
    taken, outcomes = set(), []
    for _, position, n in sorted(rows):
        box = detections[int(index.image_ids[position])].boxes_xyxy[n].astype(float)
        best, best_row = -1.0, -1
        for row in range(*index.gt_rows(position).indices(len(index.labels))):
            if index.labels[row] == label and _iou(box, index.boxes_xyxy[row]) > best:
                best, best_row = _iou(box, index.boxes_xyxy[row]), row
        if best < 0.5:
            outcomes.append(False)
        elif not ignorable[best_row]:
            outcomes.append(best_row not in taken)
            taken.add(best_row)
    true = np.cumsum(outcomes)
    precision = [float(n) / k for k, n in enumerate(true, start=1)]
    best_at = [
        max(
            (p for p, n in zip(precision, true, strict=True) if 10 * n >= tenth * sought), default=0
        )
        for tenth in range(11)
    ]
    area = sum(max(precision[k:]) for k, hit in enumerate(outcomes) if hit) / sought
    return sum(best_at) / 11, area


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - sides.prod()
    return sides.prod() / areas if areas else 0.0


def test_random_problems_score_as_a_plain_loop_finds():
    found_something = 0
    for seed in range(6):
        index, detections = a_problem(seed)
        scores = score_as_voc(index, detections)
        for label, row in enumerate(scores.per_class):
            expected = _by_a_loop(index, detections, label)
            if expected is None:
                assert (row.ap_11_points, row.ap_area) == (None, None)
            else:
                assert (row.ap_11_points, row.ap_area) == pytest.approx(expected, abs=1e-12)
                found_something += 0 < expected[1] < 1
    assert found_something > 7
