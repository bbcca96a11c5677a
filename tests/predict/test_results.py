"""The detections of an image are drawn, cropped, and converted to other formats."""

import base64
import io
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from known_detector import NAMES, known_predictor, write_png

from ossa.errors import ConfigError, DataError
from ossa.predict.results import TABLE_COLUMNS, Image, Results
from ossa.types import Detections


def found_in(image: Image, *boxes_xyxy: tuple[float, ...]) -> Results:
    """Returns dogs of the scores 0.9, 0.8, ..."""
    return Results(
        boxes_xyxy=np.array(boxes_xyxy, np.float32).reshape(-1, 4),
        scores=np.array([0.9 - 0.1 * i for i in range(len(boxes_xyxy))], np.float32),
        labels=np.ones(len(boxes_xyxy), np.int64),
        image=image,
        names=NAMES,
    )


def counted(width: int, height: int) -> np.ndarray:
    """Returns a picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack((columns, rows, np.zeros_like(rows)), axis=2)


FOUND = Results(
    boxes_xyxy=np.array([[10, 5, 30, 25], [0, 0, 100, 50]], np.float32),
    scores=np.array([0.75, 0.5], np.float32),
    labels=np.array([1, 2]),
    image=np.full((50, 100, 3), 90, np.uint8),
    names=NAMES,
)
NOTHING = FOUND.above(0.9)


def test_what_a_detector_finds_knows_its_picture(tmp_path: Path) -> None:
    file, image = write_png(tmp_path / "a.png", (128, 64)), np.full((64, 128, 3), 90, np.uint8)
    predictor = known_predictor()
    of_file, of_text, of_array = predictor.predict([file, str(file), image])
    for found in (of_file, of_text, of_array):
        assert isinstance(found, Detections)
        np.testing.assert_array_equal(found.draw(), of_array.draw())
    assert (of_file.file, of_text.file, of_array.file) == (file, file, None)
    assert predictor.predict([]) == []


def test_results_of_files_hold_no_pixels(tmp_path: Path) -> None:
    file = write_png(tmp_path / "a.png", (640, 640))
    assert len(pickle.dumps(known_predictor().predict(file))) < 2000
    found = known_predictor().predict(file)
    file.unlink()
    assert len(found) == 2
    with pytest.raises(DataError, match="found no such file"):
        found.draw()


def test_those_above_a_score_can_be_drawn_as_well() -> None:
    found = found_in(counted(40, 30), (1, 1, 9, 9), (20, 20, 30, 30)).above(0.85)
    assert isinstance(found, Results)
    assert len(found.crop()) == 1


def test_results_are_indexed_iterated_and_filtered() -> None:
    assert [one.class_names for one in FOUND] == [("dog",), (NAMES[2],)]
    assert FOUND[-1].scores.tolist() == [0.5]
    assert FOUND[FOUND.scores > 0.6].boxes_xyxy.tolist() == [[10, 5, 30, 25]]
    assert FOUND[:1].class_names == FOUND.filter("dog").class_names == FOUND.filter([1]).class_names
    assert len(FOUND[[1, 0, 1]]) == 3
    with pytest.raises(IndexError):
        FOUND[2]
    with pytest.raises(ConfigError, match="Did you mean dog"):
        FOUND.filter("dgo")


def test_a_notebook_shows_the_drawn_image_with_escaped_names() -> None:
    found = replace(FOUND, names=("a", "<b>", "c"))
    shown = found._repr_html_()
    picture = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(picture))), found.draw())
    assert shown.endswith("<figcaption>Results of an image: 1 &lt;b&gt;, 1 c</figcaption></figure>")


def test_supervision_gets_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=dict))
    given = FOUND.to_supervision()
    assert given["data"]["class_name"].tolist() == ["dog", NAMES[2]]
    np.testing.assert_array_equal(given["xyxy"], FOUND.boxes_xyxy)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="Pip install supervision"):
        FOUND.to_supervision()


def test_a_crop_has_every_pixel_that_the_box_touches() -> None:
    (crop,) = found_in(counted(40, 30), (10.6, 5.0, 12.2, 9.0)).crop()
    assert crop.shape == (4, 3, 3)  # rows 5 to 8, columns 10 to 12
    assert crop[0, :, 0].tolist() == [10, 11, 12]
    assert crop[:, 0, 1].tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "box", [(40, 30, 40, 30), (0, 0, 0, 0), (39.9, 0, 40, 30), (0, 29.5, 40, 30)]
)
def test_no_crop_is_empty_or_outside_the_picture(box: tuple[float, ...]) -> None:
    (crop,) = found_in(counted(40, 30), box).crop()
    assert min(crop.shape) >= 1
    assert crop.shape[0] <= 30
    assert crop.shape[1] <= 40


def test_a_drawing_has_boxes_and_neither_it_nor_a_crop_changes_the_image() -> None:
    image = counted(40, 30)
    found = found_in(image, (5, 10, 30, 25))
    drawn = found.draw()
    assert (drawn[20, 5] != image[20, 5]).any()
    assert (drawn[28, 35] == image[28, 35]).all()
    found.crop()[0][:] = 7
    assert (image == counted(40, 30)).all()


def test_coco_entries_have_the_ids_that_are_given(tmp_path: Path) -> None:
    found = found_in(tmp_path / "a.png", (10, 5, 30, 25))
    (entry,) = found.to_coco(image_id=7, category_ids=[1, 18, 44])
    assert entry == {"image_id": 7, "file_name": "a.png", "category_id": 18} | {
        "bbox": [10, 5, 20, 20],
        "score": pytest.approx(0.9),
    }
    (entry,) = found_in(counted(4, 4), (0, 0, 1, 1)).to_coco()
    assert (entry["image_id"], entry["category_id"], "file_name" in entry) == (1, 1, False)
    (entry,) = found.to_coco(location={"frame": 3})
    assert (entry["frame"], "file_name" in entry) == (3, False)
    with pytest.raises(ConfigError, match="for each of the 3 classes, found 2"):
        found.to_coco(category_ids=[1, 2])


def test_a_table_has_one_row_per_detection(tmp_path: Path) -> None:
    table = found_in("a.png", (10, 5, 30, 25), (0, 0, 40, 30)).to_dataframe()
    assert list(table.columns) == ["file", *TABLE_COLUMNS]
    assert table.iloc[0].drop("score").tolist() == ["a.png", 1, "dog", 10, 5, 30, 25]
    assert table.score.tolist() == pytest.approx([0.9, 0.8])
    empty = found_in(counted(4, 4)).to_dataframe()
    assert list(empty.columns) == list(table.columns)
    assert len(empty) == 0


def test_yolo_text_states_centres_and_sizes_in_fractions() -> None:
    # Centre (20, 15), size 20 x 20 in an image of 100 x 50.
    assert FOUND.to_yolo() == (
        "1 0.200000 0.300000 0.200000 0.400000\n2 0.500000 0.500000 1.000000 1.000000\n"
    )
    assert FOUND.to_yolo(scores=True).splitlines()[0].endswith(" 0.400000 0.750000")
    assert NOTHING.to_yolo(scores=True) == ""


def test_the_results_of_an_image_are_plain_json() -> None:
    assert json.loads(json.dumps(FOUND.to_dict(file="a.mp4", frame=3))) == {
        "file": "a.mp4",
        "frame": 3,
        "width": 100,
        "height": 50,
        "detections": [
            {"label": 1, "name": "dog", "score": 0.75, "box_xyxy": [10, 5, 30, 25]},
            {"label": 2, "name": "fire truck", "score": 0.5, "box_xyxy": [0, 0, 100, 50]},
        ],
    }
