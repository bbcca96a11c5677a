"""A check reads images where it is asked to: broken, turned, and the same ones twice."""

import shutil
from pathlib import Path

import numpy as np
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
from dataset_files import gradient, voc_object, write_text, write_voc
from PIL import Image

from ossa.data.check_issues import is_truncated


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_an_image_is_truncated_where_its_end_is_missing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(gradient(100, 50)).save(path)
    assert not is_truncated(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0\0 appended")
    assert not is_truncated(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert is_truncated(path)


def test_an_image_of_another_size_than_coco_states_is_a_fault(tmp_path: Path) -> None:
    boxes = [coco_box(1, [10, 10, 40, 20]), coco_box(2, [10, 10, 40, 20], image=2, category=2)]
    data_yaml = write_coco_file(tmp_path, boxes)
    Image.fromarray(gradient(50, 100)).save(tmp_path / "photos/2.png")
    finding = only(check(data_yaml))  # by its header: nothing is decoded
    assert (finding.kind, finding.split, finding.count) == ("image-other-size", "train", 1)
    finding = only(check(data_yaml, images=True))
    assert (finding.kind, finding.count) == ("image-other-size", 1)
    assert finding.examples[0].message == "50x100 pixels, annotated as 100x50"


def test_images_that_exif_turns_are_remarked_upon(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.jpg": GOOD, "2.jpg": GOOD}})
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images/train/2.jpg"
    Image.fromarray(gradient(100, 50)).save(path, exif=exif)
    finding = only(check(data_yaml, images=True))
    assert (finding.kind, finding.count) == ("image-rotated", 1)
    assert finding.examples[0].message == "EXIF orientation 6"
    assert finding.examples[0].images[0].boxes_xyxy != ()


def test_copies_and_leaks_are_told_by_their_bytes(tmp_path: Path) -> None:
    splits = {
        "train": {"1.png": GOOD, "2.png": GOOD, "3.png": GOOD},
        "val": {"4.png": GOOD, "5.png": GOOD},
        "test": {"6.png": GOOD, "7.png": GOOD},
    }
    data_yaml = write_yolo_splits(tmp_path, splits)
    images = tmp_path / "images"
    shutil.copy(images / "train/1.png", images / "train/3.png")
    shutil.copy(images / "train/2.png", images / "val/4.png")
    shutil.copy(images / "val/5.png", images / "test/6.png")
    shutil.copy(images / "train/1.png", images / "test/7.png")
    assert check(data_yaml).issues == ()
    found = check(data_yaml, images=True)
    assert counts(found) == {
        ("image-duplicated", "train"): 1,
        ("image-leaked", "val"): 1,
        ("image-leaked", "test"): 1,
        ("image-shared", "test"): 1,
    }
    (leak,) = next(one.examples for one in found.issues if one.split == "val")
    assert leak.path == images / "val/4.png"
    assert leak.message == "the same bytes as images/train/2.png of train"


def test_a_file_in_two_splits_leaks_without_any_image_being_read(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD, "2.png": GOOD}})
    write_text(tmp_path / "val.txt", "./images/train/2.png\n./images/train/../train/2.png\n")
    data_yaml.write_text(data_yaml.read_text() + "val: val.txt\n")
    assert counts(check(data_yaml)) == {
        ("image-leaked", "val"): 1,
        ("image-listed-twice", "val"): 1,
    }


def test_label_files_without_image_and_images_without_label_are_found(tmp_path: Path) -> None:
    labels = {"1.png": GOOD, "2.png": None, "sub/3.png": GOOD, "empty.png": ""}
    data_yaml = write_yolo_splits(tmp_path, {"train": labels})
    write_text(tmp_path / "labels/train/lost.txt", GOOD)
    write_text(tmp_path / "labels/train/sub/lost too.txt", GOOD)
    write_text(tmp_path / "labels/train/classes.txt", "a\nb\n")
    found = check(data_yaml)
    assert counts(found) == {("labels-without-image", None): 2, ("image-background", "train"): 1}
    lost, background = found.issues
    assert [issue.path.name for issue in lost.examples] == ["lost.txt", "lost too.txt"]
    assert background.examples[0].path == tmp_path / "images/train/2.png"


def test_a_label_of_an_image_that_no_split_lists_is_not_lost(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD, "2.png": GOOD}})
    write_text(tmp_path / "train.txt", "./images/train/1.png\n")
    data_yaml.write_text(data_yaml.read_text().replace("images/train", "train.txt"))
    assert check(data_yaml).issues == ()


def test_lists_beside_images_are_no_labels(tmp_path: Path) -> None:
    for name in ("1", "2"):
        Image.fromarray(np.roll(gradient(100, 50), int(name), axis=0)).save(
            tmp_path / f"{name}.png"
        )
        write_text(tmp_path / f"{name}.txt", GOOD)
    write_text(tmp_path / "train.txt", "./1.png\n./2.png\n")
    data_yaml = write_text(tmp_path / "data.yaml", "train: train.txt\nnames: [a, b]\n")
    assert check(data_yaml).issues == ()


def test_voc_tells_of_xml_without_image_and_of_images_without_xml(tmp_path: Path) -> None:
    objects = [voc_object("cat", (11, 11, 50, 30)), voc_object("dog", (11, 11, 30, 30))]
    data_yaml = write_voc(tmp_path, {"a": objects, "b": objects, "c": objects})
    (tmp_path / "JPEGImages/b.jpg").unlink()
    (tmp_path / "Annotations/c.xml").unlink()
    assert counts(check(data_yaml)) == {
        ("image-missing", "train"): 1,
        ("labels-without-image", None): 1,
        ("image-without-labels", "train"): 1,
    }


def test_coco_images_without_annotation_are_background_unless_theirs_were_bad(
    tmp_path: Path,
) -> None:
    boxes = [coco_box(1, [10, 10, 40, 20]), coco_box(2, [10, 10, 40, 20], category=2)]
    data_yaml = write_coco_file(tmp_path, [*boxes, coco_box(3, [10, 10, 0, 20], image=2)], images=3)
    found = check(data_yaml)
    assert counts(found) == {("box-empty", "train"): 1, ("image-background", "train"): 1}
    assert found.issues[1].examples[0].path == tmp_path / "photos/3.png"


def test_every_image_is_read_once_and_told_of(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path, {"train": {"1.png": GOOD, "2.png": GOOD}})
    data_yaml.write_text(data_yaml.read_text() + "val: images/train\n")
    calls: list[tuple[int, int]] = []
    found = check(data_yaml, images=True, on_image=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    assert found.num_images_read == 2
    assert counts(found) == {("image-leaked", "val"): 2}
