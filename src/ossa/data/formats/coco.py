"""COCO: one JSON file a split, with its images in one folder.

Ids of images, annotations and categories are kept; classes stand in the order of their ids, and
images in the order of theirs, as pycocotools has them. Boxes are not clipped, and crowd regions
are truths with `crowd` set. JSON has no useful line numbers: problems name the annotation's id.
"""

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from ossa.data.description import DataDescription
from ossa.data.formats.common import Box, Columns, fault_of_box, overhang, size_or_report
from ossa.data.index import DatasetIndex
from ossa.data.problems import ProblemLog
from ossa.errors import DataError


def read(description: DataDescription, split: str, *, log: ProblemLog) -> DatasetIndex:
    """Returns the index of a split; see `ossa.data.reading.read_index`."""
    source = description.splits[split]
    (file,) = source.sources
    folder = source.images or file.parent
    content = _load(file)
    names_by_id = _categories(content, description, file=file)
    category_ids = sorted(names_by_id)
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    images = _images(content, file=file, log=log)
    annotations = _annotations_by_image(content, images, file=file, log=log)
    columns = Columns()
    present = _FileListing()
    for image_id in sorted(images):
        image = images[image_id]
        path = os.path.join(folder, image["file_name"])
        size_wh = _size(path, image, present=present, log=log)
        if size_wh is None:
            continue
        columns.add_image(path, size_wh)
        columns.image_ids.append(image_id)
        for annotation in annotations.get(image_id, ()):
            _add_truth(columns, annotation, size_wh, label_of=label_of, file=file, log=log)
    names = tuple(names_by_id[category_id] for category_id in category_ids)
    return columns.to_index(description.root, names, category_ids)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(
            f"Expected JSON, found a syntax error at {file}:{error.lineno}: {error.msg}."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Expected a JSON file in UTF-8 at {file}, found {error}.") from error
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"Expected a list of objects as '{key}' in {file}, found none.")
    return content


def _categories(
    content: dict[str, Any], description: DataDescription, *, file: Path
) -> dict[int, str]:
    rows = content["categories"]
    names_by_id: dict[int, str] = {}
    for row in rows:
        category_id, name = row.get("id"), row.get("name")
        if type(category_id) is not int or not isinstance(name, str):
            raise DataError(
                f"Expected a whole number as id and a text as name for each of 'categories' in "
                f"{file}, found {category_id!r} and {name!r}."
            )
        names_by_id[category_id] = name
    names = tuple(names_by_id[category_id] for category_id in sorted(names_by_id))
    if not names or len(set(names)) < len(rows):
        raise DataError(
            f"Expected every id and name once in 'categories' of {file}, "
            f"found {len(rows)} categories with {len(set(names))} different names."
        )
    if description.names not in (None, names):
        raise DataError(
            f"Expected in {description.file} the names of {file} in the order of their ids, "
            f"{list(names)}, found {list(description.names or ())}; correct or remove 'names'."
        )
    return names_by_id


def _images(content: dict[str, Any], *, file: Path, log: ProblemLog) -> dict[int, dict[str, Any]]:
    images = {}
    for image in content["images"]:
        image_id, name = image.get("id"), image.get("file_name")
        if type(image_id) is not int or not isinstance(name, str):
            raise DataError(
                f"Expected a whole number as id and a text as file_name for each of 'images' in "
                f"{file}, found {image_id!r} and {name!r}."
            )
        if image_id in images:
            what = f"id {image_id} of image '{name}' is that of another image"
            log.report(file, None, what, action="image left out")
            continue
        images[image_id] = image
    return images


def _annotations_by_image(
    content: dict[str, Any], images: dict[int, Any], *, file: Path, log: ProblemLog
) -> dict[int, list[dict[str, Any]]]:
    by_image = defaultdict(list)
    seen = set()
    for annotation in content["annotations"]:
        annotation_id, image_id = annotation.get("id"), annotation.get("image_id")
        if type(annotation_id) is not int or annotation_id in seen:
            what = f"annotation id {annotation_id!r} is no whole number or used before"
            log.report(file, None, what, action="box dropped")
        elif type(image_id) is not int or image_id not in images:
            what = f"annotation {annotation_id} of an unknown image, {image_id!r}"
            log.report(file, None, what, action="box dropped")
        else:
            seen.add(annotation_id)
            by_image[image_id].append(annotation)
    return by_image


def _size(
    path: str, image: dict[str, Any], *, present: "_FileListing", log: ProblemLog
) -> tuple[int, int] | None:
    if path not in present:
        log.report(Path(path), None, "no such image", action="image left out")
        return None
    width, height = image.get("width"), image.get("height")
    if type(width) is int and type(height) is int and width > 0 and height > 0:
        return width, height
    return size_or_report(path, log=log)


def _add_truth(
    columns: Columns,
    annotation: dict[str, Any],
    size_wh: tuple[int, int],
    *,
    label_of: dict[int, int],
    file: Path,
    log: ProblemLog,
) -> None:
    which = f"annotation {annotation['id']} of image {annotation['image_id']}"
    category_id = annotation.get("category_id")
    if type(category_id) is not int or category_id not in label_of:
        log.report(file, None, f"{which}: class {category_id!r} unknown", action="box dropped")
        return
    box_xyxy = _box_xyxy(annotation.get("bbox"))
    if box_xyxy is None:
        what = f"{which}: expected four numbers as bbox, found {annotation.get('bbox')!r}"
        log.report(file, None, what, action="box dropped")
        return
    fault = fault_of_box(box_xyxy, size_wh)
    if fault is not None:
        log.report(file, None, f"{which}: {fault}", action="box dropped")
        return
    beyond = overhang(box_xyxy, size_wh)
    if beyond is not None:
        log.report(file, None, f"{which}: {beyond}", action="box kept as it is")
    columns.add_truth(
        box_xyxy,
        label_of[category_id],
        area=_area(annotation),
        crowd=bool(annotation.get("iscrowd")),
    )
    columns.annotation_ids.append(annotation["id"])


def _box_xyxy(bbox: Any) -> Box | None:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    if not all(type(number) in (int, float) for number in bbox):
        return None
    x0, y0, width, height = map(float, bbox)
    return x0, y0, x0 + width, y0 + height


def _area(annotation: dict[str, Any]) -> float:
    area = annotation.get("area")
    if isinstance(area, int | float) and 0 <= area < math.inf:
        return float(area)
    # Not from xyxy: (x + w) - x is not always w, and sizes decide into which bin a truth falls.
    width, height = annotation["bbox"][2:]
    return float(width) * float(height)


class _FileListing:
    """Which files exist, from one listing a folder instead of one question a file."""

    def __init__(self) -> None:
        self._names_of_folder: dict[str, frozenset[str]] = {}

    def __contains__(self, path: object) -> bool:
        folder, name = os.path.split(str(path))
        if folder not in self._names_of_folder:
            listed = os.listdir(folder) if os.path.isdir(folder) else []
            self._names_of_folder[folder] = frozenset(listed)
        return name in self._names_of_folder[folder]
