"""Which training boxes the anchors can answer for, and anchors fitted to the boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ossa.data.anchors import best_possible_recall, fit_anchors
from ossa.data.annotations import DatasetIndex
from ossa.errors import DataError


def index_of(
    sizes_wh: Sequence[tuple[float, float]],
    *,
    image_wh: tuple[int, int] = (100, 50),
    crowd: Sequence[int] = (),
    difficult: Sequence[int] = (),
) -> DatasetIndex:
    """Returns one image with a box of each size at its corner, some of them crowd or difficult."""
    count = len(sizes_wh)
    rows = np.arange(count)
    boxes_xyxy = np.zeros((count, 4))
    boxes_xyxy[:, 2:] = np.array(sizes_wh).reshape(-1, 2)
    return DatasetIndex(
        root=Path("pictures"),
        names=("a",),
        category_ids=np.array([1]),
        file_names=np.array(["0.jpg"]),
        image_ids=np.array([0]),
        sizes_wh=np.array([image_wh], dtype=np.int32),
        gt_offsets=np.array([0, count]),
        boxes_xyxy=boxes_xyxy,
        labels=np.zeros(count, dtype=np.int64),
        areas=boxes_xyxy[:, 2:].prod(axis=1),
        crowd=np.isin(rows, crowd),
        difficult=np.isin(rows, difficult),
        annotation_ids=rows,
    )


def recall(index: DatasetIndex, *anchors_wh: tuple[float, float], imgsz: int = 100) -> float:
    return best_possible_recall(index, np.array([anchors_wh]), imgsz=imgsz, ratio=4.0)


def test_a_box_needs_an_anchor_within_the_ratio_in_width_and_in_height():
    index = index_of([(10, 10), (39, 10), (40, 10), (2.5, 10), (10, 39), (10, 41)])
    # Four times as wide, or a quarter as wide, is too much.
    assert recall(index, (10, 10)) == 3 / 6
    assert recall(index, (10, 10), (39, 39)) == 5 / 6


def test_boxes_are_measured_at_the_size_of_the_network_input():
    index = index_of([(10, 10)])
    assert recall(index, (10, 10), imgsz=100) == 1
    assert recall(index, (10, 10), imgsz=400) == 0
    assert recall(index, (39, 39), imgsz=400) == 1
    tall = index_of([(10, 10)], image_wh=(50, 400))
    assert recall(tall, (10, 10), imgsz=100) == 0  # 2.5 x 2.5 pixels


def test_what_does_not_train_does_not_count():
    index = index_of([(10, 10), (99, 49), (99, 49)], crowd=[1], difficult=[2])
    assert recall(index, (10, 10)) == 1


def test_data_without_a_box_that_trains_are_refused():
    with pytest.raises(DataError, match=r"Expected a box that trains, found none .pictures"):
        recall(index_of([(10, 10)], crowd=[0]), (10, 10))


def test_an_anchor_is_the_geometric_mean_of_its_boxes():
    anchors_wh = fit_anchors(
        index_of([(2, 3), (8, 3), (90, 40)]), num_levels=1, per_level=2, imgsz=100, seed=0
    )
    assert anchors_wh.tolist() == [[[4, 3], [90, 40]]]


def test_fitted_anchors_find_the_sizes_that_there_are_and_come_from_small_to_large():
    generator = np.random.default_rng(0)
    true_wh = np.array([(4, 4), (8, 16), (16, 8), (30, 30), (60, 40), (90, 90)])
    boxes_wh = np.repeat(true_wh, 50, axis=0) * generator.uniform(0.95, 1.05, (300, 2))
    index = index_of([tuple(box) for box in boxes_wh], image_wh=(100, 100))
    anchors_wh = fit_anchors(index, num_levels=3, per_level=2, imgsz=100, seed=0)
    assert anchors_wh.shape == (3, 2, 2)
    areas = anchors_wh.prod(axis=2).ravel()
    assert (np.diff(areas) >= 0).all()
    nearest = np.abs(np.log(anchors_wh.reshape(-1, 1, 2) / true_wh)).max(axis=2).min(axis=0)
    assert nearest.max() < np.log(1.05)
    assert best_possible_recall(index, anchors_wh, imgsz=100, ratio=1.15) == 1


def test_fewer_sizes_than_anchors_are_refused():
    index = index_of([(10, 10), (20, 20), (20, 20)])
    with pytest.raises(DataError, match=r"at least 3 different sizes .* found 2 .pictures"):
        fit_anchors(index, num_levels=1, imgsz=100, seed=0)
