"""What is written of detections, with numbers that can be checked by hand."""

import json
from pathlib import Path

import numpy as np
from known_detector import NAMES, known_predictor, shape_of, write_png

from ossa.data.decode import decode_image
from ossa.predict.sources import find_pictures, read_annotated
from ossa.predict.writers import ResultFolder, coco_results, picture_result, yolo_text
from ossa.types import Detections

FOUND = Detections(
    boxes_xyxy=np.array([[10, 5, 30, 25], [0, 0, 100, 50]], np.float32),
    scores=np.array([0.75, 0.5], np.float32),
    labels=np.array([1, 2]),
)
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
GREY = np.full((50, 100, 3), 90, np.uint8)


def test_yolo_text_states_centres_and_sizes_in_fractions() -> None:
    # Centre (20, 15), size 20 x 20 in a picture of 100 x 50.
    assert yolo_text(FOUND, (100, 50)) == (
        "1 0.200000 0.300000 0.200000 0.400000\n2 0.500000 0.500000 1.000000 1.000000\n"
    )
    assert yolo_text(FOUND, (100, 50), scores=True).splitlines()[0].endswith(" 0.400000 0.750000")
    assert yolo_text(NOTHING, (100, 50), scores=True) == ""


def test_coco_results_state_left_top_width_height_and_the_ids_of_the_data_set() -> None:
    entries = coco_results(FOUND, image_id=9, file_name="a.jpg", category_ids=[1, 18, 44])
    assert entries == [
        {"image_id": 9, "file_name": "a.jpg", "category_id": 18, "bbox": [10, 5, 20, 20]}
        | {"score": 0.75},
        {"image_id": 9, "file_name": "a.jpg", "category_id": 44, "bbox": [0, 0, 100, 50]}
        | {"score": 0.5},
    ]


def test_the_result_of_a_picture_is_plain_json() -> None:
    result = picture_result(Path("a.jpg"), (100, 50), FOUND, names=NAMES)
    assert json.loads(json.dumps(result)) == {
        "file": "a.jpg",
        "width": 100,
        "height": 50,
        "detections": [
            {"label": 1, "name": "dog", "score": 0.75, "box_xyxy": [10, 5, 30, 25]},
            {"label": 2, "name": "fire truck", "score": 0.5, "box_xyxy": [0, 0, 100, 50]},
        ],
    }


def written(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in files)


def test_drawings_keep_names_and_subfolders_and_only_jpegs_stay_jpegs(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.bmp", "sub/c.png"):
        write_png(tmp_path / "pics" / name, (100, 50))
    folder = ResultFolder(tmp_path / "out", known_predictor())
    for picture in find_pictures(str(tmp_path / "pics")):
        folder.add(picture, GREY, FOUND)
    folder.finish()
    assert written(tmp_path / "out") == ["a.jpg", "b.png", "sub/c.png"]
    assert shape_of(tmp_path / "out" / "b.png") == (50, 100, 3)


def test_without_a_data_set_pictures_count_from_one_and_classes_from_zero(tmp_path: Path) -> None:
    for name in ("x.png", "y.png"):
        write_png(tmp_path / "pics" / name, (100, 50))
    (tmp_path / "out").mkdir()
    folder = ResultFolder(
        tmp_path / "out", known_predictor(), drawings=False, label_files=True, coco_file=True
    )
    for picture, found in zip(find_pictures(str(tmp_path / "pics")), (NOTHING, FOUND), strict=True):
        folder.add(picture, GREY, found)
    folder.finish()
    assert written(tmp_path / "out") == ["labels/x.txt", "labels/y.txt", "predictions.json"]
    assert (tmp_path / "out" / "labels" / "x.txt").read_text() == ""
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(e["image_id"], e["file_name"], e["category_id"]) for e in entries] == [
        (2, "y.png", 1),
        (2, "y.png", 2),
    ]


def test_with_a_data_set_its_ids_are_stated_and_its_truths_stand_below(tmp_path: Path) -> None:
    known = write_png(tmp_path / "images" / "7.png", (100, 50))
    stranger = write_png(tmp_path / "8.png", (100, 50))
    (tmp_path / "instances.json").write_text(
        json.dumps(
            {
                "images": [{"id": 500, "file_name": "7.png", "width": 100, "height": 50}],
                "categories": [{"id": 10 * (i + 1), "name": n} for i, n in enumerate(NAMES)],
                "annotations": [
                    {"id": 1, "image_id": 500, "category_id": 10, "iscrowd": 0}
                    | {"bbox": [60, 20, 20, 20], "area": 400}
                ],
            }
        )
    )
    (tmp_path / "data.yaml").write_text("val: {images: images, annotations: instances.json}\n")
    (tmp_path / "out").mkdir()
    folder = ResultFolder(
        tmp_path / "out",
        known_predictor(),
        coco_file=True,
        truth=read_annotated(tmp_path),
    )
    for file in (known, stranger):
        folder.add(find_pictures(str(file))[0], GREY, FOUND)
    folder.finish()
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(e["image_id"], e["category_id"]) for e in entries] == [(500, 20), (500, 30)]

    both = decode_image(tmp_path / "out" / "7.png")
    assert shape_of(tmp_path / "out" / "8.png") == (50, 100, 3)
    # Two pictures of 50 rows under titles of 24, with gaps of 4: the lower one begins at row 106.
    assert both.shape == (160, 108, 3)
    upper, lower = both[28:78, 4:104], both[106:156, 4:104]
    assert (upper[15, 10] != 90).any()  # left edge of the detection (10, 5, 30, 25)
    assert (upper[30, 60] == 90).all()
    assert (lower[30, 60] != 90).any()  # left edge of the truth (60, 20, 80, 40)
    assert (lower[15, 10] == 90).all()
