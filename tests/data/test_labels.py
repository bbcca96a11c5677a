"""Which file holds the labels of an image, and which images have none."""

from pathlib import Path

import numpy as np
import pytest
from checks_data import GOOD, check, counts, write_yolo_splits
from dataset_files import (
    coco_annotation,
    gradient,
    voc_object,
    write_coco,
    write_image,
    write_text,
    write_voc,
)
from PIL import Image

from ossa.data.annotations import IndexReport
from ossa.data.description import read_description
from ossa.data.reading import labels_sentence, read_index
from ossa.errors import DataError

BOX = "0 0.5 0.5 0.2 0.4\n"


def read(data_yaml: Path, split: str = "train") -> IndexReport:
    return read_index(read_description(data_yaml), split)


def write_images(root: Path, *names: str) -> None:
    """Writes images of 100x50, no two alike."""
    for number, name in enumerate(names):
        image = gradient(100, 50)
        image[0, 0] = number
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / name)


def boxes_by_image(report: IndexReport) -> dict[str, int]:
    counted = np.diff(report.index.gt_offsets).tolist()
    return dict(zip(report.index.file_names.tolist(), counted, strict=True))


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("b/images/1.png", "b/images/1.txt"),
        ("b/images/1.png", "b/labels/1.txt"),
        ("images/shop/train/1.png", "images/shop/train/1.txt"),
        ("images/shop/train/1.png", "labels/shop/train/1.txt"),
        ("images/x/images/1.png", "images/x/labels/1.txt"),
        ("images/x/images/1.png", "images/x/images/1.txt"),
        ("train/1.png", "train/1.txt"),
    ],
)
def test_yolo_labels_are_found_in_labels_and_beside_the_image(
    tmp_path: Path, image: str, label: str
) -> None:
    write_images(tmp_path, image)
    write_text(tmp_path / label, BOX)
    data_yaml = write_text(tmp_path / "data.yaml", f"train: {Path(image).parent}\nnames: [a]\n")
    report = read(data_yaml)
    assert boxes_by_image(report) == {image: 1}
    assert report.issues == ()
    assert report.labels.unlabelled == ()


def test_of_two_label_files_that_in_labels_is_read_and_another_text_reported(
    tmp_path: Path,
) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": BOX, "2.png": BOX}})
    write_text(tmp_path / "images/train/1.txt", BOX + "1 0.5 0.5 0.1 0.1\n")
    write_text(tmp_path / "images/train/2.txt", BOX.strip())
    report = read(data_yaml)
    assert boxes_by_image(report) == {"images/train/1.png": 1, "images/train/2.png": 1}
    (issue,) = report.issues
    assert issue.kind == "labels-at-two-places"
    assert issue.path == tmp_path / "labels/train/1.txt"
    assert str(tmp_path / "images/train/1.txt") in issue.detail


def test_images_without_a_label_file_are_counted_and_empty_files_are_labels(
    tmp_path: Path,
) -> None:
    data_yaml = write_yolo_splits(
        tmp_path, {"train": {"1.png": BOX, "2.png": "", "3.png": None}, "val": {"4.png": BOX}}
    )
    reports = {split: read(data_yaml, split) for split in ("train", "val")}
    labels = reports["train"].labels
    assert labels.num_images == 3
    assert labels.unlabelled == (str(tmp_path / "images/train/3.png"),)
    assert labels_sentence(reports) == (
        "without a label: 1 of 3 images of train, 0 of 1 images of val; looked for in "
        "labels/train, images/train, labels/val and 1 more place"
    )


def test_voc_images_without_xml_are_unlabelled_though_left_out(tmp_path: Path) -> None:
    objects = [voc_object("cat", (11, 11, 50, 30))]
    data_yaml = write_voc(tmp_path, {"a": objects, "b": objects})
    (tmp_path / "Annotations/b.xml").unlink()
    report = read(data_yaml)
    assert (report.labels.num_images, len(report.index)) == (2, 1)
    assert report.labels.unlabelled == (str(tmp_path / "JPEGImages/b.jpg"),)


def test_yolo_images_of_one_stem_share_a_label_file_and_that_is_a_fault(tmp_path: Path) -> None:
    write_images(tmp_path, "train/1.png", "train/1.jpg", "train/2.png")
    for stem in "12":
        write_text(tmp_path / f"train/{stem}.txt", BOX)
    data_yaml = write_text(tmp_path / "data.yaml", "train: train\nnames: [a]\n")
    assert counts(check(data_yaml)) == {("labels-shared", "train"): 1}
    assert boxes_by_image(read(data_yaml)) == {"train/1.jpg": 1, "train/1.png": 1, "train/2.png": 1}


def annotated(name: str | None) -> str:
    """Returns an XML text with one object of 'cat' for an image of 100x50."""
    told = "" if name is None else f"<filename>{name}</filename>"
    box = "<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>30</ymax></bndbox>"
    return f"<annotation>{told}<object><name>cat</name>{box}</object></annotation>"


