"""Groups of images in a data.yaml, and images that are alike without one."""

import time
from pathlib import Path

import numpy as np
import pytest
from checks_data import GOOD, check, counts, write_yolo_splits
from dataset_files import gradient, write_text
from PIL import Image

from ossa.data.annotations import select_images
from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import ConfigError

NAMES = ("a_1_01.jpg", "a_1_02.jpg", "a_2_01.jpg", "b_1_01.jpg")


def groups_of(folder: Path, groups: str, names: tuple[str, ...] = NAMES) -> list[int] | None:
    """Returns the groups of the images of val by key `groups`."""
    data = write_yolo_splits(folder, {"val": dict.fromkeys(names, GOOD)})
    with data.open("a") as file:
        file.write(f"groups: {groups}\n")
    index = read_index(read_description(data), "val").index
    assert index.file_names.tolist() == [f"images/val/{name}" for name in names]
    return None if index.groups is None else index.groups.tolist()


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        ("(*)_*", [0, 0, 0, 1]),
        ("(*_*)_*.jpg", [0, 0, 1, 2]),
        ("*_*_(*).jpg", [0, 1, 0, 0]),
        ("(*)", [0, 1, 2, 3]),
        ("images/val/(*)_1_*", None),
        ("(*)/*", None),
        ("[a](*)", None),
    ],
)
def test_a_pattern_says_which_images_belong_together(
    tmp_path: Path, pattern: str, groups: list[int] | None
):
    if groups is not None:
        assert groups_of(tmp_path, f"'{pattern}'") == groups
        return
    with pytest.raises(ConfigError) as error:
        groups_of(tmp_path, f"'{pattern}'")
    assert "by key 'groups', found " in str(error.value)


def test_the_folder_may_be_the_group_and_the_text_behind_a_star_may_come_again(tmp_path: Path):
    names = ("one/x.jpg", "one/y.jpg", "two/x.jpg")
    assert groups_of(tmp_path, "(*)/*", names) == [0, 0, 1]
    assert groups_of(tmp_path / "2", "'(*b)c.jpg'", ("abc.jpg", "axbybc.jpg")) == [0, 1]


def test_a_table_says_which_images_belong_together(tmp_path: Path):
    rows = ["image,group", "images/val/a_1_01.jpg,x", *(f"{name},y" for name in NAMES[1:])]
    table = write_text(tmp_path / "groups.csv", "\n".join(rows))
    assert groups_of(tmp_path, "{file: groups.csv}") == [0, 1, 1, 1]
    table.write_text("\n".join(rows[:-1]))
    with pytest.raises(ConfigError, match=r"found none for 1 of 4, such as images/val/b_1_01\.jpg"):
        groups_of(tmp_path, "{file: groups.csv}")
    table.write_text("name,flight\na,b\n")
    with pytest.raises(ConfigError, match="a table with the columns image and group"):
        groups_of(tmp_path, "{file: groups.csv}")


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ("'^(.*)_\\d+'", "Expected a pattern with one part in parentheses, such as"),
        ("'(a)(*)'", "Expected a pattern with one part in parentheses, such as"),
        (
            "'(*_1)_*'",
            "a group for every image of split 'val' by key 'groups', found none",
        ),
        ("'*_(7)*.jpg'", "found none for 4 of 4, such as images/val/a_1_01.jpg"),
        ("'*.(jpg)'", "Expected two groups at least in split 'val' by key 'groups', found jpg"),
        ("{file: missing.csv}", "found no such file"),
        ("{file: ../../groups.csv}", "Expected a table of the data set by key 'groups', found"),
        ("{column: x}", "Expected a pattern such as (*)_*.jpg or {file: groups.csv} as key"),
        ("3", "Expected a pattern such as (*)_*.jpg or {file: groups.csv} as key 'groups'"),
    ],
)
def test_bad_groups_are_refused_in_a_sentence(tmp_path: Path, groups: str, sentence: str):
    with pytest.raises(ConfigError) as error:
        groups_of(tmp_path / "data", groups)
    assert sentence in str(error.value)


def test_a_hostile_pattern_takes_no_longer(tmp_path: Path):
    names = ("a" * 240 + ".jpg", "b.jpg")
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="found none for 2 of 2"):
        groups_of(tmp_path, f"'({'*a' * 200}*b)*c'", names)
    assert time.monotonic() - begun < 5


def test_groups_stay_with_their_images_and_are_not_in_the_fingerprint(tmp_path: Path):
    data = write_yolo_splits(tmp_path, {"val": dict.fromkeys(NAMES, GOOD)})
    plain = read_index(read_description(data), "val").index
    assert (plain.groups, plain.num_units) == (None, 4)
    data.write_text(data.read_text() + "groups: (*_*)_*\n")
    index = read_index(read_description(data), "val").index
    assert index.num_units == 3
    assert index.fingerprint() == plain.fingerprint()
    kept = select_images(index, np.array([False, False, True, True]))
    assert kept.groups is not None
    assert kept.groups.tolist() == [0, 1]


def test_frames_of_one_video_are_reported_unless_groups_are_named(tmp_path: Path):
    names = [f"f_{number}.png" for number in range(5)]
    data = write_yolo_splits(tmp_path, dict.fromkeys(("train", "val"), dict.fromkeys(names, GOOD)))
    rng = np.random.default_rng(0)
    other = rng.integers(0, 256, (50, 100, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for number, name in enumerate(names):
            frame = other if number == 4 else np.roll(gradient(100, 50), number, axis=1)
            Image.fromarray(frame).save(tmp_path / "images" / split / name)
    found = counts(check(data, images=True))
    assert found["images-dependent", "val"] == 3
    assert ("images-dependent", "train") not in found
    data.write_text(data.read_text() + "groups: f_(*).png\n")
    assert ("images-dependent", "val") not in counts(check(data, images=True))
