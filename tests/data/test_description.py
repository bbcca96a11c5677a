"""The data.yaml: what is understood, and what is refused with which words."""

import errno
import os
from pathlib import Path

import pytest
from dataset_files import write_coco, write_image, write_text, write_voc, write_yolo

from ossa.data.description import DataDescription, read_description
from ossa.data.reading import read_index
from ossa.errors import ConfigError, DataError


def describe(folder: Path, text: str) -> DataDescription:
    """Writes an image folder `images` and a data.yaml, and reads the description."""
    write_image(folder / "images" / "1.jpg")
    return read_description(write_text(folder / "data.yaml", text))


def test_a_folder_is_read_by_its_data_yaml(tmp_path: Path) -> None:
    describe(tmp_path, "train: images\nnames: [a, b]\n")
    description = read_description(tmp_path)
    assert description.file == tmp_path / "data.yaml"
    assert description.root == tmp_path
    assert description.names == ("a", "b")
    assert description.splits["train"].sources == (tmp_path / "images",)


def test_names_may_be_numbered_from_zero_in_any_order(tmp_path: Path) -> None:
    description = describe(tmp_path, "train: images\nnames: {1: b, 0: a}\nnc: 2\n")
    assert description.names == ("a", "b")


def test_a_root_is_relative_to_the_folder_of_the_yaml(tmp_path: Path) -> None:
    write_image(tmp_path / "cells" / "images" / "1.jpg")
    file = write_text(
        tmp_path / "configs" / "cells.yaml", "path: ../cells\ntrain: images\nnames: [a]\n"
    )
    assert read_description(file).root == tmp_path / "cells"


def test_a_split_may_be_a_list_and_an_empty_split_is_none(tmp_path: Path) -> None:
    write_image(tmp_path / "more" / "2.jpg")
    description = describe(
        tmp_path, "train: [images, more]\nval: images\ntest:  # optional\nnames: [a]\ndownload: x\n"
    )
    assert description.splits["train"].sources == (tmp_path / "images", tmp_path / "more")
    assert set(description.splits) == {"train", "val"}
    text = "train: images\nval: ''\nnames: [a]\n"
    assert set(describe(tmp_path, text).splits) == {"train"}


def test_a_path_from_the_folder_above_is_looked_for_in_the_root_as_well(tmp_path: Path) -> None:
    description = describe(tmp_path, "train: ../images\nnames: [a]\nroboflow: {version: 1}\n")
    assert description.splits["train"].sources == (tmp_path / "images",)


def test_the_format_is_told_by_the_entries(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "v", {"x": []})
    coco = write_coco(tmp_path / "c", [])
    yolo = write_yolo(tmp_path / "y", {"1.jpg": ""})
    assert [read_description(f).format for f in (voc, coco, yolo)] == ["voc", "coco", "yolo"]


