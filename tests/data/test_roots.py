"""What a data set may name: files below its folders, regular and not hidden, and nothing else."""

import json
import os
from pathlib import Path

import pytest
from dataset_files import (
    coco_annotation,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)

from ossa.data.annotations import IndexReport
from ossa.data.convert import convert
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import DataError


def read(yaml_file: Path, *, allow_outside: bool = False) -> IndexReport:
    return read_index(read_description(yaml_file, allow_outside=allow_outside), "train")


def names(report: IndexReport) -> list[str]:
    return report.index.file_names.tolist()


def with_list(root: Path, *entries: str) -> Path:
    """Writes one image with a label, and a list of it and these entries; returns the data.yaml."""
    write_yolo(root, {"1.jpg": "0 .5 .5 .5 .5"})
    write_text(root / "train.txt", "\n".join(["images/train/1.jpg", *entries]))
    return write_text(root / "data.yaml", "train: train.txt\nnames: [a]\n")


def coco_with(root: Path, file_name: str) -> Path:
    """Writes COCO's data set with one more image of this name; returns the data.yaml."""
    yaml_file = write_coco(root, [coco_annotation(1, [1, 1, 5, 5])])
    content = json.loads((root / "train.json").read_text())
    content["images"].append({"id": 9, "file_name": file_name, "width": 100, "height": 50})
    write_text(root / "train.json", json.dumps(content))
    return yaml_file


# Outside.


@pytest.mark.parametrize("entry", ["../secret/2.jpg", "ABSOLUTE", "images/train/link.jpg"])
def test_a_list_does_not_lead_out_of_the_data_set(tmp_path: Path, entry: str) -> None:
    secret = write_image(tmp_path / "secret" / "2.jpg")
    yaml_file = with_list(tmp_path / "set", str(secret) if entry == "ABSOLUTE" else entry)
    (tmp_path / "set" / "images" / "train" / "link.jpg").symlink_to(secret)
    report = read(yaml_file)
    assert names(report) == ["images/train/1.jpg"]
    (issue,) = report.issues
    assert issue.line == 2
    assert "secret/2.jpg" in issue.detail
    assert issue.detail.endswith("outside the folders that may be read")
    assert "--allow-outside" in issue.action
    assert len(read(yaml_file, allow_outside=True).index) == 2


@pytest.mark.parametrize("copy_images", [True, False])
def test_nothing_from_outside_is_copied_or_linked(tmp_path: Path, copy_images: bool) -> None:
    write_text(tmp_path / "passwd", "root:x:0:0")
    yaml_file = coco_with(tmp_path / "set", "../../passwd")
    convert(read_description(yaml_file), tmp_path / "out", to="yolo", copy_images=copy_images)
    written = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert "passwd" not in " ".join(written)
    assert not any("passwd" in os.path.realpath(path) for path in (tmp_path / "out").rglob("*"))


def test_only_images_are_copied(tmp_path: Path) -> None:
    yaml_file = coco_with(tmp_path, "key.jpg")
    write_text(tmp_path / "photos" / "key.jpg", "a secret")
    done = convert(read_description(yaml_file), tmp_path / "out", to="coco", copy_images=True)
    copied = sorted(path.name for path in (tmp_path / "out" / "images").rglob("*.jpg"))
    assert copied == ["3.jpg", "7.jpg"]
    assert any("no image" in issue.detail for issue in done.issues)


def test_folders_linked_from_the_root_are_part_of_it_and_deeper_links_count_by_where_they_lead(
    tmp_path: Path,
) -> None:
    write_yolo(tmp_path / "disk", {"1.jpg": "0 .5 .5 .5 .5"})
    write_image(tmp_path / "other" / "2.jpg")
    root = tmp_path / "set"
    root.mkdir()
    for name in ("images", "labels"):
        (root / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "images" / "train" / "deep").symlink_to(tmp_path / "other")
    write_text(root / "train.txt", "images/train/1.jpg\nimages/train/deep/2.jpg")
    for train in ("train.txt", "images/train"):
        yaml_file = write_text(root / "data.yaml", f"train: {train}\nnames: [a]\n")
        report = read(yaml_file)
        assert (len(report.index), len(report.index.labels)) == (1, 1)
        assert ["leads to" in one.detail for one in report.issues] == [True]
        write_text(yaml_file, f"train: {train}\nnames: [a]\noutside: ../other\n")
        assert len(read(yaml_file).index) == 2


def test_labels_that_lead_outside_leave_their_image_out_and_show_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "passwd", "root:x:0:0")
    yaml_file = write_yolo(tmp_path / "set", {"1.jpg": "0 .5 .5 .5 .5", "2.jpg": None})
    (tmp_path / "set" / "labels" / "train" / "2.txt").symlink_to(tmp_path / "passwd")
    report = read(yaml_file)
    assert names(report) == ["images/train/1.jpg"]
    assert "root:x" not in str(report.issues)


