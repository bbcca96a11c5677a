"""Writing a split as COCO, VOC or YOLO, such that the reader of the format gives it back.

Each `write_*` writes one split into a folder and returns what stands for it in a data.yaml, with
counts of what the format could not take. `as_read_back` changes annotations as the reader would.
Dimensions: I images, N ground-truth objects.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, duplicate_boxes, select_gt
from ossa.data.paths import label_places

PlaceImage = Callable[[str, Path], None]
"""Puts the image of the first path at the second, by a link or as a copy."""


@dataclass(frozen=True)
class WrittenSplit:
    """What a split has become."""

    entry: Any
    """The value of its key in a data.yaml."""
    files: tuple[str, ...]
    """(I,) the images as the data.yaml leads to them, absolute."""
    rounded: int
    """Boxes that come back with other last bits, by less than a billionth of a pixel."""


def write_coco(
    index: DatasetIndex, split: str, folder: Path, *, place_image: PlaceImage | None
) -> WrittenSplit:
    """Writes annotations/SPLIT.json, and images/SPLIT where `place_image` is given."""
    images, inside = _inner_names(index)
    files = [os.path.join(images, name) for name in inside]
    entry_images = os.path.relpath(images, index.root)
    if place_image is not None:
        entry_images = f"images/{split}"
        copies = [folder / "images" / split / name for name in inside]
        for file, copy in zip(files, copies, strict=True):
            place_image(file, copy)
        files = [str(copy) for copy in copies]
    annotations = folder / "annotations" / f"{split}.json"
    annotations.parent.mkdir(parents=True, exist_ok=True)
    low, high = np.split(index.boxes_xyxy, 2, axis=1)
    sizes = _differences(low, high)
    with annotations.open("x", encoding="utf-8") as stream:
        stream.write('{"info": {}, "licenses": [],\n"categories": ')
        ids = index.category_ids.tolist()
        rows = zip(ids, index.names, strict=True)
        stream.write(json.dumps([{"id": number, "name": name} for number, name in rows]))
        stream.write(',\n"images": [\n')
        _write_rows(stream.write, _coco_images(index, inside))
        stream.write('],\n"annotations": [\n')
        _write_rows(stream.write, _coco_annotations(index, np.concatenate([low, sizes], axis=1)))
        stream.write("]}\n")
    path = os.path.relpath(annotations, folder) if place_image is not None else str(annotations)
    rounded = int((low + sizes != high).any(axis=1).sum())
    return WrittenSplit({"images": entry_images, "annotations": path}, tuple(files), rounded)


def _coco_images(index: DatasetIndex, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    columns = index.image_ids.tolist(), names, index.sizes_wh.tolist()
    for image_id, name, (width, height) in zip(*columns, strict=True):
        yield {"id": image_id, "file_name": name, "width": width, "height": height}


def _coco_annotations(index: DatasetIndex, bboxes: NDArray[np.float64]) -> Iterable[dict[str, Any]]:
    image_ids = index.image_ids[index.gt_image_positions()].tolist()
    for row, image_id in enumerate(image_ids):
        annotation = {
            "id": int(index.annotation_ids[row]),
            "image_id": image_id,
            "category_id": int(index.category_ids[index.labels[row]]),
            "bbox": bboxes[row].tolist(),
            "area": float(index.areas[row]),
            "iscrowd": int(index.crowd[row]),
            "segmentation": [],
        }
        yield annotation | ({"difficult": 1} if index.difficult[row] else {})


def _write_rows(write: Callable[[str], object], rows: Iterable[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        write(",\n" if number else "")
        write(json.dumps(row))
    write("\n")


def _differences(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the sizes that, added to `low`, give `high` to the last bit wherever some do."""
    sizes = high - low
    for towards in (-np.inf, np.inf):
        nearby = np.nextafter(sizes, towards)
        sizes = np.where((low + sizes != high) & (low + nearby == high), nearby, sizes)
    return sizes


