"""What the readers of all formats share: columns, rules for boxes, and images with label files.

Dimensions: I images, N ground-truth objects, K classes.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex, LabelSearch
from ossa.data.cache_files import SourceLog
from ossa.data.decode import read_header
from ossa.data.description import DataDescription
from ossa.data.issues import Box, IssueKind, IssueLog
from ossa.data.paths import FileListing, folders_under, is_image, numbered_lines, relative_to
from ossa.errors import DataError, legible

Fault = tuple[IssueKind, str]
"""Why an annotation cannot be used."""

# Rounding to whole pixels and counting from 1 put a box up to one pixel outside its image;
# the rest is for decimals that were rounded themselves.
_ROUNDING_PIXELS: Final = 1.01
_FARTHEST: Final = 2.0**31
"""Pixels: what is farther from an image overflows sooner or later."""


class LabelledBox(NamedTuple):
    """An object of a label file whose class and box can be used."""

    line: int
    label: int
    box_xyxy: Box
    area: float | None = None
    """In pixels; None for width x height."""
    crowd: bool = False
    difficult: bool = False


def read_label_files(
    images: Iterable[tuple[str, tuple[Path, int] | None]],
    read_boxes: Callable[[Path, str, tuple[int, int]], Iterable[LabelledBox] | None],
    *,
    description: DataDescription,
    places_of: Callable[[str], tuple[str, ...]],
    log: IssueLog,
    sources: SourceLog,
) -> tuple[DatasetIndex, LabelSearch]:
    """Returns the index of images that have a label file each (YOLO, VOC).

    An image without label file is background for YOLO, and left out for VOC.

    Args:
        images: absolute paths, with list and line that name them, if any.
        read_boxes: returns the boxes of a label file, its image and size, or None, reported, where
            the file cannot be read: without its boxes the image would train as background.
        description: of the data set.
        places_of: where the label file of an image may lie, the preferred place first.
        log: takes the issues.
        sources: takes all files that are looked at.
    """
    present, unlabelled = FileListing(sources), []
    files, sizes_wh, counts = [], [], []
    boxes: list[LabelledBox] = []
    images_of: dict[Path, list[str]] = {}
    for image, listed in images:
        sources.add(image)
        size_wh = size_or_report(image, log=log, listed=listed)
        if size_wh is None:
            continue
        found: Iterable[LabelledBox] | None = ()
        file = _label_file(image, places_of(image), present, log=log)
        if file is not None:
            sources.add(file)
            images_of.setdefault(file, []).append(image)
            found = read_boxes(file, image, size_wh)
        else:
            unlabelled.append(image)
            if description.format == "voc":
                what, kind = "no annotation file", IssueKind.IMAGE_WITHOUT_LABELS
                place = Path(places_of(image)[0])
                log.report(place, None, what, action="image left out", kind=kind, image=image)
                continue
        if found is not None:
            report = partial(log.report, file or Path(image), image=image)
            different = _different(found, report)
            files.append(image)
            sizes_wh.append(size_wh)
            counts.append(len(different))
            boxes += different
    for file, of_file in images_of.items():
        if len(of_file) > 1:
            what = f"labels of {len(of_file)} images, {', '.join(map(os.path.basename, of_file))}"
            kind = IssueKind.LABELS_SHARED
            log.report(file, None, what, action="read for each", kind=kind, image=of_file[1])
    index = _index(files, sizes_wh, counts, boxes, description=description)
    num_images = len(files) + (len(unlabelled) if description.format == "voc" else 0)
    return index, LabelSearch(num_images, tuple(unlabelled), present.folders)


def _different(boxes: Iterable[LabelledBox], report: Callable[..., None]) -> list[LabelledBox]:
    """Returns the boxes without those that state class and corners of an earlier one."""
    different: dict[tuple[int, Box], LabelledBox] = {}
    for box in boxes:
        if different.setdefault((box.label, box.box_xyxy), box) is not box:
            kind, what = IssueKind.BOX_DUPLICATED, "box stated twice"
            report(box.line, what, action="kept once", kind=kind, box_xyxy=box.box_xyxy)
    return list(different.values())


def _index(
    files: list[str],
    sizes_wh: list[tuple[int, int]],
    counts: list[int],
    boxes: list[LabelledBox],
    *,
    description: DataDescription,
) -> DatasetIndex:
    """Returns columns of images and their objects.

    Classes without ids of their own are numbered from 0, objects from 1, and images by their stems
    where all of these are different numbers, else from 1.
    """
    names = description.names or ()
    boxes_xyxy = np.array([box.box_xyxy for box in boxes], np.float64).reshape(-1, 4)
    extents = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    areas = np.array([math.nan if box.area is None else box.area for box in boxes], np.float64)
    return DatasetIndex(
        root=description.root,
        names=names,
        category_ids=np.array(description.category_ids or range(len(names)), np.int64),
        file_names=np.array([relative_to(description.root, file) for file in files], np.str_),
        image_ids=np.array(ids_from_stems(files), np.int64),
        sizes_wh=np.array(sizes_wh, np.int32).reshape(-1, 2),
        gt_offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes_xyxy=boxes_xyxy,
        labels=np.array([box.label for box in boxes], np.int64),
        areas=np.where(np.isnan(areas), extents, areas),
        crowd=np.array([box.crowd for box in boxes], np.bool_),
        difficult=np.array([box.difficult for box in boxes], np.bool_),
        annotation_ids=np.arange(1, len(boxes) + 1, dtype=np.int64),
    )


def ids_from_stems(files: list[str]) -> list[int]:
    """Returns the stems as numbers where all are different ones, else 1, 2, 3, ..."""
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    # 18 digits fit an int64; isdecimal alone accepts digits of other scripts.
    if all(stem.isascii() and stem.isdecimal() and len(stem) <= 18 for stem in stems):
        ids = [int(stem) for stem in stems]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


def images_of_split(
    description: DataDescription,
    split: str,
    *,
    listed_in: Callable[[Path], Iterator[tuple[int, str, str]]],
    log: IssueLog,
    sources: SourceLog,
) -> Iterator[tuple[str, tuple[Path, int] | None]]:
    """Yields the images of folders, sorted, and of lists, each once and with list and line.

    `listed_in` yields line, text and absolute path of the usable entries of a list. Linked folders
    that lead out of the data set are reported.
    """
    seen: set[str] = set()
    for source in description.splits[split].sources:
        sources.add(source)
        twice = partial(log.report, source, action="read once", kind=IssueKind.IMAGE_LISTED_TWICE)
        if source.is_dir():
            found = []
            for parent, names in folders_under(source, enter=log.may_be_read):
                sources.add(parent)
                found += [os.path.join(parent, name) for name in names if is_image(name)]
            again = sorted(seen.intersection(found))
            if again:
                what = f"{len(again)} of its images are in an entry before it, too"
                twice(None, what, image=again[0])
            yield from ((image, None) for image in sorted({*found} - seen))
            seen.update(found)
            continue
        for line, text, image in listed_in(source):
            if image in seen:
                twice(line, f"'{text}' is listed twice", image=image)
            else:
                seen.add(image)
                yield image, (source, line)


def _label_file(
    image: str, candidates: tuple[str, ...], present: FileListing, *, log: IssueLog
) -> Path | None:
    """Returns the first of the candidates that exists, or None.

    Another one that exists, too, and has a different content, is reported.
    """
    found = [Path(file) for file in candidates if file in present][:2]
    if len(found) > 1 and not _same_content(*found):
        what = f"{found[1]} says something else of the same image"
        kind = IssueKind.LABELS_AT_TWO_PLACES
        log.report(found[0], None, what, action="the other not read", kind=kind, image=image)
    return found[0] if found else None


def _same_content(one: Path, other: Path) -> bool:
    try:
        first, second = ([text for _, text in numbered_lines(file)] for file in (one, other))
    except (OSError, UnicodeDecodeError):  # reported when the labels are read
        return True
    return first == second


def size_or_report(
    file: str, *, log: IssueLog, listed: tuple[Path, int] | None = None
) -> tuple[int, int] | None:
    """Returns width and height of an image, or None, reported, where it cannot be read.

    `listed` are list and line that name it, which are reported where it does not exist.
    """
    if not log.may_be_read(file, listed=listed):
        return None
    try:
        size_wh = read_header(Path(file)).size_wh
        log.num_images += 1
        return size_wh
    except DataError as error:
        place, what = (Path(file), None), f"unreadable image: {error.found}"
        kind = IssueKind.IMAGE_UNREADABLE
    if listed is not None and not os.path.exists(file):
        place, what, kind = listed, f"no image {legible(file)}", IssueKind.IMAGE_MISSING
    log.report(*place, what, action="image left out", kind=kind)
    return None


def fault_of_box(box_xyxy: Box, size_wh: tuple[int, int]) -> Fault | None:
    """Returns why a box cannot be used in an image of this size, or None."""
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    if not all(math.isfinite(number) for number in box_xyxy):
        return IssueKind.BOX_MALFORMED, "box with a coordinate that is not a number"
    if max(map(abs, box_xyxy)) > _FARTHEST:
        what = f"box {shown(box_xyxy)} with a coordinate beyond any image"
        return IssueKind.BOX_MALFORMED, what
    if x1 <= x0 or y1 <= y0:
        return IssueKind.BOX_EMPTY, f"box of no area, {x1 - x0:g} x {y1 - y0:g} pixels"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        what = f"box {shown(box_xyxy)} outside the image of {width}x{height} pixels"
        return IssueKind.BOX_OUTSIDE, what
    return None


def overhang(box_xyxy: Box, size_wh: tuple[int, int]) -> str | None:
    """Returns how far a box reaches out of its image, or None within one pixel of rounding."""
    x0, y0, x1, y1 = box_xyxy
    beyond = max(-x0, -y0, x1 - size_wh[0], y1 - size_wh[1])
    if beyond <= _ROUNDING_PIXELS:
        return None
    return f"box {shown(box_xyxy)} reaches {beyond:.3g} pixels out of the image"


def suspicious(boxes_xyxy: NDArray[np.float64], sizes_wh: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Returns (N,) whether `fault_of_box` or `overhang` of a box is not None."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    # Comparisons that are false for a coordinate that is not a number.
    fine = (low < high) & (high > 0) & (low < sizes_wh)
    fine &= (low >= -_ROUNDING_PIXELS) & (high - sizes_wh <= _ROUNDING_PIXELS)
    return ~np.asarray(fine.all(axis=1))


def usable_box(
    box_xyxy: Box, size_wh: tuple[int, int], *, report: Callable[..., None]
) -> Box | None:
    """Returns a box clipped to its image, or None where it had to be dropped; reports both.

    `report` is that of the log for a given file and line.
    """
    fault = fault_of_box(box_xyxy, size_wh)
    if fault is not None:
        kind, what = fault
        report(what, action="box dropped", kind=kind, box_xyxy=box_xyxy)
        return None
    beyond = overhang(box_xyxy, size_wh)
    if beyond is not None:
        kind = IssueKind.BOX_OVERHANGING
        report(beyond, action="box clipped", kind=kind, box_xyxy=box_xyxy)
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def shown(box_xyxy: Box) -> str:
    """Returns a box as text: (x0, y0, x1, y1)."""
    return f"({', '.join(f'{number:.6g}' for number in box_xyxy)})"
