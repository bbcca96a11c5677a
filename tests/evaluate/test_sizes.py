"""AP by size: scenes in images of 100 x 80 pixels, which are doubled at an input of 200."""

import numpy as np
import pytest
from evaluation_problems import an_index, found

from ossa.evaluate.matching import match
from ossa.evaluate.object_bins import by_size

SMALL = (10.0, 10.0, 14.0, 14.0)
"""Side 4, at the input 8."""
LARGE = (20.0, 20.0, 60.0, 60.0)
"""Side 40, at the input 80."""
FAR = (70.0, 60.0, 74.0, 64.0)


def test_a_size_is_that_at_the_network_s_input():
    index = an_index([[(0, SMALL), (0, LARGE)]])
    matches = match(index, {1: found((0.9, 0, SMALL), (0.8, 0, LARGE))})
    labels = ["under 8", "8 to 16", "16 to 32", "32 to 64", "64 to 128", "128 and over"]
    for imgsz, counts in ((200, [0, 1, 0, 0, 1, 0]), (198, [1, 0, 0, 0, 1, 0])):
        scores = by_size(index, matches, imgsz=imgsz)
        assert [row.label for row in scores.bins] == labels
        assert [row.num_truths for row in scores.bins] == counts
        assert [row.num_detections for row in scores.bins] == counts
        assert [row.ap for row in scores.bins if row.num_truths] == pytest.approx([1, 1])


def test_the_longer_side_of_an_image_is_brought_to_the_input():
    index = an_index([[(0, SMALL)]], sizes_wh=np.array([[80, 400]], np.int32))
    scores = by_size(index, match(index, {}), imgsz=200, edges=(2, 4))
    assert [row.num_truths for row in scores.bins] == [0, 1, 0], "4 pixels halved are 2"


def test_a_size_is_the_root_of_the_box_and_not_of_the_annotation_s_area():
    wide = (0.0, 0.0, 32.0, 8.0)  # 16 x 16 pixels
    index = an_index([[(0, wide)]], areas=np.array([9.0]))
    scores = by_size(index, match(index, {}), imgsz=100)
    assert [row.num_truths for row in scores.bins] == [0, 0, 1, 0, 0, 0]
    assert scores.bins[2].recall == 0


def test_a_false_detection_is_as_large_as_its_own_box():
    index = an_index([[(0, SMALL), (0, LARGE)]])
    matches = match(index, {1: found((0.9, 0, FAR), (0.8, 0, SMALL), (0.7, 0, LARGE))})
    scores = by_size(index, matches, imgsz=200, edges=(32,))
    assert [row.label for row in scores.bins] == ["under 32", "32 and over"]
    assert [row.ap for row in scores.bins] == pytest.approx([0.5, 1])
    assert [row.num_detections for row in scores.bins] == [2, 1]


def test_what_found_an_object_of_another_bin_does_not_count_in_its_own():
    # The box is 7.8 pixels large, its truth 8: IoU 0.95.
    index = an_index([[(0, SMALL)]])
    matches = match(index, {1: found((0.9, 0, (10, 10, 14, 13.8)))})
    below, above = by_size(index, matches, imgsz=200, edges=(8,)).bins
    assert (below.num_truths, below.num_detections, below.ap) == (0, 0, None)
    assert (above.num_truths, above.num_detections, above.ap50) == (1, 1, pytest.approx(1))


def test_classes_without_ground_truth_in_a_bin_are_left_out_of_its_mean():
    index = an_index([[(0, SMALL), (0, LARGE), (1, LARGE)]])
    matches = match(index, {1: found((0.9, 0, SMALL), (0.8, 0, LARGE), (0.7, 1, SMALL))})
    below, above = by_size(index, matches, imgsz=200, edges=(32,)).bins
    assert (below.ap, below.recall, below.num_detections) == (pytest.approx(1), 1, 2)
    assert (above.ap, above.recall, above.num_truths) == (pytest.approx(0.5), 0.5, 2)
