"""What the readers of all formats share: columns, rules for boxes, finding images.

Dimensions: I images, N truths, K classes.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from os.path import abspath
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from ossa.data.annotations import DatasetIndex
from ossa.data.decode import read_image_size
from ossa.data.formats.text import numbered_lines
from ossa.data.issue_kinds import IssueKind
from ossa.data.issues import IssueLog
from ossa.data.roots import is_hidden
from ossa.data.sources import SourceLog
from ossa.errors import DataError, legible

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

Box = tuple[float, float, float, float]
"""xyxy in pixels of the original image."""

# Rounding to whole pixels and counting from 1 put a box up to one pixel outside its image;
# the rest is for decimals that were rounded themselves.
_ROUNDING_PIXELS: Final = 1.01
_FARTHEST: Final = 2.0**31
"""Pixels: what is farther from an image overflows sooner or later."""
_IMAGES_ASKED: Final = 1000
"""Images of a folder that tell, by where their labels lie, what its format is."""


@dataclass
class Columns:
    """The columns of a DatasetIndex while they grow, one image after the other."""

    files: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    sizes_wh: list[tuple[int, int]] = field(default_factory=list)
    gt_counts: list[int] = field(default_factory=list)
    boxes_xyxy: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    annotation_ids: list[int] = field(default_factory=list)

    def add_image(self, file: str, size_wh: tuple[int, int]) -> None:
        """Begins an image; the truths added next are its own. `file` is absolute."""
        self.files.append(file)
        self.sizes_wh.append(size_wh)
        self.gt_counts.append(0)

    def add_gt(
        self,
        box_xyxy: Box,
        label: int,
        *,
        area: float | None = None,
        crowd: bool = False,
        difficult: bool = False,
    ) -> None:
        """Adds a truth to the image begun last; its area is width x height where not given."""
        x0, y0, x1, y1 = box_xyxy
        self.gt_counts[-1] += 1
        self.boxes_xyxy.append(box_xyxy)
        self.labels.append(label)
        self.areas.append((x1 - x0) * (y1 - y0) if area is None else area)
        self.crowd.append(crowd)
        self.difficult.append(difficult)

    def to_index(
        self, root: Path, names: tuple[str, ...], category_ids: Iterable[int] | None = None
    ) -> DatasetIndex:
        """Returns the columns as arrays.

        Classes without ids of their own are numbered from 0, truths from 1, and images by their
        stems where all of these are different numbers, else from 1.
        """
        ids = list(range(len(names))) if category_ids is None else list(category_ids)
        count = len(self.boxes_xyxy)
        return DatasetIndex(
            root=root,
            names=names,
            category_ids=np.array(ids, np.int64),
            file_names=np.array([relative_to(root, file) for file in self.files], np.str_),
            image_ids=np.array(self.image_ids or ids_from_stems(self.files), np.int64),
            sizes_wh=np.array(self.sizes_wh, np.int32).reshape(-1, 2),
            gt_offsets=np.concatenate(([0], np.cumsum(self.gt_counts))).astype(np.int64),
            boxes_xyxy=np.array(self.boxes_xyxy, np.float64).reshape(-1, 4),
            labels=np.array(self.labels, np.int64),
            areas=np.array(self.areas, np.float64),
            crowd=np.array(self.crowd, np.bool_),
            difficult=np.array(self.difficult, np.bool_),
            annotation_ids=np.array(self.annotation_ids or range(1, count + 1), np.int64),
        )


@dataclass(frozen=True)
class Fault:
    """Why an annotation cannot be used."""

    kind: IssueKind
    what: str


def fault_of_box(box_xyxy: Box, size_wh: tuple[int, int]) -> Fault | None:
    """Returns why a box cannot be used, or None when it can."""
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    if not all(math.isfinite(number) for number in box_xyxy):
        what = "box with a coordinate that is not a number"
        return Fault(IssueKind.BOX_MALFORMED, what)
    if max(map(abs, box_xyxy)) > _FARTHEST:
        what = f"box {shown(box_xyxy)} with a coordinate beyond any image"
        return Fault(IssueKind.BOX_MALFORMED, what)
    if x1 <= x0 or y1 <= y0:
        what = f"box of no area, {x1 - x0:g} x {y1 - y0:g} pixels"
        return Fault(IssueKind.BOX_EMPTY, what)
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        what = f"box {shown(box_xyxy)} outside the image of {width}x{height} pixels"
        return Fault(IssueKind.BOX_OUTSIDE, what)
    return None


def overhang(box_xyxy: Box, size_wh: tuple[int, int]) -> str | None:
    """Returns how far a box reaches out of its image, or None within one pixel of rounding."""
    x0, y0, x1, y1 = box_xyxy
    beyond = max(-x0, -y0, x1 - size_wh[0], y1 - size_wh[1])
    if beyond <= _ROUNDING_PIXELS:
        return None
    return f"box {shown(box_xyxy)} reaches {beyond:.3g} pixels out of the image"


def suspicious(boxes_xyxy: NDArray[np.float64], sizes_wh: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Returns (N,) whether `fault_of_box` or `overhang` has something to say of a box."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    # So put that a coordinate that is not a number makes it false.
    fine = (low < high) & (high > 0) & (low < sizes_wh)
    fine &= (low >= -_ROUNDING_PIXELS) & (high - sizes_wh <= _ROUNDING_PIXELS)
    return ~np.asarray(fine.all(axis=1))


def clipped(box_xyxy: Box, size_wh: tuple[int, int]) -> Box:
    """Returns the part of a box that lies in the image."""
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


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
        report(fault.what, action="box dropped", kind=fault.kind, box_xyxy=box_xyxy)
        return None
    beyond = overhang(box_xyxy, size_wh)
    if beyond is not None:
        kind = IssueKind.BOX_OVERHANGING
        report(beyond, action="box clipped", kind=kind, box_xyxy=box_xyxy)
    return clipped(box_xyxy, size_wh)


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
        listed: list and line that name the image, which are told where there is no such image.
    """
    if not log.may_be_read(file, listed=listed):
        return None
    path = Path(file)
    try:
        size_wh = read_image_size(path)
        log.num_images += 1
        return size_wh
    except DataError as error:
        reason = str(error).rpartition(", found ")[2].rstrip(".")
    if listed is not None and not os.path.exists(file):
        what, kind = f"no image {legible(file)}", IssueKind.IMAGE_MISSING
        log.report(*listed, what, action="image left out", kind=kind)
    else:
        what, kind = f"unreadable image: {reason}", IssueKind.IMAGE_UNREADABLE
        log.report(path, None, what, action="image left out", kind=kind)
    return None


