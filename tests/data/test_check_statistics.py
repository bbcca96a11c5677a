"""A check describes sizes, crowding, shapes and anchors in numbers that can be counted by hand."""

from pathlib import Path

import pytest
from checks_data import GOOD, check, coco_box, counts, write_coco_file, write_yolo_splits


def test_sizes_count_at_the_input_and_in_the_files(tmp_path: Path) -> None:
    # Sides 31, 32, 95 and 96 at 640 pixels: by area, 5, 5, 15 and 15 in the file of 100x50.
    sides = [31 / 6.4, 32 / 6.4, 95 / 6.4, 96 / 6.4]
    annotations = [coco_box(n, [1.0, 1.0, s, s]) for n, s in enumerate(sides, start=1)]
    statistics = check(write_coco_file(tmp_path, annotations), imgsz=640).statistics["train"]
    assert statistics.sizes == {"small": 1, "medium": 2, "large": 1}
    assert statistics.sizes_in_files == {"small": 4, "medium": 0, "large": 0}


def test_a_size_is_the_annotations_own_area_where_it_states_one(tmp_path: Path) -> None:
    annotations = [coco_box(1, [1, 1, 40, 40], area=1000), coco_box(2, [1, 1, 40, 40], category=2)]
    statistics = check(write_coco_file(tmp_path, annotations)).statistics["train"]
    assert statistics.sizes == {"small": 1, "medium": 1, "large": 0}


def test_boxes_per_image_count_images_without_any(tmp_path: Path) -> None:
    labels = {"1.png": GOOD * 1, "2.png": "", "3.png": "", "4.png": GOOD + "0 .8 .8 .2 .2\n"}
    statistics = check(write_yolo_splits(tmp_path, {"train": labels})).statistics["train"]
    assert (statistics.num_images, statistics.num_background, statistics.num_boxes) == (4, 2, 5)
    assert statistics.boxes_per_image["mean"] == 1.25
    assert statistics.boxes_per_image["median"] == 1.0  # of 0, 0, 2 and 3
    assert statistics.boxes_per_image["max"] == 3


def test_aspect_ratios_are_width_over_height(tmp_path: Path) -> None:
    annotations = [
        coco_box(1, [1, 1, 10, 40]),
        coco_box(2, [1, 1, 20, 20], category=2),
        coco_box(3, [1, 1, 40, 10]),
    ]
    ratios = check(write_coco_file(tmp_path, annotations)).statistics["train"].aspect_ratios
    assert (ratios["min"], ratios["median"], ratios["max"]) == (0.25, 1.0, 4.0)


@pytest.mark.parametrize(("ratio", "recall"), [(4.0, 0.5), (5.0, 1.0)])
def test_boxes_that_no_anchor_answers_for_are_remarked_upon(
    tmp_path: Path, ratio: float, recall: float
) -> None:
    # Anchors 10x13 and 33x23; 45 pixels are 3.5 times 13, and 2.25 is 10 over 4.4.
    annotations = [coco_box(1, [1, 1, 20, 20]), coco_box(2, [1, 1, 2.25, 45], category=2)]
    found = check(write_coco_file(tmp_path, annotations), anchor_ratio=ratio)
    assert found.statistics["train"].best_possible_recall == recall
    assert counts(found).get(("anchors-misfit", "train"), 0) == (1 if recall == 0.5 else 0)


def test_crowding_is_what_the_caller_counts(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD}})
    assert check(data_yaml).statistics["train"].crowding == {}
    found = check(data_yaml, crowding_of=lambda index: {"isolated": len(index.labels)})
    assert found.statistics["train"].crowding == {"isolated": 2}