def test_class_names_come_from_a_file_of_the_data_set_alone(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path / "set", {"1.jpg": "1 .5 .5 .5 .5"}, names="obj.names")
    write_text(tmp_path / "set" / "obj.names", "disc\nbar\n")
    assert read(yaml_file).index.names == ("disc", "bar")
    write_text(tmp_path / "passwd", "root:x:0:0")
    write_text(yaml_file, "train: images/train\nnames: ../passwd\n")
    with pytest.raises(DataError, match="passwd lies outside"):
        read(yaml_file)


# Files that are no files.


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("place", ["images/train/2.jpg", "labels/train/2.txt"])
def test_a_pipe_or_device_in_place_of_an_image_or_label_leaves_it_out(
    tmp_path: Path, kind: str, place: str
) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .5 .5", "2.jpg": ""})
    put(tmp_path / place, kind)
    report = read(yaml_file, allow_outside=True)
    assert names(report) == ["images/train/1.jpg"]
    assert f"a {kind} and no regular file" in report.issues[0].detail


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("place", ["train.txt", "data.yaml"])
def test_a_pipe_or_device_in_place_of_a_list_or_a_data_yaml_is_refused(
    tmp_path: Path, kind: str, place: str
) -> None:
    yaml_file = with_list(tmp_path)
    put(tmp_path / place, kind)
    with pytest.raises(DataError, match=f"a {kind} and no regular file"):
        read(yaml_file)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_in_place_of_json_or_xml_is_not_read(tmp_path: Path, kind: str) -> None:
    yaml_file = write_coco(tmp_path / "coco", [])
    put(tmp_path / "coco" / "train.json", kind)
    with pytest.raises(DataError, match=f"a {kind} and no regular file"):
        read(yaml_file)
    yaml_file = write_voc(tmp_path / "voc", {"1": [], "2": []})
    put(tmp_path / "voc" / "Annotations" / "2.xml", kind)
    assert names(read(yaml_file, allow_outside=True)) == ["JPEGImages/1.jpg"]


def put(path: Path, kind: str) -> None:
    """Puts a pipe, or a link to a device without an end, in place of a file."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


# Hidden ones.


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .5 .5"})
    for folder in (".ipynb_checkpoints", "__MACOSX", ".hidden/deep"):
        write_image(tmp_path / "images" / "train" / folder / "2.jpg")
    assert names(read(yaml_file)) == ["images/train/1.jpg"]


def test_hidden_files_that_lists_and_json_name_are_told(tmp_path: Path) -> None:
    hidden = ".ipynb_checkpoints/2.jpg"
    yaml_file = with_list(tmp_path / "yolo", f"images/train/{hidden}")
    write_image(tmp_path / "yolo" / "images" / "train" / hidden)
    coco = coco_with(tmp_path / "coco", hidden)
    write_image(tmp_path / "coco" / "photos" / hidden)
    for file, count in ((yaml_file, 1), (coco, 2)):
        report = read(file)
        assert (len(report.index), len(report.issues)) == (count, 1)


# Lists as other programs write them.


def test_a_list_of_windows_is_read(tmp_path: Path) -> None:
    yaml_file = with_list(tmp_path)
    content = "\ufeffimages\\train\\1.jpg\r\n.\\images\\train\\1.jpg\r\n"
    (tmp_path / "train.txt").write_bytes(content.encode())
    report = read(yaml_file)
    assert names(report) == ["images/train/1.jpg"]
    assert [one.kind for one in report.issues] == ["image-listed-twice"]


def test_a_list_of_darknet_is_read_from_the_root(tmp_path: Path) -> None:
    write_image(tmp_path / "obj_train_data" / "1.jpg")
    write_text(tmp_path / "obj_train_data" / "1.txt", "0 .5 .5 .5 .5")
    write_text(tmp_path / "train.txt", "data/obj_train_data/1.jpg\n")
    write_text(tmp_path / "obj.names", "disc\n")
    yaml_file = write_text(tmp_path / "data.yaml", "train: train.txt\nnames: obj.names\n")
    report = read(yaml_file)
    assert (names(report), len(report.index.labels)) == (["obj_train_data/1.jpg"], 1)


# Files that are another than they seem.


def test_a_list_of_many_files_that_are_not_there_ends_soon(tmp_path: Path) -> None:
    yaml_file = with_list(tmp_path, *(f"{number}.jpg" for number in range(10_210)))
    with pytest.raises(DataError, match=r"found 10,200 issues beside 1 usable images; the first"):
        read(yaml_file)


def test_labels_of_an_absurd_size_are_not_read(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .5 .5", "2.jpg": ""})
    os.truncate(tmp_path / "labels" / "train" / "2.txt", 10**12)  # takes no room
    report = read(yaml_file)
    assert names(report) == ["images/train/1.jpg"]
    assert "1,000,000,000,000 bytes" in report.issues[0].detail


def test_keys_of_other_tools_are_told_once_and_passed_over(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": ""})
    text = "name: mine\nchannels: 3\nminival: x\nnum_classes: 2\n"  # beside names and train
    write_text(yaml_file, yaml_file.read_text() + text)
    (note,) = read(yaml_file).notes
    assert note.endswith("passed over: name, channels, minival, num_classes")
