"""A check counts what is wrong and strange about boxes and classes, and says where."""

from pathlib import Path

import pytest
from checks_data import (
    GOOD,
    check,
    coco_box,
    counts,
    only,
    write_coco_file,
    write_yolo_splits,
)
from dataset_files import write_text

from ossa.data.issues import Severity

FAULT, REMARK = Severity.ERROR, Severity.WARNING


def test_nothing_is_found_in_a_good_data_set(tmp_path: Path) -> None:
    found = check(write_yolo_splits(tmp_path, {"train": {"1.png": GOOD}, "val": {"2.png": GOOD}}))
    assert found.issues == ()
    assert (found.num_errors, found.num_warnings) == (0, 0)


@pytest.mark.parametrize(
    ("lines", "kind", "severity", "count", "what"),
    [
        ("0 .5 .5 0 .2\n1 .5 .5 .2 0\n", "box-empty", FAULT, 2, "box of no area, 0 x 10 pixels"),
        ("0 1.5 .5 .2 .2\n", "box-outside", FAULT, 1, "outside the image of 100x50 pixels"),
        ("0 .9 .5 .4 .4\n", "box-overhanging", REMARK, 1, "reaches 10 pixels out of the image"),
        ("0 .5 .5 .2\n0 nan .5 .2 .2\n", "box-malformed", FAULT, 2, "found 4"),
        ("0 .5 .5 .4 .4\n0 .5 .5 .4 .4\n", "box-duplicated", FAULT, 2, "box stated twice"),
        ("7 .5 .5 .2 .2\n", "class-unknown", FAULT, 1, "class 7 unknown, there are 2"),
        ("0 .5 .5 1 1\n", "box-covering", REMARK, 1, "100.0% of the image"),
    ],
)
def test_each_fault_of_a_box_is_counted_once_and_placed_in_its_line(
    tmp_path: Path, lines: str, kind: str, severity: Severity, count: int, what: str
) -> None:
    labels = GOOD + lines
    finding = only(check(write_yolo_splits(tmp_path, {"train": {"1.png": labels}})))
    assert (finding.kind, finding.split, finding.count) == (kind, "train", count)
    assert finding.kind.severity is severity
    first = finding.examples[0]
    assert first.path == tmp_path / "labels/train/1.txt"
    assert first.line == (None if kind == "box-covering" else 3)
    assert what in first.message


def test_tiny_is_a_side_under_two_pixels_of_the_networks_input(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD + "0 .5 .5 .03 .2\n"}})
    assert counts(check(data_yaml)) == {}  # 3 pixels
    halved = check(data_yaml, imgsz=50)  # 1.5
    assert counts(halved)["box-tiny", "train"] == 1
    (issue,) = next(one.examples for one in halved.issues if one.kind == "box-tiny")
    assert issue.message == "box (48.5, 20, 51.5, 30), a, 1.5 px at 50"


def test_coco_boxes_stated_twice_are_found_though_reading_keeps_them(tmp_path: Path) -> None:
    annotations = [
        coco_box(1, [10, 10, 40, 20]),
        coco_box(2, [10, 10, 40, 20]),
        coco_box(3, [10, 10, 40, 20]),
        coco_box(4, [10, 10, 40, 20], category=2),
        coco_box(5, [10, 10, 40, 20], image=2),
    ]
    finding = only(check(write_coco_file(tmp_path, annotations)))
    assert (finding.kind, finding.count) == ("box-duplicated", 2)
    assert [issue.message.partition(":")[0] for issue in finding.examples] == [
        "annotation 2 of image 1",
        "annotation 3 of image 1",
    ]
    assert finding.examples[0].path == tmp_path / "train.json"


def test_a_class_may_be_unused_untrained_or_unevaluated(tmp_path: Path) -> None:
    one = "{} .5 .5 .4 .4\n"
    splits = {
        "train": {"1.png": one.format(0) + one.format(1)},
        "val": {"2.png": one.format(0) + one.format(2)},
    }
    found = check(write_yolo_splits(tmp_path, splits, names="[a, b, c, d]"))
    assert {
        (str(f.kind), f.kind.severity.value): [c.message for c in f.examples] for f in found.issues
    } == {
        ("class-untrained", "error"): ["c: boxes in train 0, in val 1"],
        ("class-unevaluated", "warning"): ["b: boxes in train 1, in val 0"],
        ("class-unused", "info"): ["d"],
    }
    assert found.classes["b"] == {"train": 1, "val": 0}


@pytest.mark.parametrize(("boxes", "rare"), [(100, 0), (101, 1)])
def test_a_class_is_rare_beside_more_than_a_hundred_times_its_boxes(
    tmp_path: Path, boxes: int, rare: int
) -> None:
    lines = "".join(f"0 .5 .5 .4 {0.3 + k / 1000}\n" for k in range(boxes)) + "1 .5 .5 .4 .4\n"
    found = check(write_yolo_splits(tmp_path, {"train": {"1.png": lines}}))
    assert counts(found).get(("class-imbalance", "train"), 0) == rare


@pytest.mark.parametrize("test", ["images/none", "images/empty"])
def test_a_test_split_without_images_is_a_fault_that_stops_no_training(
    tmp_path: Path, test: str
) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD}, "val": {"2.png": GOOD}})
    (tmp_path / "images" / "empty").mkdir()
    write_text(data_yaml, f"{data_yaml.read_text()}test: {test}\n")
    found = check(data_yaml)
    assert counts(found) == {("split-without-boxes", "test"): 1}
    assert (found.num_errors, found.num_stops) == (1, 0)


def test_a_split_without_a_usable_box_is_a_fault(tmp_path: Path) -> None:
    found = check(write_yolo_splits(tmp_path, {"train": {"1.png": GOOD}, "val": {"2.png": ""}}))
    assert counts(found) == {
        ("split-without-boxes", "val"): 1,
        ("class-unevaluated", None): 2,
    }
    assert found.statistics["val"].best_possible_recall is None
