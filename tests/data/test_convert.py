"""Converting between COCO, VOC and YOLO: what a format can hold comes back, the rest is told."""

import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import (
    gradient,
    voc_object,
    write_text,
    write_voc,
    write_yolo,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ossa.config import AugmentConfig
from ossa.data.annotations import DatasetIndex
from ossa.data.convert import Conversion, convert
from ossa.data.dataset import LetterboxedDataset, TrainingDataset
from ossa.data.description import read_description
from ossa.data.loader import EpochBatches, evaluation_loader, training_loader
from ossa.data.reading import read_index
from ossa.errors import ConfigError, DataError

IDS = {"cat": 2, "dog": 5, "owl": 90}
WIDTH, HEIGHT = 100, 50


def read(folder: Path, split: str = "train") -> DatasetIndex:
    report = read_index(read_description(folder), split)
    assert report.issues == ()
    return report.index


def converted(source: Path, output: Path, to: str, **options: Any) -> Conversion:
    return convert(read_description(source), output, to=to, **options)


def truth(image: int, name: str, box_xyxy: tuple[float, ...], **fields: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box_xyxy
    bbox = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": image, "category_id": IDS[name], "bbox": bbox, "iscrowd": 0, **fields}


def write_birds(root: Path, truths: list[dict[str, Any]]) -> Path:
    """Writes a COCO data set of three images of 100x50 pixels, 4, 11 and 300; returns its folder.

    Categories are 2 (cat), 5 (dog) and 90 (owl).
    """
    images = [
        {"id": number, "file_name": f"{number:06d}.png", "width": WIDTH, "height": HEIGHT}
        for number in (4, 11, 300)
    ]
    for shade, image in enumerate(images):
        file = root / "photos" / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient(WIDTH, HEIGHT) + np.uint8(20 * shade)).save(file)
    content = {
        "images": images,
        "annotations": [{"id": number, **row} for number, row in enumerate(truths, start=1)],
        "categories": [{"id": number, "name": name} for name, number in IDS.items()],
    }
    write_text(root / "train.json", json.dumps(content))
    write_text(root / "data.yaml", "train: {images: photos, annotations: train.json}\n")
    return root


BIRDS = [
    truth(4, "dog", (10, 20, 42, 30), area=150.5),
    truth(4, "cat", (0, 0, 100, 50), iscrowd=1, area=4000),
    truth(11, "owl", (12.25, 3.5, 44.75, 49), area=1000),
    truth(11, "owl", (12.25, 3.5, 44.75, 48), area=1000, difficult=1),
]

# ---- what comes back


def coordinates(most: int, exact: bool) -> st.SearchStrategy[tuple[float, float]]:
    """Two coordinates over a pixel apart: on quarters of a pixel where `exact`, else anywhere."""
    if exact:
        quarters = st.tuples(st.integers(0, 4 * most - 8), st.integers(8, 4 * most))
        low_high = quarters.map(lambda pair: (pair[0] / 4, pair[1] / 4))
    else:
        low_high = st.tuples(st.floats(0, most - 2), st.floats(2, most))
    return low_high.filter(lambda pair: pair[1] - pair[0] > 1.5)


def truths(*, exact: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    flags = st.sampled_from([{}, {}, {"iscrowd": 1}, {"difficult": 1}])
    areas = st.none() | st.floats(0, WIDTH * HEIGHT)
    one = st.builds(
        lambda image, name, xs, ys, flag, area: truth(
            image, name, (xs[0], ys[0], xs[1], ys[1]), **flag, area=area
        ),
        st.sampled_from([4, 11, 300]),
        st.sampled_from(sorted(IDS)),
        coordinates(WIDTH, exact),
        coordinates(HEIGHT, exact),
        flags,
        areas,
    )
    return st.lists(one, max_size=6, unique_by=lambda row: str(row["bbox"]))


quickly = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
folders = itertools.count()


def assert_equal_gt(one: DatasetIndex, other: DatasetIndex, *, within: float = 0) -> None:
    assert one.names == other.names
    for column in ("category_ids", "image_ids", "sizes_wh", "gt_offsets", "labels"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)
    np.testing.assert_array_equal(one.crowd, other.crowd)
    np.testing.assert_array_equal(one.difficult, other.difficult)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, rtol=0, atol=within)
    assert [Path(name).name for name in one.file_names] == [
        Path(name).name for name in other.file_names
    ]


@quickly
@given(rows=truths(exact=True))
def test_coco_comes_back_whole_from_voc(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    root = tmp_path / str(next(folders))
    index = index_of(write_birds(root / "a", rows))
    told = converted(root / "a", root / "b", "voc").notes
    converted(root / "b", root / "c", "coco")
    for folder in (root / "b", root / "c"):
        back = index_of(folder)
        assert_equal_gt(index, back)
        np.testing.assert_array_equal(index.areas, back.areas)
    assert [note for note in told if "annotation ids" not in note] == [
        "boxes and areas are carried over; outlines and keypoints, if there are any, are not"
    ]


@quickly
@given(rows=truths(exact=False))
def test_yolo_brings_back_all_but_crowds_and_difficult_ones(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    root = tmp_path / str(next(folders))
    plain = [row for row in rows if not row["iscrowd"] and "difficult" not in row]
    write_birds(root / "a", rows)
    index = index_of(write_birds(root / "plain", plain))
    told = converted(root / "a", root / "b", "yolo").notes
    back = index_of(root / "b")
    assert_equal_gt(index, back, within=1e-9)
    assert_told(told, sum(row["iscrowd"] for row in rows), "left out: YOLO txt has no crowd flag")
    assert_told(told, sum("difficult" in row for row in rows), "left out: YOLO txt has no such")
    other = ~np.isclose(index.areas, back.areas, rtol=1e-9)
    assert_told(told, int(other.sum()), "lost: YOLO has the box's alone")


def index_of(folder: Path) -> DatasetIndex:
    """Returns the index of a folder that may be without any box."""
    return read_index(read_description(folder), "train").index


def assert_told(notes: tuple[str, ...], count: int, words: str) -> None:
    """Asserts that a sentence with these words states the count; none where it is 0."""
    found = [note for note in notes if words in note]
    assert len(found) == (count > 0), notes
    if found:
        assert f" {count} " in found[0]


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("source", ["coco", "voc", "yolo"])
def test_each_format_is_written_from_each(tmp_path: Path, source: str, to: str) -> None:
    """Whole pixels that binary fractions of 100 and 50 hold: nothing but flags may be lost."""
    plain = [row for row in BIRDS if not row["iscrowd"] and "difficult" not in row]
    start = read(write_birds(tmp_path / "birds", plain if "yolo" in (source, to) else BIRDS))
    converted(tmp_path / "birds", tmp_path / "first", source)
    converted(tmp_path / "first", tmp_path / "second", to)
    assert_equal_gt(start, read(tmp_path / "second"), within=1e-9)


def test_coco_from_coco_is_the_same_data_set(tmp_path: Path) -> None:
    index = read(write_birds(tmp_path / "birds", BIRDS))
    converted(tmp_path / "birds", tmp_path / "again", "coco")
    assert read(tmp_path / "again").fingerprint() == index.fingerprint()
    np.testing.assert_array_equal(read(tmp_path / "again").annotation_ids, index.annotation_ids)


# ---- the same data set in three formats


def in_three_formats(root: Path) -> dict[str, DatasetIndex]:
    plain = [row for row in BIRDS if not row["iscrowd"] and "difficult" not in row]
    plain += [truth(300, "cat", (1, 2, 33, 34)), truth(300, "dog", (50, 1, 99, 49))]
    write_birds(root / "coco", [{**row, "area": None} for row in plain])
    for to in ("voc", "yolo"):
        converted(root / "coco", root / to, to)
    return {name: read(root / name) for name in ("coco", "voc", "yolo")}


def test_three_formats_give_the_same_batches(tmp_path: Path) -> None:
    found = []
    for index in in_three_formats(tmp_path).values():
        augmented = TrainingDataset(index, imgsz=64, augment=AugmentConfig(), seed=3)
        order = EpochBatches(len(index), batch=2, seed=3, epochs=2)
        plain = evaluation_loader(LetterboxedDataset(index, imgsz=64), batch=2, workers=0)
        found.append([*training_loader(augmented, order, workers=0), *plain])
    for batches in found[1:]:
        for batch, first in zip(batches, found[0], strict=True):
            assert torch.equal(batch.images, first.images)
            assert torch.equal(batch.boxes_xyxy, first.boxes_xyxy)
            assert torch.equal(batch.labels, first.labels)
            assert batch.image_ids == first.image_ids


# ---- what is lost is said


def test_what_yolo_cannot_hold_is_told_in_sentences(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds", BIRDS)
    notes = converted(tmp_path / "birds", tmp_path / "yolo", "yolo").notes
    assert notes == (
        "boxes and areas are carried over; outlines and keypoints, if there are any, are not",
        "train: 1 difficult object left out: YOLO txt has no such flag",
        "train: 1 crowd region left out: YOLO txt has no crowd flag",
        "train: the area of 2 objects is lost: YOLO has the box's alone",
        "train: annotation ids are lost: YOLO has none, so they are counted from 1",
    )


def test_boxes_out_of_the_image_twice_or_thin_are_told(tmp_path: Path) -> None:
    rows = [
        truth(4, "dog", (90, 10, 104, 20)),
        truth(4, "dog", (90, 10, 100, 20)),
        truth(4, "cat", (5, 5, 6, 20)),
    ]
    write_birds(tmp_path / "birds", rows)
    voc = converted(tmp_path / "birds", tmp_path / "voc", "voc").notes
    assert "train: 1 box clipped to the image, which COCO alone does not do" in voc
    assert "train: 1 box left out, stated twice, which VOC readers drop" in voc
    assert "train: 1 box of at most one pixel left out, which VOC readers drop" in voc
    assert read(tmp_path / "voc").boxes_xyxy.tolist() == [[90, 10, 100, 20]]
    converted(tmp_path / "birds", tmp_path / "yolo", "yolo")
    np.testing.assert_allclose(
        read(tmp_path / "yolo").boxes_xyxy, [[90, 10, 100, 20], [5, 5, 6, 20]]
    )


def test_names_and_ids_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    write_yolo(tmp_path / "a", {"x/my cat.jpg": "0 .5 .5 .5 .5", "y/my cat.jpg": None})
    notes = converted(tmp_path / "a", tmp_path / "voc", "voc").notes
    assert "train: 2 images renamed, which shared a stem or had blanks in their names" in notes
    names = read(tmp_path / "voc").file_names.tolist()
    assert names == ["JPEGImages/my_cat.jpg", "JPEGImages/my_cat-2.jpg"]
    converted(tmp_path / "a", tmp_path / "yolo", "yolo")
    names = read(tmp_path / "yolo").file_names.tolist()
    assert names == ["images/train/x/my cat.jpg", "images/train/y/my cat.jpg"]


def test_an_order_that_coco_does_not_keep_is_told(tmp_path: Path) -> None:
    thing = voc_object("dog", (11, 11, 20, 20))
    write_voc(tmp_path / "voc", {"9": [thing], "3": []})
    write_text(
        tmp_path / "voc" / "data.yaml",
        "train: ImageSets/Main/train.txt\nnames: [cat, dog]\ncategory_ids: [7, 2]\n",
    )
    notes = converted(tmp_path / "voc", tmp_path / "coco", "coco").notes
    assert "train: images stand in the order of their ids, not in the given one" in notes
    assert "train: classes stand in the order of their ids, not in the given one" in notes
    assert read(tmp_path / "coco").names == ("dog", "cat")


def test_classes_of_the_data_yaml_are_applied(tmp_path: Path) -> None:
    root = write_birds(tmp_path / "birds", BIRDS)
    text = (root / "data.yaml").read_text(encoding="utf-8")
    write_text(root / "data.yaml", text + "classes: {bird: owl}\n")
    notes = converted(root, tmp_path / "yolo", "yolo").notes
    assert any("left out: 2 boxes of 2 classes" in note for note in notes)
    content = (tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8")
    linked = f"outside:\n- {tmp_path / 'birds' / 'photos'}/\n"
    names = "names:\n- bird\ncategory_ids:\n- 90\n"
    assert content == f"format: yolo\ntrain: train.txt\n{linked}{names}"


# ---- files


def test_images_stay_where_they_are_or_are_copied(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds", BIRDS)
    for to in ("coco", "voc", "yolo"):
        converted(tmp_path / "birds", tmp_path / to, to)
        converted(tmp_path / "birds", tmp_path / f"{to}-whole", to, copy_images=True)
        links = list((tmp_path / to).rglob("*.png"))
        copies = list((tmp_path / f"{to}-whole").rglob("*.png"))
        assert len(links) == (0 if to == "coco" else 3)
        assert all(file.is_symlink() for file in links)
        assert len(copies) == 3
        assert not any(file.is_symlink() for file in copies)
    before = {to: read(tmp_path / f"{to}-whole").boxes_xyxy for to in ("coco", "voc", "yolo")}
    (tmp_path / "moved").mkdir()
    for to, boxes_xyxy in before.items():  # copied, it needs no other folder
        os.rename(tmp_path / f"{to}-whole", tmp_path / "moved" / to)
        np.testing.assert_array_equal(read(tmp_path / "moved" / to).boxes_xyxy, boxes_xyxy)


def test_splits_share_the_images_of_voc_but_not_other_ground_truth(tmp_path: Path) -> None:
    root = write_birds(tmp_path / "birds", BIRDS)
    content = json.loads((root / "train.json").read_text())
    write_text(
        root / "val.json", json.dumps({**content, "annotations": content["annotations"][:1]})
    )
    text = (root / "data.yaml").read_text(encoding="utf-8")
    write_text(root / "data.yaml", text + "val: {images: photos, annotations: val.json}\n")
    converted(root, tmp_path / "voc", "voc")
    assert len(read(tmp_path / "voc", "train").labels) == 4
    assert len(read(tmp_path / "voc", "val").labels) == 1
    names = sorted(file.name for file in (tmp_path / "voc" / "JPEGImages").iterdir())
    assert names == ["000004-2.png", "000004.png", "000011-2.png", "000011.png", "000300.png"]
    converted(root, tmp_path / "val", "yolo", splits=["val"])
    assert read_description(tmp_path / "val").splits.keys() == {"val"}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds", BIRDS)
    write_text(tmp_path / "used" / "mine.txt", "mine")
    with pytest.raises(DataError, match=r"new or empty folder, found mine\.txt in it .*used\)"):
        converted(tmp_path / "birds", tmp_path / "used", "yolo")
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="folder that can be made"):
        converted(tmp_path / "birds", tmp_path / "used" / "mine.txt", "yolo")


def test_an_image_that_vanishes_is_one_sentence_and_leaves_no_data_yaml(tmp_path: Path) -> None:
    root = write_birds(tmp_path / "birds", BIRDS)

    def remove(done: int, total: int) -> None:
        (root / "photos" / "000300.png").unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"no such file.*000300\.png.*remove it and try again"):
        converted(root, tmp_path / "yolo", "yolo", copy_images=True, on_image=remove)
    assert not (tmp_path / "yolo" / "data.yaml").exists()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "try again, with copied images, since links cannot be made there."),
        (errno.ENOSPC, "no space left on device .*so remove it and try again."),
    ],
)
def test_copies_are_advised_where_links_cannot_be_made_and_not_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError(number, os.strerror(number), target, None, str(self))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(DataError, match=f"{said}$"):
        converted(write_birds(tmp_path / "birds", BIRDS), tmp_path / "yolo", "yolo")


def test_what_cannot_be_converted_is_one_sentence(tmp_path: Path) -> None:
    root = write_birds(tmp_path / "birds", BIRDS)
    with pytest.raises(ConfigError, match="format to write, found 'kitti'"):
        converted(root, tmp_path / "x", "kitti")
    with pytest.raises(ConfigError, match="Expected a key 'test'"):
        converted(root, tmp_path / "x", "yolo", splits=["test"])
    text = (root / "data.yaml").read_text(encoding="utf-8")
    write_text(root / "data.yaml", text + 'classes: {" cat": cat}\n')
    with pytest.raises(ConfigError, match="class names that XML keeps, found ' cat'"):
        converted(root, tmp_path / "x", "voc")
    assert not (tmp_path / "x").exists()


def test_splits_with_other_classes_are_coco_alone(tmp_path: Path) -> None:
    root = write_birds(tmp_path / "birds", BIRDS)
    content = json.loads((root / "train.json").read_text())
    content["categories"][0]["name"] = "lynx"
    write_text(root / "val.json", json.dumps(content))
    text = (root / "data.yaml").read_text(encoding="utf-8")
    write_text(root / "data.yaml", text + "val: {images: photos, annotations: val.json}\n")
    converted(root, tmp_path / "coco", "coco")
    assert read(tmp_path / "coco", "val").names == ("lynx", "dog", "owl")
    with pytest.raises(DataError, match="in all splits for YOLO, found others in 'val'"):
        converted(root, tmp_path / "yolo", "yolo")
