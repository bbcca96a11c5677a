"""Reading YOLO, VOC and COCO annotations: every truth kept, every fault reported with its place."""

import json
import re
from pathlib import Path
from typing import Any

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

from ossa.data.description import read_description
from ossa.data.reading import IndexReport, read_index
from ossa.errors import ConfigError, DataError


def read(yaml_file: Path, split: str = "train", *, strict: bool = False) -> IndexReport:
    return read_index(read_description(yaml_file), split, strict=strict)


def places(report: IndexReport) -> list[tuple[str, int | None, str]]:
    """Returns file name, line and action of each issue."""
    return [(p.path.name, p.line, p.action) for p in report.issues]


# YOLO: images are 100 x 50 pixels.


def test_yolo_fractions_become_pixels(tmp_path: Path) -> None:
    report = read(write_yolo(tmp_path, {"1.jpg": "1 0.5 0.5 0.2 0.4\n"}))
    np.testing.assert_allclose(report.index.boxes_xyxy, [[40, 15, 60, 35]])
    assert report.index.labels.tolist() == [1]
    assert report.index.areas == pytest.approx([400])
    assert report.index.sizes_wh.tolist() == [[100, 50]]
    assert report.index.file_names.tolist() == ["images/train/1.jpg"]
    assert report.issues == ()


def test_a_yolo_polygon_becomes_its_bounding_box(tmp_path: Path) -> None:
    report = read(write_yolo(tmp_path, {"1.jpg": "0 0.1 0.2 0.5 0.4 0.3 0.8"}))
    np.testing.assert_allclose(report.index.boxes_xyxy, [[10, 10, 50, 40]])


def test_keypoints_behind_a_yolo_box_are_no_corners_of_a_polygon(tmp_path: Path) -> None:
    data_yaml = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .2 .4 .1 .1 .9 .9\n1 .5 .5 .2 .4\n"})
    write_text(data_yaml, data_yaml.read_text() + "kpt_shape: [2, 2]\n")
    report = read(data_yaml)
    np.testing.assert_allclose(report.index.boxes_xyxy, [[40, 15, 60, 35]] * 2)
    assert (report.issues, report.notes) == ((), ())
    write_text(data_yaml, data_yaml.read_text().replace("[2, 2]", "17"))
    with pytest.raises(ConfigError, match=r"as \[17, 3\], as key 'kpt_shape', found 17 .* line 3"):
        read(data_yaml)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("0 0.5 0.5 0 0.1", "no area"),
        ("0 0.5 0.5 -0.1 0.1", "no area"),
        ("0 1.5 0.5 0.1 0.1", "outside the image of 100x50"),
        ("2 0.5 0.5 0.1 0.1", "class 2 unknown"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 unknown"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 unknown"),
        ("0 nan 0.5 0.1 0.1", "not a number"),
        ("0 0.5 0.5 inf 0.1", "not a number"),
        ("a 0.5 0.5 0.1 0.1", "expected numbers"),
        ("0 0.5 0.5 0.1", "expected 5 columns .*found 4"),
        ("0 0.5 0.5 0.1 0.1 0.93 17", "found 7 columns that end with 17: .*score and track"),
        ("0 0.5 0.5 0.1 0.1 0.9", "found 6"),
        ("0 0.25 0.5 0.1 0.1", "stated twice"),
    ],
)
def test_a_bad_yolo_line_is_reported_with_file_and_line_and_keeps_the_image(
    tmp_path: Path, line: str, what: str
) -> None:
    report = read(write_yolo(tmp_path, {"1.jpg": f"0 0.25 0.5 0.1 0.1\n\n{line}\n"}))
    (issue,) = report.issues
    assert (issue.path.name, issue.line) == ("1.txt", 3)
    assert re.search(what, issue.detail)
    assert len(report.index) == 1
    np.testing.assert_allclose(report.index.boxes_xyxy, [[20, 22.5, 30, 27.5]])


