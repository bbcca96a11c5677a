"""Dividing a data set: shares of classes, what stays together, copies, and what is written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dataset_files import voc_object, write_image, write_text
from PIL import Image

from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.data.split import DataSplit, split_data
from ossa.data.split_files import default_output, write_split
from ossa.data.stratify import stratify
from ossa.errors import ConfigError, DataError

ONE, TWO = "0 0.5 0.5 0.2 0.4\n", "0 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.4 0.4\n"


def write_scenes(root: Path, labels_of: Mapping[str, str], *, folder: str = "images") -> Path:
    """Writes images of 64x64 pixels with labels; returns the data.yaml, which names train alone.

    What stands before the '_' of a name is the scene: images of one are frames much alike.
    """
    for name, labels in labels_of.items():
        scene, _, frame = name.partition("_")
        seed = int.from_bytes(scene.encode(), "little")
        pixels = np.random.default_rng(seed).integers(0, 240, (16, 16, 3)).repeat(4, 0).repeat(4, 1)
        pixels[:2, :2] += int(frame or 0) % 10
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        write_text(root / folder.replace("images", "labels") / f"{name}.txt", labels)
    return write_text(root / "data.yaml", "train: images\nnames: [common, rare]\n")


def divide(data_yaml: Path, **options: Any) -> DataSplit:
    shares = options.pop("shares", {"val": 0.25})
    return split_data(read_description(data_yaml), shares, **options)


def names_of(data: Path) -> dict[str, list[str]]:
    """Returns the names of the images of each split, as a training reads them."""
    description = read_description(data)
    return {
        split: [Path(name).name for name in read_index(description, split).index.file_names]
        for split in description.splits
    }


def write(data_yaml: Path, **options: Any) -> dict[str, list[str]]:
    output = default_output(read_description(data_yaml))
    write_split(divide(data_yaml, **options), output)
    return names_of(output)


def test_every_split_has_its_share_of_images_and_of_each_class():
    boxes = np.array([[4, 0]] * 60 + [[0, 3]] * 20 + [[0, 0]] * 20)
    part_of = stratify(boxes, np.ones(100, int), (0.7, 0.2, 0.1), seed=5)
    for part, share in enumerate((0.7, 0.2, 0.1)):
        assert boxes[part_of == part].sum(axis=0).tolist() == [240 * share, 60 * share]
        assert (part_of == part).sum() == 100 * share


@pytest.mark.parametrize(("units", "parts"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2])])
def test_a_class_of_few_images_is_in_train_first_then_in_val_then_in_test(
    units: int, parts: list[int]
):
    boxes = np.array([[1, 0]] * 40 + [[1, 1]] * units)
    part_of = stratify(boxes, np.ones(len(boxes), int), (0.8, 0.1, 0.1))
    assert sorted(part_of[40:].tolist()) == parts


def test_images_that_training_leaves_out_are_told_in_one_line(tmp_path: Path) -> None:
    data_yaml = write_scenes(tmp_path, dict.fromkeys("abcdefgh", ONE))
    assert divide(data_yaml).notes == ()
    counts = ("1 image cannot be used and is", "2 images cannot be used and are")
    words = (":", ", such as")
    for name, count, word in zip("bf", counts, words, strict=True):
        file = tmp_path / f"images/{name}.png"
        file.write_bytes(file.read_bytes()[:-20])
        (note,) = divide(data_yaml).notes
        end = f"{tmp_path}/images/b.png: the end of the file is missing"
        assert note == f"{count} left out by training{word} {end}"
    assert divide(data_yaml, by=["images"]).notes == ()  # for which no image is read


def test_a_large_group_with_a_rare_class_does_not_make_val_large():
    boxes, images = np.array([[9, 1], [5, 1], *[[1, 0]] * 50]), np.array([40, 30, *[1] * 50])
    part_of = stratify(boxes, images, (0.9, 0.1))
    assert part_of[:2].tolist() == [0, 0]
    assert 0 < images[part_of == 1].sum() <= 12


def test_frames_of_one_scene_and_groups_never_span_two_splits(tmp_path: Path):
    names = [f"{scene}_{frame}" for scene in "abcdefgh" for frame in (1, 2, 3)]
    names += ["z_1", "q9", "a9"]  # q9 is a copy of a_2 whose name is far off
    data = write_scenes(tmp_path, dict.fromkeys(names, ONE))
    (tmp_path / "images/q9.png").write_bytes((tmp_path / "images/a_2.png").read_bytes())
    found = write(data, seed=1)
    split_of = {name[:-4]: split for split, images in found.items() for name in images}
    assert sorted(split_of) == sorted(names)
    for scene in "abcdefgh":
        assert len({split_of[f"{scene}_{frame}"] for frame in (1, 2, 3)}) == 1
    assert split_of["q9"] == split_of["a_2"]


def test_groups_of_the_data_yaml_stay_together_and_val_has_two_of_them(tmp_path: Path):
    names = [f"{scene}{flight}" for scene in "abcdefgh" for flight in "xyz"]
    data = write_scenes(tmp_path, dict.fromkeys(names, ONE))
    data.write_text(data.read_text() + "groups: {file: groups.csv}\n")
    rows = [f"{name}.png,{name[1]}" for name in names]
    write_text(tmp_path / "groups.csv", "\n".join(["image,group", *rows]))
    found = write(data, by=("groups",), shares={"val": 0.1})
    assert {name[1] for name in found["train"]}.isdisjoint(name[1] for name in found["val"])
    assert [len({name[1] for name in found[split]}) for split in ("train", "val")] == [1, 2]


def test_the_same_images_in_another_order_and_folder_give_the_same_bytes(tmp_path: Path):
    names = [f"{letter}{digit}" for letter in "abcdef" for digit in range(5)]
    texts = []
    for folder, order in (("one", names), ("two", names[::-1])):
        data = write_scenes(tmp_path / folder, dict.fromkeys(order, ONE))
        write(data)
        files = sorted((tmp_path / folder / "split").iterdir())
        texts.append({file.name: file.read_bytes() for file in files})
    assert texts[0] == texts[1]
    assert list(texts[0]) == ["data.yaml", "train.txt", "val.txt"]
    assert divide(data, seed=1).chosen["val"]["train"].tolist() != (
        divide(data).chosen["val"]["train"].tolist()
    )


def test_copies_and_leaks_are_left_out_of_the_lists_and_the_images_stay(tmp_path: Path):
    data = write_scenes(tmp_path, {"a": ONE, "b": ONE, "c": TWO, "d": ONE}, folder="images/train")
    write_scenes(tmp_path, {"a": TWO, "e": ONE}, folder="images/val")
    copy = tmp_path / "images/train/b2.png"
    copy.write_bytes((tmp_path / "images/train/b.png").read_bytes())
    write_text(tmp_path / "labels/train/b2.txt", ONE)
    data.write_text("train: images/train\nval: images/val\nnames: [common, rare]\n")
    split = divide(data, shares={}, remove_duplicates=True)
    assert split.as_dict()["removed"] == {"duplicates": 1, "leaks": 1, "with_other_boxes": 1}
    write_split(split, tmp_path / "new")
    assert names_of(tmp_path / "new") == {
        "train": ["b.png", "c.png", "d.png"],
        "val": ["a.png", "e.png"],
    }
    assert copy.exists()
    assert split.classes == {"common": {"train": 3, "val": 2}, "rare": {"train": 1, "val": 1}}


def test_a_test_split_stays_and_its_copies_are_not_divided(tmp_path: Path):
    data = write_scenes(tmp_path, dict.fromkeys("abcdefghi", ONE), folder="images/train")
    write_scenes(tmp_path, {"a": ONE, "z": ONE}, folder="images/test")
    data.write_text("train: images/train\ntest: images/test\nnames: [common, rare]\n")
    split = divide(data, remove_duplicates=True)
    assert (split.copies.leaks, split.num_images) == (1, {"train": 6, "val": 2, "test": 2})
    data.write_text("train: images/train\nval: images/train\nnames: [common, rare]\n")
    with pytest.raises(DataError, match="images for split 'train', found none of which no copy"):
        divide(data, shares={}, remove_duplicates=True)


def test_odd_names_are_listed_or_refused(tmp_path: Path):
    names = (" a", "b c", "ü", "d\u00a0", "data", "#e", "f")
    found = write(write_scenes(tmp_path, dict.fromkeys(names, ONE)))
    assert sorted(found["train"] + found["val"]) == sorted(f"{name}.png" for name in names)
    data = write_scenes(tmp_path / "two", dict.fromkeys(("a\nb", "c"), ONE))
    with pytest.raises(DataError, match="file names that a list can hold"):
        write(data, shares={"val": 0.5})


def test_coco_gets_one_json_per_split_with_all_keys_of_its_rows(tmp_path: Path):
    images, annotations = [], []
    for number in range(10, 18):
        write_scenes(tmp_path, {f"{number}": ""})
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        images[-1]["license"] = 3
        row = {"id": number, "image_id": number, "category_id": 2, "bbox": [1, 2, 3.5, 4]}
        annotations.append(
            row | {"iscrowd": int(number == 10), "segmentation": [[1, 2, 3, 4, 5, 6]]}
        )
    content = {"info": {"year": 1}, "licenses": [{"id": 3}], "categories": [{"id": 2, "name": "x"}]}
    content |= {"images": images, "annotations": annotations}
    write_text(tmp_path / "all.json", json.dumps(content))
    data = write_text(tmp_path / "data.yaml", "train: {images: images, annotations: all.json}\n")
    found = write(data)
    assert sorted(found["train"] + found["val"]) == [f"{number}.png" for number in range(10, 18)]
    assert len(found["val"]) == 2
    written = json.loads((tmp_path / "split/val.json").read_text())
    assert [row["id"] for row in written["images"]] == [int(name[:2]) for name in found["val"]]
    assert [row for row in annotations if row in written["annotations"]] == written["annotations"]
    assert written["licenses"] == [{"id": 3}]
    assert written["images"][0]["license"] == 3


def test_two_json_files_are_pooled_under_new_ids(tmp_path: Path):
    for split, number in (("train", 1), ("val", 2)):
        write_scenes(
            tmp_path, {f"{number}{letter}": "" for letter in "abc"}, folder=f"images/{split}"
        )
        rows = [
            {"id": i, "file_name": f"{number}{'abc'[i]}.png", "width": 64, "height": 64}
            for i in range(3)
        ]
        boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [i, 1, 9, 9]} for i in range(3)]
        content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}
        write_text(tmp_path / f"{split}.json", json.dumps(content))
    text = "".join(
        f"{split}: {{images: images/{split}, annotations: {split}.json}}\n"
        for split in ("train", "val")
    )
    found = write(write_text(tmp_path / "data.yaml", text), sources=("train", "val"))
    assert sorted(found["train"] + found["val"]) == [
        f"{n}{letter}.png" for n in "12" for letter in "abc"
    ]
    index = read_index(read_description(tmp_path / "split"), "train").index
    left = {Path(n).name: x for n, x in zip(index.file_names, index.boxes_xyxy[:, 0], strict=True)}
    assert all(left[name] == "abc".index(name[1]) for name in left)


@pytest.mark.parametrize("flat", [False, True])
def test_voc_is_divided_in_its_folders_and_with_the_xml_beside_the_images(
    tmp_path: Path, flat: bool
):
    places = ("photos", "photos") if flat else ("JPEGImages", "Annotations")
    for number in range(8):
        write_image(tmp_path / places[0] / f"{number}.jpg", (60 + number, 50))
        difficult = voc_object("dog", (1, 1, 30, 30), difficult=1)
        xml = f"<annotation>{voc_object('cat', (11, 11, 50, 30))}{difficult}</annotation>"
        write_text(tmp_path / places[1] / f"{number}.xml", xml)
    write_text(tmp_path / "ImageSets/Main/all.txt", "\n".join(map(str, range(8))))
    train = "photos" if flat else "ImageSets/Main/all.txt"
    data = write_text(tmp_path / "data.yaml", f"train: {train}\nnames: [cat, dog]\n")
    found = write(data, by=("images",))
    assert sorted(found["train"] + found["val"]) == [f"{number}.jpg" for number in range(8)]
    assert len(found["val"]) == 2
    entry = (tmp_path / "split/val.txt").read_text().split()[0]
    assert entry == (f"photos/{found['val'][0]}" if flat else found["val"][0][:1])
    assert read_index(read_description(tmp_path / "split"), "val").index.difficult.sum() == 2


def test_images_outside_the_root_are_read_by_the_new_data_yaml(tmp_path: Path):
    write_scenes(tmp_path / "photos", dict.fromkeys("abcdefgh", ONE))
    data = write_text(tmp_path / "set/cells.yaml", "train: ../photos/images\nnames: [x]\n")
    found = write(data)
    assert len(found["train"]) + len(found["val"]) == 8
    index = read_index(read_description(tmp_path / "set/cells-split"), "train").index
    assert len(index.labels) == len(found["train"])


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        ("a", {}, "Expected 2 groups of images or more to divide, found 1 of 1 image"),
        (["a_1", "a_2", "a_3"], {}, "found 1 of 3 images. --by images divides images that are"),
        ("ab", {"shares": {"val": 1.5}}, "shares of the images between 0 and 1, less than 1"),
        ("ab", {"shares": {"val": 0.5, "test": 0.5}}, "found 0.5 and 0.5"),
        ("ab", {"shares": {"val": float("nan")}}, "found nan"),
        ("ab", {"sources": ("val",)}, "Expected a key 'val', found train"),
        ("ab", {"by": ("groups",)}, "Expected a key 'groups' for --by groups"),
        ("ab", {"by": ("(x)*",)}, "a group for every image of the data set by key 'groups'"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_a_sentence(
    tmp_path: Path, names: str | list[str], options: dict[str, Any], sentence: str
):
    data = write_scenes(tmp_path, dict.fromkeys(names, ONE))
    with pytest.raises((ConfigError, DataError)) as error:
        divide(data, **options)
    assert sentence in str(error.value)


def test_a_split_that_exists_is_divided_anew_only_when_named(tmp_path: Path):
    data = write_scenes(tmp_path, dict.fromkeys("abcdef", ONE))
    data.write_text(data.read_text() + "val: images\n")
    with pytest.raises(ConfigError, match="--from train --from val divides its images anew"):
        divide(data)
    found = write(data, sources=("train", "val"))
    assert sorted(found["train"] + found["val"]) == [f"{name}.png" for name in "abcdef"]


def test_nothing_is_overwritten_unless_told_and_never_what_is_read(tmp_path: Path):
    split = divide(write_scenes(tmp_path, dict.fromkeys("abcd", ONE)))
    write_split(split, tmp_path / "new")
    with pytest.raises(DataError, match=r"found data\.yaml in it .*--overwrite replaces them"):
        write_split(split, tmp_path / "new")
    other = write_text(tmp_path / "other.txt", "mine")
    (tmp_path / "new/val.txt").unlink()
    (tmp_path / "new/val.txt").symlink_to(other)
    write_split(split, tmp_path / "new", overwrite=True)
    assert other.read_text() == "mine"
    with pytest.raises(ConfigError, match="in which nothing of the data set is replaced"):
        write_split(split, tmp_path, overwrite=True)
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["train"] == "images"
    write_text(tmp_path / "file", "")
    with pytest.raises(DataError, match=r"Could not write the split .*not a directory"):
        write_split(split, tmp_path / "file" / "new")
