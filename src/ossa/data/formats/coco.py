"""COCO: one JSON file a split, with its images in one folder.

Ids of images, annotations and categories are kept, whole numbers also where they are written as 1.0
or "1"; of two categories of one name the one with annotations counts. Classes stand in the order
of their ids, and images in the order of theirs, as pycocotools has them. Boxes are not clipped, and
crowd regions have `crowd` set. An annotation may have a key `difficult`, of 0 or 1, as
VOC has it; pycocotools does not look at it. Most files are one long line: issues name line and
annotation id.

The file is read element by element into columns, so that its outlines are never in memory at once.
"""

import math
import struct
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, LabelSearch
from ossa.data.cache_files import SourceLog
from ossa.data.description import DataDescription
from ossa.data.formats.common import fault_of_box, overhang, size_or_report, suspicious
from ossa.data.formats.json_stream import stream_lists
from ossa.data.issues import IssueKind, IssueLog
from ossa.data.paths import FileListing, absolute, is_hidden_below, relative_to
from ossa.errors import DataError, legible

_IDS: Final = ("id", "image_id", "category_id")
_NUMBER: Final = frozenset({int, float})
_LARGEST: Final = sys.float_info.max
_EXACT_FLOATS: Final = 2.0**53
"""Up to which two ids written as floats are never one by rounding."""

_ROW: Final = struct.Struct("<4q5d2?")
_ROW_TYPE: Final = np.dtype(
    [
        *((name, "<i8") for name in (*_IDS, "line")),
        *(("bbox", "<f8", 4), ("area", "<f8"), ("crowd", "?"), ("difficult", "?")),
    ]
)
"""An annotation as `_ROW` packs it; an area that is not stated is NaN."""


def read(
    description: DataDescription, split: str, *, log: IssueLog, sources: SourceLog
) -> tuple[DatasetIndex, LabelSearch]:
    """Returns the index of a split; see `ossa.data.reading.read_index`."""
    source = description.splits[split]
    (file,) = source.sources
    sources.add(file)
    content = _Content(file, log)
    for key, line, row in stream_lists(file, ("images", "annotations", "categories")):
        content.add(key, line, row)
    names_by_id = _categories(content, description)
    category_ids = np.array(list(names_by_id), np.int64)
    images = _present_images(
        content,
        source.images or file.parent,
        annotations_only=description.annotations_only,
        log=log,
        sources=sources,
    )
    chosen = _rows_in_order(content, images, log=log)
    rows = content.rows[_usable(chosen, content, images, category_ids, log=log)]
    starts = np.searchsorted(rows["image_id"], images.ids)
    pairs = zip(images.ids.tolist(), images.files, strict=True)
    unlabelled = [path for image_id, path in pairs if image_id not in content.annotated]
    index = DatasetIndex(
        root=description.root,
        names=tuple(names_by_id.values()),
        category_ids=category_ids,
        file_names=np.array([relative_to(description.root, path) for path in images.files], str),
        image_ids=images.ids,
        sizes_wh=images.sizes_wh,
        gt_offsets=np.append(starts, len(rows)).astype(np.int64),
        boxes_xyxy=_boxes_xyxy(rows),
        labels=np.searchsorted(category_ids, rows["category_id"]).astype(np.int64),
        # Not from xyxy: (x + w) - x is not always w, and sizes decide where an object is counted.
        areas=np.where(np.isnan(rows["area"]), rows["bbox"][:, 2:].prod(axis=1), rows["area"]),
        crowd=np.ascontiguousarray(rows["crowd"]),
        difficult=np.ascontiguousarray(rows["difficult"]),
        annotation_ids=np.ascontiguousarray(rows["id"]),
        stated_xywh=np.ascontiguousarray(rows["bbox"]),
    )
    return index, LabelSearch(len(index), tuple(unlabelled), (str(file),))