def test_a_coco_file_alone_takes_its_images_from_the_key_images_or_its_own_folder(
    tmp_path: Path,
) -> None:
    write_coco(tmp_path, [])
    beside = read_description(write_text(tmp_path / "a.yaml", "train: train.json\n"))
    keyed = read_description(write_text(tmp_path / "b.yaml", "train: train.json\nimages: photos\n"))
    assert beside.splits["train"].images == tmp_path
    assert keyed.splits["train"].images == tmp_path / "photos"
    assert keyed.names is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nname: [a]\n", "'name' .*line 2.* Did you mean names"),
        ("train: images\nnames: [a]\ntrain: images\n", "key train again.*data.yaml, line 3"),
        ("train: images\nnames: [a\nval: images\n", "syntax error: .*line 3"),
        ("train: images\nnames: !!python/name:os.system x\n", "syntax error: .*line 2"),
        ("train: images\n", "class names as key 'names'"),
        ("train: images\nnames: &a [*a]\n", "alias a of nothing.*data.yaml, line 2"),
        (
            "train: images\nnames:\n  " + "[" * 50 + "]" * 50,
            "more than 20 deep.* line 3",
        ),
        ("train: images\nnc: " + "9" * 5000, "a number of 5,000 char.*data.yaml, line 2"),
        ("train: images\nnames: [a\x07]", "special characters.*data.yaml, line 2"),
        ("train: images\n? [train, val]\n: 1\n", "a list or mapping as a key.*data.yaml, line 2"),
        ("train: images\nnames: [a]\ncategory_ids: [9223372036854775808]", "different whole"),
        ("names: [a]\n", "train, val or test"),
        ("", "found none"),
        (
            "train: images\nnames: [a, b]\nnc: 3\n",
            "Expected 2, the number of .*'nc', found 3",
        ),
        ("train: images\nnames: {1: a, 2: b}\n", "numbers 0 to 1 .* found 1, 2"),
        ("train: images\nnames: {'0': a}\n", "class names .* found {'0': 'a'}"),
        ("train: images\nnames:\n  0: a\n  0: b\n", "key 0 again.*data.yaml, line 4"),
        ("train: images\nnames: [a]\nclasses:\n  c: a\n  c: b\n", "key c again.*data.yaml, line 5"),
        (
            "train: [images, '']\nnames: [a]\n",
            "list of paths as key 'train', found .* ''.*line 1",
        ),
        ("train: images\nnames: [a, b, a]\n", "'a' twice"),
        ("train: images\nnames: [yes, no]\n", "quote words .* found .True, False"),
        ("train: images\nnames: []\n", "list of class names"),
        ("train: images\nnames: [a]\nformat: yollo\n", "'yollo' .* Did you mean yolo"),
        ("train: 5\nnames: [a]\n", "path or .* as key 'train', found 5 .*line 1"),
        ("train: []\nnames: [a]\n", "list of paths as key .train., found "),
        (
            "train: images\nnames: [a]\nimages: images\n",
            "format coco .* found yolo .*line 3",
        ),
        ("train: {image: images, annotations: a.json}\n", "'image' .* Did you mean images"),
        ("train: {images: images}\n", "annotations: <JSON file> as key 'train'"),
    ],
)
def test_a_bad_key_or_value_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        describe(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: pictures\nnames: [a]\n",
            "pictures as key 'train', found none .* line 1",
        ),
        (
            "path: nowhere\ntrain: photos\nnames: [a]\n",
            "at .*nowhere as key 'path', found none .*line 1",
        ),
        ("train: {images: none, annotations: images/1.jpg}\n", "none as key 'train'"),
        ("format: coco\ntrain: images\n", "a JSON file and a folder"),
        ("format: coco\ntrain: images/1.jpg\nimages: none\n", "none as key 'images', .*line 3"),
        (f"train: {'x' * 300}\nnames: [a]\n", "as key 'train', found file name too long"),
        (f"path: {'x' * 300}\ntrain: a\nnames: [a]\n", "as key 'path', found file name"),
    ],
)
def test_what_the_yaml_names_and_is_missing_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        describe(tmp_path, text)


def test_a_missing_yaml_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"description of a data set, found none .*data\.yaml"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"), [("cels", " Did you mean cells?"), ("x.yaml", ""), ("a.txt/b", "")]
)
def test_a_data_set_that_does_not_exist_is_told_with_the_similar_name_beside_it(
    tmp_path: Path, name: str, advice: str
) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError) as told:
        read_description(tmp_path / name)
    assert str(told.value) == f"The data set does not exist ({tmp_path / name}).{advice}"


def test_a_yaml_that_may_not_be_read_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    write_text(tmp_path / "data.yaml", "train: images\n")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match=r"found permission denied .*data\.yaml"):
        read_description(tmp_path)


def test_a_yaml_of_other_bytes_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes(b"train: images\nnames: [\xff]\n")
    with pytest.raises(ConfigError, match=r"UTF-8 text, found another byte .*data\.yaml, line 2"):
        read_description(tmp_path)


def test_a_test_split_that_is_not_there_leaves_the_others_usable(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "1.jpg")
    text = "train: images\nval: images\ntest: ../test/images\nnames: [a]\n"
    description = describe(tmp_path, text)
    assert tuple(description.splits) == ("train", "val")
    (note,) = description.notes
    assert note.startswith("split 'test' is left out: Expected a folder or file at ")
    with pytest.raises(DataError, match=r"as key 'test', found none .*line 3"):
        read_index(description, "test")
    with pytest.raises(DataError, match="as key 'test'"):
        describe(tmp_path, "test: nowhere\nnames: [a]\n")
