"""Classes filtered, merged and renamed by key `classes` of a data.yaml, in every format."""

import json
from pathlib import Path

import pytest
from dataset_files import (
    coco_annotation,
    voc_object,
    write_coco,
    write_text,
    write_voc,
    write_yolo,
)

from ossa.data.annotations import IndexReport
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import ConfigError

CLASSES = "classes: {vehicle: [van, car], person: person}\n"


def read(yaml_file: Path, line: str) -> IndexReport:
    write_text(yaml_file, yaml_file.read_text(encoding="utf-8") + line)
    return read_index(read_description(yaml_file), "train")


def write_three(root: Path) -> dict[str, Path]:
    """Writes car, dog, person, van in one image and a dog in another, in three formats."""
    names = "[car, dog, person, van]"
    lines = [f"{label} .5 .5 .{label + 1} .5" for label in range(4)]
    yolo = write_yolo(root / "yolo", {"1.jpg": "\n".join(lines), "2.jpg": lines[1]}, names=names)
    objects = [
        voc_object(name, (51 - 5 * n, 14, 50 + 5 * n, 37))
        for n, name in enumerate(("car", "dog", "person", "van"), start=1)
    ]
    voc = write_voc(root / "voc", {"1": objects, "2": objects[1:2]})
    text = voc.read_text(encoding="utf-8")
    write_text(voc, text.replace("[cat, dog]", names))
    boxes = [
        coco_annotation(n, [50 - 5 * n, 13, 10 * n, 24]) | {"category_id": category}
        for n, category in enumerate((3, 18, 1, 8), start=1)
    ]
    boxes.append(boxes[1] | {"id": 5, "image_id": 3})
    categories = [
        {"id": number, "name": name}
        for number, name in ((1, "person"), (3, "car"), (8, "van"), (18, "dog"))
    ]
    return {
        "yolo": yolo,
        "voc": voc,
        "coco": write_coco(root / "coco", boxes, categories=categories),
    }


@pytest.mark.parametrize("data_format", ["yolo", "voc", "coco"])
def test_classes_are_merged_renamed_and_left_out_alike(tmp_path: Path, data_format: str) -> None:
    yaml_file = write_three(tmp_path)[data_format]
    report = read(yaml_file, CLASSES)
    assert report.index.names == ("vehicle", "person")
    assert sorted(report.index.labels.tolist()) == [0, 0, 1]
    widths = (report.index.boxes_xyxy[:, 2] - report.index.boxes_xyxy[:, 0]).round(6)
    assert dict(zip(widths.tolist(), report.index.labels.tolist(), strict=True)) == {
        10: 0,  # the car
        30: 1,  # the person
        40: 0,  # the van
    }
    assert len(report.index) == 2  # an image of dogs alone is background
    assert report.issues == ()
    assert report.notes == (
        f"left out: 2 boxes of 1 class that key 'classes' of {yaml_file} does not name",
    )


def test_a_class_has_the_id_of_the_first_of_its_own(tmp_path: Path) -> None:
    files = write_three(tmp_path)
    assert read(files["coco"], CLASSES).index.category_ids.tolist() == [8, 1]
    assert read(files["yolo"], CLASSES).index.category_ids.tolist() == [3, 2]


def test_a_list_of_classes_keeps_their_names(tmp_path: Path) -> None:
    index = read(write_three(tmp_path)["yolo"], "classes: [person, car]\n").index
    assert index.names == ("person", "car")
    assert sorted(index.labels.tolist()) == [0, 1]


def test_nothing_is_told_where_nothing_is_left_out(tmp_path: Path) -> None:
    report = read(write_three(tmp_path)["yolo"], "classes: {all: [car, dog, person, van]}\n")
    assert report.index.labels.tolist() == [0] * 5
    assert report.notes == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("classes: {a: [cra]}\n", r"found 'cra' .* Did you mean car\?"),
        ("classes: [unicorn]\n", r"found 'unicorn' .* There are car, dog, person, van\."),
        ("classes: {a: [car], b: [dog, car]}\n", "found 'car' twice"),
        ("classes: [car, car]\n", "found 'car' twice"),
        ("classes: {a: []}\n", r"found {'a': \[\]}"),
        ("classes: {a: 3}\n", "found {'a': 3}"),
        ("classes: {}\n", "found {}"),
        ("classes: car\n", "found 'car'"),
    ],
)
def test_classes_that_make_no_sense_are_one_sentence(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(write_three(tmp_path)["yolo"], line)


def test_category_ids_are_those_of_the_data_yaml(tmp_path: Path) -> None:
    files = write_three(tmp_path)
    for data_format in ("yolo", "voc"):
        index = read(files[data_format], "category_ids: [3, 18, 1, 8]\n").index
        assert index.category_ids.tolist() == [3, 18, 1, 8]


@pytest.mark.parametrize("ids", [[1, 2, 3], [1, 2, 3, 3], [1, 2, 3, "4"], [1, 2, 3, True], 4])
def test_category_ids_are_one_for_each_name(tmp_path: Path, ids: object) -> None:
    with pytest.raises(ConfigError, match=r"Expected .*different whole numbers"):
        read(write_three(tmp_path)["yolo"], f"category_ids: {json.dumps(ids)}\n")


def test_coco_has_category_ids_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ids as key 'category_ids'"):
        read(write_three(tmp_path)["coco"], "category_ids: [1, 2, 3, 4]\n")