class _Content:
    """What an index needs of a COCO file."""

    def __init__(self, file: Path, log: IssueLog) -> None:
        self.file = file
        self.categories: list[tuple[int, dict[str, Any]]] = []
        """Line and what stands there."""
        self.images: dict[int, tuple[int, str, Any, Any]] = {}
        """Line, file name, width and height by id."""
        self.annotated: set[int] = set()
        """Ids of the images that an annotation names, usable or not."""
        self._log = log
        self._rows = bytearray()

    @property
    def rows(self) -> NDArray[np.void]:
        """The annotations as `_ROW_TYPE`, in the order of the file."""
        return np.frombuffer(self._rows, _ROW_TYPE)

    def error(
        self, expected: str, found: str, *, line: int | None = None, advice: str | None = None
    ) -> DataError:
        return DataError(expected=expected, found=found, path=self.file, line=line, advice=advice)

    def add(self, key: str, line: int, row: Any) -> None:
        """Takes an element of one of the three lists, and the line that it begins in."""
        if type(row) is not dict:
            raise self.error(f"a list of objects as '{key}'", legible(repr(row)), line=line)
        if key == "annotations":
            self._add_annotation(line, row)
        elif key == "images":
            self._add_image(line, row)
        else:
            self.categories.append((line, row))

    def _add_annotation(self, line: int, row: dict[str, Any]) -> None:
        """Takes an annotation; reports one whose ids are no whole numbers."""
        annotation_id, image_id, category_id = ids = [as_id(row.get(key)) for key in _IDS]
        bbox, area = row.get("bbox"), row.get("area", math.nan)
        if type(area) not in _NUMBER or not 0 <= area <= _LARGEST:
            area = math.nan
        # As a text 0 is true, and the object would not train.
        crowd = str(row.get("iscrowd") or "0").lower() not in ("0", "0.0", "false", "no")
        flags = crowd, row.get("difficult") in (1, "1")
        dropped = partial(self._log.report, self.file, line, action="box dropped")
        which = f"annotation {annotation_id} of image {image_id}"
        if not _is_id(annotation_id):
            what = f"annotation id {legible(repr(annotation_id))} is no whole number"
            dropped(what, kind=IssueKind.ENTRY_UNUSABLE)
            return
        if not _is_id(image_id):
            what = f"annotation {annotation_id} of an unknown image, {legible(repr(image_id))}"
            dropped(what, kind=IssueKind.LABELS_WITHOUT_IMAGE)
            return
        self.annotated.add(image_id)
        if not _is_id(category_id):
            what = f"{which}: class {legible(repr(category_id))} unknown"
            dropped(what, kind=IssueKind.CLASS_UNKNOWN)
        elif type(bbox) is not list or len(bbox) != 4 or not {*map(type, bbox)} <= _NUMBER:
            what = f"{which}: expected four numbers as bbox, found {legible(repr(bbox))}"
            dropped(what, kind=IssueKind.BOX_MALFORMED)
        else:
            try:
                self._rows += _ROW.pack(*ids, line, *bbox, area, *flags)
            except (struct.error, OverflowError):  # a number of many digits
                self._rows += _ROW.pack(*ids, line, *(math.nan,) * 4, area, *flags)

    def _add_image(self, line: int, row: dict[str, Any]) -> None:
        image_id, name = as_id(row.get("id")), row.get("file_name")
        if not _is_id(image_id) or not isinstance(name, str):
            expected = "a whole number as id and a text as file_name for each of 'images'"
            found = f"{legible(repr(image_id))} and {legible(repr(name))}"
            raise self.error(expected, found, line=line)
        if image_id in self.images:
            what = f"id {image_id} of image '{legible(name)}' belongs to another image"
            kind = IssueKind.ENTRY_UNUSABLE
            self._log.report(self.file, line, what, action="image left out", kind=kind)
        else:
            self.images[image_id] = line, name, row.get("width"), row.get("height")