def test_a_box_is_clipped_and_reported_only_beyond_one_pixel(tmp_path: Path) -> None:
    # 100 pixels wide: the first reaches 1 pixel out on the left, the second 2.
    report = read(write_yolo(tmp_path, {"1.jpg": "0 0.04 0.5 0.1 0.2\n1 0.03 0.5 0.1 0.2\n"}))
    np.testing.assert_allclose(report.index.boxes_xyxy, [[0, 20, 9, 30], [0, 20, 8, 30]])
    assert places(report) == [("1.txt", 2, "box clipped")]


def test_strict_reading_raises_at_the_first_problem(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .1 .1\n7 .5 .5 .1 .1\n0 .5 .5 0 0"})
    with pytest.raises(DataError, match=r"1\.txt:2: class 7 unknown"):
        read(file, strict=True)


def test_image_ids_are_the_stems_where_all_are_different_numbers(tmp_path: Path) -> None:
    numbered = read(write_yolo(tmp_path / "a", {"0012.jpg": "", "7.jpg": ""}))
    mixed = read(write_yolo(tmp_path / "b", {"0012.jpg": "", "x7.jpg": ""}))
    same = read(write_yolo(tmp_path / "c", {"012.jpg": "", "12.jpg": ""}))
    underscored = read(write_yolo(tmp_path / "d", {"2008_000001.jpg": ""}))
    assert numbered.index.image_ids.tolist() == [12, 7]
    assert mixed.index.image_ids.tolist() == [1, 2]
    assert same.index.image_ids.tolist() == [1, 2]
    assert underscored.index.image_ids.tolist() == [1]


def test_images_of_every_suffix_and_case_are_found_sorted(tmp_path: Path) -> None:
    names = ["a.jpg", "b.JPEG", "c.png", "d.bmp", "e.WebP", "f.tif", "g.TIFF"]
    yaml_file = write_yolo(tmp_path, dict.fromkeys(names[::-1]))
    write_text(tmp_path / "images" / "train" / "notes.txt", "no image")
    write_text(tmp_path / "images" / "train" / "._a.jpg", "hidden")
    found = read(yaml_file).index.file_names.tolist()
    assert found == [f"images/train/{name}" for name in names]


def test_a_missing_or_unreadable_image_is_left_out_with_a_report(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .1 .1", "2.jpg": "0 .5 .5 .1 .1"})
    (tmp_path / "images" / "train" / "2.jpg").write_bytes(b"no image at all")
    write_text(tmp_path / "list.txt", "images/train/2.jpg\n./images/train/1.jpg\nimages/9.jpg\n")
    write_text(yaml_file, "train: list.txt\nnames: [a]\n")
    report = read(yaml_file)
    assert report.index.file_names.tolist() == ["images/train/1.jpg"]
    assert [str(issue).replace(str(tmp_path), "") for issue in report.issues] == [
        "/images/train/2.jpg: unreadable image: no image (image left out)",
        "/list.txt:3: no image /images/9.jpg (image left out)",
    ]


def test_a_list_keeps_its_order_and_reads_an_image_once(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .1 .1", "2.jpg": ""})
    write_text(tmp_path / "l.txt", "images/train/2.jpg\nimages/train/1.jpg\nimages/train/2.jpg\n")
    write_text(yaml_file, "train: l.txt\nnames: [a]\n")
    report = read(yaml_file)
    assert report.index.image_ids.tolist() == [2, 1]
    assert report.index.gt_offsets.tolist() == [0, 0, 1]
    assert places(report) == [("l.txt", 3, "read once")]


def test_an_unreadable_label_file_leaves_its_image_out(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 .1 .1", "2.jpg": ""})
    (tmp_path / "labels" / "train" / "2.txt").write_bytes(b"0 .5 .5 1 1\n\xff\xfe")
    report = read(yaml_file)
    assert report.index.image_ids.tolist() == [1]
    assert places(report) == [("2.txt", 2, "image left out")]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_sizes_are_those_after_the_exif_orientation(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    yaml_file = write_yolo(tmp_path, {"1.jpg": "0 .5 .5 1 1"})
    (tmp_path / "images" / "train" / "1.jpg").unlink()
    write_image(tmp_path / "images" / "train" / f"1{suffix}", orientation=orientation)
    index = read(yaml_file).index
    expected = [100, 50] if orientation < 5 else [50, 100]
    assert index.sizes_wh.tolist() == [expected]
    assert index.boxes_xyxy.tolist() == [[0, 0, *expected]]


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file = write_text(tmp_path / "data.yaml", "train: images\nnames: [a]\n")
    with pytest.raises(DataError, match=r"split 'train' in .*images, found none .*data\.yaml"):
        read(file)


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key 'val', found train .*data\.yaml"):
        read(write_yolo(tmp_path, {"1.jpg": ""}), "val")


# VOC: images are 100 x 50 pixels; objects stand from line 2 of the XML.


def test_voc_corners_count_from_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    objects = [voc_object("dog", (1, 1, 100, 50)), voc_object("cat", (11, 21, 20, 40), difficult=1)]
    report = read(write_voc(tmp_path, {"x": objects}))
    assert report.index.boxes_xyxy.tolist() == [[0, 0, 100, 50], [10, 20, 20, 40]]
    assert report.index.labels.tolist() == [1, 0]
    assert report.index.difficult.tolist() == [False, True]
    assert report.issues == ()


@pytest.mark.parametrize(
    ("thing", "what"),
    [
        (voc_object("dog", (30, 20, 30, 40)), "no area, from (30, 20) to (30, 40)"),
        (voc_object("dog", (30, 20, 10, 40)), "no area"),
        (voc_object("dog", (200, 20, 300, 40)), "outside the image"),
        (voc_object("dog", ("x", 20, 300, 40)), "not numbers"),
        (voc_object("dog", ("nan", 20, 300, 40)), "not a number"),
        (voc_object("dgo", (1, 1, 9, 9)), "class 'dgo' unknown. Did you mean dog?"),
        (voc_object("dog", (11, 11, 20, 20)), "stated twice"),
        ("<object><name>dog</name></object>", "object without 'bndbox/xmin'"),
        ("<object/>", "class 'None' unknown"),
    ],
)
def test_a_bad_voc_object_is_reported_with_file_and_line_and_keeps_the_image(
    tmp_path: Path, thing: str, what: str
) -> None:
    report = read(write_voc(tmp_path, {"x": [voc_object("dog", (11, 11, 20, 20)), thing]}))
    (issue,) = report.issues
    assert (issue.path.name, issue.line) == ("x.xml", 3)
    assert what in issue.detail
    assert report.index.boxes_xyxy.tolist() == [[10, 10, 20, 20]]


def test_parts_of_a_voc_object_are_not_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    person = voc_object("dog", (11, 11, 20, 20)).replace("</object>", part)
    report = read(write_voc(tmp_path, {"x": [person]}))
    assert report.index.boxes_xyxy.tolist() == [[10, 10, 20, 20]]
    assert report.issues == ()


def test_a_stated_size_that_is_not_the_images_is_reported(tmp_path: Path) -> None:
    size = "<size><width>50</width><height>100</height></size>"
    report = read(write_voc(tmp_path, {"x": [size, voc_object("dog", (1, 1, 9, 9))]}))
    assert places(report) == [("x.xml", 2, "boxes kept as they are")]
    assert report.index.sizes_wh.tolist() == [[100, 50]]


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        ("<annotation>\n<object>", "unreadable XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation/>', "DOCTYPE is not allowed"),
        ("", "unreadable XML"),
    ],
)
def test_an_unreadable_or_malicious_xml_leaves_its_image_out(
    tmp_path: Path, xml: str, what: str
) -> None:
    yaml_file = write_voc(tmp_path, {"x": [voc_object("dog", (1, 1, 9, 9))], "y": []})
    write_text(tmp_path / "Annotations" / "y.xml", xml)
    report = read(yaml_file)
    (issue,) = report.issues
    assert issue.path.name == "y.xml"
    assert what in issue.detail
    assert report.index.file_names.tolist() == ["JPEGImages/x.jpg"]


def test_a_missing_annotation_or_image_of_a_stem_is_reported(tmp_path: Path) -> None:
    yaml_file = write_voc(tmp_path, {"x": [voc_object("dog", (1, 1, 9, 9))], "y": [], "z": []})
    (tmp_path / "Annotations" / "y.xml").unlink()
    (tmp_path / "JPEGImages" / "z.jpg").unlink()
    report = read(yaml_file)
    assert places(report) == [
        ("y.xml", None, "image left out"),
        ("train.txt", 3, "image left out"),
    ]


def test_a_list_of_one_class_leaves_out_the_images_flagged_minus_one(tmp_path: Path) -> None:
    thing = voc_object("dog", (1, 1, 9, 9))
    yaml_file = write_voc(tmp_path, {"p": [thing], "q": [thing], "r": [thing]})
    write_text(tmp_path / "ImageSets" / "Main" / "train.txt", "r  1\nq -1\np  0\n")
    names = read(yaml_file).index.file_names.tolist()
    assert names == ["JPEGImages/r.jpg", "JPEGImages/p.jpg"]


def test_a_stem_of_a_list_may_have_blanks(tmp_path: Path) -> None:
    thing = voc_object("dog", (1, 1, 9, 9))
    yaml_file = write_voc(tmp_path, {"my cat": [thing], "img 1": [], "my": []})
    names = read(yaml_file).index.file_names.tolist()
    assert names == ["JPEGImages/my cat.jpg", "JPEGImages/img 1.jpg", "JPEGImages/my.jpg"]
    lines = ["my -1", "my dog", "my cat.jpg", "my 7"]
    write_text(tmp_path / "ImageSets" / "Main" / "train.txt", "\n".join(lines))
    report = read(yaml_file)
    assert report.index.file_names.tolist() == ["JPEGImages/my cat.jpg", "JPEGImages/my.jpg"]
    assert [issue.detail for issue in report.issues] == [
        f"no image 'my dog' in {tmp_path / 'JPEGImages'}"
    ]


# COCO: images 7 and 3 are 100 x 50 pixels; categories 2 (cat) and 5 (dog).


def test_coco_ids_areas_and_crowds_are_kept(tmp_path: Path) -> None:
    annotations = [
        coco_annotation(900, [10, 20, 30, 5], area=77.5, iscrowd=0),
        coco_annotation(11, [0, 0, 50, 50], iscrowd=1) | {"image_id": 3, "category_id": 5},
    ]
    index = read(write_coco(tmp_path, annotations)).index
    assert index.image_ids.tolist() == [3, 7]
    assert index.file_names.tolist() == ["photos/3.jpg", "photos/7.jpg"]
    assert index.names == ("cat", "dog")
    assert index.category_ids.tolist() == [2, 5]
    assert index.annotation_ids.tolist() == [11, 900]
    assert index.boxes_xyxy.tolist() == [[0, 0, 50, 50], [10, 20, 40, 25]]
    assert index.labels.tolist() == [1, 0]
    assert index.areas.tolist() == [2500, 77.5]
    assert index.crowd.tolist() == [True, False]


def test_a_crowd_flag_may_be_missing_empty_or_a_text(tmp_path: Path) -> None:
    flags = [0, 1, "0", "1", None, False, True]
    annotations = [
        coco_annotation(n, [0, 0, 9, 9], iscrowd=flag) for n, flag in enumerate(flags)
    ] + [coco_annotation(9, [0, 0, 9, 9])]
    crowd = read(write_coco(tmp_path, annotations)).index.crowd.tolist()
    assert crowd == [False, True, False, True, False, False, True, False]


def test_coco_boxes_are_reported_but_never_clipped(tmp_path: Path) -> None:
    annotations = [coco_annotation(1, [-0.5, 0, 30, 5]), coco_annotation(2, [90, 0, 30, 5])]
    report = read(write_coco(tmp_path, annotations))
    assert report.index.boxes_xyxy.tolist() == [[-0.5, 0, 29.5, 5], [90, 0, 120, 5]]
    assert places(report) == [("train.json", 1, "box kept as it is")]
    assert "annotation 2 of image 7" in report.issues[0].detail


@pytest.mark.parametrize(
    ("annotation", "what"),
    [
        (coco_annotation(2, [10, 10, 0, 5]), "no area"),
        (coco_annotation(2, [10, 10, 5, -5]), "no area"),
        (coco_annotation(2, [100, 10, 5, 5]), "outside the image"),
        (coco_annotation(2, [float("nan"), 10, 5, 5]), "not a number"),
        (coco_annotation(2, [10, 10, 5]), "four numbers as bbox"),
        (coco_annotation(2, ["1", 10, 5, 5]), "four numbers as bbox"),
        (coco_annotation(2, None), "four numbers as bbox"),
        (coco_annotation(2, [1, 1, 10**400, 5], area=10**400), "not a number"),
        (coco_annotation(2, [1, 1, 5, 5]) | {"category_id": 4}, "class 4 unknown"),
        (coco_annotation(2, [1, 1, 5, 5]) | {"category_id": 2**80}, "unknown"),
        (coco_annotation(2, [1, 1, 5, 5]) | {"image_id": 99}, "unknown image, 99"),
        (coco_annotation(1, [1, 1, 5, 5]), "annotation id 1 is used before"),
    ],
)
def test_a_bad_coco_annotation_is_reported_by_its_id_and_keeps_the_image(
    tmp_path: Path, annotation: dict[str, Any], what: str
) -> None:
    report = read(write_coco(tmp_path, [coco_annotation(1, [10, 10, 5, 5]), annotation]))
    (issue,) = report.issues
    assert issue.path.name == "train.json"
    assert what in issue.detail
    assert issue.action == "box dropped"
    assert len(report.index) == 2
    assert report.index.boxes_xyxy.tolist() == [[10, 10, 15, 15]]


def test_coco_sizes_are_trusted_and_read_from_the_file_only_where_missing(tmp_path: Path) -> None:
    images = [
        {"id": 3, "file_name": "3.jpg", "width": 640, "height": 480},
        {"id": 7, "file_name": "7.jpg"},
    ]
    index = read(write_coco(tmp_path, [coco_annotation(1, [1, 1, 5, 5])], images=images)).index
    assert index.sizes_wh.tolist() == [[640, 480], [100, 50]]


def test_a_coco_image_that_is_not_on_disk_is_left_out(tmp_path: Path) -> None:
    yaml_file = write_coco(tmp_path, [coco_annotation(1, [1, 1, 5, 5])])
    (tmp_path / "photos" / "3.jpg").unlink()
    report = read(yaml_file)
    assert report.index.image_ids.tolist() == [7]
    assert places(report) == [("train.json", 1, "image left out")]
    assert report.issues[0].detail == f"no image {tmp_path / 'photos' / '3.jpg'}"


def test_a_coco_image_id_used_twice_is_reported(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "7.jpg"}, {"id": 7, "file_name": "3.jpg"}]
    report = read(write_coco(tmp_path, [coco_annotation(1, [1, 1, 5, 5])], images=images))
    assert report.index.file_names.tolist() == ["photos/7.jpg"]
    assert places(report) == [("train.json", 1, "image left out")]


def test_names_of_the_yaml_must_be_those_of_the_coco_file_in_order_of_ids(tmp_path: Path) -> None:
    yaml_file = write_coco(tmp_path, [coco_annotation(1, [1, 1, 5, 5])])
    entry = yaml_file.read_text(encoding="utf-8")
    write_text(yaml_file, f"{entry}names: [cat, dog]\n")
    assert read(yaml_file).index.names == ("cat", "dog")
    write_text(yaml_file, f"{entry}names: [dog, cat]\n")
    with pytest.raises(DataError, match=r"\['cat', 'dog'\], found \['dog', 'cat'\]"):
        read(yaml_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations": }', r"syntax error: .*train\.json, line 2"),
        ("[]", "list of objects as 'images'"),
        ('{"images": [], "annotations": [1], "categories": []}', "as 'annotations'"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "found an empty one"),
    ],
)
def test_a_malformed_coco_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    yaml_file = write_coco(tmp_path, [])
    write_text(tmp_path / "train.json", text)
    with pytest.raises(DataError, match=message):
        read(yaml_file)


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": "seven", "file_name": "7.jpg"}]},
        {"images": [{"id": 7.5, "file_name": "7.jpg"}]},
        {"images": [{"id": True, "file_name": "7.jpg"}]},
        {"images": [{"id": 1e300, "file_name": "7.jpg"}]},
        {"images": [{"id": 10**30, "file_name": "7.jpg"}]},
        {"images": [{"id": 7}]},
        {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        {"categories": [{"id": None, "name": "a"}]},
        {"categories": [{"id": [1], "name": "a"}]},
    ],
)
def test_images_and_categories_need_ids_and_names(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"Expected .*train\.json"):
        read(write_coco(tmp_path, [], **content))


# The real data.


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "split", "num_images", "num_truths", "num_issues"),
    [
        ("bccd", "train", 205, 2804, 1),
        ("bccd", "val", 87, 1137, 1),
        ("bccd", "test", 72, 945, 0),
        ("coco128", "train", 128, 929, 0),
        ("voc12-animals-320", "train", 2727, 5751, 0),
        ("voc12-animals-320", "val", 699, 1417, 0),
    ],
)
def test_the_real_data_have_the_stated_images_and_boxes(
    shared: Path, folder: str, split: str, num_images: int, num_truths: int, num_issues: int
) -> None:
    report = read(shared / "data" / folder, split)
    counts = len(report.index), len(report.index.labels), len(report.issues)
    assert counts == (num_images, num_truths, num_issues)
    limits = np.repeat(report.index.sizes_wh, np.diff(report.index.gt_offsets), axis=0)
    assert (report.index.boxes_xyxy[:, :2] >= 0).all()
    assert (report.index.boxes_xyxy[:, 2:] <= limits).all()