@pytest.mark.parametrize(
    ("entries", "images"),
    [("a", {"a.jpg": 1}), ("a.png", {"a.png": 1}), ("a.jpg\na.png", {"a.jpg": 1, "a.png": 1})],
)
def test_a_stem_of_voc_stands_for_the_jpeg_and_two_images_of_it_share_their_labels(
    tmp_path: Path, entries: str, images: dict[str, int]
) -> None:
    write_images(tmp_path, "JPEGImages/a.png", "JPEGImages/a.jpg")
    write_text(tmp_path / "Annotations/a.xml", annotated("a.jpg"))
    write_text(tmp_path / "ImageSets/Main/train.txt", entries)
    text = "train: ImageSets/Main/train.txt\nnames: [cat]\n"
    report = read(write_text(tmp_path / "data.yaml", text))
    assert boxes_by_image(report) == {f"JPEGImages/{name}": n for name, n in images.items()}
    found = [(issue.kind, issue.path.name) for issue in report.issues]
    place = {"a": ["train.txt"], "a.png": []}.get(entries, ["a.xml"])
    assert found == [("labels-shared", name) for name in place]


@pytest.mark.parametrize("told", ["", "format: voc\n"])
def test_voc_with_xml_beside_the_images_is_read_a_folder_a_split(tmp_path: Path, told: str) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("valid", "c")):
        write_image(tmp_path / split / f"{name}.jpg")
        write_text(tmp_path / split / f"{name}.xml", annotated(f"{name}.jpg"))
    text = f"{told}train: train\nval: valid\nnames: [cat]\n"
    data_yaml = write_text(tmp_path / "data.yaml", text)
    assert boxes_by_image(read(data_yaml)) == {"train/a.jpg": 1, "train/b.jpg": 1}
    assert boxes_by_image(read(data_yaml, "val")) == {"valid/c.jpg": 1}
    assert check(data_yaml).num_errors == 0
    write_text(tmp_path / "train/lost.xml", annotated("lost.jpg"))
    assert counts(check(data_yaml)) == {("labels-without-image", None): 1}


def test_xml_beside_images_that_have_yolo_labels_are_passed_over(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD}})
    write_text(tmp_path / "images/train/1.xml", annotated("1.png"))
    assert read_description(data_yaml).format == "yolo"
    assert boxes_by_image(read(data_yaml)) == {"images/train/1.png": 2}


def test_the_root_of_the_categories_named_like_a_class_is_passed_over(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "disc", "supercategory": "none"},
        {"id": 2, "name": "disc", "supercategory": "disc"},
    ]
    annotations = [coco_annotation(1, [10, 10, 20, 20])]
    index = read(write_coco(tmp_path, annotations, categories=categories)).index
    assert (index.names, index.category_ids.tolist(), len(index.labels)) == (("disc",), [2], 1)
    # Without a single annotation it is the child of the root.
    index = read(write_coco(tmp_path, [], categories=categories)).index
    assert (index.names, index.category_ids.tolist()) == (("disc",), [2])
    annotations += [coco_annotation(2, [10, 10, 20, 20], category_id=0)]
    with pytest.raises(DataError, match="'disc' as ids 0 and 2, both with annotations"):
        read(write_coco(tmp_path, annotations, categories=categories))


def test_coco_ids_may_be_written_as_decimals_or_texts(tmp_path: Path) -> None:
    annotation = {"id": 1.0, "image_id": "7", "category_id": 2.0, "bbox": [10, 10, 20, 20]}
    categories = [{"id": "2", "name": "cat"}, {"id": -5.0, "name": "dog"}]
    report = read(write_coco(tmp_path, [annotation], categories=categories))
    assert report.issues == ()
    index = report.index
    assert (index.names, index.category_ids.tolist()) == (("dog", "cat"), [-5, 2])
    assert (index.annotation_ids.tolist(), index.labels.tolist()) == ([1], [1])
    assert boxes_by_image(report) == {"photos/3.jpg": 0, "photos/7.jpg": 1}


@pytest.mark.parametrize("image_id", [7.5, True, "seven", None, 10**30, 1e300, [7]])
def test_an_annotation_of_an_id_that_is_no_whole_number_is_dropped(
    tmp_path: Path, image_id: object
) -> None:
    annotations = [
        coco_annotation(1, [10, 10, 20, 20]),
        coco_annotation(2, [30, 10, 20, 20], image_id=image_id),
    ]
    report = read(write_coco(tmp_path, annotations))
    assert report.index.annotation_ids.tolist() == [1]
    (issue,) = report.issues
    assert issue.detail.startswith("annotation 2 of an unknown image, ")


def test_a_folder_and_one_within_it_are_read_once(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD, "sub/2.png": GOOD}})
    text = data_yaml.read_text().replace("images/train", "[images/train, images/train/sub]")
    data_yaml.write_text(text)
    report = read(data_yaml)
    assert len(report.index) == 2
    (issue,) = report.issues
    assert (issue.kind, issue.action) == ("image-listed-twice", "read once")
