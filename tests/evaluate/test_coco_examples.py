"""The examples of docs/evaluation.md, run in their order as one program."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ossa.data.api import read_data
from ossa.data.scenes import write_scenes
from ossa.evaluate.coco import detections_as_coco_results
from ossa.types import Detections

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the examples leave behind; objects in even rows are found at 0.9, the others at 0.3."""
    folder = tmp_path_factory.mktemp("examples")
    index = read_data(write_scenes(folder / "bccd", images={"val": 4}, imgsz=128), "val").index
    detections = {}
    for position, image_id in enumerate(index.image_ids.tolist()):
        rows = np.arange(len(index.labels))[index.truths(position)]
        scores = np.where(rows % 2 == 0, 0.9, 0.3).astype(np.float32)
        boxes_xyxy = index.boxes_xyxy[rows].astype(np.float32)
        detections[image_id] = Detections(boxes_xyxy, scores, index.labels[rows])
    results = detections_as_coco_results(index, detections)
    (folder / "found.json").write_text(json.dumps(results))
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(block, names)
    return names


def test_a_chosen_confidence_has_its_precision_and_recall(names: dict[str, Any]) -> None:
    labels, point = names["index"].labels, names["point"]
    even = np.arange(len(labels)) % 2 == 0
    recalls = [even[labels == label].mean() for label in np.unique(labels)]
    assert 0 < np.mean(recalls) < 1
    assert point.confidence == 0.4
    assert point.means()["precision"] == pytest.approx(1)
    assert point.means()["recall"] == pytest.approx(np.mean(recalls))


def test_the_limits_are_those_that_were_asked_for(names: dict[str, Any]) -> None:
    rows = names["rows"]
    assert [row["area"] for row in rows if row["class"] is None] == ["all", "tiny"]
    assert [key for key in rows[0] if key.startswith("ar_")] == ["ar_1", "ar_100", "ar_300"]
    assert (rows[0]["ap"], rows[0]["ar_300"]) == pytest.approx((1, 1))
    assert rows[0]["num_truths"] == len(names["index"].labels)