@pytest.mark.parametrize(
    ("entry", "image", "xml"),
    [
        ("images", "images/1.jpg", "annotations/1.xml"),
        ("images", "images/1.jpg", "Annotations/1.xml"),
        ("images/train", "images/train/1.jpg", "annotations/train/1.xml"),
        ("pictures", "pictures/a/b/1.jpg", "pictures/a/b/1.xml"),
    ],
)
def test_xml_files_of_images_in_folders_are_found_without_a_format(
    tmp_path: Path, entry: str, image: str, xml: str
) -> None:
    write_image(tmp_path / image)
    cat = voc_object("cat", [11, 11, 20, 20])
    write_text(tmp_path / xml, f"<annotation>{cat}</annotation>")
    write_text((tmp_path / image).parent / "classes.txt", "cat\n")
    report = read(write_text(tmp_path / "data.yaml", f"train: {entry}\nnames: [cat]\n"))
    np.testing.assert_allclose(report.index.boxes_xyxy, [[10, 10, 20, 20]])
    assert report.issues == ()


@pytest.mark.parametrize("entry", ["JPEGImages/1.jpg", r".\JPEGImages\1.jpg", "./JPEGImages/1"])
def test_a_voc_list_may_name_paths(tmp_path: Path, entry: str) -> None:
    data_yaml = write_voc(tmp_path, {"1": [voc_object("cat", [11, 11, 20, 20])]})
    write_text(tmp_path / "ImageSets" / "Main" / "train.txt", f"{entry}\n")
    assert read(data_yaml).index.file_names.tolist() == ["JPEGImages/1.jpg"]
