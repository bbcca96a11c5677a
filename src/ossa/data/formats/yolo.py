"""YOLO: one txt file per image, in a folder `labels` beside its folder `images` or beside itself.

The last folder `images` in the path of an image is the one that becomes `labels`. Where there is a
file at both places, the one in `labels` is read, and reported if the other has another content.

A line is `class cx cy w h`, or `class x y x y x y ...` for a polygon of three or more points,
all in fractions of the image's width and height. A polygon becomes the box around it, with the area
of the box. So 7 columns are a triangle, unless the last is a whole number from 2 on, which only a
track has. Where the data.yaml has a key `kpt_shape`, keypoints behind the box are ignored. An
image without a label file is background; so is one whose label file is empty.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ossa.data.annotations import DatasetIndex, LabelSearch
from ossa.data.cache_files import SourceLog
from ossa.data.description import DataDescription
from ossa.data.formats.common import LabelledBox, images_of_split, read_label_files, usable_box
from ossa.data.issues import Box, IssueKind, IssueLog
from ossa.data.paths import (
    absolute,
    is_hidden_below,
    is_image,
    label_places,
    line_of_fault,
    listed_lines,
    numbered_lines,
)

_OF_DARKNET = "data/"
"""Begins the entries of lists by darknet's programs and CVAT, whose folder of that name is the
root."""


def read(
    description: DataDescription, split: str, *, log: IssueLog, sources: SourceLog
) -> tuple[DatasetIndex, LabelSearch]:
    """Returns the index of a split; see `ossa.data.reading.read_index`."""
    return read_label_files(
        images_of_split(
            description,
            split,
            listed_in=partial(_listed_images, root=description.root, log=log),
            log=log,
            sources=sources,
        ),
        partial(_read_boxes, description=description, log=log),
        description=description,
        places_of=label_places,
        log=log,
        sources=sources,
    )


def _listed_images(source: Path, *, root: Path, log: IssueLog) -> Iterator[tuple[int, str, str]]:
    for line, text in listed_lines(source):
        # As in YOLOv5: './' begins at the list, everything else at the root.
        folder = source.parent if text.startswith(("./", ".\\")) else root
        image = absolute(text, folder)
        if text.startswith(_OF_DARKNET) and not os.path.lexists(image):
            image = absolute(text.removeprefix(_OF_DARKNET), folder)
        if is_image(os.path.basename(image)) and not is_hidden_below(image, root):
            yield line, text, image
        else:
            what, kind = f"'{text}' is no image file", IssueKind.ENTRY_UNUSABLE
            log.report(source, line, what, action="line left out", kind=kind)


def _read_boxes(
    file: Path, image: str, size_wh: tuple[int, int], *, description: DataDescription, log: IssueLog
) -> list[LabelledBox] | None:
    try:
        log.roots.check(file)
        lines = numbered_lines(file)
    except (OSError, UnicodeDecodeError) as error:
        line, reason = None, getattr(error, "strerror", "no UTF-8")
        if isinstance(error, UnicodeDecodeError):
            line = line_of_fault(file)
        what, kind = f"unreadable labels: {reason}", IssueKind.LABELS_UNREADABLE
        log.report(file, line, what, action="image left out", kind=kind, image=image)
        return None
    boxes = []
    for line, text in lines:
        report = partial(log.report, file, line, image=image)
        columns = text.split()
        if len(columns) == 5 + description.keypoint_columns:
            columns = columns[:5]
        try:
            label, box_xyxy = _parse(columns, size_wh, len(description.names or ()))
        except _UnusableLine as error:
            report(str(error), action="box dropped", kind=error.kind)
            continue
        box = usable_box(box_xyxy, size_wh, report=report)
        if box is not None:
            boxes.append(LabelledBox(line, label, box))
    return boxes


class _UnusableLine(Exception):  # noqa: N818 - says what it is
    """A line of labels that is left out, and why."""

    def __init__(self, what: str, kind: IssueKind = IssueKind.BOX_MALFORMED) -> None:
        super().__init__(what)
        self.kind = kind


def _parse(columns: list[str], size_wh: tuple[int, int], num_classes: int) -> tuple[int, Box]:
    """Returns class and box of a line; raises `_UnusableLine`."""
    count = len(columns)
    if count != 5 and (count < 7 or count % 2 == 0):
        raise _UnusableLine(f"expected 5 columns or a class and 3 or more points, found {count}")
    try:
        number, *values = map(float, columns)
    except ValueError:
        raise _UnusableLine(f"expected numbers, found '{' '.join(columns)}'") from None
    if not (0 <= number < num_classes and number.is_integer()):
        what = f"class {columns[0]} unknown, there are {num_classes} (0 is the first)"
        raise _UnusableLine(what, IssueKind.CLASS_UNKNOWN)
    width, height = size_wh
    if count == 5:
        cx, cy, w, h = values
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif count == 7 and values[-1] >= 2 and values[-1].is_integer():
        # A tracker's line has as many columns as a triangle, and numbers far outside the image.
        raise _UnusableLine(
            f"expected 5 columns or points in fractions of the image, found {count} columns that "
            f"end with {columns[-1]}: leave out what stands behind the box, such as score and track"
        )
    else:
        xs, ys = values[::2], values[1::2]
        x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    return int(number), (x0 * width, y0 * height, x1 * width, y1 * height)