def images_under(folder: Path, *, sources: SourceLog, log: IssueLog) -> list[str]:
    """Returns the absolute paths of all images in a folder and its subfolders, sorted.

    Args:
        folder: absolute.
        sources: take the folders.
        log: takes a report of each linked folder that leads out of the data set.

    Raises:
        DataError: one of the folders cannot be read.
    """
    found = []
    for parent, names in folders_under(folder, enter=log.may_be_read):
        sources.add(parent)
        found += [os.path.join(parent, name) for name in names if is_image(name)]
    return sorted(found)


def folders_under(
    folder: str | Path, *, enter: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, list[str]]]:
    """Yields a folder and its subfolders, linked ones too, each with the names of its files.

    Hidden ones are passed over, and those that `enter` refuses by their path. So is a link back to
    a folder that it is reached through: what lies there has been found, and two such links double
    at every level.

    Raises:
        DataError: one of them cannot be read.
    """
    passed = {os.fspath(folder): frozenset([_identity(folder)])}
    for parent, subfolders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        yield parent, names
        above = passed.pop(parent)
        subfolders[:] = [
            name for name in subfolders if not is_hidden(name) and enter(os.path.join(parent, name))
        ]
        entries = {name: _identity(os.path.join(parent, name)) for name in subfolders}
        subfolders[:] = [name for name in subfolders if entries[name] not in above]
        for name in subfolders:
            passed[os.path.join(parent, name)] = above | {entries[name]}


def _identity(folder: str | Path) -> tuple[int, int]:
    """Returns what two paths of one folder have in common."""
    try:
        status = os.stat(folder)
    except OSError as error:
        _refuse_folder(error)
    return status.st_dev, status.st_ino


