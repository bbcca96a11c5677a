"""Writes what SAHI's greedy merging makes of fixed boxes, for test_tiles.py.

SAHI (MIT) is not needed by the test: pip install sahi==0.12.8, then run this file.
"""

import json
from pathlib import Path

import numpy as np
from sahi.postprocess.combine import (  # pyright: ignore[reportMissingImports]
    GreedyNMMPostprocess,
)
from sahi.prediction import ObjectPrediction  # pyright: ignore[reportMissingImports]


def merged(rows: list[list[float]]) -> list[list[float]]:
    """Returns left, top, right, bottom, score, label after one merging, best first."""
    boxes = [
        ObjectPrediction(bbox=row[:4], score=row[4], category_id=int(row[5]), category_name="any")
        for row in rows
    ]
    merge = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)
    found = merge(boxes)
    rows = [[*map(float, b.bbox.to_xyxy()), b.score.value, b.category.id] for b in found]
    return sorted(rows, key=lambda row: -row[4])


def main() -> None:
    generator = np.random.default_rng(0)
    cases = []
    for count in (2, 5, 20, 60, 150):
        starts = generator.integers(0, 500, size=(count, 2))
        ends = starts + generator.integers(10, 120, size=(count, 2))
        scores = generator.permutation(np.linspace(0.05, 0.95, count)).round(4)
        labels = generator.integers(0, 2, size=count)
        boxes = np.column_stack((starts, ends, scores, labels)).tolist()
        after = [merged(boxes)]
        while len(after) < 2 or len(after[-1]) < len(after[-2]):
            after.append(merged(after[-1]))
        cases.append({"boxes": boxes, "once": len(after[0]), "merged": after[-1]})
    file = Path(__file__).with_name("sahi_merges.json")
    file.write_text(json.dumps(cases) + "\n")
    print([(len(case["boxes"]), case["once"], len(case["merged"])) for case in cases])


if __name__ == "__main__":
    main()
