"""Indexes and detections for the tests of this folder: made by hand, or at random."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ossa.data.annotations import DatasetIndex
from ossa.evaluate.coco import detections_as_coco_results
from ossa.types import Detections

SQUARE = (10.0, 10.0, 20.0, 20.0)
ELSEWHERE = (50.0, 50.0, 60.0, 60.0)


def an_index(
    truths: list[list[tuple[int, tuple[float, ...]]]],
    *,
    names: tuple[str, ...] = ("cat", "dog"),
    **columns: Any,
) -> DatasetIndex:
    """Returns an index of 100 x 80 images with ids 1, 2, ... from their (label, box) lists."""
    rows = [truth for image in truths for truth in image]
    boxes_xyxy = np.array([box for _, box in rows], np.float64).reshape(-1, 4)
    index = DatasetIndex(
        root=Path("photos"),
        names=names,
        category_ids=np.arange(len(names)) * 10 + 3,
        file_names=np.array([f"{i}.jpg" for i in range(len(truths))], np.str_),
        image_ids=np.arange(1, len(truths) + 1),
        sizes_wh=np.tile(np.array([[100, 80]], np.int32), (len(truths), 1)),
        gt_offsets=np.cumsum([0, *map(len, truths)]),
        boxes_xyxy=boxes_xyxy,
        labels=np.array([label for label, _ in rows], np.int64),
        areas=np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1),
        crowd=np.zeros(len(rows), bool),
        difficult=np.zeros(len(rows), bool),
        annotation_ids=np.arange(len(rows)),
    )
    return replace(index, **columns)


def found(*rows: tuple[float, int, tuple[float, ...]]) -> Detections:
    """Returns detections of one image from (score, label, box)."""
    return Detections(
        np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        np.array([score for score, _, _ in rows], np.float32),
        np.array([label for _, label, _ in rows], np.int64),
    )


def gt_rows(index: DatasetIndex) -> list[dict[str, Any]]:
    """Returns COCO's annotations, counted from 1: pycocotools takes 0 for 'matched nothing'."""
    columns = zip(
        index.image_ids[index.gt_image_positions()].tolist(),
        index.category_ids[index.labels].tolist(),
        index.boxes_xywh.tolist(),
        index.areas.tolist(),
        (index.crowd | index.difficult).astype(int).tolist(),
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    rows = (dict(zip(keys, row, strict=True)) for row in columns)
    return [{"id": number, **row} for number, row in enumerate(rows, start=1)]


def by_pycocotools(
    index: DatasetIndex, detections: dict[int, Detections], **params: Any
) -> COCOeval:
    """Returns pycocotools' finished evaluation, with other parameters than its own if given."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()  # its stubs know only files
        coco.dataset = {
            "info": {},
            "images": [{"id": image_id} for image_id in index.image_ids.tolist()],
            "categories": [{"id": category_id} for category_id in index.category_ids.tolist()],
            "annotations": gt_rows(index),
        }
        coco.createIndex()
        results = coco.loadRes(detections_as_coco_results(index, detections))
        evaluator = COCOeval(coco, results, "bbox")
        vars(evaluator.params).update(params)
        evaluator.evaluate()
        evaluator.accumulate()
        if not params:
            evaluator.summarize()
    return evaluator


def a_problem(seed: int) -> tuple[DatasetIndex, dict[int, Detections]]:
    """Returns random truths and detections with everything that can go wrong in them.

    Crowds, difficult truths, own areas, shuffled ids, empty images, images that are absent from
    the mapping, classes without truths, equal scores, IoUs at the very thresholds (whole
    coordinates), boxes without area and, in one image, more than 100 detections of a class.
    """
    rng = np.random.default_rng(seed)
    num_images, num_classes = 6, 4
    decimals = 0 if seed % 2 else 3
    counts = rng.integers(0, 7, num_images) * (rng.random(num_images) < 0.8)
    total = int(counts.sum())
    starts = rng.uniform(0, 150, (total, 2))
    sizes = 10 ** rng.uniform(0.7, 2.3, (total, 2))
    boxes_xyxy = np.round(np.concatenate((starts, starts + sizes), axis=1), decimals)
    labels = rng.integers(0, num_classes - 1, total)  # the last class has none
    index = DatasetIndex(
        root=Path("photos"),
        names=tuple("abcd"),
        category_ids=rng.permutation(100)[:num_classes],
        file_names=np.array([f"{i}.jpg" for i in range(num_images)], np.str_),
        image_ids=rng.permutation(1000)[:num_images] + 2**24,
        sizes_wh=np.full((num_images, 2), 400, np.int32),
        gt_offsets=np.cumsum([0, *counts]),
        boxes_xyxy=boxes_xyxy,
        labels=labels,
        areas=np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1) * rng.uniform(0.3, 1, total),
        crowd=rng.random(total) < 0.15,
        difficult=rng.random(total) < 0.1,
        annotation_ids=np.arange(total),
    )
    detections = {}
    for position, image_id in enumerate(index.image_ids.tolist()):
        if rng.random() < 0.85:
            many = 420 if position == 0 else int(rng.integers(0, 25))
            detections[image_id] = _guesses(index, position, many=many, rng=rng, decimals=decimals)
    return index, detections


def _guesses(
    index: DatasetIndex, position: int, *, many: int, rng: np.random.Generator, decimals: int
) -> Detections:
    truths = index.gt_rows(position)
    boxes = np.concatenate((index.boxes_xyxy[truths], rng.uniform(0, 300, (2, 4))))
    labels = np.concatenate((index.labels[truths], [3, 0]))
    chosen = rng.integers(0, len(boxes), many)
    moved = np.round(boxes[chosen] + rng.normal(0, 6, (many, 4)), decimals)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])  # some are left without area
    scores = np.sort(np.round(rng.random(many), 2))[::-1]  # two decimals: many are equal
    return Detections(moved.astype(np.float32), scores.astype(np.float32), labels[chosen])
