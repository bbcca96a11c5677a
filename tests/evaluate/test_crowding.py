"""Crowding and coverage: scenes of a few boxes, and random problems against plain loops.

Boxes of 10 x 10 pixels have a side of 10: isolated ends at 15 pixels between centres, and three
centres within 20 make a crowd.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_problems import a_problem, an_index, found

from ossa.data.annotations import DatasetIndex
from ossa.evaluate import matching as groups
from ossa.evaluate.matching import match
from ossa.evaluate.metrics import KINDS
from ossa.evaluate.object_bins import (
    by_coverage,
    by_crowding,
    surroundings_of_detections,
    surroundings_of_gt,
)
from ossa.types import Detections

Box = tuple[float, float, float, float]
ALONE: Box = (0, 0, 10, 10)


def at(x: float, y: float = 0, *, width: float = 10, height: float = 10) -> Box:
    """Returns a box by its upper left corner."""
    return (x, y, x + width, y + height)


def kinds_of(*boxes: Box, **columns: list[bool]) -> list[str]:
    """Returns how truths of one image, of two classes in turn, stand."""
    index = an_index([[(number % 2, box) for number, box in enumerate(boxes)]])
    ignorable = {name: np.array(values) for name, values in columns.items()}
    stand = surroundings_of_gt(replace(index, **ignorable))  # type: ignore[arg-type]
    return [KINDS[kind] for kind in stand.kinds]


def coverage_of(*boxes: Box) -> list[float]:
    return surroundings_of_gt(an_index([[(0, box) for box in boxes]])).coverage.tolist()


def kind_of_detection(box: Box, *truths: Box, label: int = 0) -> str:
    """Returns how a detection stands among truths of class 0."""
    index = an_index([[(0, truth) for truth in truths]])
    matches = match(index, {1: found((0.9, label, box))})
    return KINDS[surroundings_of_detections(index, matches).kinds[0]]


# Kinds


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (15.01, "isolated"),  # the nearest centre lies beyond one and a half sides
        (15, "touching"),
        (7, "touching"),  # 3 x 10 of 170 is an IoU of 0.18
        (6, "crowded"),  # 4 x 10 of 160 is 0.25, above a fifth
    ],
)
def test_two_objects_stand_by_their_distance_and_overlap(x: float, kind: str):
    assert kinds_of(ALONE) == ["isolated"]
    assert kinds_of(ALONE, at(x)) == [kind, kind]


def test_an_overlap_touches_however_far_the_centre():
    # The centre of the wide box is 50 pixels away, five sides of the small one and 1.7 of its own.
    assert kinds_of(ALONE, at(9, width=92)) == ["touching", "touching"]


def test_an_iou_of_exactly_a_fifth_only_touches():
    # 1 x 10 of 50.
    assert kinds_of(at(0, width=3), at(2, width=3)) == ["touching", "touching"]


def test_three_centres_within_two_sides_are_a_crowd_although_none_is_within_one_and_a_half():
    cross = (at(50, 50), at(31, 50), at(69, 50), at(50, 31))
    assert kinds_of(*cross) == ["crowded", "isolated", "isolated", "isolated"]
    assert kinds_of(*cross[:3]) == ["isolated"] * 3


def test_difficult_objects_are_neighbours_and_crowd_regions_are_not():
    assert kinds_of(ALONE, at(6), difficult=[False, True])[0] == "crowded"
    assert kinds_of(ALONE, at(6), crowd=[False, True])[0] == "isolated"
    index = replace(an_index([[(0, ALONE), (0, at(6))]]), crowd=np.array([False, True]))
    assert surroundings_of_gt(index).coverage[0] == 0


# Detections


@pytest.mark.parametrize("label", [0, 1])
def test_a_false_detection_on_an_isolated_object_is_isolated_whatever_its_class(label: int):
    assert kind_of_detection(at(1), ALONE, label=label) == "isolated"


def test_a_detection_between_two_objects_is_crowded_by_the_one_it_overlaps_less():
    # IoU 0.67 with the first and 0.25 with the second, which are 8 pixels apart.
    assert kind_of_detection(at(2), ALONE, at(8)) == "crowded"


def test_a_box_on_the_background_is_judged_by_every_object_of_the_image():
    assert kind_of_detection(at(60), ALONE) == "isolated"
    # IoU 1/19: the object is not its own, and it overlaps it.
    assert kind_of_detection(at(9), ALONE) == "touching"
    # 2 x 10 of 180 is IoU 0.11: its own.
    assert kind_of_detection(at(8), ALONE) == "isolated"


def test_the_own_object_of_a_detection_is_the_first_of_equals():
    # A box twice: the first is its own, the second a neighbour.
    assert kind_of_detection(ALONE, ALONE, ALONE) == "crowded"


def test_without_ground_truth_every_detection_is_isolated_and_uncovered():
    index = an_index([[], []])
    stand = surroundings_of_detections(index, match(index, {2: found((0.9, 0, ALONE))}))
    assert (stand.kinds.tolist(), stand.coverage.tolist()) == ([0], [0.0])


# AP


def test_a_false_detection_counts_in_the_bin_of_its_own_place():
    # Image 1: an isolated truth, found after a false detection. Image 2: a crowd of two, found.
    index = an_index([[(0, ALONE)], [(0, at(0)), (0, at(6))]])
    detections = {
        1: found((0.9, 0, at(60)), (0.8, 0, ALONE)),
        2: found((0.7, 0, at(0)), (0.6, 0, at(6))),
    }
    matches = match(index, detections)
    truths = surroundings_of_gt(index)
    scores = by_crowding(matches, truths, surroundings_of_detections(index, matches))
    isolated, touching, crowded = scores.bins
    assert scores.name == "crowding"
    assert tuple(row.label for row in scores.bins) == KINDS
    assert (isolated.ap, isolated.ap50, isolated.recall) == pytest.approx((0.5, 0.5, 1))
    assert (isolated.num_truths, isolated.num_detections) == (1, 2)
    assert (touching.ap, touching.ap50, touching.recall) == (None, None, None)
    assert (touching.num_truths, touching.num_detections) == (0, 0)
    assert (crowded.ap, crowded.num_truths, crowded.num_detections) == (pytest.approx(1), 2, 2)
    assert json.loads(json.dumps(scores.rows()))[2]["label"] == "crowded"


# Coverage


def test_the_part_of_a_box_in_another_is_covered():
    assert coverage_of(ALONE, at(6)) == [0.4, 0.4]
    assert coverage_of(ALONE, at(10)) == [0, 0], "edge to edge"
    assert coverage_of(at(2, 2, width=4, height=4), ALONE) == [1, 0.16]
    assert coverage_of(at(5, 5, width=0), ALONE) == [0, 0], "without area"


def test_what_two_boxes_cover_both_counts_once():
    # The left and the upper half of the first box: 50 + 50 - 25 of 100.
    left, upper = at(-5, width=10), at(0, -5)
    assert coverage_of(ALONE, left, upper)[0] == 0.75


def test_coverage_is_binned_with_the_upper_edge():
    boxes = (at(0), at(20), at(27.5), at(40), at(45), at(60), at(64))
    index = an_index([[(0, box) for box in boxes]])
    matches = match(index, {1: found(*((0.9, 0, box) for box in boxes))})
    truths = surroundings_of_gt(index)
    assert truths.coverage.tolist() == [0, 0.25, 0.25, 0.5, 0.5, 0.6, 0.6]
    scores = by_coverage(matches, truths, surroundings_of_detections(index, matches))
    assert [row.label for row in scores.bins] == ["none", "up to 0.25", "up to 0.5", "over 0.5"]
    assert [row.num_truths for row in scores.bins] == [1, 2, 2, 2]
    assert [row.num_detections for row in scores.bins] == [1, 2, 2, 2]
    assert [row.ap for row in scores.bins] == [pytest.approx(1)] * 4


# Against plain loops


def _one_by_one(index: DatasetIndex, position: int, box: np.ndarray, own: int) -> tuple[str, float]:
    """Returns kind and coverage of one box, the latter by counting pixels of whole coordinates."""
    side = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    pixels = np.zeros((700, 700), bool)
    near = close = 0
    overlaps, best_iou = False, 0.0
    for row in range(*index.gt_rows(position).indices(len(index.labels))):
        if index.crowd[row] or row == own:
            continue
        other = index.boxes_xyxy[row]
        distance = np.hypot(*(box[:2] + box[2:] - other[:2] - other[2:]) / 2)
        near += distance <= 1.5 * side
        close += distance <= 2 * side
        x0, y0 = (int(value) for value in np.maximum(box[:2], other[:2]))
        x1, y1 = (int(value) for value in np.minimum(box[2:], other[2:]))
        if x0 < x1 and y0 < y1:
            overlaps = True
            best_iou = max(best_iou, _iou(box, other))
            pixels[y0:y1, x0:x1] = True
    share = pixels.sum() / side**2 if side else 0.0
    if best_iou > 0.2 or close >= 3:
        return "crowded", share
    return ("touching" if near or overlaps else "isolated"), share


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - sides.prod()
    return sides.prod() / areas if areas else 0.0


def _own(index: DatasetIndex, position: int, box: np.ndarray) -> int:
    rows = range(*index.gt_rows(position).indices(len(index.labels)))
    ious = [(_iou(box, index.boxes_xyxy[row]), -row) for row in rows if not index.crowd[row]]
    best, row = max(ious, default=(0.0, 0))
    return -row if best >= 0.1 else -1


def _moved(
    index: DatasetIndex, detections: dict[int, Detections]
) -> tuple[DatasetIndex, dict[int, Detections]]:
    """Returns the problem 50 pixels further right and down, so that no box is left of 0."""
    moved = {
        image_id: replace(mine, boxes_xyxy=mine.boxes_xyxy + 50)
        for image_id, mine in detections.items()
    }
    return replace(index, boxes_xyxy=index.boxes_xyxy + 50), moved


def test_every_box_stands_as_plain_loops_find_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "_AT_ONCE", 200)
    seen = set()
    for seed in (1, 3, 5, 7):  # odd ones have whole coordinates
        index, detections = _moved(*a_problem(seed))
        truths = surroundings_of_gt(index)
        expected = [
            _one_by_one(index, position, index.boxes_xyxy[row], row)
            for row, position in enumerate(index.gt_image_positions().tolist())
        ]
        assert [KINDS[kind] for kind in truths.kinds] == [kind for kind, _ in expected]
        np.testing.assert_allclose(truths.coverage, [share for _, share in expected], atol=1e-12)
        matches = match(index, detections)
        stand = surroundings_of_detections(index, matches)
        for row in range(0, len(matches.images), 5):
            position, box = int(matches.images[row]), matches.boxes_xyxy[row]
            kind, share = _one_by_one(index, position, box, _own(index, position, box))
            assert (KINDS[stand.kinds[row]], stand.coverage[row]) == (kind, pytest.approx(share))
            seen.add(kind)
    assert seen == set(KINDS)
