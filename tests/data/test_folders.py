"""Folders of a data set: links, links in circles, and folders that may not be read."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from dataset_files import write_coco, write_image, write_voc, write_yolo

from ossa.data.annotations import DatasetIndex
from ossa.data.check_issues import find_orphaned_labels
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import DataError


def read(yaml_file: Path, *, allow_outside: bool = False) -> DatasetIndex:
    return read_index(read_description(yaml_file, allow_outside=allow_outside), "train").index


def test_a_linked_folder_is_read_and_a_link_back_is_not(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path / "set", {"1.jpg": ""})
    write_image(tmp_path / "elsewhere" / "2.jpg")
    train = tmp_path / "set" / "images" / "train"
    (train / "more").symlink_to(tmp_path / "elsewhere")
    # Two of them double the folders at each of the 40 levels that a system allows.
    (train / "again").symlink_to(".")
    (tmp_path / "elsewhere" / "back").symlink_to(train)
    found = read(yaml_file, allow_outside=True).file_names.tolist()
    assert found == ["images/train/1.jpg", "images/train/more/2.jpg"]


def test_labels_in_folders_linked_in_a_circle_are_looked_at_once(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "", "2.jpg": ""})
    (tmp_path / "images" / "train" / "2.jpg").unlink()
    (tmp_path / "labels" / "train" / "again").symlink_to(".")
    description = read_description(yaml_file)
    (lost,) = find_orphaned_labels(description, {"train": read_index(description, "train")})
    assert [issue.path for issue in lost.examples] == [tmp_path / "labels" / "train" / "2.txt"]


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes a folder unreadable, for root as well."""
    for name in ("listdir", "scandir"):
        plain = getattr(os, name)

        def listed(path: Any, plain: Any = plain) -> Any:
            if os.fspath(path) == str(folder):
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))
            return plain(path)

        monkeypatch.setattr(os, name, listed)


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco"])
def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "yolo":
        yaml_file = write_yolo(tmp_path, {"1.jpg": ""})
        write_image(tmp_path / "images" / "train" / "shut" / "2.jpg")
        folder = tmp_path / "images" / "train" / "shut"
    elif kind == "voc":
        yaml_file, folder = write_voc(tmp_path, {"x": []}), tmp_path / "JPEGImages"
    else:
        yaml_file, folder = write_coco(tmp_path, []), tmp_path / "photos"
    forbid(monkeypatch, folder)
    with pytest.raises(DataError, match=f"can be read, found permission denied .{folder}"):
        read(yaml_file)
