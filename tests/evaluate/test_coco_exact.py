"""Results files scored as pycocotools scores them, with IoUs planted exactly on thresholds."""

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ossa.data.description import read_description
from ossa.data.reading import read_index
from ossa.evaluate.bootstrap import average_precision
from ossa.evaluate.coco import detections_as_coco_results, read_coco_results
from ossa.evaluate.matching import match
from ossa.evaluate.metrics import evaluate_detections

COCO_NUMBERS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
# IoU of a box and a part of it of n / d of its width: n / d, of which these are COCO's thresholds.
PARTS = [(n, 20) for n in range(9, 21)] + [(2, 3), (1, 7)]
SIDES = [32.0, 96.0, 19.2, 0.1, 33.3, 107.7, 1 / 3, 7.0, 1024.0]

sides = st.sampled_from(SIDES) | st.floats(0.05, 700, allow_nan=False)
corners = st.sampled_from([0.0, 0.1, 17.3, 400.7]) | st.floats(0, 900, allow_nan=False)
truths = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([7, 3, 11]),
        "category_id": st.sampled_from([1, 18]),
        "bbox": st.tuples(corners, corners, sides, sides),
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
        "area": st.sampled_from([1.0, 0.5, 0.73, 1024 / 9216]),
    }
)
guesses = st.tuples(
    st.integers(0, 7),  # the truth that it is near to
    st.sampled_from(PARTS),
    st.sampled_from(["narrow", "short", "wide", "moved", "other class"]),
    st.sampled_from([0.5, 0.9, 0.9 + 1e-9, 0.9 - 1e-12, 0.3]) | st.floats(0, 1),
)


def gt_rows(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for number, truth in enumerate(drawn, start=1):
        area = truth["bbox"][2] * truth["bbox"][3] * truth["area"]
        rows.append({**truth, "bbox": list(truth["bbox"]), "id": number, "area": area})
    return rows


def result_rows(
    rows: list[dict[str, Any]], drawn: list[tuple[int, tuple[int, int], str, float]]
) -> list[dict[str, Any]]:
    results = []
    for near, (part, whole), kind, score in drawn:
        truth = rows[near % len(rows)]
        x, y, width, height = truth["bbox"]
        category_id = truth["category_id"]
        if kind == "narrow":
            width = width * part / whole
        elif kind == "short":
            y, height = y + height * (whole - part) / whole, height * part / whole
        elif kind == "wide":
            width = width * whole / part
        elif kind == "moved":
            x += width * (whole - part) / (whole + part)
        else:
            category_id = 19 - category_id
        box = [x, y, width, height]
        image_id = truth["image_id"]
        results.append(
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        )
    return results


def written(folder: Path, rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> Path:
    """Writes a COCO data set without its images, and results for it."""
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 2000, "height": 2000} for i in (3, 7, 11)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": rows,
    }
    (folder / "truths.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text("val: {annotations: truths.json, images: absent}\n")
    (folder / "found.json").write_text(json.dumps(results))
    return folder


def by_pycocotools(folder: Path) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truths.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def check_equal(folder: Path) -> None:
    index = read_index(read_description(folder, annotations_only=True), "val").index
    detections = read_coco_results(folder / "found.json", index)
    oracle = by_pycocotools(folder)
    metrics = evaluate_detections(index, detections).flat()
    for name, expected in zip(COCO_NUMBERS, oracle.stats.tolist(), strict=True):
        found = metrics[name]
        assert (-1 if found is None else found) == pytest.approx(expected, abs=1e-9), name
    # The matching behind compare, intervals and bins, threshold by threshold.
    precision = oracle.eval["precision"][:, :, :, 0, -1]
    expected = np.where(precision.min(axis=1) < 0, np.nan, precision.mean(axis=1))
    np.testing.assert_allclose(average_precision(match(index, detections)).ap, expected, atol=1e-9)
    # Saved and scored again.
    again = folder / "again.json"
    again.write_text(json.dumps(detections_as_coco_results(index, detections)))
    assert evaluate_detections(index, read_coco_results(again, index)).flat() == metrics


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn=st.lists(truths, min_size=1, max_size=8), guessed=st.lists(guesses, min_size=1))
def test_a_results_file_scores_as_in_pycocotools(
    tmp_path: Path, drawn: list[dict[str, Any]], guessed: list[Any]
) -> None:
    rows = gt_rows(drawn)
    check_equal(written(tmp_path, rows, result_rows(rows, guessed)))


def test_more_than_a_hundred_of_an_image_with_equal_scores(tmp_path: Path) -> None:
    box = (10.1, 20.2, 30.3, 40.4)
    rows: list[Mapping[str, Any]] = [
        {"id": 1, "image_id": 3, "category_id": 1, "bbox": list(box), "area": 1.0, "iscrowd": 0}
    ]
    wrong = {"image_id": 3, "category_id": 1, "bbox": [500.0, 500.0, 9.0, 9.0], "score": 0.5}
    for place in (0, 99, 100, 119):
        results = [wrong] * 120
        results[place] = {**wrong, "bbox": list(box)}
        check_equal(written(tmp_path, list(rows), results))  # type: ignore[arg-type]


def test_scores_that_are_equal_as_float32_keep_their_order(tmp_path: Path) -> None:
    truth = {"id": 1, "image_id": 3, "category_id": 1, "area": 100.0, "iscrowd": 0}
    rows = [{**truth, "bbox": [0.1, 0.1, 10.0, 10.0]}]
    wrong = {"image_id": 7, "category_id": 1, "bbox": [0.1, 0.1, 10.0, 10.0]}
    right = {**wrong, "image_id": 3}
    for score, ap in ((0.9 + 1e-9, 1.0), (0.9 - 1e-9, 0.5)):
        folder = written(tmp_path, rows, [{**wrong, "score": 0.9}, {**right, "score": score}])
        check_equal(folder)
        assert by_pycocotools(folder).stats[0] == pytest.approx(ap)