def as_id(value: Any) -> Any:
    """Returns a whole number also for 1.0 and "1"; any other value as it is."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT_FLOATS:
        return int(value)
    # 18 digits fit a column; isdecimal alone accepts digits of other scripts.
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    return value


def _is_id(value: Any) -> TypeGuard[int]:
    """Returns whether a value is a whole number that fits a column."""
    return type(value) is int and -(2**63) <= value < 2**63


def _categories(content: _Content, description: DataDescription) -> dict[int, str]:
    """Returns the names by id, in the order of the ids.

    A second category of one name is dropped where it has no annotation: exporters write the
    project, which often has the name of its class, as root of the categories.
    """
    names_by_id: dict[int, str] = {}
    ids_by_name: dict[str, set[int]] = {}
    children = set()
    for line, row in content.categories:
        category_id, name = as_id(row.get("id")), row.get("name")
        if not _is_id(category_id) or not isinstance(name, str):
            expected = "a whole number as id and a text as name for each of 'categories'"
            found = f"{legible(repr(category_id))} and {legible(repr(name))}"
            raise content.error(expected, found, line=line)
        if names_by_id.setdefault(category_id, name) != name:
            found = f"{category_id} of {names_by_id[category_id]!r} and {name!r}"
            raise content.error("every id once in 'categories'", legible(found), line=line)
        ids_by_name.setdefault(name, set()).add(category_id)
        if row.get("supercategory") == name:
            children.add(category_id)
    used = set(np.unique(content.rows["category_id"]).tolist())
    for name, ids in ids_by_name.items():
        annotated = sorted(ids & used)
        if len(annotated) > 1:
            raise content.error(
                "every name once in 'categories'",
                f"{legible(repr(name))} as ids {annotated[0]} and {annotated[1]}, both with "
                "annotations",
                advice="rename one of them, or give the annotations of both one id",
            )
        kept = min(annotated or ids & children or ids)
        for dropped in ids - {kept}:
            del names_by_id[dropped]
    if not names_by_id:
        raise content.error("a list of classes as 'categories'", "an empty one")
    names_by_id = dict(sorted(names_by_id.items()))
    names = tuple(names_by_id.values())
    if description.names not in (None, names):
        raise DataError(
            expected=f"the names of {content.file} in the order of their ids, {list(names)}",
            found=str(list(description.names or ())),
            path=description.file,
            advice="correct or remove 'names'",
        )
    return names_by_id


@dataclass(frozen=True)
class _Images:
    """The images that can be used, in the order of their ids."""

    ids: NDArray[np.int64]
    files: list[str]
    """Absolute paths."""
    sizes_wh: NDArray[np.int32]


def _present_images(
    content: _Content,
    folder: Path,
    *,
    annotations_only: bool,
    log: IssueLog,
    sources: SourceLog,
) -> _Images:
    present = FileListing(sources)
    ids, files, sizes_wh = [], [], []
    for image_id, (line, name, *stated_wh) in sorted(content.images.items()):
        path = absolute(name, folder)
        is_stated = all(type(side) is int and 0 < side < 2**31 for side in stated_wh)
        report = partial(log.report, content.file, line, action="image left out")
        if is_hidden_below(path, folder):
            report(f"'{name}' is hidden, so no image", kind=IssueKind.ENTRY_UNUSABLE)
            continue
        if not log.may_be_read(path, listed=(content.file, line), name=name):
            continue
        if not (annotations_only and is_stated) and path not in present:
            report(f"no image {legible(path)}", kind=IssueKind.IMAGE_MISSING)
            continue
        size_wh = tuple(stated_wh)
        if not is_stated:
            sources.add(path)
            size_wh = size_or_report(path, log=log)
        if size_wh is not None:
            log.num_images += 1
            ids.append(image_id)
            files.append(path)
            sizes_wh.append(size_wh)
    sizes = np.array(sizes_wh, np.int32).reshape(-1, 2)
    return _Images(np.array(ids, np.int64), files, sizes)


def _rows_in_order(content: _Content, images: _Images, *, log: IssueLog) -> NDArray[np.int64]:
    """Returns the rows of the annotations of usable images, image by image.

    Within an image they keep the order of the file. Those of images that the file does not know,
    and those whose id was used before, are reported.
    """
    rows = content.rows
    has_image = np.isin(rows["image_id"], np.fromiter(content.images, np.int64))
    known = np.flatnonzero(has_image)
    known = np.sort(known[np.unique(rows["id"][known], return_index=True)[1]])
    for row in np.setdiff1d(np.arange(len(rows)), known).tolist():
        annotation_id, image_id, line = (rows[key][row] for key in ("id", "image_id", "line"))
        what, kind = f"annotation id {annotation_id} is used before", IssueKind.ENTRY_UNUSABLE
        if not has_image[row]:
            what = f"annotation {annotation_id} of an unknown image, {image_id}"
            kind = IssueKind.LABELS_WITHOUT_IMAGE
        log.report(content.file, int(line), what, action="box dropped", kind=kind)
    known = known[np.isin(rows["image_id"][known], images.ids)]
    return known[np.argsort(rows["image_id"][known], kind="stable")]


def _usable(
    chosen: NDArray[np.int64],
    content: _Content,
    images: _Images,
    category_ids: NDArray[np.int64],
    *,
    log: IssueLog,
) -> NDArray[np.int64]:
    """Returns those of the chosen rows whose class and box can be used; reports what is wrong."""
    rows = content.rows[chosen]
    boxes_xyxy = _boxes_xyxy(rows)
    positions = np.searchsorted(images.ids, rows["image_id"])
    sizes_wh = images.sizes_wh[positions]
    has_class = np.isin(rows["category_id"], category_ids)
    usable = np.ones(len(rows), np.bool_)
    for place in np.flatnonzero(~has_class | suspicious(boxes_xyxy, sizes_wh)).tolist():
        row, box_xyxy, size_wh = rows[place], boxes_xyxy[place].tolist(), sizes_wh[place].tolist()
        fault = fault_of_box(box_xyxy, size_wh)
        if not has_class[place]:
            fault = IssueKind.CLASS_UNKNOWN, f"class {row['category_id']} unknown"
        beyond = overhang(box_xyxy, size_wh)
        report = partial(
            log.report,
            content.file,
            int(row["line"]),
            image=images.files[positions[place]],
            box_xyxy=tuple(box_xyxy),
        )
        which = f"annotation {row['id']} of image {row['image_id']}"
        if fault is not None:
            usable[place] = False
            kind, what = fault
            report(f"{which}: {what}", action="box dropped", kind=kind)
        elif beyond is not None:
            kind = IssueKind.BOX_OVERHANGING
            report(f"{which}: {beyond}", action="box kept as it is", kind=kind)
    return chosen[usable]


def _boxes_xyxy(rows: NDArray[np.void]) -> NDArray[np.float64]:
    """Returns (N, 4) the boxes of annotations."""
    bbox = rows["bbox"]
    return np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
