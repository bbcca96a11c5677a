"""How long an evaluation takes at the size of COCO val2017, and how much memory it needs.

    python benchmarks/metrics.py
    taskset -c 0 python benchmarks/metrics.py     # on one core

The problem is generated: 5,000 images with 36,000 truths of 80 classes and 500,000 detections, 100
of each image, of which about half lie near a truth. Prints one JSON object with
- `parts`: of COCO's twelve numbers, and of all that is counted beside them, wall and CPU seconds
  (all threads together), each the best of --repeats;
- `everything_seconds`: of all parts together, each done once: the detections are matched once, and
  everything but the twelve numbers, VOC's AP, the kinds of errors and the confusion matrix, which
  match by rules of their own, is counted from that;
- `peak_bytes` of the process, and `peak_bytes_of_problem`: before the first part, with PyTorch
  loaded and the problem in memory.
No time is promised by a test: machines differ.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.coco import score_as_coco
from ossa.evaluate.confusion import confusion_matrix
from ossa.evaluate.error_analysis import calibration, errors_by_kind
from ossa.evaluate.matching import match
from ossa.evaluate.metrics import evaluate_detections
from ossa.evaluate.object_bins import (
    by_coverage,
    by_crowding,
    by_size,
    surroundings_of_detections,
    surroundings_of_gt,
)
from ossa.evaluate.voc import score_as_voc
from ossa.train.provenance import environment
from ossa.types import Detections

_NUM_CLASSES = 80
_SIZE_WH = np.array([640, 480])
_CROWD = 0.012
"""Of the truths, as in val2017."""
_NEAR, _WRONG_CLASS = 0.5, 0.1


def generate(
    images: int, truths: int, per_image: int, rng: np.random.Generator
) -> tuple[DatasetIndex, dict[int, Detections]]:
    """Returns a random split of `images`, few of whose classes share an image, and detections."""
    counts = rng.multinomial(truths, rng.dirichlet(np.full(images, 0.8)))
    boxes_xyxy = _boxes(truths, rng)
    themes = rng.integers(0, _NUM_CLASSES, (images, 3))
    labels = themes[np.repeat(np.arange(images), counts), rng.integers(0, 3, truths)]
    index = DatasetIndex(
        root=Path("generated"),
        names=tuple(f"class {label}" for label in range(_NUM_CLASSES)),
        category_ids=np.arange(1, _NUM_CLASSES + 1),
        file_names=np.array([f"{number}.jpg" for number in range(images)]),
        image_ids=np.arange(1, images + 1),
        sizes_wh=np.tile(_SIZE_WH.astype(np.int32), (images, 1)),
        gt_offsets=np.cumsum([0, *counts]),
        boxes_xyxy=boxes_xyxy,
        labels=labels,
        areas=np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1) * 0.6,
        crowd=rng.random(truths) < _CROWD,
        difficult=np.zeros(truths, bool),
        annotation_ids=np.arange(truths),
    )
    return index, {
        image_id: _guesses(index, position, per_image, rng)
        for position, image_id in enumerate(index.image_ids.tolist())
    }


def _boxes(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns boxes (count, 4) with sides of 8 to 300 pixels within an image."""
    sides = 10 ** (rng.uniform(0.9, 2.5, (count, 1)) + rng.normal(0, 0.12, (count, 2)))
    sizes_wh = np.minimum(sides, _SIZE_WH)
    starts = rng.random((count, 2)) * (_SIZE_WH - sizes_wh)
    return np.concatenate((starts, starts + sizes_wh), axis=1)


def _guesses(
    index: DatasetIndex, position: int, count: int, rng: np.random.Generator
) -> Detections:
    """Returns detections of one image: the nearer to a truth, the better their scores."""
    boxes_xyxy = _boxes(count, rng)
    labels = rng.integers(0, _NUM_CLASSES, count)
    scores = rng.beta(0.3, 6, count)
    rows = np.arange(*index.gt_rows(position).indices(len(index.labels)))
    near = rng.random(count) < (_NEAR if len(rows) else 0)
    truths = rng.choice(rows, near.sum()) if len(rows) else rows
    spread = 10 ** rng.uniform(-2.5, -0.3, (len(truths), 1))
    sides = np.tile(index.boxes_xyxy[truths, 2:] - index.boxes_xyxy[truths, :2], 2)
    moved = index.boxes_xyxy[truths] + rng.normal(0, 1, (len(truths), 4)) * spread * sides
    boxes_xyxy[near] = np.concatenate((moved[:, :2], np.maximum(moved[:, :2], moved[:, 2:])), 1)
    right = rng.random(len(truths)) >= _WRONG_CLASS
    labels[near] = np.where(right, index.labels[truths], labels[near])
    scores[near] = rng.beta(2, 1 + 10 * spread[:, 0])
    order = np.argsort(-scores)
    return Detections(
        boxes_xyxy[order].astype(np.float32), scores[order].astype(np.float32), labels[order]
    )


class Seconds(NamedTuple):
    wall: float
    cpu: float


def timed(part: Callable[[], Any], repeats: int) -> Seconds:
    """Returns the least wall and CPU seconds of several calls."""
    wall, cpu = [], []
    for _ in range(repeats):
        started, started_cpu = time.perf_counter(), time.process_time()
        part()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return Seconds(min(wall), min(cpu))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    index, detections = generate(arguments.images, arguments.truths, arguments.per_image, rng)
    before = _peak_bytes()
    matches = match(index, detections)
    truths = surroundings_of_gt(index)
    found = surroundings_of_detections(index, matches)
    parts: dict[str, Callable[[], Any]] = {
        "twelve_numbers": lambda: score_as_coco(index, detections),
        "matching": lambda: match(index, detections),
        "rest_of_metrics": lambda: evaluate_detections(index, detections, matches=matches),
        "surroundings": lambda: (
            surroundings_of_gt(index),
            surroundings_of_detections(index, matches),
        ),
        "by_crowding": lambda: by_crowding(matches, truths, found),
        "by_coverage": lambda: by_coverage(matches, truths, found),
        "by_size": lambda: by_size(index, matches, imgsz=640),
        "voc": lambda: score_as_voc(index, detections),
        "calibration": lambda: calibration(matches),
        "errors_by_kind": lambda: errors_by_kind(index, detections),
        "confusion_matrix": lambda: confusion_matrix(index, detections),
    }
    seconds = {name: timed(part, arguments.repeats) for name, part in parts.items()}
    # `evaluate_detections` computes the twelve numbers, too.
    twelve, both = seconds["twelve_numbers"], seconds["rest_of_metrics"]
    seconds["rest_of_metrics"] = Seconds(both.wall - twelve.wall, both.cpu - twelve.cpu)
    everything = Seconds(*map(sum, zip(*seconds.values(), strict=True)))
    return {
        "images": len(index),
        "truths": len(index.labels),
        "detections": sum(map(len, detections.values())),
        "parts": {name: part._asdict() for name, part in seconds.items()},
        "everything_seconds": everything._asdict(),
        "peak_bytes": _peak_bytes(),
        "peak_bytes_of_problem": before,
        "environment": environment(),
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--truths", type=int, default=36_000)
    parser.add_argument("--per-image", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
