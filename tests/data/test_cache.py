"""The index in the cache: the same as read anew, and never that of files since changed."""

import os
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    coco_annotation,
    voc_object,
    write_coco,
    write_image,
    write_text,
    write_voc,
    write_yolo,
)

from ossa.data import cache_files, reading
from ossa.data.annotations import DatasetIndex, IndexReport, LabelSearch
from ossa.data.cache_files import SourceLog
from ossa.data.description import read_description
from ossa.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, which keeps here what is small and what was written just now."""
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(cache_files, "_SETTLED_NS", -(10**18))
    return tmp_path / "cache"


def write(root: Path, data_format: str) -> Path:
    """Writes two images and two boxes, of which one is faulty; returns the data.yaml."""
    if data_format == "yolo":
        return write_yolo(root, {"1.jpg": "0 .5 .5 .2 .2\n0 .5 .5 0 .2", "é 2.jpg": None})
    if data_format == "voc":
        boxes = [voc_object("dog", (11, 11, 20, 20)), voc_object("dog", (11, 11, 11, 20))]
        return write_voc(root, {"x": boxes, "longer-name": []})
    boxes = [coco_annotation(9, [10, 20, 30, 5], area=77.5), coco_annotation(4, [1, 1, 0, 5])]
    return write_coco(root, boxes)


def read(yaml_file: Path, *, strict: bool = False) -> IndexReport:
    return reading.read_index(read_description(yaml_file), "train", strict=strict)


def is_mapped(report: IndexReport) -> bool:
    """Returns whether the index comes from the cache: its columns are views that lie in a file."""
    return not report.index.boxes_xyxy.flags.writeable


def assert_same(one: DatasetIndex, other: DatasetIndex) -> None:
    for field in fields(DatasetIndex):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name


@pytest.mark.parametrize("data_format", ["coco", "voc", "yolo"])
def test_an_index_from_the_cache_is_the_one_read_anew(tmp_path: Path, data_format: str) -> None:
    yaml_file = write(tmp_path, data_format)
    fresh, opened = read(yaml_file), read(yaml_file)
    assert (is_mapped(fresh), is_mapped(opened)) == (False, True)
    assert_same(fresh.index, opened.index)
    assert opened.labels == fresh.labels != LabelSearch()
    assert fresh.index.fingerprint() == opened.index.fingerprint()
    assert [str(p) for p in opened.issues] == [str(p) for p in fresh.issues]
    assert len(opened.issues) == 1
    assert [str(opened.index.image_path(i)) for i in range(2)] == [
        str(fresh.index.image_path(i)) for i in range(2)
    ]


def test_faults_from_the_cache_stop_a_strict_reading_in_the_same_words(tmp_path: Path) -> None:
    yaml_file = write(tmp_path, "yolo")
    with pytest.raises(DataError) as before:
        read(yaml_file, strict=True)
    read(yaml_file)
    with pytest.raises(DataError) as after:
        read(yaml_file, strict=True)
    assert str(after.value) == str(before.value)
    assert "1.txt:2" in str(after.value)


def test_a_new_box_is_read_in_every_format(tmp_path: Path) -> None:
    yolo, voc, coco = (write(tmp_path / name, name) for name in ("yolo", "voc", "coco"))
    for yaml_file in (yolo, voc, coco):
        read(yaml_file)
    (tmp_path / "yolo/labels/train/1.txt").write_text("0 .5 .5 .2 .2\n1 .5 .5 .2 .2")
    xml = "<annotation>" + voc_object("dog", (1, 1, 9, 9)) * 1 + "</annotation>"
    write_text(tmp_path / "voc/Annotations/longer-name.xml", xml)
    boxes = [coco_annotation(n, [n, 20, 30, 5]) for n in (1, 2, 3)]
    write_coco(tmp_path / "coco", boxes)
    counts = [len(read(yaml_file).index.labels) for yaml_file in (yolo, voc, coco)]
    assert counts == [2, 2, 3]


def test_an_annotation_rewritten_with_its_old_size_and_time_is_read(tmp_path: Path) -> None:
    yaml_file = write(tmp_path, "yolo")
    read(yaml_file)
    labels = tmp_path / "labels/train/1.txt"
    times = labels.stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    labels.write_text(labels.read_text().replace("0 .5", "1 .5", 1))
    os.utime(labels, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert labels.stat().st_mtime_ns == times.st_mtime_ns
    assert read(yaml_file).index.labels.tolist() == [1]


def test_an_image_of_another_size_is_seen(tmp_path: Path) -> None:
    yaml_file = write(tmp_path, "voc")
    read(yaml_file)
    write_image(tmp_path / "JPEGImages/x.jpg", (80, 40))
    assert read(yaml_file).index.sizes_wh.tolist() == [[80, 40], [100, 50]]


def test_a_data_yaml_with_other_names_or_classes_is_read_anew(tmp_path: Path) -> None:
    yaml_file = write(tmp_path, "yolo")
    assert read(yaml_file).index.names == ("a", "b")
    text = yaml_file.read_text()
    write_text(yaml_file, text.replace("[a, b]", "[a, c]"))
    assert read(yaml_file).index.names == ("a", "c")
    write_text(yaml_file, text + "classes: {d: [b]}\n")
    first, second = read(yaml_file), read(yaml_file)
    assert is_mapped(second)
    assert second.index.names == ("d",)
    assert second.notes == first.notes != ()


def test_a_file_written_just_before_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Within a tick of the clock a second change would leave its time as it was."""
    monkeypatch.setattr(cache_files, "_SETTLED_NS", 2 * 10**9)
    read(write(tmp_path, "yolo"))
    assert not folder.exists()
    log = SourceLog()
    log.add(Path(__file__))
    assert log.settled == (time.time() - Path(__file__).stat().st_ctime > 2)


@pytest.mark.parametrize("spoil", ["cut", "emptied", "other", "header"])
def test_a_damaged_cache_is_read_past_and_replaced(
    tmp_path: Path, folder: Path, spoil: str
) -> None:
    yaml_file = write(tmp_path, "coco")
    fresh = read(yaml_file)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    spoilt = {
        "cut": whole[:-1],
        "emptied": b"",
        "other": b"not at all a cache" * 99,
        "header": whole[:8] + b"[]" + whole[10:],
    }[spoil]
    file.write_bytes(spoilt)
    again = read(yaml_file)
    assert not is_mapped(again)
    assert_same(again.index, fresh.index)
    assert is_mapped(read(yaml_file))


def test_a_folder_that_cannot_be_written_is_told_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "file", "in the way")
    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "file"))
    report = read(write(tmp_path, "coco"))
    assert len(report.index) == 2
    (note,) = report.notes
    assert note.startswith("could not keep the index of split 'train' in ")
    assert "read anew each time" in note


def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSA_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/common")
    assert cache_files.cache_folder() == Path("/own")
    monkeypatch.setenv("OSSA_CACHE", "")
    assert cache_files.cache_folder() == Path("/common/ossa")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_files.cache_folder() == Path.home() / ".cache" / "ossa"
