"""Detections that know their picture are drawn, cut out and written down."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from known_detector import NAMES, known_predictor, write_png

from ossa.errors import ConfigError, DataError
from ossa.predict.results import TABLE_COLUMNS, Picture, PictureDetections
from ossa.types import Detections


def found_in(picture: Picture, *boxes_xyxy: tuple[float, ...]) -> PictureDetections:
    """Returns dogs of the scores 0.9, 0.8, ..."""
    return PictureDetections(
        boxes_xyxy=np.array(boxes_xyxy, np.float32).reshape(-1, 4),
        scores=np.array([0.9 - 0.1 * i for i in range(len(boxes_xyxy))], np.float32),
        labels=np.ones(len(boxes_xyxy), np.int64),
        picture=picture,
        names=NAMES,
    )


def counted(width: int, height: int) -> np.ndarray:
    """Returns a picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack((columns, rows, np.zeros_like(rows)), axis=2)


def test_what_a_detector_finds_knows_its_picture(tmp_path: Path) -> None:
    file, image = write_png(tmp_path / "a.png", (128, 64)), np.full((64, 128, 3), 90, np.uint8)
    predictor = known_predictor()
    of_file, of_text, of_array = predictor.predict([file, str(file), image])
    for found in (of_file, of_text, of_array):
        assert isinstance(found, Detections)
        np.testing.assert_array_equal(found.draw(), predictor.draw(image, found))
    assert (of_file.file, of_text.file, of_array.file) == (file, file, None)


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
    assert isinstance(found, PictureDetections)
    assert len(found.crop()) == 1


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


def test_a_crop_is_a_copy() -> None:
    image = counted(40, 30)
    found_in(image, (0, 0, 5, 5)).crop()[0][:] = 7
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
    with pytest.raises(ConfigError, match="for each of the 3 classes, found 2"):
        found.to_coco(category_ids=[1, 2])


def test_a_table_has_a_row_a_detection(tmp_path: Path) -> None:
    table = found_in("a.png", (10, 5, 30, 25), (0, 0, 40, 30)).to_dataframe()
    assert list(table.columns) == ["file", *TABLE_COLUMNS]
    assert table.iloc[0].drop("score").tolist() == ["a.png", 1, "dog", 10, 5, 30, 25]
    assert table.score.tolist() == pytest.approx([0.9, 0.8])
    empty = found_in(counted(4, 4)).to_dataframe()
    assert list(empty.columns) == list(table.columns)
    assert len(empty) == 0