def names_in(folder: str | Path) -> list[str]:
    """Returns the names of the files in a folder, in any order.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return os.listdir(folder)
    except OSError as error:
        _refuse_folder(error)


class FileListing:
    """Which files exist, from one listing a folder instead of one question a file."""

    def __init__(self, sources: SourceLog) -> None:
        self._sources = sources
        self._names_of_folder: dict[str, frozenset[str]] = {}

    def __contains__(self, path: object) -> bool:
        folder, name = os.path.split(str(path))
        if folder not in self._names_of_folder:
            self._sources.add(folder)
            listed = names_in(folder) if os.path.isdir(folder) else []
            self._names_of_folder[folder] = frozenset(listed)
        return name in self._names_of_folder[folder]

    @property
    def folders(self) -> tuple[str, ...]:
        """Those asked for, in that order."""
        return tuple(self._names_of_folder)


def label_places(image: str) -> tuple[str, ...]:
    """Returns where the txt file of an image may lie for YOLO, that which counts first."""
    stem = os.path.splitext(image)[0]
    before, folder, after = stem.rpartition(f"{os.sep}images{os.sep}")
    labels = folder.replace("images", "labels")
    return tuple(dict.fromkeys((f"{before}{labels}{after}.txt", f"{stem}.txt")))


def annotation_places(image: str) -> tuple[str, ...]:
    """Returns where the XML file of an image may lie for VOC, that which counts first."""
    stem = os.path.splitext(image)[0]
    folder, name = os.path.split(stem)
    above = os.path.dirname(folder)
    tops = [(above, name)]
    before, images, below = stem.rpartition(f"{os.sep}images{os.sep}")
    if images:  # images/train/1.jpg has annotations/train/1.xml
        tops.append((before, below))
    places = [
        os.path.join(top, annotations, f"{rest}.xml")
        for top, rest in tops
        for annotations in ("Annotations", "annotations")
    ]
    return tuple(dict.fromkeys((places[0], f"{stem}.xml", *places[1:])))


def has_xml_alone(folder: Path) -> bool:
    """Returns whether images of a folder have XML files, and none has labels of YOLO."""
    labels = Path(label_places(str(folder / "_"))[0]).parent
    if not os.path.isdir(folder) or (labels != folder and labels.is_dir()):
        return False
    found = (
        os.path.join(at, n) for at, names in folders_under(folder) for n in names if is_image(n)
    )
    images = list(islice(found, _IMAGES_ASKED))
    has_labels, has_xml = (
        any(os.path.exists(place) for image in images for place in places_of(image))
        for places_of in (label_places, annotation_places)
    )
    return has_xml and not has_labels


def label_file_of(
    image: str, candidates: tuple[str, ...], present: FileListing, *, log: IssueLog
) -> Path | None:
    """Returns the first of the candidates that is there, or None where none is.

    Another one that is there, too, and says something else, is reported.
    """
    found = [file for file in candidates if file in present][:2]
    if len(found) > 1 and not _same_content(found):
        what = f"{found[1]} says something else of the same image"
        kind = IssueKind.LABELS_AT_TWO_PLACES
        log.report(Path(found[0]), None, what, action="the other not read", kind=kind, image=image)
    return Path(found[0]) if found else None


def _same_content(files: list[str]) -> bool:
    try:
        first, second = ([text for _, text in numbered_lines(Path(file))] for file in files)
    except (OSError, UnicodeDecodeError):  # reading the labels will say so
        return True
    return first == second


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(
        f"Expected a folder that can be read at {legible(str(error.filename))}, found "
        f"{(error.strerror or str(error)).lower()}; without it images or labels would be missing."
    ) from error


def is_image(name: str) -> bool:
    """Returns whether a file has the suffix of an image and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)


def relative_to(root: Path, file: str) -> str:
    """Returns an absolute path as an index holds it: relative to its root, with slashes."""
    prefix = f"{root}{os.sep}"
    relative = file[len(prefix) :] if file.startswith(prefix) else os.path.relpath(file, root)
    return relative.replace(os.sep, "/")


def ids_from_stems(files: list[str]) -> list[int]:
    """Returns the numbers that the stems are where all are different ones, else 1, 2, 3, ..."""
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    # 18 digits fit an int64; isdecimal alone accepts digits of other scripts.
    if all(stem.isascii() and stem.isdecimal() and len(stem) <= 18 for stem in stems):
        ids = [int(stem) for stem in stems]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))


def absolute(path: str, folder: Path) -> str:
    """Returns a path, relative to `folder` where not absolute, without '..'.

    One of Windows, with backslashes, is read as such where there is no file of that name.
    """
    place = abspath(os.path.join(folder, path))
    if "\\" in path and not os.path.lexists(place):
        return abspath(os.path.join(folder, path.replace("\\", "/")))
    return place