def write_voc(
    index: DatasetIndex,
    split: str,
    folder: Path,
    *,
    place_image: PlaceImage,
    stems: dict[tuple[str, str], str],
) -> WrittenSplit:
    """Writes ImageSets/Main/SPLIT.txt, Annotations/*.xml and JPEGImages.

    Args:
        index: of the split, as VOC gives it back.
        split: its name.
        folder: of the data set.
        place_image: puts an image into JPEGImages.
        stems: those given so far by image and annotation, for the splits have one folder; the new
            ones are added.
    """
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    taken = set(stems.values())
    files, listed = [], []
    corners = np.concatenate([index.boxes_xyxy[:, :2] + 1, index.boxes_xyxy[:, 2:]], axis=1)
    for position in range(len(index)):
        image = str(index.image_path(position))
        xml = _voc_xml(index, position, corners)
        stem = stems.get((image, xml))
        suffix = os.path.splitext(image)[1]
        if stem is None:
            stem = _free_name(os.path.splitext(os.path.basename(image))[0], taken, spaces=False)
            stems[image, xml] = stem
            place_image(image, folder / "JPEGImages" / f"{stem}{suffix}")
            (folder / "Annotations" / f"{stem}.xml").write_text(xml, encoding="utf-8")
        listed.append(stem)
        files.append(str(folder / "JPEGImages" / f"{stem}{suffix}"))
    entry = f"ImageSets/Main/{split}.txt"
    (folder / entry).write_text("".join(f"{stem}\n" for stem in listed), encoding="utf-8")
    changed = (corners[:, :2] - 1 != index.boxes_xyxy[:, :2]).any(axis=1)
    return WrittenSplit(entry, tuple(files), int(changed.sum()))


def _voc_xml(index: DatasetIndex, position: int, corners: NDArray[np.float64]) -> str:
    width, height = index.sizes_wh[position].tolist()
    lines = [
        "<annotation>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    rows = index.gt_rows(position)
    for row in range(rows.start, rows.stop):
        crowd = bool(index.crowd[row])
        box = (
            f"<{tag}>{_number(value)}</{tag}>"
            for tag, value in zip(
                ("xmin", "ymin", "xmax", "ymax"), corners[row].tolist(), strict=True
            )
        )
        lines += [
            "  <object>",
            f"    <name>{escape(index.names[index.labels[row]])}</name>",
            # Who does not know of crowds passes over what is difficult, as over a crowd.
            f"    <difficult>{int(crowd or bool(index.difficult[row]))}</difficult>",
            *(["    <iscrowd>1</iscrowd>"] if crowd else []),
            f"    <area>{_number(float(index.areas[row]))}</area>",
            f"    <bndbox>{''.join(box)}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def write_yolo(
    index: DatasetIndex, split: str, folder: Path, *, place_image: PlaceImage
) -> WrittenSplit:
    """Writes images/SPLIT, labels/SPLIT and the list SPLIT.txt, which keeps the images' order."""
    _, inside = _inner_names(index)
    taken: set[str] = set()
    boxes, exact = _fractions(index)
    files, listed = [], []
    for position, name in enumerate(inside):
        stem, suffix = os.path.splitext(name)
        relative = f"images/{split}/{_free_name(stem, taken, spaces=True)}{suffix}"
        image = folder / relative
        place_image(str(index.image_path(position)), image)
        rows = index.gt_rows(position)
        labels = Path(label_places(str(image))[0])
        labels.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            f"{label} {' '.join(map(repr, box))}\n"
            for label, box in zip(index.labels[rows].tolist(), boxes[rows].tolist(), strict=True)
        )
        labels.write_text("".join(lines), encoding="utf-8")
        files.append(str(image))
        listed.append(relative)
    entry = f"{split}.txt"
    (folder / entry).write_text("".join(f"./{name}\n" for name in listed), encoding="utf-8")
    return WrittenSplit(entry, tuple(files), int((~exact).sum()))


