"""What the readers of all formats share: columns, rules for boxes, and the finding of images.

Dimensions: I images, N ground-truth objects, K classes.
"""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.cache_files import SourceLog
from ossa.data.decode import read_header
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


class Columns:
    """The columns of a DatasetIndex while they grow, one image after the other."""

    def __init__(self) -> None:
        self.files: list[str] = []
        """Absolute paths."""
        self._sizes_wh: list[tuple[int, int]] = []
        self._counts: list[int] = []
        self._objects: list[tuple[Box, int, float, bool, bool]] = []

    def add_image(self, file: str, size_wh: tuple[int, int]) -> None:
        """Begins an image, to which the objects added next belong."""
        self.files.append(file)
        self._sizes_wh.append(size_wh)
        self._counts.append(0)

    def add_gt(
        self,
        box_xyxy: Box,
        label: int,
        *,
        area: float | None = None,
        crowd: bool = False,
        difficult: bool = False,
    ) -> None:
        """Adds an object to the last image; its area is width x height where not given."""
        x0, y0, x1, y1 = box_xyxy
        self._counts[-1] += 1
        area = (x1 - x0) * (y1 - y0) if area is None else area
        self._objects.append((box_xyxy, label, area, crowd, difficult))

    def to_index(
        self, root: Path, names: tuple[str, ...], category_ids: Iterable[int] | None = None
    ) -> DatasetIndex:
        """Returns the columns as arrays.

        Classes without ids of their own are numbered from 0, objects from 1, and images by their
        stems where all of these are different numbers, else from 1.
        """
        ids = range(len(names)) if category_ids is None else category_ids
        columns = zip(*self._objects, strict=True) if self._objects else [()] * 5
        boxes_xyxy, labels, areas, crowd, difficult = columns
        return DatasetIndex(
            root=root,
            names=names,
            category_ids=np.array(list(ids), np.int64),
            file_names=np.array([relative_to(root, file) for file in self.files], np.str_),
            image_ids=np.array(ids_from_stems(self.files), np.int64),
            sizes_wh=np.array(self._sizes_wh, np.int32).reshape(-1, 2),
            gt_offsets=np.concatenate(([0], np.cumsum(self._counts))).astype(np.int64),
            boxes_xyxy=np.array(boxes_xyxy, np.float64).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            areas=np.array(areas, np.float64),
            crowd=np.array(crowd, np.bool_),
            difficult=np.array(difficult, np.bool_),
            annotation_ids=np.arange(1, len(labels) + 1, dtype=np.int64),
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

    Args:
        box_xyxy: as stated.
        size_wh: of the image.
        report: `IssueLog.report` of a given file and line.
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


def size_or_report(
    file: str, *, log: IssueLog, listed: tuple[Path, int] | None = None
) -> tuple[int, int] | None:
    """Returns width and height of an image, or None, reported, where it cannot be read.

    Args:
        file: the image.
        log: takes the report.
        listed: list and line that name the image, which are reported where it does not exist.
    """
    if not log.may_be_read(file, listed=listed):
        return None
    path = Path(file)
    try:
        size_wh = read_header(path).size_wh
        log.num_images += 1
        return size_wh
    except DataError as error:
        reason = error.found
    if listed is not None and not os.path.exists(file):
        what, kind = f"no image {legible(file)}", IssueKind.IMAGE_MISSING
        log.report(*listed, what, action="image left out", kind=kind)
    else:
        what, kind = f"unreadable image: {reason}", IssueKind.IMAGE_UNREADABLE
        log.report(path, None, what, action="image left out", kind=kind)
    return None


def images_under(folder: Path, *, sources: SourceLog, log: IssueLog) -> list[str]:
    """Returns the absolute paths of all images in a folder and its subfolders, sorted.

    Linked folders that lead out of the data set are reported.

    Raises:
        DataError: one of the folders cannot be read.
    """
    found = []
    for parent, names in folders_under(folder, enter=log.may_be_read):
        sources.add(parent)
        found += [os.path.join(parent, name) for name in names if is_image(name)]
    return sorted(found)


def label_file_of(
    image: str, candidates: tuple[str, ...], present: FileListing, *, log: IssueLog
) -> Path | None:
    """Returns the first of the candidates that exists, or None.

    Another one that exists, too, and has a different content, is reported.
    """
    found = [Path(file) for file in candidates if file in present][:2]
    if len(found) > 1 and not _same_content(*found):
        what, kind = (
            f"{found[1]} says something else of the same image",
            IssueKind.LABELS_AT_TWO_PLACES,
        )
        log.report(found[0], None, what, action="the other not read", kind=kind, image=image)
    return found[0] if found else None


def _same_content(one: Path, other: Path) -> bool:
    try:
        first, second = ([text for _, text in numbered_lines(file)] for file in (one, other))
    except (OSError, UnicodeDecodeError):  # reported when the labels are read
        return True
    return first == second
