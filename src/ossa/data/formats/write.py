"""Writing a split as COCO, VOC or YOLO, such that the reader of the format gives it back.

Each `write_*` writes one split into a folder and returns what stands for it in a data.yaml.
`as_read_back` changes annotations as the reader would.
Dimensions: I images, N ground-truth objects.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_cxcywh
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


def write_coco(
    index: DatasetIndex, split: str, folder: Path, *, place_image: PlaceImage | None
) -> WrittenSplit:
    """Writes annotations/SPLIT.json, and images/SPLIT where `place_image` is given."""
    images, names = _inner_names(index)
    files = [os.path.join(images, name) for name in names]
    annotations = folder / "annotations" / f"{split}.json"
    entry = {"images": os.path.relpath(images, index.root), "annotations": str(annotations)}
    if place_image is not None:
        entry = {"images": f"images/{split}", "annotations": f"annotations/{split}.json"}
        copies = [str(folder / "images" / split / name) for name in names]
        for file, copy in zip(files, copies, strict=True):
            place_image(file, Path(copy))
        files = copies
    categories = zip(index.category_ids.tolist(), index.names, strict=True)
    placed = zip(index.image_ids.tolist(), names, index.sizes_wh.tolist(), strict=True)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    with annotations.open("x", encoding="utf-8") as stream:
        stream.write('{"info": {}, "licenses": [],\n"categories": ')
        stream.write(json.dumps([{"id": number, "name": name} for number, name in categories]))
        stream.write(',\n"images": ')
        _write_list(
            stream,
            (
                {"id": number, "file_name": name, "width": width, "height": height}
                for number, name, (width, height) in placed
            ),
        )
        stream.write(',\n"annotations": ')
        _write_list(stream, _coco_annotations(index))
        stream.write("}\n")
    return WrittenSplit(entry, tuple(files))


def _coco_annotations(index: DatasetIndex) -> Iterable[dict[str, Any]]:
    image_ids = index.image_ids[index.gt_image_positions()].tolist()
    bboxes = index.boxes_xywh.tolist()
    for row, image_id in enumerate(image_ids):
        annotation = {
            "id": int(index.annotation_ids[row]),
            "image_id": image_id,
            "category_id": int(index.category_ids[index.labels[row]]),
            "bbox": bboxes[row],
            "area": float(index.areas[row]),
            "iscrowd": int(index.crowd[row]),
            "segmentation": [],
        }
        yield annotation | ({"difficult": 1} if index.difficult[row] else {})


def _write_list(stream: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    separator = "[\n"
    for row in rows:
        stream.write(separator + json.dumps(row))
        separator = ",\n"
    stream.write("\n]" if separator == ",\n" else "[]")


def write_voc(
    index: DatasetIndex,
    split: str,
    folder: Path,
    *,
    place_image: PlaceImage,
    stems: dict[tuple[str, str], str],
) -> WrittenSplit:
    """Writes ImageSets/Main/SPLIT.txt, Annotations/*.xml and JPEGImages.

    `stems` are those given so far by image and annotation, for the splits have one folder; the new
    ones are added.
    """
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    taken = set(stems.values())
    files, listed = [], []
    for position in range(len(index)):
        image = str(index.image_path(position))
        xml = _voc_xml(index, position)
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
    return WrittenSplit(entry, tuple(files))


def _voc_xml(index: DatasetIndex, position: int) -> str:
    width, height = index.sizes_wh[position].tolist()
    lines = [
        "<annotation>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    rows = index.gt_rows(position)
    for row in range(rows.start, rows.stop):
        crowd = bool(index.crowd[row])
        corners = (index.boxes_xyxy[row] + (1, 1, 0, 0)).tolist()
        box = "".join(
            f"<{tag}>{_number(value)}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        lines += [
            "  <object>",
            f"    <name>{escape(index.names[index.labels[row]])}</name>",
            # Who does not know of crowds passes over what is difficult, as over a crowd.
            f"    <difficult>{int(crowd or bool(index.difficult[row]))}</difficult>",
            *(["    <iscrowd>1</iscrowd>"] if crowd else []),
            f"    <area>{_number(float(index.areas[row]))}</area>",
            f"    <bndbox>{box}</bndbox>",
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
    sides = np.tile(index.sizes_wh[index.gt_image_positions()], 2)
    fractions = xyxy_to_cxcywh(index.boxes_xyxy) / sides
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
            for label, box in zip(
                index.labels[rows].tolist(), fractions[rows].tolist(), strict=True
            )
        )
        labels.write_text("".join(lines), encoding="utf-8")
        files.append(str(image))
        listed.append(relative)
    entry = f"{split}.txt"
    (folder / entry).write_text("".join(f"./{name}\n" for name in listed), encoding="utf-8")
    return WrittenSplit(entry, tuple(files))


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


def as_read_back(index: DatasetIndex, to: str) -> tuple[DatasetIndex, Counter[str]]:
    """Returns the index with the objects as a format's reader returns them, and what that changes.

    Image and annotation ids, and file names, are left as they are. The counts of changed objects
    are by kind: crowd, difficult, clipped, thin, duplicates, areas.
    """
    counts: Counter[str] = Counter()
    if to == "coco":
        return index, counts

    def without(dropped: NDArray[np.bool_], kind: str) -> DatasetIndex:
        counts[kind] = int(dropped.sum())
        return select_gt(index, ~dropped) if counts[kind] else index

    if to == "yolo":
        index = without(index.crowd, "crowd")
        index = without(index.difficult, "difficult")
    else:
        counts["difficult"] = int((index.difficult & index.crowd).sum())
        index = replace(index, difficult=index.difficult & ~index.crowd)
    limits = np.tile(index.sizes_wh[index.gt_image_positions()].astype(np.float64), 2)
    clipped = np.clip(index.boxes_xyxy, 0.0, limits)
    counts["clipped"] = int((clipped != index.boxes_xyxy).any(axis=1).sum())
    if counts["clipped"]:
        index = replace(index, boxes_xyxy=clipped, stated_xywh=None)
    if to == "voc":  # the reader's own rule: of xmin, which is one more than x0, and xmax
        thin = index.boxes_xyxy[:, 2:] <= index.boxes_xyxy[:, :2] + 1
        index = without(np.asarray(thin.any(axis=1)), "thin")
    index = without(duplicate_boxes(index), "duplicates")
    if to == "yolo":
        extents = (index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2]).prod(axis=1)
        # Up to rounding: COCO's own product of width and height is no other area.
        counts["areas"] = int((~np.isclose(index.areas, extents, rtol=1e-9)).sum())
    return index, counts
