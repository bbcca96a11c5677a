"""Metrics under weightings of the images, overall and of objects of one kind."""

import numpy as np
import pytest
from evaluation_problems import an_index, found

from ossa.errors import ConfigError
from ossa.evaluate.bootstrap import (
    METRICS,
    check_metrics,
    image_weightings,
    needs_bins,
    resample,
)
from ossa.evaluate.matching import match
from ossa.evaluate.object_bins import bins_of

# Of 20 x 20 pixels (small) and of 40 x 40 (medium), far apart.
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
    assert [metric for metric in METRICS if needs_bins([metric])] == list(METRICS[4:])
    with pytest.raises(ConfigError, match=r"found 'ap_smal'. Did you mean ap_small"):
        check_metrics(["ap", "ap_smal"])
