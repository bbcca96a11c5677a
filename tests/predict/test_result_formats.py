"""How detections are written down, with numbers that can be checked by hand."""

import json

import numpy as np
from known_detector import NAMES

from ossa.predict.results import coco_results, picture_result, table_rows, yolo_text
from ossa.types import NOTHING_FOUND, Detections

FOUND = Detections(
    boxes_xyxy=np.array([[10, 5, 30, 25], [0, 0, 100, 50]], np.float32),
    scores=np.array([0.75, 0.5], np.float32),
    labels=np.array([1, 2]),
)


def test_yolo_text_states_centres_and_sizes_in_fractions() -> None:
    # Centre (20, 15), size 20 x 20 in a picture of 100 x 50.
    assert yolo_text(FOUND, (100, 50)) == (
        "1 0.200000 0.300000 0.200000 0.400000\n2 0.500000 0.500000 1.000000 1.000000\n"
    )
    assert yolo_text(FOUND, (100, 50), scores=True).splitlines()[0].endswith(" 0.400000 0.750000")
    assert yolo_text(NOTHING_FOUND, (100, 50), scores=True) == ""


def test_coco_results_state_left_top_width_height_and_the_ids_of_the_data_set() -> None:
    place = {"file_name": "a.jpg"}
    entries = coco_results(FOUND, image_id=9, category_ids=[1, 18, 44], place=place)
    assert entries == [
        {"image_id": 9, "file_name": "a.jpg", "category_id": 18, "bbox": [10, 5, 20, 20]}
        | {"score": 0.75},
        {"image_id": 9, "file_name": "a.jpg", "category_id": 44, "bbox": [0, 0, 100, 50]}
        | {"score": 0.5},
    ]


def test_the_result_of_a_picture_is_plain_json() -> None:
    result = picture_result((100, 50), FOUND, names=NAMES, place={"file": "a.mp4", "frame": 3})
    assert json.loads(json.dumps(result)) == {
        "file": "a.mp4",
        "frame": 3,
        "width": 100,
        "height": 50,
        "detections": [
            {"label": 1, "name": "dog", "score": 0.75, "box_xyxy": [10, 5, 30, 25]},
            {"label": 2, "name": "fire truck", "score": 0.5, "box_xyxy": [0, 0, 100, 50]},
        ],
    }


def test_a_row_of_a_table_has_class_score_and_edges() -> None:
    assert table_rows(FOUND, names=NAMES)[0] == (1, "dog", 0.75, 10, 5, 30, 25)
    assert table_rows(NOTHING_FOUND, names=NAMES) == []
