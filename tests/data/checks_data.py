"""Small data sets with one thing wrong, and what a check finds in them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dataset_files import gradient, write_text
from PIL import Image

from ossa.data.check import Check, check_data
from ossa.data.description import read_description
from ossa.data.issues import IssueGroup

ANCHORS_WH = np.array([[[10.0, 13.0], [33.0, 23.0]], [[61.0, 30.0], [116.0, 90.0]]])
"""(2, 2, 2): the boxes of these tests lie within a factor of four of one, but for the tiny."""
GOOD = "0 0.5 0.5 0.4 0.4\n1 0.25 0.25 0.2 0.2\n"
"""40x20 and 20x10 pixels of an image of 100x50."""


def write_yolo_splits(
    root: Path, splits: Mapping[str, Mapping[str, str | None]], names: str = "[a, b]"
) -> Path:
    """Writes splits of 100x50 images, no two alike, with label texts; None: no label file.

    Returns the data.yaml.
    """
    number = 0
    for split, labels_of_image in splits.items():
        for name, labels in labels_of_image.items():
            image = gradient(100, 50)
            image[0, 0] = (*divmod(number, 256), 0)
            number += 1
            path = root / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            if labels is not None:
                write_text((root / "labels" / split / name).with_suffix(".txt"), labels)
    lines = [f"{split}: images/{split}" for split in splits]
    return write_text(root / "data.yaml", "\n".join([*lines, f"names: {names}", ""]))


def check(data_yaml: Path, **options: Any) -> Check:
    """Returns the check at 100 pixels, so that nothing is scaled.

    That a set has no val, or no train, is left out: most of these have one split alone.
    """
    defaults: dict[str, Any] = {"imgsz": 100, "anchors_wh": ANCHORS_WH}
    found = check_data(read_description(data_yaml), **{**defaults, **options})
    kept = [one for one in found.issues if one.kind not in ("val-missing", "train-missing")]
    return replace(found, issues=tuple(kept))


def counts(found: Check) -> dict[tuple[str, str | None], int]:
    """Returns how many of each kind in each split."""
    return {(str(one.kind), one.split): one.count for one in found.issues}


def only(found: Check) -> IssueGroup:
    """Returns the one finding there is."""
    (finding,) = found.issues
    return finding


def write_coco_file(
    root: Path, annotations: list[dict[str, Any]], *, images: int = 2, split: str = "train"
) -> Path:
    """Writes images 1.png, 2.png, ... of 100x50 and a JSON file of classes cat and dog."""
    rows = []
    for number in range(1, images + 1):
        image = gradient(100, 50)
        image[0, 0] = number
        path = root / "photos" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        rows.append({"id": number, "file_name": path.name, "width": 100, "height": 50})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": rows, "annotations": annotations, "categories": categories}
    write_text(root / f"{split}.json", json.dumps(content))
    entry = f"{split}: {{images: photos, annotations: {split}.json}}\n"
    return write_text(root / "data.yaml", entry)


def coco_box(
    number: int, bbox: list[float], *, image: int = 1, category: int = 1, **fields: Any
) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **fields}
