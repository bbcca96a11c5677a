"""COCO's files: what is written, what is read, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_problems import SQUARE, a_problem, an_index, found

from ossa.errors import DataError
from ossa.evaluate.coco import detections_as_coco_results, read_coco_results
from ossa.evaluate.metrics import evaluate_detections


def test_detections_become_coco_results_with_the_ids_of_the_data_set() -> None:
    results = detections_as_coco_results(
        an_index([[(0, SQUARE)]]), {1: found((0.5, 1, (10, 20, 40, 60)))}
    )
    expected = {"image_id": 1, "category_id": 13, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5}
    assert results == [expected]


def test_detections_survive_the_way_through_a_results_file(tmp_path: Path) -> None:
    index, detections = a_problem(2)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(detections_as_coco_results(index, detections)))
    back = read_coco_results(path, index)
    assert set(back) == {image_id for image_id, found in detections.items() if len(found)}
    for image_id, found_again in back.items():
        for column in ("boxes_xyxy", "scores", "labels"):
            mine, original = getattr(found_again, column), getattr(detections[image_id], column)
            np.testing.assert_array_equal(mine, original)
    assert evaluate_detections(index, back) == evaluate_detections(index, detections)


def test_results_are_read_best_first(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 2], "score": 0.25},
        {"image_id": 1, "category_id": 13, "bbox": [0, 0, 3, 4], "score": 1},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    (detections,) = read_coco_results(path, an_index([[]])).values()
    assert detections.scores.tolist() == [1, 0.25]
    assert detections.labels.tolist() == [1, 0]
    assert detections.boxes_xyxy.tolist() == [[0, 0, 3, 4], [0, 0, 1, 2]]


GOOD = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 2], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[\n{,", "found what is not JSON .*, line 2"),
        ('{"annotations": []}', "found a JSON dict .* Give the results, not the annotation file"),
        (json.dumps([GOOD, 7]), "Expected an object .* found 7 .*entry 1"),
        (json.dumps([{"image_id": 1}]), "Expected an object with .* category_id, .*entry 0"),
        ("[" * 100_000, "found none .*(recursion|more objects and lists)"),
        ('[{"image_id": ' + "9" * 5000, "found none .*4300 digits"),
        (json.dumps([{**GOOD, "category_id": 99}, {"category_id": []}]), "found 99 .*entry 0"),
        (json.dumps([GOOD, {**GOOD, "image_id": 8}]), "Expected image ids .* found 8, .*entry 1"),
        (json.dumps([{**GOOD, "category_id": 1}]), r"category_id .*\(3, 13\), found 1"),
        (json.dumps([{**GOOD, "image_id": "1"}]), "Expected image ids .* found 1, .*entry 0"),
        (json.dumps([{**GOOD, "image_id": 1.5}]), "Expected whole numbers .*entry 0"),
        (
            json.dumps([{**GOOD, "category_id": 1}, {**GOOD, "category_id": 2}]),
            "counts the classes from 1, ossa val --predictions FILE --class-ids-from 1 scores it",
        ),
        (json.dumps([{**GOOD, "bbox": [0, 0, 1]}]), "four numbers for bbox"),
        (json.dumps([{**GOOD, "bbox": "0012"}]), "four numbers for bbox"),
        (json.dumps([{**GOOD, "score": True}]), "one for score"),
        (json.dumps([{**GOOD, "score": 50}]), r"a score in 0\.\.1"),
        (json.dumps([{**GOOD, "score": float("nan")}]), r"a score in 0\.\.1"),
        (json.dumps([{**GOOD, "bbox": [0, 0, -1, 2]}]), "without negative sizes"),
        (json.dumps([{**GOOD, "bbox": [0, 0, 1e39, 2]}]), "a finite bbox"),
        (json.dumps([{**GOOD, "bbox": [10**400, 0, 1, 2]}]), "a finite bbox"),
    ],
)
def test_a_wrong_results_file_is_refused_with_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_coco_results(path, an_index([[]]))
    assert str(path) in str(caught.value)


def test_a_missing_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Expected a COCO results file .* found none .*absent\.json"
    ):
        read_coco_results(tmp_path / "absent.json", an_index([[]]))


@pytest.mark.parametrize(
    ("stems", "ids"),
    [
        (("0", "1"), ("0", 1)),  # a number may stand as that number, once one is a text
        (("a/x.1", "b/y"), ("x.1", "y")),
        (("0007", "8"), ("0007", 8)),
        (("a/x", "b/y"), ("x.jpg", "y.jpg")),
        (("a/x", "b/y"), (1.0, 2.0)),
    ],
)
def test_images_may_be_called_by_the_names_of_their_files(
    tmp_path: Path, stems: tuple[str, str], ids: tuple[object, object]
) -> None:
    file_names = np.array([f"{stem}.jpg" for stem in stems])
    index = an_index([[(0, SQUARE)], [(0, SQUARE)]], file_names=file_names)
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**GOOD, "image_id": one} for one in ids]))
    assert set(read_coco_results(path, index)) == {1, 2}


def test_a_stem_of_two_files_is_refused(tmp_path: Path) -> None:
    index = an_index([[], []], file_names=np.array(["a/x.jpg", "b/x.jpg"]))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**GOOD, "image_id": "x"}]))
    with pytest.raises(DataError, match="Expected image ids of the data set at photos, found x"):
        read_coco_results(path, index)


def test_an_unknown_class_is_told_beside_ids_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**GOOD, "category_id": one} for one in (9, [1])]))
    with pytest.raises(
        DataError, match=r"Expected a category_id .*, found 9 .*entry 0\). Use its own"
    ):
        read_coco_results(path, an_index([[]]))


def test_class_ids_may_count_from_a_number(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**GOOD, "category_id": 2}]))
    (found_again,) = read_coco_results(path, an_index([[]]), first_class_id=1).values()
    assert found_again.labels.tolist() == [1]


def test_a_results_file_of_objects_too_small_for_detections_is_refused_unparsed(tmp_path: Path):
    (tmp_path / "many.json").write_text("[" + '{"a":{}},' * 10_000 + "{}]")
    with pytest.raises(DataError, match="more objects and lists than detections"):
        read_coco_results(tmp_path / "many.json", an_index([[]]))
