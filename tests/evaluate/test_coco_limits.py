"""COCO's numbers at other sizes and numbers of detections: by hand, and against pycocotools."""

import math
from typing import Any

import numpy as np
import pytest
from evaluation_problems import ELSEWHERE, SQUARE, a_problem, an_index, by_pycocotools, found

from ossa.errors import ConfigError
from ossa.evaluate.metrics import score_at_limits

LARGE = (0.0, 0.0, 50.0, 40.0)


def test_every_range_of_areas_has_a_row_for_the_mean_and_one_a_class() -> None:
    # Squares of 100 pixels, a cat found and a dog missed, and a dog of 2,000 pixels, found.
    index = an_index([[(0, SQUARE), (1, ELSEWHERE)], [(1, LARGE)]])
    detections = {1: found((0.9, 0, SQUARE)), 2: found((0.9, 1, LARGE))}
    areas = {"tiny": (0, 100), "rest": (100.5, math.inf)}
    rows = score_at_limits(index, detections, areas=areas, most_detections=[5])
    columns = ("area", "class", "num_truths", "ap", "ap50", "ap75", "ar_5")
    assert [tuple(row) for row in rows] == [columns] * 6
    told = [(row["area"], row["class"], row["num_truths"], row["ar_5"]) for row in rows]
    assert told == [
        ("tiny", None, 2, 0.5),
        ("tiny", "cat", 1, 1),
        ("tiny", "dog", 1, 0),
        ("rest", None, 1, 1),
        ("rest", "cat", 0, None),
        ("rest", "dog", 1, 1),
    ]
    assert [row["ap"] for row in rows] == pytest.approx([0.5, 1, 0, 1, None, 1])


def test_only_the_best_detections_of_an_image_and_class_take_part() -> None:
    index = an_index([[(0, SQUARE), (0, ELSEWHERE)]])
    detections = {1: found((0.9, 0, LARGE), (0.8, 0, SQUARE), (0.7, 0, ELSEWHERE))}
    mean = score_at_limits(index, detections, most_detections=[3, 1, 2])[0]
    assert [(key, mean[key]) for key in mean if key.startswith("ar_")] == [
        *(("ar_1", 0), ("ar_2", 0.5), ("ar_3", 1))
    ]
    # With all three, precision is at best 2/3, at any recall.
    assert mean["ap50"] == pytest.approx(2 / 3)


AREAS = {"under 20 px": (0, 400), "20 to 60 px": (400, 3600), "over": (3600, 1e10)}
MOST = [3, 30, 300]


@pytest.mark.parametrize("seed", range(4))
def test_every_row_equals_pycocotools(seed: int) -> None:
    index, detections = a_problem(seed)
    areas = {"areaRng": list(AREAS.values()), "areaRngLbl": list(AREAS)}
    oracle = by_pycocotools(index, detections, maxDets=MOST, **areas)
    rows = iter(score_at_limits(index, detections, areas=AREAS, most_detections=MOST))
    places = {category_id: place for place, category_id in enumerate(oracle.params.catIds)}
    for area in range(len(AREAS)):
        every = [places[category_id] for category_id in index.category_ids]
        for classes in (every, *([place] for place in every)):
            row = next(rows)
            precision = oracle.eval["precision"][:, :, classes, area, -1]
            recall = oracle.eval["recall"][:, classes, area]
            pairs = [(row["ap"], precision), (row["ap50"], precision[0])]
            pairs += [(row[f"ar_{most}"], recall[..., m]) for m, most in enumerate(MOST)]
            for ours, theirs in pairs:
                defined = theirs[theirs > -1]
                if ours is None:
                    assert not defined.size
                else:
                    assert ours == pytest.approx(float(np.mean(defined)), abs=1e-9)
    assert next(rows, None) is None


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"areas": {}}, "Expected one range of areas"),
        ({"most_detections": []}, "one number of detections at least"),
        ({"areas": {"odd": (9, 4)}}, r"found 9 to 4 for 'odd'\. Give square pixels"),
        ({"areas": {"odd": (math.nan, 4)}}, "found nan to 4 for 'odd'"),
        ({"areas": {"odd": (-1, 4)}}, "found -1 to 4 for 'odd'"),
        ({"most_detections": [10, 0]}, "in most_detections, found 0"),
    ],
)
def test_an_impossible_limit_is_told_in_a_sentence(limits: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        score_at_limits(an_index([[(0, SQUARE)]]), {}, **limits)
