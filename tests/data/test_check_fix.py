"""The cleaned copy: what is gone, what stays, and that the original is as it was."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from checks_data import (
    GOOD,
    check,
    coco_box,
    write_coco_file,
    write_yolo_splits,
)
from dataset_files import voc_object, write_voc

from ossa.data.checks.fixing import write_cleaned
from ossa.data.convert import Conversion
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import DataError

BAD = "0 .5 .5 0 .2\n0 1.5 .5 .2 .2\n0 .9 .5 .4 .4\n0 nan .5 .2 .2\n9 .5 .5 .2 .2\n"
"""Of no area, outside, reaching out, not a number, of an unknown class."""


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """Returns digest and time of change of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), os.stat(path).st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fix(data_yaml: Path, *, images: bool = False) -> tuple[Path, Conversion]:
    """Writes the cleaned copy beside the data set, which must stay; returns its data.yaml."""
    before = state(data_yaml.parent)
    output = data_yaml.parent.parent / "clean"
    written = write_cleaned(check(data_yaml, images=images), output)
    assert state(data_yaml.parent) == before
    return output / "data.yaml", written


def boxes(data_yaml: Path, split: str = "train") -> list[list[float]]:
    return read_index(read_description(data_yaml), split).index.boxes_xyxy.tolist()


def test_a_fixed_yolo_data_set_has_no_fault_and_the_original_is_as_it_was(tmp_path: Path) -> None:
    twice = "0 .5 .5 .4 .4\n"
    data_yaml = write_yolo_splits(tmp_path / "data", {"train": {"1.png": GOOD + BAD + twice}})
    found = check(data_yaml)
    assert (found.num_faults, found.num_remarks) == (5, 1)
    clean, _ = fix(data_yaml)
    assert check(clean).findings == ()
    assert read_description(clean).format == "yolo"
    assert np.allclose(boxes(clean), [[30, 15, 70, 35], [15, 7.5, 35, 17.5], [70, 15, 100, 35]])
    (image,) = (tmp_path / "clean/images").rglob("*.png")
    assert image.resolve() == tmp_path / "data/images/train/1.png"


def test_a_fixed_coco_file_drops_what_is_bad_and_clips_what_reaches_out(tmp_path: Path) -> None:
    annotations = [
        coco_box(1, [10, 10, 40, 20], area=500),
        coco_box(2, [10, 10, 40, 20]),
        coco_box(3, [90, 10, 40, 20], category=2),
        coco_box(4, [60, 10, 40.5, 20], image=2),
        coco_box(5, [10, 10, 0, 20], image=2),
    ]
    data_yaml = write_coco_file(tmp_path / "data", annotations)
    clean, written = fix(data_yaml)
    assert check(clean).findings == ()
    index = read_index(read_description(clean), "train").index
    # Half a pixel of rounding stays, as it stays in training.
    assert index.boxes_xyxy.tolist() == [[10, 10, 50, 30], [90, 10, 100, 30], [60, 10, 100.5, 30]]
    assert index.annotation_ids.tolist() == [1, 3, 4]
    assert index.areas[0] == 500
    assert index.image_path(0) == tmp_path / "data/photos/1.png"
    assert written.notes[:2] == (
        "train: boxes stated twice, left out: 1",
        "train: boxes clipped to their image: 1",
    )
    assert not list((tmp_path / "clean").rglob("*.png"))


def test_a_fixed_voc_data_set_has_no_fault(tmp_path: Path) -> None:
    good = [voc_object("cat", (11, 11, 50, 30)), voc_object("dog", (11, 11, 30, 30))]
    bad = [voc_object("cat", (20, 20, 20, 20)), voc_object("cow", (1, 1, 50, 30)), good[0]]
    data_yaml = write_voc(tmp_path / "data", {"a": [*good, *bad], "b": good})
    assert check(data_yaml).num_faults == 3
    clean, _ = fix(data_yaml)
    assert read_description(clean).format == "voc"
    assert check(clean).findings == ()
    assert len(boxes(clean)) == 4


def test_broken_and_leaked_images_and_copies_are_left_out(tmp_path: Path) -> None:
    more = GOOD + "0 .8 .8 .2 .2\n"
    splits = {
        "train": {"1.png": GOOD, "2.png": more, "3.png": GOOD, "4.png": GOOD, "5.png": GOOD},
        "val": {"6.png": GOOD},
    }
    data_yaml = write_yolo_splits(tmp_path / "data", splits)
    images = tmp_path / "data/images"
    shutil.copy(images / "train/1.png", images / "train/2.png")  # which has more boxes
    shutil.copy(images / "train/3.png", images / "val/6.png")
    (images / "train/4.png").write_bytes((images / "train/4.png").read_bytes()[:-20])
    clean, written = fix(data_yaml, images=True)
    assert check(clean, images=True).findings == ()
    train = read_index(read_description(clean), "train").index
    assert [Path(name).name for name in train.file_names.tolist()] == ["2.png", "5.png"]
    assert len(boxes(clean, "val")) == 2
    assert written.notes[:3] == (
        "train: images that cannot be used, left out: 1",
        "train: images that are in val or test, too, left out: 1",
        "train: images that are copies of another one, left out: 1",
    )


def test_ids_that_the_source_did_not_have_are_not_said_to_be_lost(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path / "data", {"train": {"a.png": "", "b.png": GOOD}})
    images = tmp_path / "data/images/train"
    shutil.copy(images / "b.png", images / "a.png")
    _, written = fix(data_yaml, images=True)
    assert "train: images that are copies of another one, left out: 1" in written.notes
    assert "train: image ids are others: they come from names or places" in written.notes
    assert not [note for note in written.notes if "lost" in note]


def test_without_reading_images_only_what_is_known_goes(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path / "data", {"train": {"1.png": GOOD, "2.png": GOOD}})
    images = tmp_path / "data/images/train"
    shutil.copy(images / "1.png", images / "2.png")
    clean, _ = fix(data_yaml)
    assert len(boxes(clean)) == 4


def test_where_nothing_would_be_left_nothing_is_written(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path / "data", {"train": {"1.png": GOOD}})
    data_yaml.write_text(data_yaml.read_text() + "val: images/train\n")
    found = check(data_yaml)
    with pytest.raises(DataError, match="images that are in val or test, too, left out: 1"):
        write_cleaned(found, tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    data_yaml = write_yolo_splits(tmp_path / "data", {"train": {"1.png": GOOD}})
    with pytest.raises(DataError, match="nothing is overwritten"):
        write_cleaned(check(data_yaml), tmp_path / "data")
