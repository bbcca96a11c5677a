"""YOLO: beside each image of a folder `images` a txt file in a folder `labels`.

A line is `class cx cy w h`, or `class x y x y x y ...` for a polygon of three or more points,
all in fractions of the image's width and height. Of a polygon its extent is the box, and the area
is the box's. An image without a label file is background.
"""

import os
from pathlib import Path

from ossa.data.description import DataDescription
from ossa.data.formats.common import (
    Box,
    Columns,
    absolute,
    images_under,
    is_image,
    listed_lines,
    numbered_lines,
    size_or_report,
    usable_box,
)
from ossa.data.index import DatasetIndex
from ossa.data.problems import ProblemLog
from ossa.data.sources import SourceLog


def read(
    description: DataDescription, split: str, *, log: ProblemLog, sources: SourceLog
) -> DatasetIndex:
    """Returns the index of a split; see `ossa.data.reading.read_index`."""
    names = description.names or ()
    columns = Columns()
    for image in _images(description, split, log=log, sources=sources):
        label_file = Path(label_file_of(image))
        sources.add(image)
        sources.add(label_file)
        size_wh = size_or_report(image, log=log)
        if size_wh is None:
            continue
        try:
            truths = _truths(label_file, size_wh, num_classes=len(names), log=log)
        except (OSError, UnicodeDecodeError) as error:
            # Without its boxes it would train as background.
            log.report(label_file, None, f"unreadable labels: {error}", action="image left out")
            continue
        columns.add_image(image, size_wh)
        for label, box_xyxy in truths:
            columns.add_truth(box_xyxy, label)
    return columns.to_index(description.root, names, description.category_ids)


def label_file_of(image: str) -> str:
    """Returns the label file of an image: its last folder `images` becomes `labels`."""
    stem = os.path.splitext(image)[0]
    before, folder, after = stem.rpartition(f"{os.sep}images{os.sep}")
    labels = folder.replace("images", "labels")
    return f"{before}{labels}{after}.txt"


def _images(
    description: DataDescription, split: str, *, log: ProblemLog, sources: SourceLog
) -> list[str]:
    images: dict[str, None] = {}  # a dict keeps the order and holds every image once
    for source in description.splits[split].sources:
        if source.is_dir():
            images.update(dict.fromkeys(images_under(source, sources=sources)))
            continue
        sources.add(source)
        for line, text in listed_lines(source):
            # As YOLOv5 does: './' begins at the list, all else at the root.
            folder = source.parent if text.startswith("./") else description.root
            image = absolute(text, folder)
            if not is_image(os.path.basename(image)):
                log.report(source, line, f"'{text}' is no image file", action="line left out")
                continue
            if image in images:
                log.report(source, line, f"'{text}' is listed twice", action="read once")
            images[image] = None
    return list(images)


def _truths(
    file: Path, size_wh: tuple[int, int], *, num_classes: int, log: ProblemLog
) -> list[tuple[int, Box]]:
    truths: dict[tuple[int, Box], None] = {}
    if not file.is_file():
        return []
    for line, text in numbered_lines(file):
        try:
            label, box_xyxy = _parse(text, size_wh, num_classes=num_classes)
        except ValueError as error:
            log.report(file, line, str(error), action="box dropped")
            continue
        box = usable_box(box_xyxy, size_wh, log=log, file=file, line=line)
        if box is None:
            continue
        if (label, box) in truths:
            log.report(file, line, "box stated twice", action="kept once")
        truths[label, box] = None
    return list(truths)


def _parse(text: str, size_wh: tuple[int, int], *, num_classes: int) -> tuple[int, Box]:
    columns = text.split()
    count = len(columns)
    if count != 5 and (count < 7 or count % 2 == 0):
        raise ValueError(f"expected 5 columns or a class and 3 or more points, found {count}")
    try:
        number, *values = map(float, columns)
    except ValueError as error:
        raise ValueError(f"expected numbers, found '{text}'") from error
    if not (0 <= number < num_classes and number.is_integer()):
        raise ValueError(f"class {columns[0]} unknown, there are {num_classes} (0 is the first)")
    width, height = size_wh
    if count == 5:
        cx, cy, w, h = values
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:
        xs, ys = values[::2], values[1::2]
        x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    return int(number), (x0 * width, y0 * height, x1 * width, y1 * height)