def _fractions(index: DatasetIndex) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns (N, 4) cx cy w h as fractions, and (N,) whether they come back to the last bit.

    Of the numbers within two units in the last place of centre and size those are taken that do;
    what is not on the grid of the fractions comes back beside by a rounding.
    """
    sides = index.sizes_wh[index.gt_image_positions()].astype(np.float64)
    low, high = index.boxes_xyxy[:, :2], index.boxes_xyxy[:, 2:]
    centre, size = (low + high) / 2 / sides, (high - low) / sides
    best_centre, best_size = centre.copy(), size.copy()
    exact = np.zeros(low.shape, np.bool_)
    for steps_centre in (0, 1, -1, 2, -2):
        for steps_size in (0, 1, -1, 2, -2):
            tried_centre = centre + steps_centre * np.spacing(centre)
            tried_size = size + steps_size * np.spacing(size)
            # As the reader computes it, the clipping included.
            found_low = np.maximum((tried_centre - tried_size / 2) * sides, 0)
            found_high = np.minimum((tried_centre + tried_size / 2) * sides, sides)
            hit = ~exact & (found_low == low) & (found_high == high)
            best_centre[hit], best_size[hit] = tried_centre[hit], tried_size[hit]
            exact |= hit
    return np.concatenate([best_centre, best_size], axis=1), exact.all(axis=1)


def _inner_names(index: DatasetIndex) -> tuple[str, list[str]]:
    """Returns the folder that all images have in common, and (I,) their names in it."""
    files = [os.path.abspath(index.image_path(position)) for position in range(len(index))]
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    return folder, [os.path.relpath(file, folder).replace(os.sep, "/") for file in files]


def _free_name(name: str, taken: set[str], *, spaces: bool) -> str:
    """Returns the name, or the nearest that a list can hold and that is free; takes it."""
    plain = "".join(c if c.isprintable() and (spaces or not c.isspace()) else "_" for c in name)
    free, number = plain, 2
    while free in taken:
        free, number = f"{plain}-{number}", number + 1
    taken.add(free)
    return free


@dataclass(frozen=True)
class Changes:
    """Numbers of the objects of a split that reading back changes, by kind of change."""

    crowd: int = 0
    difficult: int = 0
    clipped: int = 0
    thin: int = 0
    duplicates: int = 0
    areas: int = 0


def as_read_back(index: DatasetIndex, to: str) -> tuple[DatasetIndex, Changes]:
    """Returns the index with the objects as a format's reader returns them, and what that changes.

    Image and annotation ids, and file names, are left as they are.
    """
    if to == "coco":
        return index, Changes()
    counts: dict[str, int] = {}
    if to == "yolo":
        counts["crowd"] = int(index.crowd.sum())
        counts["difficult"] = int((index.difficult & ~index.crowd).sum())
        index = select_gt(index, ~(index.crowd | index.difficult))
    else:
        counts["difficult"] = int((index.difficult & index.crowd).sum())
        index = replace(index, difficult=index.difficult & ~index.crowd)
    index, counts["clipped"] = _clipped(index)
    if to == "voc":
        index, counts["thin"] = _wide_enough(index)
    index, counts["duplicates"] = _without_duplicates(index)
    if to == "yolo":
        extents = (index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2]).prod(axis=1)
        # Up to rounding: COCO's own product of width and height is no other area.
        counts["areas"] = int((~np.isclose(index.areas, extents, rtol=1e-9)).sum())
    return index, Changes(**counts)


def _clipped(index: DatasetIndex) -> tuple[DatasetIndex, int]:
    """Returns the index with its boxes clipped to their images, and how many that changes."""
    limits = np.tile(index.sizes_wh[index.gt_image_positions()].astype(np.float64), 2)
    boxes_xyxy = np.clip(index.boxes_xyxy, 0.0, limits)
    changed = int((boxes_xyxy != index.boxes_xyxy).any(axis=1).sum())
    return replace(index, boxes_xyxy=boxes_xyxy, stated_xywh=None) if changed else index, changed


def _without_duplicates(index: DatasetIndex) -> tuple[DatasetIndex, int]:
    """Returns the index without boxes that repeat an earlier one, and how many did."""
    duplicate = duplicate_boxes(index)
    count = int(duplicate.sum())
    return (select_gt(index, ~duplicate) if count else index), count


def _wide_enough(index: DatasetIndex) -> tuple[DatasetIndex, int]:
    """Returns the index with the boxes over one pixel wide and high, and how many are not."""
    # The reader's own rule: of xmin, which is one more than x0, and xmax.
    wider = index.boxes_xyxy[:, 2:] > index.boxes_xyxy[:, :2] + 1
    chosen = np.asarray(wider.all(axis=1))
    thin = int((~chosen).sum())
    return (select_gt(index, chosen) if thin else index), thin
