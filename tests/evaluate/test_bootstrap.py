"""Average precision from stored matches: by hand, against COCO's, under many weightings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, found
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.errors import ConfigError
from ossa.evaluate import bootstrap
from ossa.evaluate.bootstrap import (
    RESAMPLED_METRICS,
    average_precision,
    check_metrics,
    image_weightings,
    needs_bins,
    resample,
)
from ossa.evaluate.matching import Matches, match
from ossa.evaluate.metrics import Metrics, evaluate_detections
from ossa.evaluate.object_bins import bins_of
from ossa.types import Detections

FAR = (30.0, 30.0, 40.0, 40.0)


def assert_same(ours: Mapping[str, NDArray[np.float64]], theirs: Metrics) -> None:
    for name, value in ours.items():
        expected = getattr(theirs, name)
        assert float(value) == pytest.approx(
            np.nan if expected is None else expected, abs=1e-9, nan_ok=True
        )


def with_distinct_scores(detections: dict[int, Detections]) -> dict[int, Detections]:
    """Returns the same detections with scores of which no two of an image are equal."""
    rng = np.random.default_rng(0)
    return {
        image: replace(rows, scores=np.sort(rng.random(len(rows)))[::-1].astype(np.float32))
        for image, rows in detections.items()
    }


def repeated(
    index: DatasetIndex, detections: dict[int, Detections], times: Sequence[int]
) -> tuple[DatasetIndex, dict[int, Detections]]:
    """Returns the data set in which every image is there so many times, and its detections."""
    positions = np.repeat(np.arange(len(index)), times)
    rows = np.concatenate(
        [[], *(np.arange(len(index.labels))[index.gt_rows(p)] for p in positions.tolist())]
    ).astype(np.int64)
    lengths = np.diff(index.gt_offsets)[positions]
    copies = replace(
        index,
        file_names=index.file_names[positions],
        image_ids=np.arange(1, len(positions) + 1),
        sizes_wh=index.sizes_wh[positions],
        gt_offsets=np.cumsum([0, *lengths]),
        boxes_xyxy=index.boxes_xyxy[rows],
        labels=index.labels[rows],
        areas=index.areas[rows],
        crowd=index.crowd[rows],
        difficult=index.difficult[rows],
        annotation_ids=np.arange(len(rows)),
    )
    ids = index.image_ids[positions].tolist()
    return copies, {n: detections[i] for n, i in enumerate(ids, start=1) if i in detections}


def two_images() -> Matches:
    """Scores .9, .8 and .7: a hit in image 1, a false one in image 2, a hit in image 2."""
    return match(
        an_index([[(0, SQUARE)], [(0, SQUARE)]], names=("cat",)),
        {1: found((0.9, 0, SQUARE)), 2: found((0.8, 0, ELSEWHERE), (0.7, 0, SQUARE))},
    )


def test_every_image_once_gives_the_ap_of_the_curve():
    # Recall 1/2 at precision 1 for the recalls 0 to 0.50, then recall 1 at precision 2/3.
    ap = average_precision(two_images()).ap
    assert ap.shape == (10, 1)
    np.testing.assert_allclose(ap, (51 * 1 + 50 * 2 / 3) / 101)


def test_an_image_counts_as_often_as_its_weight_says():
    # Twice the first: two hits of three truths at precision 1 (recalls 0 to 0.66), then 3 of 4.
    # Twice the second: one hit of three at precision 1 (to 0.33), then 3 of 5.
    # Without the first: a false detection before the one hit.
    ap = average_precision(two_images(), weights=np.array([[2, 1], [1, 2], [0, 1]])).ap
    expected = [(67 + 34 * 3 / 4) / 101, (34 + 67 * 3 / 5) / 101, 1 / 2]
    np.testing.assert_allclose(ap[:, 0, 0], expected)
    one = average_precision(two_images(), weights=np.array([2, 1])).ap
    np.testing.assert_array_equal(one, ap[0])  # without an axis of weightings


def test_a_class_without_ground_truth_in_a_resample_is_undefined_there_and_left_out_of_the_mean():
    index = an_index([[(0, SQUARE)], [(1, SQUARE)]])
    matches = match(index, {1: found((0.9, 0, SQUARE))})
    accuracy = average_precision(matches, weights=np.array([[1, 1], [2, 0], [0, 0]]))
    np.testing.assert_array_equal(accuracy.ap[:, 0], [[1, 0], [1, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(accuracy.means()["ap50"], [0.5, 1, np.nan])


def test_recall_is_the_part_of_the_ground_truth_that_was_found():
    index = an_index([[(0, SQUARE), (0, FAR)], [(0, SQUARE)]], names=("cat",))
    matches = match(index, {1: found((0.9, 0, SQUARE)), 2: found((0.9, 0, SQUARE))})
    accuracy = average_precision(matches, weights=np.array([[1, 1], [1, 3]]))
    np.testing.assert_allclose(accuracy.recall[:, 0, 0], [2 / 3, 4 / 5])
    np.testing.assert_allclose(accuracy.means()["ar_100"], [2 / 3, 4 / 5])


def test_bins_choose_what_is_to_be_found_and_what_can_be_false():
    # Image 1 has a truth of the bin, found second, and one of another bin, found first; image 2
    # has a false detection before both.
    index = an_index([[(0, SQUARE), (0, FAR)], []], names=("cat",))
    matches = match(
        index, {1: found((0.8, 0, FAR), (0.7, 0, SQUARE)), 2: found((0.9, 0, ELSEWHERE))}
    )
    here = np.array([True, False])
    assert average_precision(matches).ap[0, 0] == pytest.approx(2 / 3)
    assert average_precision(matches, gt_bin=here).ap[0, 0] == pytest.approx(1 / 2)
    nowhere = np.zeros(3, bool)
    both = average_precision(matches, gt_bin=here, detection_bin=nowhere)
    assert both.ap[0, 0] == 1
    assert np.isnan(average_precision(matches, gt_bin=np.zeros(2, bool)).ap).all()


def test_without_detections_ap_is_zero_and_without_ground_truth_undefined():
    assert average_precision(match(an_index([[(0, SQUARE)]]), {})).ap[0].tolist() == [
        0,
        pytest.approx(np.nan, nan_ok=True),
    ]
    nothing = average_precision(match(an_index([[], []]), {1: found((0.9, 0, SQUARE))}))
    assert np.isnan(nothing.means()["ap"])


@pytest.mark.parametrize("seed", range(8))
def test_weights_give_cocos_numbers_of_images_that_are_there_so_many_times(
    seed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bootstrap, "_VALUES_AT_ONCE", 40)  # so that there are several chunks
    index, detections = a_problem(seed)
    detections = with_distinct_scores(detections)
    weights = np.random.default_rng(seed).integers(0, 4, (5, len(index)))
    ours = average_precision(match(index, detections), weights=weights).means()
    for number, times in enumerate(weights):
        theirs = evaluate_detections(*repeated(index, detections, times.tolist()))
        assert_same({name: values[number] for name, values in ours.items()}, theirs)


def test_a_recall_of_exactly_35_hundredths_is_not_reached_as_in_coco():
    # 0.35 as the 36th of COCO's 101 numbers is 0.35000000000000003.
    index = an_index([[(0, SQUARE)] for _ in range(100)], names=("cat",))
    found_in_35 = {image: found((0.9, 0, SQUARE)) for image in range(1, 36)}
    ap = average_precision(match(index, found_in_35)).ap
    np.testing.assert_allclose(ap, 35 / 101)
    assert evaluate_detections(index, found_in_35).ap == pytest.approx(35 / 101)


SMALL, MEDIUM = (0.0, 0.0, 20.0, 20.0), (500.0, 500.0, 540.0, 540.0)


def test_the_first_weighting_has_every_image_once_and_the_last_leave_groups_out():
    weights = image_weightings(3, resamples=4, seed=0)
    assert weights.shape == (1 + 4 + 3, 3)
    assert weights[0].tolist() == [1, 1, 1]
    assert weights[1:5].sum(axis=1).tolist() == [3, 3, 3, 3]
    assert weights[5:].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_a_bin_counts_its_ground_truth_and_the_false_detections_of_its_size_alone():
    index = an_index([[(0, SMALL), (0, MEDIUM)]], names=("cat",))
    # Before the medium one there is a false small one, which lowers AP over all and not its own.
    lure = (200.0, 200.0, 220.0, 220.0)
    matches = match(index, {1: found((0.9, 0, lure), (0.8, 0, MEDIUM))})
    values = resample(
        matches,
        ("ap", "ap_small", "ap_medium"),
        weights=np.ones((1, 1), np.uint8),
        bins=bins_of(index, matches),
    )
    # One of two found, with precision 1/2, at 51 of the 101 recalls.
    assert values["ap"][0] == pytest.approx(51 / 101 / 2)
    assert values["ap_small"][0] == 0
    assert values["ap_medium"][0] == pytest.approx(1)


def test_a_draw_without_ground_truth_of_a_kind_has_no_value():
    index = an_index([[(0, SMALL)], [(0, MEDIUM)]], names=("cat",))
    matches = match(index, {1: found((0.9, 0, SMALL))})
    weights = np.array([[2, 0], [0, 2]], np.uint8)
    values = resample(matches, ("ap_small",), weights=weights, bins=bins_of(index, matches))
    assert values["ap_small"][0] == pytest.approx(1)
    assert np.isnan(values["ap_small"][1])


def test_the_limits_of_size_are_cocos():
    side_32 = (0.0, 0.0, 32.0, 32.0)
    index = an_index([[(0, side_32), (0, MEDIUM)]], names=("cat",))
    bins = bins_of(index, match(index, {}))
    assert bins["small"].gt.tolist() == [True, False]


def test_metrics_are_known_by_name():
    assert [metric for metric in RESAMPLED_METRICS if needs_bins([metric])] == list(
        RESAMPLED_METRICS[4:]
    )
    with pytest.raises(ConfigError, match=r"found 'ap_smal'\. Did you mean ap_small"):
        check_metrics(["ap", "ap_smal"])


def test_images_of_a_group_are_drawn_and_left_out_together():
    groups = np.array([0, 1, 0, 2, 1, 0])
    weights = image_weightings(6, resamples=50, seed=0, groups=groups)
    assert weights.shape == (1 + 50 + 3, 6)
    of_groups = image_weightings(3, resamples=50, seed=0)
    assert (weights == of_groups[:, groups]).all()
    assert (weights[1:51, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights[-3:].tolist() == [[0, 1, 0, 1, 1, 0], [1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1]]
    alone = image_weightings(6, resamples=50, seed=0, groups=np.arange(6))
    assert (alone == image_weightings(6, resamples=50, seed=0)).all()
