"""Folders without a data.yaml, as annotation tools export them."""

import json
from pathlib import Path

import pytest
from dataset_files import voc_object, write_image, write_text

from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.errors import DataError

BOX = "1 0.5 0.5 0.2 0.4\n"


def write_images(root: Path, *names: str, labels: str | None = None) -> None:
    """Writes images of 100x50, and YOLO labels, by which they are found, in a folder beside."""
    for number, name in enumerate(names):
        write_image(root / name, (100 + number, 50))
        if labels is not None:
            write_text((root / labels / Path(name).name).with_suffix(".txt"), BOX)


def coco_text(*names: str) -> str:
    images = [
        {"id": i, "file_name": name, "width": 100, "height": 50} for i, name in enumerate(names)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 3, "bbox": [1, 1, 9, 9]} for i in range(len(names))
    ]
    categories = [{"id": 3, "name": "cat"}]
    return json.dumps({"images": images, "annotations": boxes, "categories": categories})


def boxes(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns the number of images and boxes of each split."""
    description = read_description(folder)
    assert any("without a data.yaml, read by format: " in note for note in description.notes)
    found = {split: read_index(description, split).index for split in description.splits}
    return {split: (len(index), len(index.labels)) for split, index in found.items()}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "labels/{}"),  # Ultralytics
        ("{}/images", "{}/labels"),  # Roboflow
        ("{}", "{}"),
    ],
)
def test_yolo_in_folders_of_its_splits_with_a_file_of_names(
    tmp_path: Path, images: str, labels: str
) -> None:
    for split, word in (("train", "ab"), ("valid", "c")):
        for name in word:
            place = f"{images.format(split)}/{name}.png"
            write_images(tmp_path, place, labels=labels.format(split))
    write_text(tmp_path / "classes.txt", "dog\ncat\n")
    assert boxes(tmp_path) == {"train": (2, 2), "val": (1, 1)}
    assert read_description(tmp_path).names == ("dog", "cat")


def test_yolo_of_label_studio_is_one_split(tmp_path: Path) -> None:
    write_images(tmp_path, "images/a.png", "images/b.png", labels="labels")
    write_text(tmp_path / "classes.txt", "dog\ncat\n")
    write_text(tmp_path / "notes.json", '{"categories": [], "info": {}}')
    assert boxes(tmp_path) == {"train": (2, 2)}


def test_yolo_of_cvat_is_read_by_obj_data(tmp_path: Path) -> None:
    write_images(tmp_path, "obj_train_data/a.jpg", labels="obj_train_data")
    write_text(tmp_path / "train.txt", "data/obj_train_data/a.jpg\n")
    write_text(tmp_path / "obj.names", "dog\ncat\n")
    text = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    write_text(tmp_path / "obj.data", text)
    assert boxes(tmp_path) == {"train": (1, 1)}


@pytest.mark.parametrize(
    ("train", "image", "named"),
    [
        ("annotations/instances_train2017.json", "train2017/a.png", "a.png"),
        ("annotations/instances_train.json", "images/train/a.png", "a.png"),
        ("annotations/instances_default.json", "images/default/a.png", "a.png"),
        ("train/_annotations.coco.json", "train/a.png", "a.png"),  # Roboflow
        ("train.json", "images/a.png", "a.png"),
        ("result.json", "images/a.png", "images/a.png"),  # Label Studio
    ],
)
def test_coco_with_one_json_per_split_or_one_alone(
    tmp_path: Path, train: str, image: str, named: str
) -> None:
    write_images(tmp_path, image)
    write_text(tmp_path / train, coco_text(named))
    expected = {"train": (1, 1)}
    if "train" in train:
        write_images(tmp_path, image.replace("train", "val").replace("a.png", "b.png"))
        write_text(tmp_path / train.replace("train", "val"), coco_text("b.png"))
        write_text(tmp_path / "annotations/captions_train2017.json", coco_text(named))
        expected["val"] = (1, 1)
        if "instances" not in train:
            (tmp_path / "annotations/captions_train2017.json").unlink()
    assert boxes(tmp_path) == expected


@pytest.mark.parametrize("layout", ["ImageSets", "Annotations", "flat", "flat in splits"])
def test_voc_with_its_folders_and_flat(tmp_path: Path, layout: str) -> None:
    images, xmls = ("{}", "{}") if layout.startswith("flat") else ("JPEGImages", "Annotations")
    for split, stem in (("train", "a"), ("valid", "b")):
        at = split if layout == "flat in splits" else ""
        write_image(tmp_path / images.format(at) / f"{stem}.jpg")
        xml = f"<annotation>{voc_object(stem, (11, 11, 50, 30))}</annotation>"
        write_text(tmp_path / xmls.format(at) / f"{stem}.xml", xml)
    if layout == "ImageSets":
        for split, stem in (("train", "a"), ("val", "b")):
            write_text(tmp_path / f"ImageSets/Main/{split}.txt", stem)
    whole = {"train": (2, 2)}
    divided = {"train": (1, 1), "val": (1, 1)}
    assert boxes(tmp_path) == (whole if layout in ("Annotations", "flat") else divided)
    assert read_description(tmp_path).names == ("a", "b")


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("name", ["data.yaml", "flights.yml"])
def test_a_folder_below_with_a_yaml_of_its_own_is_another_data_set(
    tmp_path: Path, layout: str, name: str
) -> None:
    for split, stem in (("train", "a"), ("valid", "b")):
        write_images(tmp_path, f"{split}/{stem}.jpg", labels=split if layout == "yolo" else None)
        if layout == "coco":
            write_text(tmp_path / f"{split}/boxes.json", coco_text(f"{stem}.jpg"))
        if layout == "voc":
            xml = f"<annotation>{voc_object('dog', (11, 11, 50, 30))}</annotation>"
            write_text(tmp_path / f"{split}/{stem}.xml", xml)
    write_text(tmp_path / "classes.txt", "dog\ncat\n")
    assert boxes(tmp_path) == {"train": (1, 1), "val": (1, 1)}
    write_text(tmp_path / "valid" / name, "train: .\nnames: [dog, cat]\n")
    assert boxes(tmp_path) == {"train": (1, 1)}


def test_the_only_yaml_that_names_splits_describes_the_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "photos/a.png", labels="photos")
    write_text(tmp_path / "notes.yml", "train: photos\nnames: [x, y]\n")
    assert read_description(tmp_path).file == tmp_path / "notes.yml"


def test_a_data_yaml_of_another_machine_counts_from_its_own_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "images/a.png", labels="labels")
    text = "path: /content/cells\ntrain: images\nnames: [x, y]\n"
    description = read_description(write_text(tmp_path / "data.yaml", text))
    assert description.root == tmp_path
    assert "no folder /content/cells, so that of the file counts" in description.notes[0]
    write_text(tmp_path / "data.yaml", f"{text}val: valid\n")
    with pytest.raises(DataError, match="at /content/cells as key 'path', found none"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.json": "{}"}, "found JSON files of single images, as LabelMe writes them"),
        ({"annotations.xml": "<annotations/>"}, "annotations.xml, as CVAT writes for images"),
        ({"metadata.jsonl": ""}, "found metadata.jsonl of an image folder of Hugging Face's"),
        ({"a.txt": BOX}, "Expected the class names of YOLO's labels, in a classes.txt"),
        ({"x.json": coco_text("b.png")}, "Expected the images of x.json, found no b.png"),
        (
            {"x.json": coco_text("a.png"), "y.json": coco_text("a.png")},
            "Expected one JSON file for split 'train', found x.json and y.json",
        ),
        ({}, "Expected the description of a data set, found none"),
    ],
)
def test_what_is_not_read_is_refused_with_the_way_to_what_is(
    tmp_path: Path, files: dict[str, str], sentence: str
) -> None:
    write_images(tmp_path, "a.png")
    for name, text in files.items():
        write_text(tmp_path / name, text)
    with pytest.raises(DataError) as error:
        read_description(tmp_path)
    assert sentence in str(error.value)
